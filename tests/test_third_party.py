"""A strategy that is a distribution of its own is found once installed, and requests are routed by it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.testing import check_selector, make_candidates, make_endpoints, make_exchange, make_tools

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "strategy"
MODULE = runpy.run_path(str(EXAMPLE / "router_canary" / "__init__.py"))
CONTROL = """
import json, sys
from router.plugins import Registry
entry = Registry.load(strict=True).resolve("selection", "canary", None).entry
own = Registry.load().resolve("selection", "random", None).entry
print(json.dumps([entry.name, entry.distribution, entry.version, own.distribution, sys.modules["router"].__file__]))
"""


def build(folder: Path, into: Path) -> Path:
    """Builds a wheel without touching the source folder."""
    into.mkdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a fresh environment with the router and the example, from wheels.

    Their dependencies are those of the environment that runs the tests: nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    wheels = [build(ROOT, folder / "router"), build(EXAMPLE, folder / "example")]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", *map(str, wheels)]
    subprocess.run([*pip, *offline], check=True, capture_output=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    paths = sysconfig.get_paths()
    (Path(packages) / "dependencies.pth").write_text("\n".join({paths["purelib"], paths["platlib"]}) + "\n")
    return python.parent


def test_it_is_found_with_distribution_and_version(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "python", "-c", CONTROL], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    name, distribution, version, own, origin = json.loads(result.stdout)
    assert (name, distribution, version, own) == ("canary", "router-canary", "0.1.0", "edge-router")
    assert Path(origin).is_relative_to(installed.parent)


def test_the_command_line_lists_it(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "router", "plugins", "--json"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    listed = {plugin["name"]: plugin for plugin in json.loads(result.stdout)["plugins"]}
    assert (listed["canary"]["distribution"], listed["canary"]["version"]) == ("router-canary", "0.1.0")
    assert {option["name"]: option["default"] for option in listed["canary"]["options"]} == {
        "share": '"5%"',
        "track": '"canary"',
    }


def test_every_example_that_is_a_distribution_is_tested_here() -> None:
    assert [file.parent for file in (ROOT / "examples").glob("*/pyproject.toml")] == [EXAMPLE]


def test_its_configuration_is_sound_once_it_is_installed(installed: Path) -> None:
    result = subprocess.run(
        [installed / "router", "check", EXAMPLE / "router.toml"], capture_output=True, text=True, timeout=50
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert result.stdout.endswith(": 1 listener, 1 route, 1 pool, 2 endpoints: ok\n")


def test_requests_are_routed_by_it(installed: Path, tmp_path: Path) -> None:
    with backend(b"stable") as stable, backend(b"canary") as canary:
        port = free_port()
        file = tmp_path / "router.toml"
        text = (EXAMPLE / "router.toml").read_text()
        for written, real in ((8080, port), (9001, stable), (9002, canary)):
            assert f":{written}" in text
            text = text.replace(f":{written}", f":{real}")
        file.write_text(text)
        with running([installed / "router", "run", file], port):
            answers = Counter(fetch(port) for _ in range(40))
    assert answers == {b"stable": 30, b"canary": 10}


@contextlib.contextmanager
def backend(body: bytes) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def running(command: list[Any], port: int) -> Iterator[None]:
    """Runs the router until the end of the block, and asserts that it stops cleanly."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[0]}"
            assert time.monotonic() < deadline, "does not listen"
            time.sleep(0.05)
        yield
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_it_keeps_the_laws_of_selection() -> None:
    check_selector(MODULE["Canary"], MODULE["CanaryOptions"]())


@pytest.mark.parametrize("percent", [5, 25, 50])
def test_the_share_is_exact(percent: int) -> None:
    endpoints = [*make_endpoints(1, 1, 1), *make_endpoints(1, 1, first_port=9100, metadata={"track": "canary"})]
    candidates = make_candidates(endpoints)
    chooser = MODULE["Canary"](MODULE["CanaryOptions"](share=percent / 100), make_tools())
    picked = Counter(chooser.choose(candidates, make_exchange()).spec.metadata.get("track") for _ in range(1000))
    assert picked["canary"] == pytest.approx(10 * percent, abs=1)


def test_a_retry_avoids_the_canary() -> None:
    endpoints = [*make_endpoints(1), *make_endpoints(1, 1, first_port=9100, metadata={"track": "canary"})]
    candidates = make_candidates(endpoints)
    chooser = MODULE["Canary"](MODULE["CanaryOptions"](share=1.0), make_tools())
    exchange = make_exchange()
    assert chooser.choose(candidates, exchange) in endpoints[1:]
    exchange.tried = (endpoints[1],)
    assert chooser.choose(candidates.without(exchange.tried), exchange) is endpoints[0]
