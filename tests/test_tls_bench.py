"""The bench of TLS: that its own eyes are sharp.

Its verdicts stand before records made by hand, its clients before servers without a router between. Counts are
asserted, times never.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import shutil
import socket
import ssl
import sys
import threading
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


acme = load("tls_acme")
bench = load("tls")
clients = load("tls_clients")
configs = load("tls_configs")
files = load("tls_files")
frame = load("bench_main")
handshakes = load("tls_handshakes")
house = load("tls_house")
plain = load("bench_configs")
prober = load("tls_prober")
procs = load("bench_procs")
report = load("tls_report")
requests = load("fault_client")
swapping = load("tls_swap_client")

NAME = files.NAME
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def settings(authority: trustme.CA) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(made)
    return made


# CPU


CPU = {"router": [10.0, 12.0, 30.0], "envoy": [20.0, 12.0, 30.0], "traefik": [10.0, 15.0, 40.0], "caddy": [30.0] * 3}


def test_a_proxy_that_was_not_measured_is_a_miss() -> None:
    found = report.keeps_up({name: CPU[name] for name in ("router", "envoy")}, {"caddy": "not here"})
    assert [(each.held, each.measured.partition(" ")[0]) for each in found] == [
        (True, "1.00"),
        (False, "not"),
        (False, "not"),
    ]
    assert found[2].measured == "not measured: not here"


def test_each_proxy_has_its_own_figure() -> None:
    # Medians of the rounds' ratios: 1.0, 0.8, 0.4.
    assert [each.held for each in report.keeps_up(CPU, {})] == [True, True, True]
    dear = {**CPU, "router": [each * 1.1 for each in CPU["router"]]}
    assert [each.held for each in report.keeps_up(dear, {})] == [False, False, True]


AES = "TLSv1.3 TLS_AES_256_GCM_SHA384"
PLAIN = {"router": [60.0], "nginx": [40.0]}


@pytest.mark.parametrize(
    ("router", "other", "held"), [(300.0, AES, [True, True]), (301.0, AES, [False, True]), (200.0, "x", [True, False])]
)
def test_handshakes_are_compared_whole_and_alike(router: float, other: str, held: list[bool]) -> None:
    kind = report.Shaken("it", {"router": [router], "nginx": [200.0]}, {"router": [AES] * 2, "nginx": [other]}, {})
    found = report.cheap_handshakes(kind, PLAIN)
    assert [each.held for each in found] == held
    assert "without TLS 60 to 40" in found[0].measured
    assert f"TLS adds {router - 60:.0f} to 160" in found[0].measured


def test_two_ciphers_at_one_proxy_are_not_alike() -> None:
    kind = report.Shaken("it", {"router": [1.0], "nginx": [1.0]}, {"router": [AES, "x"], "nginx": ["x", AES]}, PLAIN)
    found = report.cheap_handshakes(kind, PLAIN)
    assert [each.held for each in found] == [True, False]
    assert "without a request 1.50 x (60 to 40)" in found[0].measured


# Swaps


def swap(serial: str, begun: float, seen: float | None = None) -> Any:
    return report.Swap(serial, begun, begun + 1, seen)


SWAPS = [swap("B", 10, 12), swap("C", 20, 21.5)]


def shake(serial: str, begun: float, end: str = "ok") -> Any:
    return report.Shake(begun, begun + 0.1, serial, end)


def test_swaps_are_in_force_soon_and_all_of_them() -> None:
    assert report.in_force(SWAPS, 2).held
    assert not report.in_force(SWAPS, 3).held
    assert not report.in_force([SWAPS[0], swap("C", 20, 21 + report.SOON + 0.1)], 2).held
    assert "never served" in report.in_force([SWAPS[0], swap("C", 20)], 2).measured


def test_a_failed_connection_shows_and_so_do_too_few() -> None:
    assert report.none_failed([shake("A", 1), shake("A", 2)], 2).held
    assert not report.none_failed([shake("A", 1), shake("", 2, "SSLError")], 2).held
    assert not report.none_failed([shake("A", 1)], 2).held


@pytest.mark.parametrize(
    ("serial", "begun", "held"),
    [
        ("A", 1, True),
        ("A", 10.5, True),
        ("A", 11 + report.SOON, True),
        ("A", 11.1 + report.SOON, False),
        ("B", 9.95, True),
        ("B", 9.8, False),
        ("B", 21 + report.SOON, True),
        ("B", 21.1 + report.SOON, False),
        ("C", 19.8, False),
        ("C", 1000, True),
        ("D", 1, False),
        ("", 1, False),
    ],
)
def test_the_old_certificate_or_the_new_one(serial: str, begun: float, held: bool) -> None:
    assert report.old_or_new([shake("A", 1), shake(serial, begun)], "A", SWAPS).held is held


def held(what: str, end: str = "standing", answers: int = 9) -> Any:
    return report.Held(what, 1, 99, end, answers)


def test_what_stays_stands_and_answers() -> None:
    counts = {"connection": 2, "WebSocket": 1}
    good = [held("connection"), held("connection"), held("WebSocket")]
    assert report.stays(good, counts).held
    assert not report.stays(good[1:], counts).held
    assert not report.stays([*good[:2], held("WebSocket", "closed")], counts).held
    assert not report.stays([*good[:2], held("WebSocket", answers=1)], counts).held


# testssl.sh


def entry(name: str, severity: str = "OK", text: str = "fine") -> dict[str, str]:
    return {"id": name, "ip": "x/127.0.0.1", "port": "1", "severity": severity, "finding": text}


GOOD = [entry(name) for name in report._EACH]


def weak(*more: dict[str, str]) -> bool:
    return not report.no_weakness("it", report.findings([*GOOD, *more]))[0].held


def test_findings_count_by_severity() -> None:
    assert not weak(entry("x", "INFO"), entry("x", "LOW"), entry("x", "WARN"))
    assert weak(entry("TLS1_1", "MEDIUM"))
    assert weak(entry("ROBOT", "CRITICAL"))
    assert weak(entry("scanProblem", "FATAL"))


def test_excuses_are_for_what_is_no_fault_of_a_server() -> None:
    found = report.findings([*GOOD, entry("cert_revocation", "HIGH"), entry("cipher_order", "HIGH")])
    verdict = report.no_weakness("it", found)[0]
    assert verdict.held
    assert "excused: cert_revocation, cipher_order" in verdict.measured
    assert weak(entry("cert_notAfter", "HIGH"))


@pytest.mark.parametrize("place", range(len(GOOD)))
def test_a_section_that_was_left_out_is_a_miss(place: int) -> None:
    found = report.findings([*GOOD[:place], *GOOD[place + 1 :]])
    assert not report.no_weakness("it", found)[0].held


def test_hsts_has_to_be_there_and_good() -> None:
    def of(*entries: dict[str, str]) -> bool:
        return bool(report.no_weakness("it", report.findings(entries))[1].held)

    assert of(entry("HSTS_time"))
    assert not of(entry("HSTS_time", "LOW"))
    assert not of(entry("HSTS", "LOW", "not offered"))


def test_the_grade_is_told_if_there_is_one() -> None:
    assert report.grade(report.findings(GOOD)).startswith("none")
    graded = [entry("overall_grade", "LOW", "B"), entry("grade_cap_reason_1", "INFO", "no  HSTS")]
    assert report.grade(report.findings(graded)) == "B (no HSTS)"


@pytest.mark.parametrize("junk", [[], {}, None, 3, [{}], [{"id": "x"}], ["x"], [{**GOOD[0], "finding": None}]])
def test_what_is_no_report_is_refused(junk: Any) -> None:
    with pytest.raises(ValueError, match=r"testssl\.sh"):
        report.findings(junk)


def test_a_long_log_is_a_miss() -> None:
    assert report.says_little("it", ["x"] * report.LINES).held
    assert not report.says_little("it", ["x"] * (report.LINES + 1)).held


# ACME


def probe(begun: float, end: str = "ok", serial: str = "A") -> Any:
    return report.Probe(begun, serial if end == "ok" else "", end)


def test_before_the_first_certificate_anything_may_fail() -> None:
    assert report.never_without([probe(1, "alert"), probe(2), probe(3, serial="B")], []).held
    assert not report.never_without([probe(1, "alert")], []).held
    assert not report.never_without([], []).held


def test_after_the_first_certificate_nothing_may_fail_but_for_a_router_that_is_down() -> None:
    downs = [(10.0, 12.0)]
    assert not report.never_without([probe(1), probe(2, "alert")], downs).held
    assert not report.never_without([probe(1), probe(2, "down")], downs).held
    assert report.never_without([probe(1), probe(11, "down"), probe(13)], downs).held
    assert not report.never_without([probe(1), probe(11, "alert"), probe(13)], downs).held
    assert not report.never_without([probe(1), probe(12.5, "down")], downs).held


def test_requests_are_answered_from_the_first_on() -> None:
    assert report.serves_on([probe(1), probe(11, "down")], [(10.0, 12.0)]).held
    assert not report.serves_on([probe(1, "status 503"), probe(2)], []).held
    assert not report.serves_on([], []).held


def test_stages_go_on_beside_one_another() -> None:
    done: list[str] = []

    def stage(name: str, count: int, fault: str = "") -> Iterator[None]:
        for number in range(count):
            done.append(f"{name}{number}")
            yield
        if fault:
            raise procs.BenchError(fault)

    rests: list[None] = []
    ends = acme.together([stage("a", 2), stage("b", 1, "no"), stage("c", 3)], lambda: rests.append(None))
    assert [why for _, why in ends] == ["", "no", ""]
    assert done == ["a0", "b0", "c0", "a1", "c1", "c2"]
    assert len(rests) == 4


def test_the_directory_is_told_where_the_router_answers(tmp_path: Path) -> None:
    pair = files.Pair(tmp_path / "x.crt", tmp_path / "x.key")
    made = json.loads(acme.settings(acme.Directory(1, 2, 3), 80, pair, 45))["pebble"]
    assert (made["listenAddress"], made["managementListenAddress"]) == ("127.0.0.1:1", "127.0.0.1:2")
    assert (made["httpPort"], made["tlsPort"], made["certificateValidityPeriod"]) == (80, 3, 45)
    assert made["certificate"] == str(pair.certificate)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "probes"
    assert acme._read(file) == []
    file.write_text('[1, "A", "ok"]\n[2, "B", ')
    assert acme._read(file) == [probe(1)]


# Configurations


PLACE = plain.Site(Path("/there"), 4443, (9001, 9002))
SETTING = configs.Setting(files.Pair(Path("/there/x.crt"), Path("/there/x.key")), Path("/there/both.pem"), True)
TEXTS = {
    "nginx": {"nginx.conf": plain.nginx(PLACE)},
    "haproxy": {"haproxy.cfg": plain.haproxy(PLACE)},
    "envoy": {"envoy.yaml": plain.envoy(PLACE)},
    "traefik": {"traefik.yml": plain.traefik(PLACE), "traefik-routes.yml": plain.traefik_routes(PLACE)},
    "caddy": {"Caddyfile": plain.caddy(PLACE)},
    "router": {"router.toml": plain.router(PLACE)},
}


@pytest.mark.parametrize("name", TEXTS)
def test_each_proxy_gets_the_same_certificate_and_least_version(name: str) -> None:
    made = configs.with_tls(name, TEXTS[name], SETTING, PLACE.port)
    assert set(made) == set(TEXTS[name])
    assert made != TEXTS[name]
    text = "".join(made.values())
    shown = ("/there/both.pem",) if name == "haproxy" else ("/there/x.crt", "/there/x.key")
    assert all(text.count(path) == 1 for path in shown)
    other = configs.with_tls(name, TEXTS[name], SETTING._replace(modern=False), PLACE.port)
    assert other != made


def test_a_text_that_fits_no_more_is_refused() -> None:
    with pytest.raises(ValueError, match="stands 0 times"):
        configs.with_tls("nginx", TEXTS["nginx"], SETTING, 1)
    with pytest.raises(ValueError, match="stands 2 times"):
        configs.replaced("a a", "a", "b")


def test_the_routers_own_words_are_toml() -> None:
    source = configs.from_acme("https://x/dir", Path('/a "b"'), Path("/c"), "d.test", "e.test")
    made = of_listener(configs.tls(source, profile="modern", client_ca=Path("/f")))
    (found,) = made["certificates"]
    assert (found["use"], found["names"], found["agree_tos"]) == ("acme", ["d.test", "e.test"], True)
    assert found["ca"] == '/a "b"'
    assert (made["profile"], made["client_ca"]) == ("modern", "/f")
    assert of_listener(configs.tls(configs.from_files(Path("/a"), SETTING.pair)))["certificates"] == [
        {"use": "files", "paths": ["/a", {"certificate": "/there/x.crt", "key": "/there/x.key"}]}
    ]


def of_listener(line: str) -> Any:
    return tomllib.loads(line)["tls"]


# What s_client says


S_CLIENT = """depth=1 CN = bench CA
---
Certificate chain
 0 s:CN = bench.test
