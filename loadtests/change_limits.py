"""What changes.py measures about the router itself: how long its loop stands still in a reload, and whether it grows.

The changes that clients might notice stand in change_scenarios.py.
"""

import shutil
import time
from collections.abc import Callable, Sequence

import change_report as must
from bench_procs import BenchError
from bench_usage import rss_bytes
from change_client import Mix
from change_configs import all_alike, configuration, endpoints, listener, many, pool, quoted, route, server
from change_house import UNWATCHED, Pace, Site, Text, free_port
from change_report import Check, Window
from change_stall import read
from fault_house import HERE
from fault_servers import HEALTH

#: Milliseconds that the loop may stand still, and MiB that memory may grow by.
STALL, GROWTH = 50, 2
#: Routes and pools of a large configuration, and endpoints in all.
MANY, ENDPOINTS = 1000, 10_000


# Large configurations


def play_pools(site: Site, pace: Pace) -> Sequence[Check]:
    """A thousand pools."""
    each = ENDPOINTS // MANY

    def text(step: int) -> str:
        pools = [pool(f"p{n}", f"endpoints = {many(each, n * each, step)}") for n in range(MANY)]
        return "\n".join(pools)

    return _stall(site, pace, lambda n: f"p{n}", text)


def play_pool(site: Site, pace: Pace) -> Sequence[Check]:
    """One pool with all of them."""
    return _stall(site, pace, lambda _: "all", lambda step: pool("all", f"endpoints = {many(ENDPOINTS, 0, step)}"))


def _stall(site: Site, pace: Pace, pool_of: Callable[[int], str], pools: Text) -> Sequence[Check]:
    late = site.folder / "stall.late"
    shutil.copy(HERE / "change_stall.py", site.folder)
    service = f'[[services]]\nuse = "change_stall:Stall"\nfile = {quoted(str(late))}\n'
    health = route("health", f'path = "{HEALTH}"', 'answer = { status = 200, body = "ok" }')
    routes = [
        route(f"r{n}", f'host = "h{n}.example"', f'path = "/a{n}/*"', f'pool = "{pool_of(n)}"') for n in range(MANY)
    ]

    def text(step: int) -> str:
        return "\n".join((server(site.control), listener(site.port), service, health, *routes, pools(step)))

    site.route(text(site.step), UNWATCHED)
    running, outside = site.pulse(HEALTH)
    site.wait(pace.around)
    calm = Window(time.monotonic(), time.monotonic() + 3 * pace.around)
    site.wait(3 * pace.around)
    watched = []
    for _ in range(pace.large):
        site.change(text)
        asked = time.monotonic()
        site.ask("reload")
        took = time.monotonic() - asked
        site.wait(pace.around)
        watched.append(Window(asked, time.monotonic(), took))
    site.all_taken()
    running.popen.terminate()
    site.until("the pulse ends", lambda: running.popen.poll() is not None)
    if running.popen.returncode:
        raise BenchError(f"the pulse did not end well\n{running.last_words()}")
    return (lambda _: must.short_stalls(read(late), read(outside), calm, watched, STALL),)


# Memory


def play_memory(site: Site, pace: Pace) -> Sequence[Check]:
    site.serve(3)
    file = site.folder / "servers.txt"
    file.write_text("".join(f"http://{address}\n" for address in site.addresses.values()))
    found = f'discovery = {{ use = "file", path = "{file.name}" }}'
    probe = f'probe = {{ use = "http", path = "{HEALTH}", interval = "2s" }}'

    def text(step: int) -> str:
        # Two files in turns, and not all of a pool the same in both.
        other = step % 2
        names = list(site.addresses)[other:]
        more = [listener(other_port, f'timeouts = {{ idle = "{20 + other}s" }}'), pool("found", found, probe)]
        for n in range(20):
            weights = dict.fromkeys(names, 1 + other * (n % 3))
            more.append(route(f"r{n}", f'path = "/a{n}-{other if n % 2 else 0}/*"', f'pool = "p{n}"'))
            more.append(pool(f"p{n}", f"endpoints = {endpoints(site.addresses, weights)}", probe))
        return configuration(site, 1 + other, all_alike(site), more="\n".join(more))

    other_port = free_port()
    mix = Mix(gets=2, posts=1, fresh=2, rate=10, slow=2, tunnels=20, life=3)
    site.begin(pace, text, UNWATCHED, mix=mix)
    assert site.router is not None
    sizes = []
    for count in range(1, max(pace.marks) + 1):
        site.change(text)
        site.hup()
        site.in_force(1 + site.step % 2)
        if count in pace.marks:
            site.wait(pace.around)
            site.all_taken()
            sizes.append((count, rss_bytes(site.router.session)))
    # Not each round uses all the memory that it may, so the short form tells little.
    most = GROWTH if pace.since < max(pace.marks) // 3 and max(pace.marks) >= 1000 else 3 * GROWTH
    return (lambda _: must.flat(sizes, pace.since, most),)
