"""TLS that changes while the router serves: files that are renewed or broken, reloads, and what is said of it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import re
import ssl
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import router_tls.files
import router_tls.standing
import trustme

from router import watch_files, watching


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_help = sys.modules.get("tls_e2e") or helper("e2e")
lab, Lab = _help.lab, _help.Lab
NAME, der, fields = _help.NAME, _help.der, _help.fields
DAY = 86400.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What waits for files to settle waits shorter."""
    monkeypatch.setattr(watching, "_STEP", 0.01)
    monkeypatch.setattr(router_tls.files, "watch_files", functools.partial(watch_files, settle=0.02))
    monkeypatch.setattr(router_tls.standing, "_SETTLED", 0.4)
    monkeypatch.setattr(router_tls.files, "_warned", set())
    caplog.set_level(logging.INFO, "router_tls")


def shows(lab: Any, pair: Any, name: str | None = NAME) -> None:
    """Waits until new handshakes get this certificate."""
    lab.house.wait(lambda: lab.shown(name) == der(pair), lambda: lab.house.records())


# Files.


def test_a_renewal_closes_nothing(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    idle, busy, socket = (lab.client() for _ in range(3))
    assert idle.get()[0] == 200
    busy.ask("/stream").until(b"half")
    socket.switch()
    for _ in range(3):
        new = lab.pair()
        shows(lab, new)
        assert socket.echo() == b"ping!"
        assert idle.get()[0] == 200
    server.let_go()
    busy.until(b"0\r\n\r\n")
    assert busy.get()[0] == 200


def test_certificates_come_and_go_in_a_folder(lab: Any, serve: Any) -> None:
    one = lab.pair("certs/one", "one.test")
    lab.up(serve().url, listener=lab.listener("certs"))
    lab.refused("two.test")
    two = lab.pair("certs/two", "two.test")
    lab.house.wait(lambda: len(lab.house.status().certificates) == 2)
    assert (lab.shown("one.test"), lab.shown("two.test")) == (der(one), der(two))
    (lab.folder / "certs/one.pem").unlink()
    (lab.folder / "certs/one.key").unlink()
    lab.house.wait(lambda: len(lab.house.status().certificates) == 1)
    assert "unrecognized" in lab.refused("one.test").lower().replace("_", " ")


@pytest.mark.parametrize("kind", ["half", "other key", "junk", "gone", "expired"])
def test_a_bad_pair_keeps_the_old_one_and_is_said_once(lab: Any, serve: Any, kind: str) -> None:
    old = lab.pair()
    lab.up(serve().url)
    client = lab.client()
    made = lab.authority.issue(NAME, begins=-9 * DAY, ends=-DAY if kind == "expired" else DAY * 50)
    if kind == "half":
        lab.put("www.pem", made.chain[: len(made.chain) // 3])
    elif kind == "other key":
        lab.put("www.pem", made.chain)
    elif kind == "junk":
        lab.put("www.key", b"\x00\xff" * 100)
    elif kind == "gone":
        (lab.folder / "www.key").unlink()
    else:
        lab.put("www.key", made.key)
        lab.put("www.pem", made.chain)
    lab.house.wait(lambda: warnings_of(lab, "www."), lambda: warnings_of(lab))
    # Looks that find the same say nothing.
    for number in range(3):
        lab.put(f"other-{number}", b"x")
        assert lab.shown() == der(old)
    assert len(warnings_of(lab, "www.")) == 1, warnings_of(lab)
    assert client.get()[0] == 200
    new = lab.pair()
    shows(lab, new)
    assert len(warnings_of(lab, "www.")) == 1, warnings_of(lab)


def warnings_of(lab: Any, words: str = "") -> list[str]:
    found = [each for each in lab.house._caplog.records if each.levelno >= logging.WARNING]
    return [each.getMessage() for each in found if words in each.getMessage()]


def test_a_reload_in_the_middle_of_a_renewal_is_taken(lab: Any, serve: Any) -> None:
    """Configuration and certificates change at their own times: a file that is half written hinders no reload."""
    server = serve()
    old = lab.pair()
    lab.up(server.url)
    lab.put("www.key", b"-----BEGIN PRIVATE KEY-----\nhalf")
    lab.house.write(server.url, listener=lab.listener(listener="max_connections = 50"))
    lab.house.takes()
    assert lab.shown() == der(old)


# Reloads.


def test_a_reload_adds_tls_and_takes_it_away(lab: Any, serve: Any) -> None:
    server = serve()
    pair = lab.pair()
    lab.up(server.url, listener="")
    plain = lab.house.client()
    assert plain.get()[0] == 200
    tunnel = lab.house.client().switch()
    lab.house.write(server.url, listener=lab.listener())
    lab.house.takes()
    assert lab.shown() == der(pair)
    assert plain.get()[0] == 200
    assert fields(server.heads[-1], "X-Forwarded-Proto") == ["http"]
    assert tunnel.echo() == b"ping!"
    assert lab.house.client().ask().response()[0] == 400
    secure, secured = lab.client(), lab.client().switch()
    assert secure.get()[0] == 200
    assert fields(server.heads[-1], "X-Forwarded-Proto") == ["https"]
    lab.house.write(server.url)
    lab.house.takes()
    assert lab.house.get()[0] == 200
    assert secure.get()[0] == 200
    assert fields(server.heads[-1], "X-Forwarded-Proto") == ["https"]
    assert [each.echo() for each in (tunnel, secured)] == [b"ping!"] * 2
    assert lab.house.status().certificates == ()
    assert plain.get()[0] == 200


def test_a_handshake_under_way_finishes_though_tls_is_taken_away(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    client = shaking(lab)
    lab.house.write(server.url)
    lab.house.takes()
    assert client.ask("/").startswith(b"HTTP/1.1 200")
    assert fields(server.heads[-1], "X-Forwarded-Proto") == ["https"]


@pytest.mark.parametrize("how", ["listener", "router"])
def test_a_handshake_under_way_outlives_its_listener(lab: Any, serve: Any, how: str) -> None:
    """Nobody is asked for a moment in which nobody connects: what was accepted is served."""
    server, port = serve(), lab.house.free_port()
    lab.pair()
    more = f'[[listeners]]\nbind = "127.0.0.1:{port}"\n{lab.listener()}'
    lab.up(server.url, listener="", more=more)
    client = shaking(lab, port)
    if how == "listener":
        lab.house.write(server.url)
        lab.house.takes()
    else:
        # As at an upgrade: another process accepts by now.
        lab.house.do(lambda: [each.stop_accepting(2.0) for each in lab.house.serving.listening])
    assert client.ask("/").startswith(b"HTTP/1.1 200")


class Shaking:
    """A client in the middle of its handshake."""

    def __init__(self, lab: Any, port: int) -> None:
        self.sock = lab.house.client(("127.0.0.1", port)).sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = lab.context().wrap_bio(self._incoming, self._outgoing, server_hostname=NAME)
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.sock.sendall(self._outgoing.read())
        self._more()

    def _more(self) -> None:
        data = self.sock.recv(65536)
        assert data, "closed"
        self._incoming.write(data)

    def ask(self, path: str) -> bytes:
        """Finishes and asks; returns the head of the answer."""
        self._tls.do_handshake()
        self._tls.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        self.sock.sendall(self._outgoing.read())
        found = b""
        while b"\r\n\r\n" not in found:
            self._more()
            with contextlib.suppress(ssl.SSLWantReadError):
                found += self._tls.read(65536)
        return found


def shaking(lab: Any, port: int = 0) -> Shaking:
    return Shaking(lab, port or lab.port)


def test_the_end_does_not_wait_for_a_handshake_of_before(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    client = lab.house.client()
    client.sock.sendall(b"\x16\x03\x01")
    lab.house.wait(lambda: any(len(each.secure) for each in lab.house.serving.listening))
    lab.house.write(server.url)
    lab.house.takes()
    lab.house.signal()
    lab.house.wait(lambda: not lab.house.is_alive)
    assert client.rest() == b""


def test_a_reload_changes_profile_default_and_client_ca(lab: Any, serve: Any) -> None:
    server = serve()
    ca, stranger = trustme.CA(), trustme.CA()
    for name, issuer in (("alice", ca), ("bob", stranger)):
        made = issuer.issue_cert(common_name=name)
        lab.put(f"{name}.pem", made.cert_chain_pems[0].bytes())
        lab.put(f"{name}.key", made.private_key_pem.bytes())
        lab.put(f"{name}s.pem", issuer.cert_pem.bytes())
    pair = lab.pair()
    lab.up(server.url)
    kept = lab.client(high=ssl.TLSVersion.TLSv1_2)

    def turn(more: str) -> None:
        lab.house.write(server.url, listener=lab.listener(more=more))
        lab.house.takes()
        assert kept.get()[0] == 200

    turn('profile = "modern"')
    assert "version" in lab.refused(high=ssl.TLSVersion.TLSv1_2).lower()
    turn(f'default = "{NAME}"')
    assert lab.shown("stranger.test") == der(pair)
    turn('client_auth = "required", client_ca = "alices.pem"')
    assert lab.get(cert="alice")[0] == 200
    lab.refused(cert="bob")
    lab.refused("stranger.test", cert="alice")
    turn('client_auth = "required", client_ca = "bobs.pem"')
    assert lab.get(cert="bob")[0] == 200
    lab.refused(cert="alice")
    turn("")
    assert lab.get()[0] == 200


def test_a_session_of_one_client_ca_is_no_key_under_another(lab: Any, serve: Any) -> None:
    server = serve()
    ca = trustme.CA()
    made = ca.issue_cert(common_name="alice")
    lab.put("alice.pem", made.cert_chain_pems[0].bytes())
    lab.put("alice.key", made.private_key_pem.bytes())
    lab.put("clients.pem", ca.cert_pem.bytes())
    lab.up(server.url, tls='client_auth = "required", client_ca = "clients.pem"')
    context = lab.context(cert="alice")
    client = lab.client(context=context)
    assert client.get()[0] == 200
    # The file says otherwise now, the configuration does not.
    lab.put("clients.pem", trustme.CA().cert_pem.bytes())
    lab.house.takes()
    lab.refused(context=context, session=client.sock.session)
    assert len(server.heads) == 1


def test_a_reload_adds_and_removes_sources(lab: Any, serve: Any) -> None:
    server = serve()
    one, two = lab.pair("one", "one.test"), lab.pair("two", "two.test")
    source = '{{ use = "files", paths = ["{}.pem"] }}'
    both = f"tls = {{ certificates = [{source.format('one')}, {source.format('two')}] }}"
    lab.up(server.url, listener=lab.listener("one.pem"))
    client = lab.client("one.test")
    lab.house.write(server.url, listener=both)
    lab.house.takes()
    assert (lab.shown("one.test"), lab.shown("two.test")) == (der(one), der(two))
    lab.house.write(server.url, listener=lab.listener("two.pem"))
    lab.house.takes()
    lab.refused("one.test")
    assert lab.shown("two.test") == der(two)
    assert client.get()[0] == 200
    new = lab.pair("two", "two.test")
    shows(lab, new, "two.test")
    assert [each.names for each in lab.house.status().certificates] == [("two.test",)]


def test_a_listener_with_tls_comes_and_goes(lab: Any, serve: Any) -> None:
    server, port = serve(), lab.house.free_port()
    lab.pair()
    lab.up(server.url, listener="")
    more = f'[[listeners]]\nbind = "127.0.0.1:{port}"\n{lab.listener()}'
    lab.house.write(server.url, more=more)
    lab.house.takes()
    client = lab.client(port=port)
    assert client.get()[0] == 200
    lab.house.write(server.url)
    lab.house.takes()
    assert client.get()[0] == 200
    assert client.rest() == b""
    assert lab.house.get()[0] == 200


def test_a_refused_reload_leaves_all_as_it_was(lab: Any, serve: Any) -> None:
    server = serve()
    pair = lab.pair()
    lab.up(server.url)
    lab.house.write(server.url, listener=lab.listener("nowhere.pem"))
    done, text = lab.house.reload()
    assert not done
    assert "nowhere.pem" in text
    assert re.search(r"router\.toml:\d+", text)
    assert lab.shown() == der(pair)
    assert lab.house.status().config.version == 1
    assert "nowhere.pem" in lab.house.status().config.refused
    new = lab.pair()
    shows(lab, new)


# What is said.


def test_status_shows_names_and_days(lab: Any, serve: Any) -> None:
    lab.pair("www", NAME, "*.shop.test", ends=90.5 * DAY)
    lab.pair("soon", "soon.test", ends=3.5 * DAY)
    lab.up(serve().url, listener=lab.listener("www.pem", "soon.pem"))
    found = {each.names: each.expires_in // DAY for each in lab.house.status().certificates}
    assert found == {(NAME, "*.shop.test"): 90, ("soon.test",): 3}


@pytest.fixture
def running(process: Any, authority: Any) -> Any:
    return Lab(process(), authority)


def test_a_process_says_what_it_serves_with(running: Any) -> None:
    """`router run` names listeners with TLS and certificates that end soon; `router status` shows days left."""
    running.pair("certs/www", ends=90.5 * DAY)
    running.pair("certs/soon", "soon.test", ends=13.5 * DAY)
    running.pair("certs/late", "later.test", ends=15.5 * DAY)
    running.put("certs/www.key", (running.folder / "certs/www.key").read_bytes(), mode=0o644)
    plain = running.house.free_port()
    more = f'[[listeners]]\nbind = "127.0.0.1:{plain}"\nredirect_to_https = true'
    pool = 'tls = { verify = "none" }'
    running.up("https://127.0.0.1:9", listener=running.listener("certs"), more=more, pool=pool)
    said = running.house.said()
    assert re.search(rf"listener 127\.0\.0\.1:{running.port} \(https, .*3 names\)", said), said
    assert re.search(rf"listener 127\.0\.0\.1:{plain} \(http\b.*https\)", said), said
    (line,) = [line for line in said.splitlines() if "expires in" in line]
    assert "soon.test" in line
    assert "13 days" in line
    assert [line for line in said.splitlines() if 'verify = "none"' in line and "web" in line]
    (line,) = [line for line in said.splitlines() if "www.key" in line]
    assert "600" in line
    control = str(running.folder / "control")
    shown = running.house.run("status", "--control", control)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"soon\.test.*13", shown.stdout), shown.stdout
    assert NAME in shown.stdout
    data = json.loads(running.house.run("status", "--json", "--control", control).stdout)
    assert sorted(each["names"][0] for each in data["certificates"]) == ["later.test", "soon.test", NAME]
