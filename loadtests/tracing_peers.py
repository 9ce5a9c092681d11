"""Others who know OpenTelemetry: a receiver written by others, and a server that is traced by the SDK."""

import importlib.util
import sys
from pathlib import Path

import tracing_report as must
from bench_main import Result
from bench_procs import BenchError, Running, free_ports
from change_configs import POOL, listener, pool, route
from fault_client import HOST
from fault_house import HERE, PATIENCE, free_addresses
from fault_report import Verdict
from tracing_house import Den, Pace, observer
from tracing_report import Setting
from tracing_spans import CLIENT, SERVER, Span, spans_of_log

#: Connections with GET and with POST, and requests per second of each.
LOAD = (7, 3, 10)
#: Names of the routers in a row and of the server behind them.
EDGE, INNER, BACKEND = "edge", "inner", "shop"
CHAIN = ((EDGE, SERVER), (EDGE, CLIENT), (INNER, SERVER), (INNER, CLIENT), (BACKEND, SERVER))
#: As the clients of this bench write it.
HOST_FIELD = "fault"
ROUTE = "load"


# rotel


def rotel_program() -> Path:
    """Promises the path of `rotel-agent`.

    Raises:
        BenchError: it is not installed.
    """
    spec = importlib.util.find_spec("rotel")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (program := Path(folder) / "rotel-agent").is_file():
            return program
    raise BenchError("rotel is not installed: pip install rotel")


def protocols() -> list[str]:
    """Promises the ways of export that are installed."""
    try:
        grpc = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:
        grpc = None
    return ["otlp", "grpc"] if grpc else ["otlp"]


def play_rotel(den: Den, pace: Pace) -> Result:
    program = rotel_program()
    den.serve(3)
    verdicts: list[Verdict] = []
    for export in protocols():
        verdicts += _received(den, pace, program, export)
    return Result("rotel", "", {"protocols": protocols()}, verdicts)


def _received(den: Den, pace: Pace, program: Path, export: str) -> list[Verdict]:
    running, ports = _start_rotel(den, program, export)
    path = "/v1/traces" if export == "otlp" else ""
    den.start(observer(f"http://{HOST}:{ports[export]}{path}", export=export))
    seen = den.sent(export, *LOAD, pace.few)
    setting = Setting(den.epoch, den.addresses, ROUTE, POOL, HOST_FIELD)
    ended = den.ended()
    den.wait(PATIENCE, lambda: not must.lost(seen, _logged(running)))
    spans = _logged(running)
    den.fleet.end(running)
    what = f"rotel over {'HTTP' if export == 'otlp' else 'gRPC'}"
    return [must.none_lost(what, seen, spans), must.faithful(what, seen, spans, setting), ended]


def _start_rotel(den: Den, program: Path, label: str) -> tuple[Running, dict[str, int]]:
    """Promises a rotel that listens, and its ports by the way of export."""
    http, grpc = free_ports(2)
    words = (
        "start",
        *("--exporter", "blackhole"),
        *("--debug-log", "traces"),
        *("--debug-log-verbosity", "detailed"),
        *("--otlp-http-endpoint", f"{HOST}:{http}"),
        *("--otlp-grpc-endpoint", f"{HOST}:{grpc}"),
    )
    running = den.fleet.start(f"rotel-{label}", [*den.pins.load, str(program), *words])
    if not den.wait(PATIENCE, lambda: "Starting Rotel" in running.output() or running.popen.poll() is not None):
        raise BenchError("rotel says nothing")
    if running.popen.poll() is not None:
        raise BenchError(f"rotel ended\n{running.last_words()}")
    return running, {"otlp": http, "grpc": grpc}


def _logged(running: Running) -> list[Span]:
    return spans_of_log(running.output().splitlines())


# Two routers in a row


def play_tree(den: Den, pace: Pace) -> Result:
    collector = den.collector()
    den.addresses = {BACKEND: free_addresses(1)[0]}
    backend = _start_backend(den, collector.endpoint)
    inner = free_ports(1)[0]

    def traced(service: str) -> str:
        # A trace that its client wants is kept whatever the ratio, or there would be hardly any.
        return observer(collector.endpoint, f'service = "{service}"', sampling="0.01")

    text = (traced(INNER), listener(inner), route(ROUTE, f'pool = "{POOL}"'), pool(POOL, _one(den.addresses[BACKEND])))
    second = den.beside(INNER, "\n".join(text), inner)
    den.start(traced(EDGE), _one(f"{HOST}:{inner}"))
    seen = den.sent("tree", *LOAD, pace.few)
    ended = den.ended()
    den.fleet.end(second, backend)
    return Result("tree", "", {"requests": len(seen)}, [must.one_tree(seen, collector.spans(), CHAIN), ended])


def _one(address: str) -> str:
    return f'endpoints = ["http://{address}"]'


def _start_backend(den: Den, endpoint: str) -> Running:
    script = [sys.executable, str(HERE / "tracing_backend.py"), den.addresses[BACKEND], BACKEND, endpoint]
    running = den.fleet.start(BACKEND, [*den.pins.load, *script])
    den.wait_for("ready", running)
    return running
