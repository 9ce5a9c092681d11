"""The house of load.py: locust's environment, three servers, the router before them, and a receiver of spans.

Everything is started through a Fleet, so all of it ends in every path. What must hold stands in load_report.py.
"""

import contextlib
import hashlib
import http.client
import json
import shlex
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bench_procs import BenchError, Fleet, Running, free_ports
from load_sessions import server_of

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE.parent / "constraints-load.txt"
DEFAULT_VENV = Path("~/.cache/router-load")
#: What is asked for; constraints-load.txt says in which versions, and those of what they need.
PACKAGES = (
    "aiohttp",
    "locust",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk",
    "uvloop",
    "websocket-client",
)
#: Seconds that an installation may take, and that locust has beside its time.
INSTALLING, SPARE = 600, 45
#: Spans are sent soon, since the end comes soon.
HASTE = {"OTEL_BSP_SCHEDULE_DELAY": "500"}
#: What the users of locustfile.py are called; the first asks nothing that a plain server could not answer.
PLAIN, SHOP = ("Browse",), ("Browse", "Cart", "Upload", "Slow", "Sockets")


class Plan(NamedTuple):
    """How much load, and where its report goes."""

    users: int
    rate: int
    seconds: int
    report: Path


class Target(NamedTuple):
    """What is loaded: its URL, the visitors that suit it, and weights by server's name (empty: alike)."""

    url: str
    users: Sequence[str]
    weights: Mapping[str, int]


def prepared(venv: Path, install: bool) -> Path:
    """Promises the Python of an environment that holds what constraints-load.txt names.

    Raises:
        BenchError: it is not there and may not, or cannot, be made.
    """
    python, stamp = venv / "bin" / "python", venv / ".installed"
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if not install:
        raise BenchError(f"{venv} does not hold what {CONSTRAINTS.name} names; leave --no-install out to install it")
    print(f"installing locust into {venv}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    _run([str(python), "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), *PACKAGES])
    stamp.write_text(wanted)
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALLING, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(str(error)) from None
    if done.returncode:
        raise BenchError("\n".join((done.stderr or done.stdout).strip().splitlines()[-3:]))


class House:
    """All that a load test starts.

    Args:
        fleet: what everything is started through.
        python: of locust's environment.
    """

    def __init__(self, fleet: Fleet, python: Path) -> None:
        self._fleet, self._python = fleet, str(python)
        #: Where spans go, "" for nowhere.
        self.endpoint = ""
        self._servers: list[Running] = []
        self._router: Running | None = None

    def start_receiver(self) -> None:
        """Starts an own receiver, to which all spans go."""
        port = free_ports(1)[0]
        running = self._script("receiver", "load_receiver.py", "--port", str(port))
        _stand(running, f"http://127.0.0.1:{port}/spans.json")
        self.endpoint = f"http://127.0.0.1:{port}/v1/traces"

    def start_servers(self, weights: Mapping[str, int], latency: str, errors: str) -> dict[str, int]:
        """Promises name -> port of servers that answer."""
        ports = dict(zip(weights, free_ports(len(weights)), strict=True))
        trace = ["--trace", self.endpoint] if self.endpoint else []
        for name, port in ports.items():
            what = ["--name", name, "--port", str(port), "--latency", latency, "--errors", errors]
            self._servers.append(self._script(name, "upstream.py", *what, *trace))
        for running, port in zip(self._servers, ports.values(), strict=True):
            _stand(running, f"http://127.0.0.1:{port}/ready")
        return ports

    def start_router(self, command: str, configuration: str, port: int) -> str:
        """Promises the URL of a router that serves."""
        file = self._fleet.folder / "router.toml"
        file.write_text(configuration)
        words = [*shlex.split(command), "run", "--no-watch", str(file)]
        self._router = self._fleet.start("router", words, HASTE)
        _stand(self._router, f"http://127.0.0.1:{port}/ready")
        return f"http://127.0.0.1:{port}"

    def load(self, target: Target, plan: Plan, ratio: float) -> dict[str, Any]:
        """Runs locust to its end; promises what load_sessions.figures promises.

        Raises:
            BenchError: it did not come to an end, or to figures.
        """
        plan.report.mkdir(parents=True, exist_ok=True)
        figures = plan.report / "figures.json"
        figures.unlink(missing_ok=True)
        trace = ["--trace", self.endpoint, "--trace-ratio", str(ratio)] if self.endpoint else []
        much = ["--users", str(plan.users), "--spawn-rate", str(plan.rate), "--run-time", f"{plan.seconds}s"]
        where = ["--html", str(plan.report / "report.html"), "--csv", str(plan.report / "load")]
        # The exit code is this program's affair, which allows some errors.
        fixed = ["--headless", "--only-summary", "--stop-timeout", "10", "--exit-code-on-error", "0"]
        words = [*fixed, *much, *where, *trace, "--figures", str(figures), "--host", target.url, *target.users]
        command = [self._python, "-m", "locust", "-f", str(HERE / "locustfile.py"), *words]
        code, output = self._fleet.run("locust", command, plan.seconds + SPARE)
        (plan.report / "locust.log").write_text(output)
        try:
            found: dict[str, Any] = json.loads(figures.read_text())
        except (OSError, ValueError):
            last = "\n".join(output.strip().splitlines()[-8:])
            raise BenchError(f"locust ended with code {code} and without figures\n{last}") from None
        if code or found["exceptions"]:
            told = f"{found['exceptions']} exceptions in visitors, exit code {code}"
            raise BenchError(f"the load itself failed: {told}; see {plan.report / 'locust.log'}")
        return found

    def end_router(self) -> tuple[int, str]:
        """Ends the router, which sends its last spans; promises its exit code and what it complained of."""
        if self._router is None:
            return 0, ""
        self._fleet.end(self._router)
        bad = [line for line in self._router.output().splitlines() if "Traceback" in line or " ERROR " in line]
        return self._router.popen.returncode, bad[0] if bad else ""

    def spans(self) -> tuple[list[dict[str, Any]], int]:
        """Ends the servers, which send their last spans; promises all that came, and how many had no room."""
        self._fleet.end(*self._servers)
        self._servers.clear()
        _, _, body = fetched(self.endpoint.replace("/v1/traces", "/spans.json"), seconds=20)
        found = json.loads(body)
        return found["spans"], found["dropped"]

    def _script(self, name: str, file: str, *options: str) -> Running:
        return self._fleet.start(name, [self._python, str(HERE / file), *options], HASTE)


