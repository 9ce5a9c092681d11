"""Bad input of TLS: refused with file, line and reason, all at once, before a socket opens; a reload keeps the old."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

DAY = 86400.0


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_help = sys.modules.get("tls_e2e") or helper("e2e")
lab, secure_serve = _help.lab, _help.secure_serve
NAME, der = _help.NAME, _help.der
URL = "http://127.0.0.1:9"


def encrypted(pair: Any) -> bytes:
    key = serialization.load_pem_private_key(pair.key, None)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))


def fault_of_listener(lab: Any, more: str = "", listener: str = "", *paths: str) -> None:
    lab.house.write(URL, listener=lab.listener(*paths, more=more, listener=listener))


def unreadable(lab: Any) -> None:
    lab.pair()
    (lab.folder / "www.key").unlink()
    # Nobody, root included, reads a link that leads to itself.
    (lab.folder / "www.key").symlink_to("www.key")


def a_key_of_another(lab: Any) -> None:
    lab.pair()
    lab.put("www.key", lab.authority.issue(NAME).key)


def an_encrypted_key(lab: Any) -> None:
    lab.put("www.key", encrypted(lab.pair()))


def expired(lab: Any) -> None:
    lab.pair(begins=-9 * DAY, ends=-DAY)


def not_valid_yet(lab: Any) -> None:
    lab.pair(begins=DAY, ends=9 * DAY)


def no_key(lab: Any) -> None:
    lab.pair()
    (lab.folder / "www.key").unlink()


def no_certificate(lab: Any) -> None:
    lab.pair()
    (lab.folder / "www.pem").unlink()


def junk_for_a_certificate(lab: Any) -> None:
    lab.pair()
    lab.put("www.pem", b"\x00\x01\xff junk \x1b[31m\n" * 20)


def half_a_certificate(lab: Any) -> None:
    lab.put("www.pem", lab.pair().chain[:200])


def nothing(lab: Any) -> None:
    lab.pair()
    lab.put("www.pem", b"")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unreadable, "www.key"),
        (a_key_of_another, "does not match"),
        (an_encrypted_key, "encrypted"),
        (expired, "expired"),
        (not_valid_yet, "valid"),
        (no_key, "key"),
        (no_certificate, "www.pem"),
        (junk_for_a_certificate, "www.pem"),
        (half_a_certificate, "www.pem"),
        (nothing, "www.pem"),
    ],
)
def test_bad_files_are_refused(lab: Any, check: Any, make: Callable[[Any], None], words: str) -> None:
    make(lab)
    fault_of_listener(lab)
    said = check(lab)
    assert words in said
    assert "www." in said
    assert re.search(rf"router\.toml:{line_of(lab)}:\d+: listener", said), said
    assert "\x1b" not in said


def line_of(lab: Any, text: str = "tls =") -> int:
    """The number of the line that begins with `text`."""
    lines = lab.house.file.read_text().split("\n")
    return next(number for number, line in enumerate(lines, 1) if line.startswith(text))


def told(lab: Any, *arguments: str) -> tuple[int, str]:
    """The exit code and the words of a command that reads the configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "router", *arguments, str(lab.house.file)],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def check() -> Callable[[Any], str]:
    """What `router check` says, within this process: a start takes a quarter of a second."""
    from click.testing import CliRunner

    from router import cli

    def check(lab: Any) -> str:
        done = CliRunner().invoke(_command(cli), ["check", str(lab.house.file)])
        assert done.exit_code == 2, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return str(done.output)

    return check


def _command(cli: Any) -> Any:
    import click

    return next(each for each in vars(cli).values() if isinstance(each, click.Group))