---
subject=CN = *.wild.test
issuer=CN = bench CA
---
New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384
HTTP/1.1 200 OK

{"path": "/s_client", "fields": []}
"""


def test_what_openssl_says_is_read() -> None:
    assert clients.subject(S_CLIENT) == "*.wild.test"
    assert clients.subject("no peer certificate available") == ""
    assert clients.is_answered(S_CLIENT)
    assert not clients.is_answered(S_CLIENT.replace(" 200 ", " 503 "))
    assert not clients.is_answered("HTTP/1.1 200 OK\n\n")


def test_the_echo_tells_what_it_received() -> None:
    with clients.echo() as address:
        status, size = procs.ask(int(address.rpartition(":")[2]), "/s_client")
    assert status == 200
    assert size > 20


# Clients, before servers of their own


@contextlib.contextmanager
def serving(settings: ssl.SSLContext | None, answer: bytes) -> Iterator[int]:
    """Promises the port of a server that answers each connection once, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def one(sock: socket.socket) -> None:
            with contextlib.suppress(OSError), sock:
                sock.settimeout(5)
                with settings.wrap_socket(sock, server_side=True) if settings else sock as talk:
                    if talk.recv(1 << 12):
                        talk.sendall(answer)

        def all_of_them() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one(listening.accept()[0])

        thread = threading.Thread(target=all_of_them)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def plan(protocol: str, ask: bool = True) -> Any:
    return handshakes.Plan(12, 3, protocol, NAME, ask)


