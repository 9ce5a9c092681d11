"""Planted secrets: keys, certificates of clients and of the router, cookie secrets; none is in anything it writes."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_help = sys.modules.get("tls_e2e") or helper("e2e")
lab, Lab, secure_serve = _help.lab, _help.Lab, _help.secure_serve
NAME = _help.NAME
COOKIE = "planted-cookie-secret-0123456789abcdef"
#: Bytes of a secret that are told from chance.
_PIECE = 12


class Planted:
    """Secrets by name, and how each of them may look when it is written."""

    def __init__(self) -> None:
        self.looks: dict[str, str] = {}

    def text(self, name: str, text: str) -> None:
        self.looks[text] = name

    def pem(self, name: str, text: bytes) -> None:
        """Every line of what it holds, its bytes in hex, and the numbers of a private key."""
        for line in text.decode().splitlines():
            if not line.startswith("-") and len(line) >= 2 * _PIECE:
                self.looks[line] = f"{name}, base64"
                if b"PRIVATE" in text:
                    # Whoever cuts lines elsewhere, or shows only a part.
                    self.looks[line[: 2 * _PIECE]] = f"{name}, base64"
        if b"PRIVATE" in text:
            key: Any = serialization.load_pem_private_key(text, None)
            numbers = key.private_numbers()
            for number in {getattr(numbers, part, 0) for part in ("private_value", "d", "p", "q")} - {0}:
                self.looks[str(number)] = f"{name}, number"
                self.bytes(name, number.to_bytes((number.bit_length() + 7) // 8, "big"))
        else:
            for part in text.decode().split("-----END CERTIFICATE-----\n"):
                if part:
                    self.bytes(name, ssl.PEM_cert_to_DER_cert(f"{part}-----END CERTIFICATE-----\n")[-64:])

    def bytes(self, name: str, data: bytes) -> None:
        for start in range(0, len(data) - _PIECE + 1, _PIECE):
            piece = data[start : start + _PIECE]
            for look in (piece.hex(), repr(piece)[2:-1], piece.hex(":"), piece.hex(" ")):
                self.looks[look] = f"{name}, bytes"

    def found_in(self, text: str) -> list[str]:
        lower = text.lower()
        return sorted({name for look, name in self.looks.items() if look in text or look.lower() in lower})


def test_the_eyes_are_sharp(authority: Any) -> None:
    pair, planted = authority.issue("a.test"), Planted()
    planted.pem("key", pair.key)
    planted.pem("certificate", pair.chain)
    planted.text("cookie", COOKIE)
    assert planted.found_in("nothing of it") == []
    assert planted.found_in(pair.key.decode()) == ["key, base64"]
    assert planted.found_in(pair.key.decode().splitlines()[2]) == ["key, base64"]
    assert planted.found_in(f"x{COOKIE}y") == ["cookie"]
    number = serialization.load_pem_private_key(pair.key, None).private_numbers().private_value  # type: ignore[union-attr]
    assert planted.found_in(f"{number:064X}") == ["key, bytes"]
    der = ssl.PEM_cert_to_DER_cert(pair.chain.decode().partition("-----END")[0] + "-----END CERTIFICATE-----\n")
    assert planted.found_in(repr(der)) == ["certificate, bytes"]


class Scene:
    """A configuration with every kind of secret in it."""

    def __init__(self, lab: Any, server: Any) -> None:
        self.lab = lab
        self.planted = Planted()
        self.planted.text("cookie secret", COOKIE)
        self.clients = trustme.CA()
        lab.put("clients.pem", self.clients.cert_pem.bytes())
        made = self.clients.issue_cert(common_name="alice-the-client")
        lab.put("alice.pem", made.cert_chain_pems[0].bytes())
        lab.put("alice.key", made.private_key_pem.bytes())
        self.planted.pem("the client's certificate", made.cert_chain_pems[0].bytes())
        self.plant("www", NAME)
        self.plant("rsa", NAME, key_type=trustme.KeyType.RSA)
        own = self.plant("own", "router.test")
        self.planted.pem("the router's own certificate", own.chain)
        self.server = server
        self.write()

    def plant(self, name: str, *names: str, **more: Any) -> Any:
        made = self.lab.pair(name, *names, **more)
        self.planted.pem(f"key of {name}", made.key)
        return made

    def write(self, *endpoints: str, more: str = "", pool: str = "") -> None:
        tls = 'tls = { ca = "ca.pem", certificate = "own.pem", key = "own.key" }'
        affinity = f'affinity = {{ use = "cookie", secrets = ["{COOKIE}"] }}'
        auth = f'client_auth = "optional", client_ca = "clients.pem"{more}'
        self.lab.house.write(
            *(endpoints or (self.server.url, "https://127.0.0.1:9")),
            listener=self.lab.listener("www.pem", "rsa.pem", more=auth),
            pool=f"{pool or tls}\n{affinity}",
        )

    def use(self) -> str:
        """Makes requests and mistakes of all kinds; returns what clients are told."""
        told = []
        for path in ("/", "/x", "/ended", "/cut"):
            with contextlib.suppress(OSError, EOFError):
                client = self.lab.client(cert="alice")
                told.append(client.ask(path, "Accept: text/html").until(b"\r\n\r\n"))
        client = self.lab.client()
        client.sock.sendall(b"nonsense\r\n\r\n")
        told.append(client.response()[2])
        plain = self.lab.house.client(("127.0.0.1", self.lab.port))
        plain.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        told.append(plain.rest())
        for junk in (b"\x16\x03\x01\x00\x05hello", b"\x00" * 40):
            plain = self.lab.house.client(("127.0.0.1", self.lab.port))
            plain.sock.sendall(junk)
            told.append(plain.rest())
        self.lab.refused("stranger.test", _unchecked(self.lab))
        stranger = trustme.CA().issue_cert(common_name="mallory-the-client")
        self.lab.put("mallory.pem", stranger.cert_chain_pems[0].bytes())
        self.lab.put("mallory.key", stranger.private_key_pem.bytes())
        self.planted.pem("the stranger's certificate", stranger.cert_chain_pems[0].bytes())
        self.lab.refused(cert="mallory")
        return b"".join(told).decode("latin-1")


def ask(*arguments: str) -> Any:
    """What a command of the router says, within this process: each start takes half a second."""
    from click import Group
    from click.testing import CliRunner

    from router import cli

    group = next(each for each in vars(cli).values() if isinstance(each, Group))
    return CliRunner().invoke(group, list(arguments))


def _unchecked(lab: Any) -> Any:
    context = lab.context()
    context.check_hostname = False
    return context


@pytest.fixture
def running(process: Any, authority: Any, secure_serve: Any) -> Iterator[Scene]:
    """A router in a process of its own, that says all it can."""
    made = Lab(process("--log-level", "debug"), authority)
    scene = Scene(made, secure_serve())
    house = made.house
    out = (made.folder / "stdout").open("wb")
    house.process = subprocess.Popen(
        [sys.executable, "-m", "router", "run", str(house.file), "--log-level", "debug"],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        env={**os.environ, "ROUTER_DEBUG": "1"},
    )
    os.set_blocking(house.process.stderr.fileno(), False)
    house.says("open files")
    yield scene
    out.close()


def test_nothing_that_a_router_writes_holds_a_secret(running: Scene) -> None:
    lab, planted = running.lab, running.planted
    house = lab.house
    everything = [running.use()]
    # Renewed, broken, refused, and told to end.
    running.plant("www", NAME)
    house.says("a new certificate")
    lab.put("rsa.key", (lab.folder / "own.key").read_bytes())
    house.signal(signal.SIGHUP)
    running.write(pool='tls = { ca = "own.key", certificate = "own.pem", key = "www.key" }')
    house.signal(signal.SIGHUP)
    house.says("stays in force")
    control = str(lab.folder / "control")
    for arguments in (
        ("status", "--control", control),
        ("status", "--json", "--control", control),
        ("explain", f"GET https://{NAME}/", "--json", "--control", control),
        ("plugins",),
        ("plugins", "--json"),
        ("check", str(house.file)),
        ("check", "--json", str(house.file)),
        ("check", "--request", f"GET https://{NAME}/", str(house.file)),
    ):
        done = ask(*arguments)
        everything += [done.output, str(done.exception)]
        assert len(done.output) > 20, arguments
    house.signal()
    house.process.wait(_help.PATIENCE)
    everything += [house.said(), (lab.folder / "stdout").read_text()]
    text = "\n".join(everything)
    assert "alice-the-client" not in text
    assert planted.found_in(text) == []
    # And nothing of them was left in files that the router made.
    mine = {"router.toml", "www.key", "rsa.key", "own.key", "alice.key", "mallory.key"}
    for file in lab.folder.rglob("*"):
        if file.is_file() and file.name not in mine and file.suffix != ".pem" and not file.name.startswith("server-"):
            assert planted.found_in(file.read_text("latin-1")) == [], file


WRONG = [
    ('ca = "own.key"', ""),
    ('ca = "ca.pem", certificate = "own.key", key = "own.key"', ""),
    ('ca = "ca.pem", certificate = "own.pem", key = "www.key"', ""),
    ('ca = "ca.pem", certificate = "own.pem", key = "half.key"', ""),
    ('ca = "ca.pem", certificate = "own.pem", key = "noise.key"', ""),
    ("", ', default = "nobody.test"'),
    ("KEY", ""),
    ("FILLED", ""),
    ("CA", ""),
    ("PATHS", ""),
    ("DEFAULT", ""),
]


@pytest.mark.parametrize(("pool", "more"), WRONG)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_is_said_of_faults_holds_no_secret(
    lab: Any, secure_serve: Any, monkeypatch: pytest.MonkeyPatch, pool: str, more: str, form: list[str]
) -> None:
    scene = Scene(lab, secure_serve())
    key = (lab.folder / "own.key").read_text()
    lab.put("half.key", key[: len(key) // 2])
    lab.put("noise.key", key.replace("\n", "\n!", 2))
    monkeypatch.setenv("PLANTED_KEY", key)
    inline = f"'''{key}'''"
    # People put the secret itself where its file is asked for.
    tls = {
        "KEY": f'ca = "ca.pem", certificate = "own.pem", key = {inline}',
        "FILLED": 'ca = "ca.pem", certificate = "own.pem", key = "${PLANTED_KEY}"',
        "CA": f"ca = {inline}",
        "PATHS": 'ca = "ca.pem"',
        "DEFAULT": 'ca = "ca.pem"',
        "": 'ca = "ca.pem"',
    }.get(pool, pool)
    scene.write(more=f", default = {inline}" if pool == "DEFAULT" else more, pool=f"tls = {{ {tls} }}")
    if pool == "PATHS":
        text = lab.house.file.read_text().replace('"www.pem", "rsa.pem"', inline)
        lab.house.text(text)
    done = ask("check", *form, str(lab.house.file))
    assert done.exit_code == 2, done.output
    assert scene.planted.found_in(done.output) == [], done.output
    if form:
        assert json.loads(done.output)["faults"]


def test_no_object_shows_a_secret(lab: Any, secure_serve: Any) -> None:
    """What a debugger, an assertion or a careless log line would show."""
    scene = Scene(lab, secure_serve())
    lab.house.up()
    held = lab.client(cert="alice").switch()
    scene.use()
    seen = 0
    found: dict[str, list[str]] = {}

    def look() -> None:
        nonlocal seen
        for each in gc.get_objects():
            home = str(type(each).__module__)
            if home.split(".")[0] in ("router", "router_tls", "router_affinity", "ssl", "_ssl"):
                seen += 1
                with contextlib.suppress(Exception):
                    for text in {repr(each), str(each)}:
                        if wrong := scene.planted.found_in(text):
                            found.setdefault(f"{home}.{type(each).__qualname__}", wrong)

    lab.house.do(look)
    assert seen > 20
    assert found == {}, sorted(found.items())
    assert held.echo() == b"ping!"


def test_no_debug_record_shows_a_secret(lab: Any, secure_serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """All loggers there are, asyncio's too."""
    caplog.set_level("DEBUG")
    scene = Scene(lab, secure_serve())
    lab.house.up()
    told = scene.use()
    lab.put("rsa.key", b"-----BEGIN PRIVATE KEY-----\nnoise\n")
    lab.house.reload()
    records = "\n".join(f"{each.getMessage()} {each.args!r} {each.exc_text}" for each in caplog.records)
    answers = json.dumps([str(lab.house.status())])
    assert scene.planted.found_in(told + records + answers) == []
    # The fingerprint and the subject are for the server alone.
    der = ssl.PEM_cert_to_DER_cert((lab.folder / "alice.pem").read_text())
    assert hashlib.sha256(der).hexdigest() not in records + told
    assert "alice-the-client" not in records + told
    assert "mallory-the-client" not in records + told
    assert any(b"alice-the-client" in head for head in scene.server.heads)