@pytest.mark.parametrize(
    ("more", "listener", "key", "words"),
    [
        ('profile = "old"', "", "profile", "intermediate"),
        ('profile = "Modern"', "", "profile", "modern"),
        ('default = "stranger.test"', "", "default", "certificate"),
        ('default = "not a name"', "", "default", "name"),
        ('client_auth = "required"', "", "client_auth", "client_ca"),
        ('client_auth = "sometimes"', "", "client_auth", "optional"),
        ('client_auth = "required", client_ca = "nowhere.pem"', "", "client_ca", "nowhere.pem"),
        ('client_auth = "optional", client_ca = "www.key"', "", "client_ca", "www.key"),
        ('client_auth = "optional", client_ca = "router.toml"', "", "client_ca", "router.toml"),
        ('client_auth = "optional", client_ca = "."', "", "client_ca", "directory"),
        ('client_ca = "ca.pem"', "", "client_ca", "client_auth"),
        ('versions = ["1.3"]', "", "versions", "known"),
        ("", "redirect_to_https = true", "redirect_to_https", "TLS"),
        ("", 'hsts = "forever"', "hsts", "max-age"),
        ("", 'hsts = "max-age=1\\r\\nX: y"', "hsts", "max-age"),
        ("", 'timeouts = { handshake = "0s" }', "handshake", "longer"),
    ],
)
def test_bad_keys_are_refused(lab: Any, check: Any, more: str, listener: str, key: str, words: str) -> None:
    lab.pair()
    fault_of_listener(lab, more, listener)
    said = check(lab)
    line = line_of(lab, listener or "tls =")
    assert re.search(rf"router\.toml:{line}:\d+: listener.*\b{key}\b", said), said
    assert words in said
    assert said.count("router.toml:") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tls = { certificates = [] }", "certificates"),
        ("tls = {}", "certificates"),
        ("tls = true", "tls"),
        ('tls = { certificates = "www.pem" }', "certificates"),
        ('tls = { certificates = [{ use = "fils", paths = ["www.pem"] }] }', "files"),
        ('tls = { certificates = [{ use = "files" }] }', "paths"),
        ('tls = { certificates = [{ use = "files", paths = [] }] }', "paths"),
        ('tls = { certificates = [{ use = "files", paths = ["empty"] }] }', "empty"),
        ('hsts = "max-age=1"', "TLS"),
        ("redirect_to_https = true", "TLS"),
    ],
)
def test_bad_listeners_are_refused(lab: Any, check: Any, text: str, words: str) -> None:
    lab.pair()
    (lab.folder / "empty").mkdir()
    lab.house.write(URL, listener=text)
    said = check(lab)
    assert f"router.toml:{line_of(lab, text)}:" in said
    assert words.lower() in said.lower()


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        ('ca = "nowhere.pem"', "nowhere.pem"),
        ('ca = "junk"', "junk"),
        ('ca = "half.pem"', "half.pem"),
        ('ca = "www.key"', "www.key"),
        ('certificate = "nowhere.pem"', "nowhere.pem"),
        ('certificate = "www.pem"', "key"),
        ('key = "www.key"', "certificate"),
        ('certificate = "www.pem", key = "other.key"', "the key does"),
        ('certificate = "www.pem", key = "encrypted.key"', "encrypted"),
        ('certificate = "www.pem", key = "nowhere.key"', "nowhere.key"),
        ('certificate = "late.pem", key = "late.key"', "expired"),
        ('server_name = "not a name"', "server_name"),
        ('server_name = "a.test:443"', "server_name"),
        ('server_name = "a..test"', "server_name"),
        ('verify = "some"', "verify"),
        ('verify = "none", ca = "ca.pem"', "verify"),
        ("verify = false", "verify"),
    ],
)
def test_bad_tls_of_pools_is_refused(lab: Any, check: Any, tls: str, words: str) -> None:
    lab.put("encrypted.key", encrypted(lab.pair()))
    lab.pair("other")
    lab.pair("late", begins=-9 * DAY, ends=-DAY)
    lab.put("junk", b"\x00junk" * 9)
    lab.put("half.pem", lab.authority.root[:300])
    lab.house.write("https://127.0.0.1:9", pool=f"tls = {{ {tls} }}")
    said = check(lab)
    assert re.search(rf"router\.toml:{line_of(lab)}:\d+: pool 'web': tls", said), said
    assert words in said
    assert "Traceback" not in said