@pytest.mark.parametrize("protocol", ["TLSv1.3", "TLSv1.2"])
@pytest.mark.parametrize("ask", [True, False])
def test_so_many_handshakes_of_one_protocol(settings: ssl.SSLContext, protocol: str, ask: bool) -> None:
    with serving(settings, ANSWER) as port:
        made = handshakes.made(port, plan(protocol, ask))
    assert made.good == 12
    assert made.failed == {}
    assert [name.partition(" ")[0] for name in made.agreed] == [protocol]


def test_connections_without_tls() -> None:
    with serving(None, ANSWER) as port:
        assert handshakes.made(port, plan("plain")) == handshakes.Made(12, {"plain": 12}, {})


def test_failed_handshakes_and_bad_answers_are_counted(settings: ssl.SSLContext) -> None:
    with serving(settings, ANSWER.replace(b"200", b"503")) as port:
        made = handshakes.made(port, plan("TLSv1.3"))
    assert (made.good, sum(made.failed.values())) == (0, 12)
    with serving(None, ANSWER) as port:
        made = handshakes.made(port, plan("TLSv1.3"))
    assert (made.good, sum(made.failed.values())) == (0, 12)


def test_the_prober_tells_a_bad_certificate_from_nobody_there(settings: ssl.SSLContext, ca: Path) -> None:
    with serving(settings, ANSWER) as port:
        good = prober.probed(port, NAME, ca)
        other = prober.probed(port, "other.test", ca)
    assert (good.end, bool(good.serial)) == ("ok", True)
    assert "CERTIFICATE_VERIFY_FAILED" in other.end
    assert prober.probed(port, NAME, ca).end == "down"
    assert prober.asked(port).end == "down"
    with serving(None, ANSWER) as port:
        assert prober.asked(port).end == "ok"


