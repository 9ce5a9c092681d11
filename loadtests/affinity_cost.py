"""What affinities cost the router: memory under made-up ids, and CPU per request where clients come back.

wrk sends what a script makes, nginx plays the servers. CPU is measured in turns, so that whatever else the machine does
befalls all alike.
"""

import itertools
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import affinity_report as must
import bench_rounds
import bench_wrk as wrk
from affinity_house import Abode, Pace, came
from affinity_report import Played
from bench_peers import Peer
from bench_procs import BenchError, free_ports, wait_until_serving
from bench_rounds import Bench, Load, Up
from bench_usage import rss_bytes
from change_configs import POOL, all_alike, configuration, listener, pool, route
from change_scenarios import BY_WEIGHT
from fault_client import HOST
from fault_house import PATIENCE
from fault_servers import HEALTH

#: Clients, each with one connection.
CLIENTS = 64
#: What learns, with its options but for the size; the field in which clients send an id, and what stands before it.
LEARNT = {
    "app_cookie": ('name = "SESSION"', "Cookie", "theme=dark; SESSION="),
    "header": ('name = "X-Key"', "X-Key", ""),
}
#: In each id: so many letters that a table of ids would show.
LONG = 200
#: Routers side by side: no affinity and no cookie; no affinity, but the cookies of the third one; affinity.
WITHOUT, SAME, WITH = "without", "same", "with"


def ids_script(field: str, before: str, prefix: str) -> str:
    """Promises a script for wrk that sends another id with each request: the prefix and a number."""
    return f"""local number = 0
function request()
  number = number + 1
  return wrk.format(nil, nil, {{["{field}"] = "{before}{prefix}" .. number}})
end
"""


def cookies_script(cookies: Sequence[str]) -> str:
    """Promises a script for wrk that sends these cookies in turns, or none if there are none."""
    return f"""local cookies, made, turn = {{{", ".join(json.dumps(each) for each in cookies)}}}, {{}}, 0
function init(args)
  for place, cookie in ipairs(cookies) do made[place] = wrk.format(nil, nil, {{["Cookie"] = cookie}}) end
  if #made == 0 then made[1] = wrk.format() end
end
function request()
  turn = turn % #made + 1
  return made[turn]
end
"""


# Memory


def play_hostile(kind: str, site: Abode, pace: Pace) -> Played:
    """Sends different ids until there were enough; one client is there all the time, one came only once before."""
    options, field, before = LEARNT[kind]
    servers = _start_servers(site, Load("/", CLIENTS, pace.chunk, 1, 0))
    site.addresses = {f"s{number}": server for number, server in enumerate(servers, 1)}
    affinity = f'affinity = {{ use = "{kind}", {options}, size = {pace.entries} }}'
    site.route(configuration(site, site.step, all_alike(site), affinity))

    def is_pinned(name: str) -> bool:
        words = ("explain", f"GET http://{HOST}/", "--header", f"{field}: {before}{name}", "--json")
        told = json.loads(site.call(*words))
        return str(told["pools"][0]["affinity"]).startswith("pinned to ")

    for name in ("idle", "used"):
        came(site.port, "/", {field: before + name})
    pins = {"one that came before all others": (is_pinned("idle"), True)}
    _load(site, "warm", cookies_script(()), 1)
    sizes = [(0, _memory(site))]
    for chunk in itertools.count():
        prefix = f"{'x' * LONG}{chunk}."
        sent = sizes[-1][0] + _load(site, f"ids-{chunk}", ids_script(field, before, prefix), pace.chunk)
        sizes.append((sent, _memory(site)))
        came(site.port, "/", {field: before + "used"})
        if sent >= pace.ids:
            break
    pins["the same after all others"] = (is_pinned("idle"), False)
    pins["one that came again and again"] = (is_pinned("used"), True)
    verdicts = [*must.bounded(sizes, pace.entries), must.oldest_first(pins)]
    return Played(sizes[-1][0], {"entries": pace.entries, "sizes": sizes}, verdicts)


