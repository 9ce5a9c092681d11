"""What faults.py does to servers, with which settings of the pool, and what must then hold: one entry each.

A scenario names what it breaks and how that ends; the checks that all of them share are added by `play`.
"""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import fault_report as must
from bench_procs import BenchError, Fleet, Pinning
from fault_house import House, Moments, Pace, Record, Server
from fault_report import Check, Result
from fault_servers import HEALTH

Act = Callable[[House, Sequence[Server]], None]

#: Seconds that a head takes where it is slow: far over the attempt's timeout, and far over the pool's median only.
SLOW, SLUGGISH = 3.0, 0.2
#: Seconds of the modes whose body is slow, and of requests that are under way when the router is told to end.
BODY = 1.0
LAST = {"end": 0.8, "end-busy": 0.05}
#: Seconds of each half of flapping.
FLAP = 1.0
#: Seconds of `attempt_timeout`.
ATTEMPT = 0.5
#: What is broken: the first server, unless a scenario says more.
ONE = (0,)
ALL = (0, 1, 2)


class Scenario(NamedTuple):
    """One row of the table."""

    name: str
    text: str
    begin: Act
    end: Act
    checks: tuple[Check, ...]
    #: Lines of the pool's configuration.
    pool: str = ""
    broken: tuple[int, ...] = ONE
    #: Called again and again for as long as the fault lasts.
    go_on: Act | None = None
    #: Whether `--quick` plays it too.
    brief: bool = False
    #: Seconds that the fault needs to show at all.
    least: float = 0


# What is done


def mode(name: str, delay: float = 0) -> Act:
    def act(_house: House, servers: Sequence[Server]) -> None:
        for server in servers:
            server.tell(name, delay)

    return act


def kill(_house: House, servers: Sequence[Server]) -> None:
    for server in servers:
        server.end(signal.SIGKILL)


def terminate(_house: House, servers: Sequence[Server]) -> None:
    for server in servers:
        server.end(signal.SIGTERM)


def interrupt(_house: House, servers: Sequence[Server]) -> None:
    for server in servers:
        server.end(signal.SIGINT)


def start(_house: House, servers: Sequence[Server]) -> None:
    for server in servers:
        server.start()
    for server in servers:
        server.stand()


def stop(_house: House, servers: Sequence[Server]) -> None:
    for server in servers:
        server.send(signal.SIGSTOP)


def resume(_house: House, servers: Sequence[Server]) -> None:
    for server in servers:
        server.send(signal.SIGCONT)


def flap(house: House, servers: Sequence[Server]) -> None:
    """Up for one half; the scenario begins with the other."""
    house.wait(FLAP)
    mode("ok")(house, servers)
    house.wait(FLAP)
    mode("down")(house, servers)


ok = mode("ok")

# Settings of the pool, where they are not the defaults

TIMEOUT = 'retry = { attempt_timeout = "500ms" }'
STREAM = 'timeouts = { stream = "500ms" }'
LATENCY = 'detectors = ["consecutive", "latency"]'
RETRY_5XX = 'retry = { on = ["connect", "reset", "timeout", "5xx"] }'
REFUSE = 'when_few_ready = "refuse"'

# What must hold, where several scenarios ask for it

GET = must.no_get_errors
POST = must.posts_under_way
BREAKS = must.only_broken
IN_BODY = must.ejected("in body")
FIVE_500, FIVE_503 = must.ejected("5 × status 500"), must.ejected("5 × status 503")
UNREADY = must.only_status(503)


