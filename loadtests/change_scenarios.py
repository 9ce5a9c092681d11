"""What changes.py changes while it is under load, and what must then hold: one entry each.

An entry's function makes the changes and gives the checks of its own; those that all share are added by `play`.
"""

import functools
import itertools
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import change_report as must
from bench_procs import ask
from change_client import Mix
from change_configs import POOL, VERSION, all_alike, configuration, elsewhere, endpoints, listener, quoted
from change_house import UNWATCHED, Pace, Site, free_port
from change_limits import play_memory, play_pool, play_pools
from change_report import Check, Leaving, Result, held
from fault_client import HOST
from fault_report import Verdict, ends_well, no_duplicates, no_lies

#: Long enough for nothing to be cut.
LONG = 'drain_timeout = "300s"'
#: Shares of requests are exact with this one.
BY_WEIGHT = 'selection = "round_robin"'
#: Seconds for a message that must come, and in which a second one might.
MESSAGE, ANOTHER = 5.0, 0.3
#: Seconds in which a changed file has certainly been read.
NOTICED = 0.6
#: Seconds until a port of a removed listener refuses.
REFUSES = 0.5


Act = Callable[[Site, Pace], Sequence[Check]]


class Scenario(NamedTuple):
    """One row of the table."""

    name: str
    text: str
    act: Act
    #: Checks besides those of `act`.
    checks: tuple[Check, ...]
    #: How the router ends.
    end: Check = ends_well


# Reloads with changes elsewhere


def play_told(site: Site, pace: Pace) -> Sequence[Check]:
    """Reloads by signal and by command, in turns."""
    ways = itertools.cycle((site.hup, functools.partial(site.call, "reload")))
    return _reload(site, pace, pace.told, lambda: next(ways)(), UNWATCHED)


def play_watched(site: Site, pace: Pace) -> Sequence[Check]:
    """Reloads because the file has changed."""
    return _reload(site, pace, pace.watched, lambda: None)


def _reload(site: Site, pace: Pace, count: int, tell: Callable[[], object], *options: str) -> Sequence[Check]:
    other = free_port()
    site.serve(3)

    def text(step: int) -> str:
        return configuration(site, step, all_alike(site), more=elsewhere(site, other, step))

    site.begin(pace, text, *options)
    for _ in range(count):
        site.change(text)
        tell()
        site.in_force()
    site.wait(pace.around)
    return ()


# Members of the loaded pool


def play_members(site: Site, pace: Pace) -> Sequence[Check]:
    site.serve(4)

    def text(weights: dict[str, int], drained: Sequence[str], step: int) -> str:
        line = f"endpoints = {endpoints(site.addresses, weights, *drained)}"
        return configuration(site, step, line, BY_WEIGHT, LONG)

    def file(what: str, weights: dict[str, int], *drained: str, besides: Sequence[str] = ()) -> None:
        """By file; those `besides` are out of service by command."""
        site.change(functools.partial(text, weights, drained))
        site.in_force()
        site.phase(f"{site.step} {what}", without(weights, *drained, *besides), pace.between)

    def told(what: str, weights: dict[str, int], *words: str) -> None:
        site.changes += 1
        site.call(*words)
        site.phase(f"{site.step} {what}", weights, pace.between)

    three = {"s1": 1, "s2": 1, "s3": 1}
    site.begin(pace, functools.partial(text, three, ()))
    for _ in range(pace.rounds):
        file("s4 added", four := {**three, "s4": 1})
        file("s1 removed", rest := without(four, "s1"))
        told("s2 drained", {"s3": 1, "s4": 1}, "drain", POOL, "s2")
        file("s4 reweighed while s2 is drained", {**rest, "s4": 2}, besides=["s2"])
        told("s2 undrained", {**rest, "s4": 2}, "undrain", POOL, "s2")
        told("s3 reweighed", {**rest, "s3": 3, "s4": 2}, "weight", POOL, "s3", "3")
        told("s3 reweighed again", {**rest, "s3": 1, "s4": 2}, "weight", POOL, "s3", "configured")
        file("s2 drained by file", {**rest, "s4": 2}, "s2")
        file("as at the start", three)
    return must.no_strays, must.none_starved, must.fair_shares


def without(weights: dict[str, int], *names: str) -> dict[str, int]:
    return {name: weight for name, weight in weights.items() if name not in names}


# Discovered members