def _start_servers(site: Abode, load: Load) -> list[str]:
    """Promises the addresses of nginx, which answers as a server of this bench does when it is asked for its health."""
    bench_rounds.need("wrk", "wrk")
    ports = bench_rounds.start_backends(Bench(site.fleet, site.pins), load)
    (site.folder / "pages" / HEALTH[1:]).write_text("ok")
    return [f"{HOST}:{port}" for port in ports]


def _load(site: Abode, name: str, script: str, seconds: int) -> int:
    """Promises the number of requests that wrk made with a script.

    Raises:
        BenchError: some of them were not answered well.
    """
    command = wrk.command(f"http://{HOST}:{site.port}/", CLIENTS, seconds, _written(site.folder, name, script))
    _, text = site.fleet.run("wrk", [*site.pins.load, *command], timeout=seconds + PATIENCE)
    try:
        report = wrk.parse(text)
    except ValueError as error:
        raise BenchError(str(error)) from error
    if report.errors:
        raise BenchError("; ".join(report.errors))
    return report.requests


def _written(folder: Path, name: str, script: str) -> str:
    file = folder / f"{name}.lua"
    file.write_text(script)
    return str(file)


def _memory(site: Abode) -> int:
    assert site.router is not None
    return rss_bytes(site.router.session)


# CPU


def play_cost(site: Abode, pace: Pace) -> Played:
    """Three routers side by side: what a cookie in each request costs anyhow is told apart from what affinity does."""
    load = Load("/", CLIENTS, pace.seconds, pace.rounds, 0)
    servers = _start_servers(site, load)
    up = {name: _start_router(site, name, servers, affinity) for name, affinity in _SETTINGS.items()}
    cookies = sorted({came(up[WITH].peer.port, "/", {})[1] for _ in range(4 * len(servers))})
    if len(cookies) != len(servers):
        raise BenchError(f"{len(servers)} servers have {len(cookies)} cookies: {cookies}")
    scripts = {WITHOUT: cookies_script(()), SAME: cookies_script(cookies), WITH: cookies_script(cookies)}
    files = {name: _written(site.folder, f"of-{name}", script) for name, script in scripts.items()}
    tally = bench_rounds.run_rounds(Bench(site.fleet, site.pins), up, load, files)
    if tally.errors:
        raise BenchError("\n".join(f"{name}: {said}" for name, all_said in tally.errors.items() for said in all_said))
    cpu = {name: [sample.cpu_us for sample in tally.samples[name]] for name in up}
    verdict = must.cheap(
        statistics.median(_ratios(cpu[WITH], cpu[WITHOUT])),
        min(cpu[WITH]) / min(cpu[WITHOUT]),
        statistics.median(_ratios(cpu[WITH], cpu[SAME])),
    )
    requests = sum(round(sample.rps * load.seconds) for samples in tally.samples.values() for sample in samples)
    return Played(requests, {"cpu_us": cpu}, [verdict])


_SETTINGS = {WITHOUT: "", SAME: "", WITH: 'affinity = "cookie"'}


def _start_router(site: Abode, name: str, servers: Sequence[str], affinity: str) -> Up:
    """Starts one of several routers that differ in nothing but their affinity."""
    port = free_ports(1)[0]
    # Each has a folder of its own, where it keeps its key.
    file = site.folder / name / "router.toml"
    file.parent.mkdir()
    members = f"endpoints = {json.dumps([f'http://{server}' for server in servers])}"
    text = listener(port), route("all", f'pool = "{POOL}"'), pool(POOL, members, BY_WEIGHT, affinity)
    file.write_text("\n".join(text))
    line = (*shlex.split(site.command), "run", str(file))
    process = site.fleet.start(name, [*site.pins.proxy, *line])
    wait_until_serving(process, port, "/", 100, 0)
    return Up(Peer(name, line, (), {}, {}, port), process)


def _ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ones, others, strict=True)]