def scenarios(interval: float = 0.5, rise: int = 2) -> tuple[Scenario, ...]:
    """Promises all of them but for the sinkholes and the graceful stop.

    Args:
        interval: seconds between two probes.
        rise: passed probes until an endpoint is up again.
    """
    # A probe comes within its interval, 10 % of jitter included; `rise` of them make an endpoint come up. What a busy
    # machine needs to start a request is on top.
    probed = 1.1 * interval * rise + 0.15
    back = must.served_within(probed, "a probe interval + rise")
    return (
        Scenario("kill", "SIGKILL", kill, start, (GET, POST, must.ejected()), brief=True),
        Scenario("refuse", "listens no longer", mode("refuse"), ok, (GET, must.ejected())),
        Scenario("restart", "SIGTERM; requests under way finish", terminate, start, (GET,), brief=True),
        Scenario("restart-hard", "the process exits at once, and comes back", interrupt, start, (GET, POST)),
        Scenario("flapping", "down for 1 s, up for 1 s", mode("down"), ok, (GET,), go_on=flap),
        Scenario("kill-two", "SIGKILL to two of three", kill, start, (GET, POST), broken=(0, 1)),
        Scenario(
            "idle-close", "closes idle connections as requests arrive", mode("idle-close"), ok, (GET,), brief=True
        ),
        Scenario("close", "closes before the head", mode("close"), ok, (GET, must.ejected("in head"))),
        Scenario("reset", "resets before the head", mode("reset"), ok, (GET, must.ejected("in head")), brief=True),
        Scenario("reset-head", "resets within the head", mode("reset-head"), ok, (GET, must.ejected("in head"))),
        Scenario("garbage", "answers what is not HTTP", mode("garbage"), ok, (GET, must.ejected())),
        Scenario(
            "stop",
            "SIGSTOP; attempt_timeout 500 ms",
            stop,
            resume,
            (GET, must.few_slow_answers(ATTEMPT), must.ejected()),
            TIMEOUT,
            brief=True,
            least=3.5,
        ),
        Scenario(
            "slow-head",
            "3 s until the head; attempt_timeout 500 ms",
            mode("slow-head", SLOW),
            ok,
            (GET, must.ejected("timeout in head", "average latency")),
            TIMEOUT,
            brief=True,
            least=2.5,
        ),
        Scenario(
            "sluggish",
            "200 ms until the head; detector latency",
            mode("slow-head", SLUGGISH),
            ok,
            (GET, must.ejected("average latency")),
            LATENCY,
            least=4,
        ),
        Scenario("500", "answers 500", mode("500"), ok, (FIVE_500, must.few_statuses(500, 5))),
        Scenario("503", "answers 503", mode("503"), ok, (FIVE_503, must.few_statuses(503, 5)), brief=True),
        Scenario("500-retried", "the same, 5xx retried", mode("500"), ok, (GET, FIVE_500), RETRY_5XX),
        Scenario("503-retried", "the same, 5xx retried", mode("503"), ok, (GET, FIVE_503), RETRY_5XX),
        Scenario("reset-body", "resets within the body", mode("reset-body"), ok, (BREAKS, IN_BODY), brief=True),
        Scenario("truncate", "closes within the body", mode("truncate"), ok, (BREAKS, IN_BODY), brief=True),
        Scenario(
            "stall-body",
            "never ends the body; timeouts.stream 500 ms",
            mode("stall-body"),
            ok,
            (BREAKS, IN_BODY),
            STREAM,
            least=2.5,
        ),
        Scenario("slow-body", "1 s for the body", mode("slow-body", BODY), ok, (GET,)),
        Scenario("kill-all", "SIGKILL to all three", kill, start, (UNREADY, back), broken=ALL, brief=True),
        Scenario("kill-all-refuse", "the same; refuse", kill, start, (UNREADY, back), REFUSE, broken=ALL),
    )


#: Played by functions of their own.
STOPS = {
    "end": "SIGTERM to the router, while every client waits for an answer",
    "end-busy": "SIGTERM to the router, while some do",
}
SINKHOLE = "sinkhole"
SINKHOLES = {"503": "1 of 20 answers 503 within 1 ms", "reset": "1 of 20 resets within 1 ms"}
#: Seconds after which a sinkhole must be out.
SETTLED = 2
COMMON = (must.no_lies, must.no_duplicates)


class Bench(NamedTuple):
    """Where a scenario is played, and how."""

    fleet: Fleet
    pins: Pinning
    #: Of the router.
    command: str
    pace: Pace
    #: Whether the pools have a probe.
    probes: bool


def _probe(bench: Bench) -> str:
    options = f'path = "{HEALTH}", interval = "{bench.pace.interval}", timeout = "{bench.pace.timeout}"'
    return f'probe = {{ use = "http", {options} }}\n' if bench.probes else ""


def pool(name: str, endpoints: Sequence[str], lines: str) -> str:
    """Promises the text of a pool."""
    return f'[[pools]]\nname = "{name}"\nendpoints = {json.dumps([f"http://{each}" for each in endpoints])}\n{lines}\n'


def _house(bench: Bench, lines: str) -> House:
    """Promises three servers and the router before them; ejections are short enough to see their end."""
    house = House(bench.fleet, bench.pins, bench.command)
    house.serve(1, 1, 1)
    lines = f'ejection = {{ base = "{bench.pace.base}" }}\n{_probe(bench)}{lines}'
    endpoints = [server.addresses[0] for server in house.servers]
    house.route('[[routes]]\npool = "web"\n' + pool("web", endpoints, lines))
    return house