async def seen_by(settings: ssl.SSLContext, ca: Path, most: int) -> Any:
    """Promises a client that came to a server which closes a connection after so many answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for _ in range(most):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                key, size = head.partition("X-Fault-Key: ")[2].partition("\r\n")[0], int(head.split(" ")[1][1:])
                fields = f"X-Fault-Posted: {zlib.crc32(b'')}\r\nContent-Length: {size}\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode() + requests.body_of(key, size))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=settings)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = swapping.Client(port, swapping.Plan(str(ca), NAME, 1, 0.01, 1, 0, 0.01))
        work = [asyncio.ensure_future(each) for each in (client.hold(swapping.KEPT, 0), client.anew(0))]
        async with asyncio.timeout(10):
            await client.settled.wait()
            # Time for a second answer on what stays, if there is one.
            await asyncio.sleep(0.1)
            client.stop.set()
            await asyncio.gather(*work)
    return client


async def test_a_connection_that_stays_is_told_from_one_that_was_closed(settings: ssl.SSLContext, ca: Path) -> None:
    good = await seen_by(settings, ca, 1 << 20)
    assert [each.end for each in good.held] == ["standing"]
    assert good.held[0].answers > 1
    bad = await seen_by(settings, ca, 1)
    assert [each.end for each in bad.held] == ["closed"]
    for client in (good, bad):
        assert client.shakes
        assert {each.end for each in client.shakes} == {"ok"}
        assert len({each.serial for each in client.shakes}) == 1


async def test_a_certificate_that_nobody_trusts_fails(settings: ssl.SSLContext, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    client = await seen_by(settings, tmp_path / "other.pem", 1 << 20)
    assert client.shakes
    assert all("CERTIFICATE_VERIFY_FAILED" in each.end for each in (*client.shakes, *client.held))
    assert len(client.held) == 1


@needs_openssl
def test_the_authority_signs_what_clients_trust(tmp_path: Path) -> None:
    own = files.Authority(tmp_path / "own")
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for kind in files.KEYS:
        pair = own.sign(tmp_path / "shown", kind, *files.NAMES, kind=kind)
        settings.load_cert_chain(*pair)
        assert pair.key.stat().st_mode & 0o077 == 0
    with serving(settings, ANSWER) as port:
        with house.shaken(port, house.trusting(own.file)) as sock:
            assert sock.getpeercert()["serialNumber"] == files.serial(tmp_path / "shown" / "ecdsa.crt")
        assert house.fetched(port, house.trusting(own.file)) == b"hi"
    assert len(files.fingerprint(own.file)) == 64
    with pytest.raises(procs.BenchError, match="openssl x509 failed"):
        files.serial(tmp_path / "nothing")


# The frame


def result(name: str, *verdicts: Any) -> Any:
    return frame.Result(name, "what it is", {}, [frame.Verdict("must", "measured", held) for held in verdicts])


def test_the_frame_goes_on_after_a_row_that_breaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def play(_args: argparse.Namespace, _pins: Any, row: Any) -> Any:
        if row.name == "keepalive":
            raise procs.BenchError("no wrk")
        return result(row.name, True)

    file = tmp_path / "all.json"
    args = frame.parser("it.py", "It.", bench.ROWS, "less").parse_args(["--json", str(file)])
    assert run(args, play) == 1
    written = json.loads(file.read_text())
    assert written["failed"] == ["keepalive: no wrk"]
    assert [each["name"] for each in written["results"]] == [row.name for row in bench.ROWS[1:]]
    assert "keepalive: no wrk" in capsys.readouterr().err


@pytest.mark.parametrize(("held", "code"), [(True, 0), (False, 1)])
def test_what_is_missed_is_the_exit_code(held: bool, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    args = frame.parser("it.py", "It.", bench.ROWS, "less").parse_args(["--only", "swaps"])
    assert run(args, lambda _args, _pins, row: result(row.name, True, held)) == code
    out = capsys.readouterr().out
    assert ("1 of 2 MISSED" in out) is not held
    assert "keepalive" not in out


def run(args: argparse.Namespace, play: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        # What the process does on a signal, and its limits, are the tests' own.
        patch.setattr(frame.signal, "signal", lambda *_: None)
        patch.setattr(frame, "raise_file_limit", lambda: None)
        return int(frame.run(args, bench.ROWS, play))


def test_the_rows_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.main(["--only", "nothing"])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert [row.name for row in bench.ROWS if row.name not in said] == []
