"""What affinity.py does to sessions, and what must then hold: one entry for each row of its table."""

import functools
import signal
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import affinity_report as must
from affinity_client import Forgery, Sent
from affinity_cost import play_cost, play_hostile
from affinity_house import Abode, Pace, came
from affinity_report import Down, Played, Result
from change_client import Mix
from change_configs import POOL, all_alike, configuration, endpoints
from change_house import Record
from change_report import messages
from change_scenarios import BY_WEIGHT, without
from fault_client import Seen
from fault_report import ends_well
from fault_servers import HEALTH

AFFINITY = 'affinity = "cookie"'
#: What finds out soon that a server is down, and soon that it is back.
HEALTH_CHECKS = (
    f'probe = {{ use = "http", path = "{HEALTH}", interval = "500ms" }}',
    'ejection = { base = "1s" }',
)
#: Seconds that clients may take beyond what they are meant to.
MOST = 120.0


# Visitors while servers come and go


def play_visitors(site: Abode, pace: Pace) -> Played:
    site.serve_apart(4)
    visits, first = pace.visits, {"s1": 3, "s2": 1, "s3": 1}

    def text(weights: Mapping[str, int], step: int) -> str:
        line = f"endpoints = {endpoints(site.addresses, weights)}"
        return configuration(site, step, line, BY_WEIGHT, AFFINITY, *HEALTH_CHECKS)

    site.route(text(first, site.step))
    running, file = site.clients("visitors", visits)
    down = _come_and_go(site, pace, first, text, lambda: running.popen.poll() is None)
    seen = [Seen(*each) for each in site.told(running, file, visits.count * visits.every + MOST)]
    *_, drained, _, back = site.phases
    verdicts = [
        must.all_came(seen, visits.count, visits.requests),
        must.loyal(seen, [down]),
        must.moved_on(seen, [down]),
        must.fair_choices(seen, site.phases),
        must.no_stray_choices(seen, site.phases),
        must.keeps_sessions(seen, drained, "s2"),
        must.takes_new(seen, back, "s1"),
    ]
    return Played(len(seen), {"down_seconds": down.end - down.begin}, verdicts)


def _come_and_go(
    site: Abode,
    pace: Pace,
    first: Mapping[str, int],
    text: Callable[[Mapping[str, int], int], str],
    go_on: Callable[[], bool],
) -> Down:
    """All that befalls the servers while visitors come; promises when the first one was down."""
    four = {**first, "s4": 1}
    site.phase("three servers", first, pace.phase)
    site.change(functools.partial(text, four))
    site.in_force()
    site.phase("s4 added", four, pace.phase)
    site.call("drain", POOL, "s2")
    site.phase("s2 drained", without(four, "s2"), pace.phase)
    site.call("undrain", POOL, "s2")
    server, begin = site.servers[0], time.monotonic()
    server.end(signal.SIGKILL)
    site.phase("s1 killed", without(four, "s1"), pace.phase)
    site.until("s1 out of service", lambda: site.is_out("s1"))
    server.start()
    server.stand()
    # What ends its probation are requests of visitors.
    site.until("s1 in service again", lambda: not (site.is_out("s1") and go_on()))
    end = time.monotonic()
    site.phase("s1 started again", four, pace.phase)
    return Down("s1", begin, end)


# Forged cookies


def play_forged(site: Abode, pace: Pace) -> Played:
    site.serve(3)
    site.route(configuration(site, site.step, all_alike(site), BY_WEIGHT, AFFINITY))
    cookies = dict(came(site.port, "/200", {}) for _ in range(3))
    # Nobody comes to these two any more but with a cookie that counts.
    drained = sorted(cookies)[:2]
    for name in drained:
        site.call("drain", POOL, name)
    good = [(name, _led_to(site, cookies[name])) for name in drained]
    values = [cookies[name].partition("=")[2] for name in drained]
    cookie = cookies[drained[0]].partition("=")[0]
    running, file = site.clients("forgers", Forgery(cookie, values, pace.mutations))
    sent = [Sent(*each) for each in site.told(running, file, MOST)]
    good += [(name, _led_to(site, cookies[name])) for name in drained]
    verdicts = [
        must.none_accepted(sent, pace.mutations, drained),
        must.good_ones_count(good),
        must.nothing_said(messages(site.log)),
    ]
    return Played(len(sent), {}, verdicts)


def _led_to(site: Abode, cookie: str) -> str:
    return came(site.port, "/200", {"Cookie": cookie})[0]


# All of them


class Row(NamedTuple):
    """One row of the table."""

    name: str
    text: str
    play: Callable[[Abode, Pace], Played]


ROWS = (
    Row("visitors", "visitors with jars, while servers are added, drained, killed, started again", play_visitors),
    Row("hostile-cookie", "made-up session ids before `app_cookie`", functools.partial(play_hostile, "app_cookie")),
    Row("hostile-header", "made-up ids before `header`", functools.partial(play_hostile, "header")),
    Row("forged", "mutations of cookies that are good", play_forged),
    Row("cost", "CPU per request of clients that come back with the cookie", play_cost),
)


def play(site: Abode, pace: Pace, row: Row) -> Result:
    """Plays one row with processes of its own.

    Raises:
        BenchError: a process did not do its part, or a change did not come into force.
    """
    played = row.play(site, pace)
    verdicts = list(played.verdicts)
    if site.router is not None:
        code = site.stop_router()
        verdicts.append(ends_well(Record([], [], [], site.log, [], Mix(), 0, code)))
    return Result(row.name, row.text, played.requests, played.figures, verdicts)