def _stand(process: Running, url: str, patience: float = 20) -> None:
    """Waits until a process answers at all. Raises BenchError, with its last lines of output."""
    deadline = time.monotonic() + patience
    while process.popen.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            fetched(url)
            return
        time.sleep(0.05)
    code = process.popen.poll()
    how = "no answer" if code is None else f"it ended with code {code}"
    raise BenchError(f"{process.name} does not serve: {how}\n{process.last_words()}".rstrip())


def fetched(url: str, seconds: float = 5) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Promises status, head and body of an answer.

    Raises:
        OSError, http.client.HTTPException: there was none.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        # What is tested is the load, not the certificate; router demo --tls has one of its own authority.
        settings = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=seconds, context=settings
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        return response.status, response.headers, response.read()


class _Answer(NamedTuple):
    headers: http.client.HTTPMessage
    content: bytes


def visited(url: str, weights: Mapping[str, int]) -> Target:
    """Promises a target that others started: a router before servers of upstream.py, of the demo, or of any kind.

    Raises:
        BenchError: it does not answer.
    """
    try:
        _, headers, body = fetched(url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BenchError(
            f"{url} does not answer: {error or type(error).__name__}; is a router running there?"
        ) from None
    if not server_of(_Answer(headers, body)):
        raise BenchError(f"{url}: the answer does not say which server it is from, as upstream.py and the demo do")
    return Target(url.rstrip("/"), SHOP if "X-Upstream" in headers else PLAIN, weights)


def configuration(port: int, ports: Mapping[str, int], weights: Mapping[str, int], selection: str, trace: str) -> str:
    """Promises the router's file: carts stay with their server, everything else goes by weight and is retried.

    Args:
        port: of the listener.
        ports: of the servers, by name.
        selection: of both pools.
        trace: URL of the receiver of spans, "" for none.
    """
    members = ", ".join(
        f'{{ url = "http://127.0.0.1:{each}", id = "{name}", weight = {weights[name]} }}'
        for name, each in ports.items()
    )
    observer = f'[[observers]]\nuse = "tracing"\nendpoint = "{trace}"\n' if trace else ""
    return f"""
[[listeners]]
bind = "127.0.0.1:{port}"
[[routes]]
name = "cart"
path = "/cart"
pool = "carts"
[[routes]]
name = "shop"
pool = "shop"
[[pools]]
name = "shop"
selection = "{selection}"
endpoints = [{members}]
retry = {{ on = ["connect", "reset", "timeout", "5xx"] }}
[[pools]]
name = "carts"
selection = "{selection}"
affinity = "cookie"
endpoints = [{members}]
{observer}"""
