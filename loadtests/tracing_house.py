"""The house of tracing.py: servers, a traced router, a receiver of its spans, and clients who know their traces.

Everything is started through a Fleet, so all of it ends in every path. What is done, and what must hold meanwhile,
stands with the rows.
"""

import http.client
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import fault_client
from bench_procs import BenchError, Running, free_ports, wait_until_serving
from bench_usage import rss_bytes
from change_client import Mix
from change_configs import all_alike, configuration, quoted
from change_house import Record, Site
from fault_client import Seen
from fault_house import HERE, PATIENCE
from fault_report import Verdict, ends_well
from fault_servers import HEALTH
from tracing_receiver import ANSWER, HOST, Told
from tracing_report import lost
from tracing_spans import Span

#: Seconds between two looks at what arrived, or at memory.
LOOK = 0.2
#: Seconds without a new span after which none is expected any more: longer than an exporter waits for a full batch, and
#: than it waits before it tries again.
STILL, AGAIN = 7.0, 25.0
#: Most seconds until everything that is due has arrived.
DUE = 90.0


class Pace(NamedTuple):
    """How much of everything."""

    #: Rounds in which CPU is measured.
    turns: int
    #: Seconds before the collector hangs, while it does, and afterwards.
    quiet: float
    hang: float
    after: float
    #: Spans that the router may hold back while the collector hangs.
    buffer: int
    #: Requests of the burst before the end.
    burst: int
    #: Seconds of load around the upgrade, while the collector is gone, and while it refuses.
    around: float
    gone: float
    refusing: float
    #: Requests whose spans are compared one by one.
    few: int


FULL = Pace(45, 10, 60, 30, 8192, 2000, 4, 12, 5, 100)
QUICK = Pace(7, 3, 8, 16, 1024, 300, 1.5, 4, 2, 20)


def observer(endpoint: str, *lines: str, sampling: str = '"always"', export: str = "otlp") -> str:
    """Promises the text of the observer.

    Args:
        endpoint: URL of the receiver.
        lines: further options.
        sampling, export: values of these.
    """
    words = (
        'use = "tracing"',
        f"sampling = {sampling}",
        f"export = {quoted(export)}",
        f"endpoint = {quoted(endpoint)}",
    )
    return "\n".join(("[[observers]]", *words, *lines, ""))


class Collector:
    """The bench's own receiver; it may be ended and started again at the same port."""

    def __init__(self, den: "Den", label: str, keep: bool) -> None:
        self._den, self._label = den, label
        self.port = free_ports(1)[0]
        self.file = den.folder / f"{label}.spans" if keep else None
        self._process: Running | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}/v1/traces"

    def start(self, mode: str = ANSWER) -> None:
        script = [sys.executable, str(HERE / "tracing_receiver.py"), str(self.port), str(self.file or "-"), mode]
        self._process = self._den.fleet.start(self._label, [*self._den.pins.load, *script])
        self._den.wait_for("ready", self._process)

    def end(self) -> None:
        """Ends it after it has written what it took."""
        assert self._process is not None
        self._den.fleet.end(self._process)

    def turn(self, mode: str) -> None:
        self._ask("PUT", f"/mode/{mode}")

    def told(self) -> Told:
        return Told(**json.loads(self._ask("GET", "/told")))

    def settled(self, spans: int = sys.maxsize) -> Told:
        """Waits until so many have arrived, or until nothing more comes; promises what came in all."""
        begun = changed = time.monotonic()
        told = self.told()
        while told.spans < spans and time.monotonic() < min(changed + STILL, begun + DUE):
            self._den.wait(LOOK)
            before, told = told, self.told()
            if told != before:
                changed = time.monotonic()
        return told

    def spans(self) -> list[Span]:
        """Promises all that arrived so far, if they are kept."""
        assert self.file is not None
        if self._process is not None and self._process.popen.poll() is None:
            self.told()
        text = self.file.read_text() if self.file.exists() else ""
        return [Span(*json.loads(line)) for line in text.splitlines()]

    def arrived(self, seen: Sequence[Seen]) -> list[Span]:
        """Waits until all spans of these requests are there, or until nothing more comes; promises what is there."""
        changed, spans = time.monotonic(), self.spans()
        while lost(seen, spans) and time.monotonic() < changed + AGAIN:
            self._den.wait(LOOK)
            before, spans = spans, self.spans()
            if len(spans) != len(before):
                changed = time.monotonic()
        return spans

    def _ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"the receiver does not answer: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise BenchError(f"the receiver answered {method} {path} with {response.status}")
        return body


class Den(Site):
    """A house whose router is traced."""

    @property
    def epoch(self) -> int:
        """Nanoseconds since the epoch when the clients' clock showed 0."""
        return time.time_ns() - time.monotonic_ns()

    def collector(self, label: str = "receiver", keep: bool = True) -> Collector:
        """Promises a receiver that runs; without `keep` it only counts."""
        made = Collector(self, label, keep)
        made.start()
        return made

    def start(self, more: str, members: str = "") -> Running:
        """Starts the router with a text of observers before its usual one, and waits until it serves."""
        return self.begin_with(configuration(self, self.step, members or all_alike(self), more=more))

    def begin_with(self, text: str) -> Running:
        self.look()
        self.log, self._read = [], 0
        self.route(text)
        assert self.router is not None
        return self.router

    def beside(self, name: str, text: str, port: int) -> Running:
        """Starts another router, in a folder of its own, and waits until it serves."""
        file = self.folder / name / "router.toml"
        file.parent.mkdir()
        file.write_text(text)
        process = self.fleet.start(name, [*self.pins.proxy, *shlex.split(self.command), "run", str(file)])
        wait_until_serving(process, port, HEALTH, 2, 0, PATIENCE)
        return process

    def send(self, label: str, gets: int, posts: int, rate: float, most: int = 0, port: int = 0) -> Running:
        """Starts a client, of this router or of another port; with `most` it ends by itself."""
        file = self.folder / f"{label}.seen"
        words = str(port or self.port), label, str(gets), str(posts)
        script = [sys.executable, str(HERE / "tracing_client.py"), *words]
        running = self.fleet.start(label, [*self.pins.load, *script, str(rate), str(file), str(most)])
        self._clients.append((running, file))
        self.wait_for("ready", running)
        return running

    def saw(self) -> list[Seen]:
        """Ends the clients, those of before excepted; promises what they saw."""
        found = self.seen()
        self._clients = []
        return found

    def sent(self, label: str, gets: int, posts: int, rate: float, most: int) -> list[Seen]:
        """Promises what a client saw that ended by itself.

        Raises:
            BenchError: it did not.
        """
        running = self.send(label, gets, posts, rate, most)
        seconds = most / (rate * (gets + posts)) + fault_client.PATIENCE + PATIENCE
        if not self.wait(seconds, lambda: running.popen.poll() is not None):
            raise BenchError(f"{label} did not end\n{running.last_words()}")
        return self.saw()

    def memory(self, seconds: float) -> Iterator[int]:
        """Lets time pass; promises bytes of the router's memory again and again."""
        assert self.router is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            yield rss_bytes(self.router.session)
            self.wait(LOOK)

    def ended(self) -> Verdict:
        """Ends the router; promises how it ended."""
        code = self.stop_router()
        return ends_well(Record([], [], [], self.log, [], Mix(), 0, code))