def test_all_faults_are_told_at_once(lab: Any) -> None:
    lab.pair("one", "one.test")
    lab.put("one.key", lab.authority.issue("one.test").key)
    lab.pair("two", "two.test", begins=-9 * DAY, ends=-DAY)
    third = lab.house.free_port()
    more = (
        f'[[listeners]]\nbind = "127.0.0.1:{third}"\n{lab.listener("gone.pem")}'
        '[[pools]]\nname = "other"\nendpoints = ["https://127.0.0.1:9"]\ntls = { ca = "no-ca.pem" }\n'
        '[[routes]]\npath = "/x"\npool = "other"\n'
    )
    text = 'client_auth = "required", client_ca = "no-clients.pem"'
    lab.house.write("https://127.0.0.1:9", listener=lab.listener("one.pem", "two.pem", more=text), more=more)
    written = lab.house.file.read_text()
    # The route that takes all comes last.
    first = written.index('[[routes]]\npool = "web"')
    lab.house.text(
        written[:first] + written[first:].replace('[[routes]]\npool = "web"\n', "", 1) + '[[routes]]\npool = "web"\n'
    )
    code, said = told(lab, "check")
    assert code == 2
    for words in ("one.", "two.", "expired", "match", "gone.pem", "no-clients.pem", "no-ca.pem"):
        assert words in said, said
    done = json.loads(told(lab, "check", "--json")[1])
    assert not done["ok"]
    assert len(done["faults"]) >= 4


def test_no_socket_opens_and_nothing_is_written(lab: Any) -> None:
    lab.pair(begins=-9 * DAY, ends=-DAY)
    path = lab.folder / "never.sock"
    lab.house.write(URL, listener=lab.listener(), more=f'[[listeners]]\nbind = "unix:{path}"')
    before = sorted(lab.folder.iterdir())
    code, said = told(lab, "run")
    assert code == 2, said
    assert said == told(lab, "check")[1]
    assert "Traceback" not in said
    assert not path.exists()
    assert sorted(lab.folder.iterdir()) == before


def test_check_of_a_good_one_writes_nothing_and_passes(lab: Any) -> None:
    lab.pair()
    sources = '[{ use = "files", paths = ["www.pem"] }, { use = "self_signed", names = ["dev.test"] }]'
    lab.house.write(
        "https://127.0.0.1:9", listener=f"tls = {{ certificates = {sources} }}", pool='tls = { ca = "ca.pem" }'
    )
    before = sorted(lab.folder.iterdir())
    code, said = told(lab, "check")
    assert (code, said.rstrip().endswith("ok")) == (0, True), said
    assert sorted(lab.folder.iterdir()) == before


@pytest.mark.parametrize("make", [a_key_of_another, an_encrypted_key, expired, no_key, unreadable])
def test_a_reload_with_bad_files_keeps_the_old(lab: Any, serve: Any, make: Callable[[Any], None]) -> None:
    server = serve()
    good = lab.pair("good")
    lab.up(server.url, listener=lab.listener("good.pem"))
    make(lab)
    lab.house.write(server.url, listener=lab.listener("www.pem", more='profile = "modern"'))
    done, said = lab.house.reload()
    assert not done
    assert "www." in said
    assert f"router.toml:{line_of(lab)}:" in said
    assert lab.shown() == der(good)
    assert lab.house.status().config.version == 1
    assert lab.house.status().config.refused


@pytest.mark.parametrize("tls", ['ca = "nowhere.pem"', 'ca = "junk"', 'certificate = "www.pem", key = "other.key"'])
def test_a_reload_with_a_bad_pool_keeps_the_old(lab: Any, secure_serve: Any, tls: str) -> None:
    lab.pair()
    lab.pair("other")
    lab.put("junk", b"junk")
    server = secure_serve()
    lab.up(server.url, listener="", pool='tls = { ca = "ca.pem" }')
    lab.house.write(server.url, pool=f"tls = {{ {tls} }}")
    done, said = lab.house.reload()
    assert not done
    assert f"router.toml:{line_of(lab)}:" in said
    assert lab.house.get()[0] == 200


def test_several_bad_files_of_a_folder_are_each_named(lab: Any, check: Any) -> None:
    for number in range(3):
        made = lab.pair(f"certs/site{number}", f"site{number}.test")
        lab.put(f"certs/site{number}.key", encrypted(made))
    fault_of_listener(lab, "", "", "certs")
    said = check(lab)
    assert [f"site{number}" in said for number in range(3)] == [True] * 3
