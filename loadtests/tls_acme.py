"""Certificates from a real ACME directory, Debian's `pebble`, which goes away, refuses and comes back as another one.

Each stage has a router, a directory and a prober of its own; all stages run at once, for most of it is waiting. What
DNS says is told by `pebble-challtestsrv`.
"""

import contextlib
import http.client
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tls_report as must
from bench_main import Result
from bench_procs import BenchError, Running, ask, free_ports
from change_configs import all_alike, configuration, listener
from fault_client import HOST
from fault_house import HERE, PATIENCE
from fault_report import Verdict
from tls_configs import from_acme, tls
from tls_files import NAMES, Pair
from tls_house import Home, Pace, fetched, stand, trusting
from tls_prober import beside
from tls_report import OK, Probe

#: Seconds that a certificate must be good for where an attempt fails when a third of that is left: the next attempt
#: comes a minute later.
LONG = 240
#: Seconds that a step may take beyond the pauses that are known: an order, or the pause after a failure.
ORDER, PAUSED = 30.0, 90.0
#: Seconds that certificates are good for where nothing fails but the router, which then orders twice.
MIDDLE = 45
#: Seconds by which a directory can make each validation last, at most, so that something can happen in its middle.
SLOW = 4
#: Where nobody listens.
NOWHERE = "127.9.9.9"
#: What the router says when an attempt failed, and the directory when an order came.
FAILED, ORDERED = "acme: no new certificate for ", "/order-plz"

Steps = Generator[None, None, None]


class Directory(NamedTuple):
    """Where a directory listens: for clients, for questions about itself, for nobody."""

    port: int
    management: int
    unused: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/dir"


def settings(place: Directory, http_port: int, shown: Pair, life: int) -> str:
    """Promises the file of `pebble`; certificates are good for `life` seconds."""
    words = {
        "listenAddress": f"{HOST}:{place.port}",
        "managementListenAddress": f"{HOST}:{place.management}",
        "certificate": str(shown.certificate),
        "privateKey": str(shown.key),
        "httpPort": http_port,
        "tlsPort": place.unused,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
        "certificateValidityPeriod": life,
    }
    return json.dumps({"pebble": words})