def play(bench: Bench, scenario: Scenario) -> Result:
    """Plays one scenario with fresh processes.

    Raises:
        BenchError: a process did not do its part, or the router ended.
    """
    pace = bench.pace
    house = _house(bench, scenario.pool)
    with contextlib.closing(house):
        house.load(scenario.name, pace.gets, pace.posts, pace.rate)
        house.wait(pace.before)
        servers = [house.servers[number] for number in scenario.broken]
        fault = time.monotonic()
        scenario.begin(house, servers)
        broken = time.monotonic()
        until = broken + max(pace.fault, scenario.least)
        while time.monotonic() < until and scenario.go_on is not None:
            scenario.go_on(house, servers)
        house.wait(until - time.monotonic())
        ending = time.monotonic()
        scenario.end(house, servers)
        healed = time.monotonic()
        house.wait(pace.after)
        house.wait(pace.most, house.is_well)
        house.wait(pace.after)
        assert house.router is not None
        if house.router.popen.poll() is not None:
            raise BenchError(f"{scenario.name}: the router ended\n{house.router.last_words()}")
        seen = house.seen()
        code = house.stop_router()
        record = Record(
            seen,
            house.receipts(),
            house.log,
            Moments(fault, broken, ending, healed),
            tuple(server.name for server in servers),
            tuple(server.endpoint for server in servers),
            code,
        )
    checks = (*scenario.checks, *COMMON, must.every_server_answers, must.ends_well)
    return must.result(scenario.name, scenario.text, record, checks)


def play_end(bench: Bench, name: str) -> Result:
    """Tells the router to end under load. What clients ask for after that counts for nothing."""
    pace = bench.pace
    house = _house(bench, "")
    with contextlib.closing(house):
        house.load(name, pace.gets, pace.posts, pace.rate)
        house.wait(pace.before)
        mode("slow-head", LAST[name])(house, house.servers)
        # Half of such a request later, every connection waits for a slow answer, if they are slow enough for that.
        house.wait(max(LAST[name] / 2, 3 / pace.rate))
        asked = time.monotonic()
        code = house.stop_router()
        seen = [each for each in house.seen() if each.sent < asked]
        record = Record(seen, house.receipts(), house.log, Moments(asked, asked, asked, time.monotonic()), (), (), code)
    return must.result(name, STOPS[name], record, (must.under_way_finish, *COMMON, must.ends_well))


def play_sinkholes(bench: Bench, form: str, selectors: Sequence[str]) -> Iterator[Result]:
    """One of 20 endpoints fails at once, under each selector: a pool and a client for each, all at the same time.

    With the default ejection, since how long it lasts decides about the share of errors.
    """
    pace = bench.pace
    house = House(bench.fleet, bench.pins, bench.command)
    with contextlib.closing(house):
        house.serve(19, 1)
        bad = house.servers[1]
        house.route(_sinkhole_pools(house, selectors, _probe(bench)))
        for name in selectors:
            house.load(name, pace.gets, pace.posts, pace.rate, f"X-Fault-Pool: {name}")
        house.wait(pace.before)
        fault = time.monotonic()
        bad.tell(form)
        broken = time.monotonic()
        house.wait(SETTLED + pace.sink)
        over = time.monotonic()
        seen, code, receipts = house.seen(), house.stop_router(), house.receipts()
        for name in selectors:
            record = Record(
                [each for each in seen if each.key.startswith(f"{name}.")],
                [each for each in receipts if each.key.startswith(f"{name}.")],
                [said for said in house.log if f"pool {name}," in said.text or "pool " not in said.text],
                Moments(fault, broken, over, over),
                (bad.name,),
                (bad.endpoint,),
                code,
            )
            checks = (must.small_share(0.01, SETTLED), *COMMON, must.ends_well)
            yield must.result(f"{SINKHOLE}-{form}-{name}", f"{SINKHOLES[form]}; {name}", record, checks)


def _sinkhole_pools(house: House, selectors: Sequence[str], probe: str) -> str:
    endpoints = [each for server in house.servers for each in server.addresses]
    routes = [f'[[routes]]\npath = "{HEALTH}"\npool = "{selectors[0]}"\n']
    routes += [f'[[routes]]\nheaders = {{ X-Fault-Pool = "{name}" }}\npool = "{name}"\n' for name in selectors]
    return "".join([*routes, *(pool(name, endpoints, f'selection = "{name}"\n{probe}') for name in selectors)])
