"""A collector that hangs under load: it takes connections, reads what comes and never answers, and then comes back."""

import time

import tracing_report as must
from bench_main import Result
from bench_procs import BenchError, Running, free_ports
from bench_rounds import need
from bench_usage import rss_bytes
from bench_wrk import command
from change_configs import POOL, all_alike, listener, pool, route
from fault_client import HOST, OK
from fault_house import PATIENCE
from fault_report import Verdict
from tracing_cost import CLIENTS, PATH, behind, loaded, nginx, requests_of
from tracing_house import LOOK, Collector, Den, Pace, observer
from tracing_receiver import ANSWER, HANG
from tracing_report import Phases

#: Connections with GET and with POST to each of two routers, and requests per second of each.
GETS, POSTS, RATE = 7, 3, 15
#: Seconds of load by which memory is what it will be without a reason.
WARM = 3
#: Seconds at the end in which spans must arrive again. Before that, an exporter may still wait for its next attempt.
LAST = 3.0


def play_collector(den: Den, pace: Pace) -> Result:
    need("wrk", "wrk")
    paced, figures = _paced(den, pace)
    full, more = _at_full_load(den, pace)
    return Result("collector", "", {**figures, **more}, [*paced, *full])


def _paced(den: Den, pace: Pace) -> tuple[list[Verdict], dict[str, object]]:
    """A load that every machine carries, of which every answer is read."""
    den.serve(3)
    collector = den.collector()
    den.start(observer(collector.endpoint, f"buffer = {pace.buffer}"))
    port = free_ports(1)[0]
    den.beside("twin", _twin(den, den.collector("receiver-twin", keep=False), port), port)
    begun = time.monotonic()
    den.send("twin", GETS, POSTS, RATE, port=port)
    den.send("load", GETS, POSTS, RATE)
    before = list(den.memory(pace.quiet))
    hang = time.monotonic()
    collector.turn(HANG)
    since = list(den.memory(pace.hang))
    over = time.monotonic()
    collector.turn(ANSWER)
    since += list(den.memory(pace.after))
    seconds = time.monotonic() - begun
    everything = den.saw()
    seen, twin = ([each for each in everything if each.key.startswith(label)] for label in ("load.", "twin."))
    ended = den.ended()
    spans, phases = collector.spans(), Phases(hang, over)
    missing = 2 * len(must.lost((each for each in seen if each.kind == OK), spans))
    back = [each for each in seen if each.sent >= over + pace.after - LAST]
    verdicts = [
        *must.unaffected(seen, twin, phases),
        must.loaded(seen, RATE * (GETS + POSTS), seconds),
        must.slim("paced load", before, since),
        *must.said_once((said.text for said in den.log if said.moment >= hang), missing),
        must.none_lost(
            f"{pace.after - LAST:g} s after its return", back, [s for s in spans if s.start >= _at(den, over)]
        ),
        ended,
    ]
    return verdicts, {"requests": len(seen), "missing": missing, "memory": [max(before), max(since)]}


def _twin(den: Den, collector: Collector, port: int) -> str:
    """Promises the configuration of a router that is traced alike, but whose collector always answers."""
    lines = listener(port), route("load", f'pool = "{POOL}"'), pool(POOL, all_alike(den))
    return "\n".join((observer(collector.endpoint), *lines))


def _at(den: Den, moment: float) -> int:
    return den.epoch + round(moment * 1e9)


def _at_full_load(den: Den, pace: Pace) -> tuple[list[Verdict], dict[str, object]]:
    """As much as the router can take, which is what fills buffers fastest."""
    ports = nginx(den)
    collector = den.collector("receiver-full", keep=False)
    router = den.begin_with(behind(den, ports, observer(collector.endpoint)))
    loaded(den, den.port, WARM)
    before = [rss_bytes(router.session)]
    collector.turn(HANG)
    words = command(f"http://{HOST}:{den.port}{PATH}", CLIENTS, round(pace.hang))
    running = den.fleet.start("wrk", [*den.pins.load, *words])
    since = []
    deadline = time.monotonic() + pace.hang + PATIENCE
    while running.popen.poll() is None and time.monotonic() < deadline:
        since.append(rss_bytes(router.session))
        den.wait(LOOK)
    requests = _requests(running)
    collector.turn(ANSWER)
    since += list(den.memory(LAST))
    verdicts = [must.slim(f"full load, {requests} requests without an error", before, since), den.ended()]
    return verdicts, {"full_requests": requests, "full_memory": [max(before), max(since)]}


def _requests(running: Running) -> int:
    if running.popen.poll() is None:
        raise BenchError("wrk did not end")
    return requests_of(running.output())