class Dns:
    """What names mean; 127.0.0.1 unless told otherwise."""

    def __init__(self, home: Home) -> None:
        self.port, self._management = free_ports(2)
        words = [_program("pebble-challtestsrv"), "-defaultIPv4", HOST, "-defaultIPv6", "", "-http01", ""]
        words += ["-https01", "", "-tlsalpn01", "", "-dns01", f"{HOST}:{self.port}"]
        words += ["-management", f"{HOST}:{self._management}"]
        running = home.fleet.start("dns", [*home.pins.load, *words])
        stand(running, lambda: ask(self._management, "/"))

    def lead(self, name: str, address: str | None) -> None:
        """Leads a name to an address, or to where all others lead."""
        path = "/clear-a" if address is None else "/add-a"
        body = {"host": name} | ({} if address is None else {"addresses": [address]})
        connection = http.client.HTTPConnection(HOST, self._management, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body))
            status = connection.getresponse().status
        if status != 200:
            raise BenchError(f"pebble-challtestsrv answered {path} with status {status}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise BenchError(f"{name} is needed (Debian: apt install pebble)")
    return found


class Stage:
    """A router that obtains its certificate for a name from a directory, and a prober."""

    def __init__(self, main: Home, dns: Dns, label: str, life: int, slow: int = 0) -> None:
        self.home = Home(main.fleet, main.pins, main.command, label)
        self.home.addresses = main.addresses
        self.label, self.life, self.slow, self.dns = label, life, slow, dns
        self.name = f"{label}.test"
        self.place = Directory(*free_ports(3))
        #: From when to when the router itself was down.
        self.downs: list[tuple[float, float]] = []
        self._roots = self.home.folder / "roots.pem"
        self._roots.write_text(self.home.authority.file.read_text())
        self._shown = self.home.authority.sign(self.home.folder / "directory", "directory", *NAMES)
        self._directory: Running | None = None
        self._prober: Running | None = None
        self._probes = self.home.folder / "probes.seen"

    # Processes

    def start_directory(self) -> None:
        """Starts a directory that knows nothing of the one before it: another authority, no accounts."""
        file = self.home.folder / "pebble.json"
        file.write_text(settings(self.place, self.home.port, self._shown, self.life))
        words = [_program("pebble"), "-config", str(file), "-dnsserver", f"{HOST}:{self.dns.port}"]
        name, home = f"directory-{self.label}", self.home
        environment = {"PEBBLE_VA_SLEEPTIME": str(self.slow)} if self.slow else {"PEBBLE_VA_NOSLEEP": "1"}
        # Else it takes a name for proved that it has asked for before, half of the time, and refuses nothing.
        environment["PEBBLE_AUTHZREUSE"] = "0"
        self._directory = home.fleet.start(name, [*home.pins.load, *words], environment)
        trusted, roots = trusting(home.authority.file), b""

        def ready() -> None:
            nonlocal roots
            roots = fetched(self.place.management, trusted, "/roots/0", "localhost")

        stand(self._directory, ready)
        # Before it can issue anything, so that nothing that it issues is strange to the prober.
        made = self._roots.with_suffix(".new")
        made.write_text(self._roots.read_text() + roots.decode())
        made.replace(self._roots)

    def end_directory(self) -> None:
        if self._directory is not None:
            self.home.fleet.end(self._directory)
            self._directory = None

    def start_router(self) -> None:
        home = self.home
        source = from_acme(self.place.url, home.authority.file, home.folder / "acme", self.name)
        text = configuration(home, home.step, all_alike(home), more=listener(home.tls_port, tls(source)))

        def ready() -> None:
            ask(home.port, "/200")

        home.start(text, ready, f"router-{self.label}")

    def start_prober(self) -> None:
        home = self.home
        script = [sys.executable, str(HERE / "tls_prober.py"), str(home.tls_port), str(home.port), self.name]
        command = [*home.pins.load, *script, str(self._roots), str(self._probes)]
        self._prober = home.fleet.start(f"prober-{self.label}", command)
        home.wait_for("ready", self._prober)

    def restart_router(self, how: signal.Signals) -> None:
        """Ends the router by a signal, and starts it again at once."""
        assert self.home.router is not None
        begun, router = time.monotonic(), self.home.router
        router.popen.send_signal(how)
        self.home.wait(PATIENCE, lambda: router.popen.poll() is not None)
        self.home.fleet.end(router)
        self.start_router()
        self.downs.append((begun, time.monotonic()))

    def told(self) -> tuple[list[Probe], list[Probe]]:
        """Promises what the prober saw so far, of handshakes and of plain requests."""
        return _read(self._probes), _read(beside(self._probes))

    def verdicts(self) -> list[Verdict]:
        """Ends the prober, then the router; promises what must hold in every stage."""
        if self._prober is not None:
            self.home.fleet.end(self._prober)
        shaken, asked = self.told()
        found = [must.never_without(shaken, self.downs), must.serves_on(asked, self.downs), *self.home.ended()]
        return [verdict._replace(must=f"{self.label}: {verdict.must}") for verdict in found]

    # What is waited for

    def serial(self) -> str:
        """Promises the serial number of the certificate that was served last; "" if none."""
        return next((each.serial for each in reversed(self.told()[0]) if each.end == OK), "")

    def another(self, old: str) -> Callable[[], bool]:
        return lambda: self.serial() not in ("", old)

    def failures(self) -> int:
        self.home.look()
        return sum(FAILED in said.text for said in self.home.log)

    def orders(self) -> int:
        return 0 if self._directory is None else self._directory.output().count(ORDERED)

    def until(self, what: str, condition: Callable[[], bool], seconds: float) -> Steps:
        """Waits, and lets others do theirs meanwhile.

        Raises:
            BenchError: it did not come to that in time; with what the router said last.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                words = self.home.router.last_words() if self.home.router is not None else ""
                raise BenchError(f"{self.label}: not within {seconds:.0f} s: {what}\n{words}")
            yield

    def issued(self) -> Steps:
        """Starts everything, and waits for the first certificate."""
        self.start_directory()
        self.start_router()
        self.start_prober()
        yield from self.until("a first certificate", self.another(""), ORDER)

    def renewed(self, failed: float = 0) -> Steps:
        """Waits for another certificate, and so long more for a pause after a failure."""
        yield from self.until("another certificate", self.another(self.serial()), self.life + ORDER + failed)


def _read(file: Path) -> list[Probe]:
    if not file.exists():
        return []
    # The last line may not be written to its end.
    whole = file.read_text().rpartition("\n")[0]
    return [Probe(*json.loads(line)) for line in whole.splitlines()]


# Stages


def _renew(stage: Stage) -> Steps:
    yield from stage.issued()
    yield from stage.renewed()
    yield from stage.renewed()


def _restart(stage: Stage) -> Steps:
    """The router is killed, and ended, in the middle of an order."""
    yield from stage.issued()
    for how in (signal.SIGKILL, signal.SIGTERM):
        old, orders = stage.serial(), stage.orders()
        yield from stage.until("an order", lambda orders=orders: stage.orders() > orders, stage.life + ORDER)
        stage.restart_router(how)
        yield from stage.until("another certificate", stage.another(old), stage.life + ORDER)


def _late(stage: Stage) -> Steps:
    """The directory is down when the router starts for the first time."""
    stage.start_router()
    stage.start_prober()
    yield from stage.until("an attempt that fails", lambda: stage.failures() > 0, ORDER)
    stage.start_directory()
    yield from stage.until("a first certificate", stage.another(""), PAUSED)


def _down(stage: Stage) -> Steps:
    """The directory is down at the renewal, and another one stands in its place later."""
    yield from stage.issued()
    stage.end_directory()
    yield from stage.until("an attempt that fails", lambda: stage.failures() > 0, stage.life)
    stage.start_directory()
    yield from stage.renewed(PAUSED)


def _refused(stage: Stage) -> Steps:
    """The directory refuses the order at the renewal, for the name leads elsewhere."""
    yield from stage.issued()
    stage.dns.lead(stage.name, NOWHERE)
    yield from stage.until("an attempt that fails", lambda: stage.failures() > 0, stage.life + ORDER)
    stage.dns.lead(stage.name, None)
    yield from stage.renewed(PAUSED)


class Part(NamedTuple):
    """One stage: what must come of it, what is done, and for how many seconds certificates are good; 0: as quick as it
    is asked for."""

    label: str
    text: str
    play: Callable[[Stage], Steps]
    life: int
    slow: int = 0


PARTS = (
    Part("renew", "a certificate is issued, and renewed twice", _renew, 0),
    Part("restart", "renewed after the router is killed, and ended, in the middle of an order", _restart, MIDDLE, SLOW),
    Part("late", "issued after the directory was down at the first start", _late, LONG),
    Part("down", "renewed after the directory was down, and another one came", _down, LONG),
    Part("refused", "renewed after the order was refused", _refused, LONG),
)


def play_acme(home: Home, pace: Pace) -> Result:
    _program("pebble")
    home.serve(1)
    dns = Dns(home)
    parts = [part for part in PARTS if pace.thorough or part.life < LONG]
    stages = [Stage(home, dns, part.label, part.life or pace.life, part.slow) for part in parts]
    failed = together([part.play(stage) for part, stage in zip(parts, stages, strict=True)], lambda: home.wait(0.05))
    verdicts: list[Verdict] = []
    figures: dict[str, Any] = {}
    for part, stage, fault in zip(parts, stages, failed, strict=True):
        seconds, end = fault
        verdicts.append(Verdict(f"{part.label}: {part.text}", end or f"after {seconds:.0f} s", not end))
        verdicts += stage.verdicts()
        figures[part.label] = {"seconds": seconds, "handshakes": len(stage.told()[0]), "failures": stage.failures()}
    return Result("acme", "", figures, verdicts)


def together(all_steps: Sequence[Steps], between: Callable[[], object]) -> list[tuple[float, str]]:
    """Does steps of all in turns; promises for each the seconds that it took and why it broke off, "" if it did not."""
    begun = time.monotonic()
    done: dict[int, tuple[float, str]] = {}
    while len(done) < len(all_steps):
        for place, steps in enumerate(all_steps):
            if place in done:
                continue
            try:
                next(steps)
            except StopIteration:
                done[place] = (time.monotonic() - begun, "")
            except BenchError as error:
                done[place] = (time.monotonic() - begun, str(error))
        between()
    return [done[place] for place in range(len(all_steps))]