def play_discovery(site: Site, pace: Pace) -> Sequence[Check]:
    site.serve(5)
    file = site.folder / "servers.txt"
    names = list(site.addresses)
    line = f'discovery = {{ use = "file", path = {quoted(file.name)} }}'
    sets = [sorted(names[(first + place) % 5] for place in range(3)) for first in range(5)]
    faults = {
        "half-written": lambda whole: whole[: whole.rindex("http://") + len("http://")],
        "emptied": lambda whole: "",
        "junk": lambda whole: "\x00\x01 no server\n",
    }

    def lines(found: Sequence[str]) -> str:
        return "".join(f"http://{site.addresses[name]}\n" for name in found)

    def in_service() -> list[str]:
        (found,) = [each for each in site.ask("status")["pools"] if each["name"] == POOL]
        urls = [e["url"] for e in found["endpoints"] if e["state"] not in ("draining", "removed")]
        return sorted(name for name, address in site.addresses.items() if f"http://{address}" in urls)

    file.write_text(lines(sets[0]))
    site.begin(pace, lambda step: configuration(site, step, line, BY_WEIGHT, LONG))
    for number in range(1, pace.sets + 1):
        wanted = sets[number % 5]
        site.changes += 1
        made = file.with_suffix(".new")
        made.write_text(lines(wanted))
        made.replace(file)
        site.until(f"set {number} in service", lambda wanted=wanted: in_service() == wanted)
        site.phase(f"set {number}", dict.fromkeys(wanted, 1), pace.between / 5)
        if number % 2:
            fault = list(faults)[number // 2 % len(faults)]
            file.write_text(faults[fault](lines(wanted)))
            site.phase(f"set {number}, {fault}", dict.fromkeys(wanted, 1), NOTICED)
    return must.no_strays, must.none_starved


# Other listeners


def play_listeners(site: Site, pace: Pace) -> Sequence[Check]:
    site.serve(3)
    other = free_port()
    wrong: list[str] = []

    def text(more: str, step: int) -> str:
        return configuration(site, step, all_alike(site), more=more)

    def put(more: str) -> None:
        site.change(functools.partial(text, more))
        site.in_force()

    def answers(what: str) -> None:
        try:
            found = ask(other, VERSION)
        except OSError as error:
            found = (0, 0)
            wrong.append(f"{what}: {error}")
        if found != (200, site.step):
            wrong.append(f"{what}: answers {found}")

    site.begin(pace, functools.partial(text, ""))
    for number in range(pace.listeners):
        put(listener(other))
        answers(f"added {number}")
        put(listener(other, f'timeouts = {{ idle = "{20 + number}s" }}'))
        answers(f"changed {number}")
        put("")
        if not refuses(other):
            wrong.append(f"removed {number}: still accepts")
    well = f"0 of {3 * pace.listeners}"
    return (lambda _: held("the other listener answers while it is there, then refuses", wrong, well),)


def refuses(port: int) -> bool:
    """Whether nobody accepts there, or soon."""
    deadline = time.monotonic() + REFUSES
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), REFUSES).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.01)
    return False


# Upgrades


def play_upgrade(site: Site, pace: Pace) -> Sequence[Check]:
    site.serve(3)
    settings = ['shutdown_timeout = "120s"']
    # Most of the requests on new connections: those are the ones that nobody might be there to take.
    mix = Mix(gets=8, posts=4, fresh=10, rate=15)
    site.begin(pace, lambda step: configuration(site, step, all_alike(site), settings=settings), mix=mix)
    for _ in range(pace.upgrades):
        site.changes += 1
        site.upgrade()
        site.wait(pace.between)

    def old_ones_end(_record: must.Record) -> Verdict:
        left = [f"process {pid}" for pid in site.survivors]
        return held("an old process ends once nothing is under way in it", left, f"{len(site.pids) - 1} have")

    return (old_ones_end,)


# Files that cannot be used


def play_bad(site: Site, pace: Pace) -> Sequence[Check]:
    site.serve(3)
    wrong: list[str] = []
    told: set[str] = set()

    def text(step: int) -> str:
        return configuration(site, step, all_alike(site))

    def half(whole: str) -> None:
        site.file.write_text(whole[: whole.rindex("weight")])

    acts: dict[str, Callable[[str], object]] = {
        "bad": lambda whole: site.write(whole.replace(f'pool = "{POOL}"', 'pool = "wbe"')),
        "half-written": half,
        "deleted": lambda whole: site.file.unlink(),
    }
    site.begin(pace, text)
    for number in range(pace.bad):
        for what, act in acts.items():
            since = len(site.log)
            site.changes += 1
            act(text(site.step))
            site.wait(MESSAGE, lambda since=since: bool(must.messages(site.log[since:])))
            site.wait(ANOTHER)
            if site.version() != site.step:
                wrong.append(f"{what} {number}: the old table does not serve")
            site.change(text)
            site.in_force()
            found = must.messages(site.log[since:])
            told.update(found)
            if len(found) != 1 or site.file.name not in found[0]:
                wrong.append(f"{what} {number}: {len(found)} messages {found[:2]}")
    count = f"{3 * pace.bad} messages, such as {min(told, key=len, default='none')!r}"
    return (lambda _: held("the old table serves, and one message each names the file", wrong, count),)


# Endpoints that leave


def play_leaving(site: Site, pace: Pace) -> Sequence[Check]:
    """Everything under way may take the time that it takes."""
    leaving = _leave(site, pace, "60s", pace.download + 0.5)
    return must.no_errors, must.no_tunnel_closed, must.no_strays, leaving.finishes


def play_cut(site: Site, pace: Pace) -> Sequence[Check]:
    """It may not."""
    leaving = _leave(site, pace, f"{pace.cut:g}s", pace.cut + must.SOON + 0.2)
    return must.no_strays, lambda record: leaving.is_cut(record, pace.cut), leaving.else_well


def _leave(site: Site, pace: Pace, drain: str, wait: float) -> Leaving:
    site.serve(2, pace.download)

    def text(names: Sequence[str], step: int) -> str:
        line = f"endpoints = {endpoints(site.addresses, dict.fromkeys(names, 1))}"
        return configuration(site, step, line, BY_WEIGHT, f'drain_timeout = "{drain}"')

    mix = Mix(gets=4, posts=2, fresh=2, slow=8, slow_every=0.5, tunnels=20, echo=0.2, life=600)
    site.begin(pace, functools.partial(text, ["s1", "s2"]), mix=mix)
    site.wait(0.5)
    asked = time.monotonic()
    site.change(functools.partial(text, ["s2"]))
    site.in_force()
    gone = time.monotonic()
    site.phase("s1 removed", {"s2": 1}, wait)
    return Leaving("s1", asked, gone)


# All of them

REFUSED = must.ends_well_but("not taken")
_SERVED = (must.no_errors, must.no_tunnel_closed, must.loaded)
#: A process cannot hand its connections to another one, but a reload has no excuse.
_UNHARMED = (*_SERVED, must.all_kept)

SCENARIOS = (
    Scenario("reload", "another route, pool or listener changes; SIGHUP and `router reload`", play_told, _UNHARMED),
    Scenario("reload-watched", "the same, by the file alone", play_watched, _UNHARMED),
    Scenario(
        "members", "endpoints are added, removed, drained, reweighed, by file and command", play_members, _UNHARMED
    ),
    Scenario("discovery", "a file of endpoints changes, and is broken between", play_discovery, _UNHARMED),
    Scenario("listeners", "another listener is added, changed and removed", play_listeners, _UNHARMED),
    Scenario("upgrade", "a new process takes over, by SIGUSR2", play_upgrade, _SERVED),
    Scenario("bad", "a bad, a half-written and a deleted file", play_bad, _UNHARMED, REFUSED),
    Scenario("leaving", "an endpoint is removed with downloads and WebSockets under way", play_leaving, ()),
    Scenario("leaving-cut", "the same with a short drain_timeout", play_cut, ()),
    Scenario("large-pools", "1 000 routes, 1 000 pools of 10 endpoints, one of which changes", play_pools, ()),
    Scenario("large-pool", "1 000 routes, one pool of 10 000 endpoints, one of which changes", play_pool, ()),
    Scenario("memory", "reloads of two files in turns", play_memory, _UNHARMED),
)


def play(site: Site, pace: Pace, scenario: Scenario) -> Result:
    """Plays one scenario with processes of its own.

    Raises:
        BenchError: a process did not do its part, or a change did not come into force.
    """
    own = scenario.act(site, pace)
    record = site.record()
    checks = (*scenario.checks, *own, no_lies, no_duplicates, scenario.end)
    return must.result(scenario.name, scenario.text, record, checks)
