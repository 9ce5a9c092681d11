"""The folder of `acme`: what is kept, what is set aside, and who may read it."""

from __future__ import annotations

import importlib.util
import logging
import os
import stat
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest
from router_tls.acme_store import Pending, Store
from router_tls.keeping import KeepingError, write_file
from router_tls.pem import CertificateError

URL = "https://acme.example.org/dir"


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


self_made = helper("pebble").self_made


def store(folder: Path, *names: str, url: str = URL, key_type: str = "ecdsa") -> Store:
    made = Store(folder / "acme", url, names or ("localhost",), key_type)
    made.prepare()
    return made


def files(folder: Path) -> dict[str, int]:
    """Name -> rights of all that is in the folder."""
    found = (path for path in folder.rglob("*") if path.name != ".gitignore")
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in found}


def test_only_its_user_can_read_what_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = store(tmp_path)
        made.keep_pending(Pending("https://acme.example.org/order/1", self_made()[1]))
        made.account(lambda: self_made()[1])
        made.keep_contact(["mailto:a@example.org"])
        lock = made.lock()
        assert lock.take()
        lock.drop()
        assert len(files(tmp_path)) == 6
        made.keep(*self_made())
    finally:
        os.umask(before)
    kept = files(tmp_path)
    assert len(kept) == 6, "the order gives way to its certificate"
    assert {mode for name, mode in kept.items() if "." in name and not name.startswith("acme.example")} == {0o600}
    assert {mode for name, mode in kept.items() if name == "acme" or name.startswith("acme.example")} == {0o700}


def test_a_certificate_is_found_again(tmp_path: Path) -> None:
    chain, key = self_made()
    kept = store(tmp_path).keep(chain, key)
    assert store(tmp_path).own() == kept
    assert kept.certificate.names == ("localhost", "127.0.0.1")
    assert kept.not_before < time.time() < kept.certificate.not_after
    assert store(tmp_path, url=f"{URL}2").own() is None
    assert store(tmp_path, key_type="rsa").own() is None
    assert store(tmp_path, "localhost", "other.test").own() is None


def test_what_came_must_fit(tmp_path: Path) -> None:
    chain, key = self_made()
    with pytest.raises(CertificateError, match=r"does not name other\.test"):
        store(tmp_path, "localhost", "other.test").keep(chain, key)
    with pytest.raises(CertificateError, match="does not match"):
        store(tmp_path).keep(chain, self_made("other.test")[1])
    with pytest.raises(CertificateError):
        store(tmp_path).keep(b"<html>", key)
    assert store(tmp_path).own() is None


@pytest.mark.parametrize("left", [0, 10, 200, 600])
def test_a_corrupt_certificate_is_said_and_set_aside_once(
    tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = store(tmp_path)
    made.keep(*self_made())
    content = made.path.read_bytes()
    made.path.write_bytes(content[:left])
    assert made.own(mend=False) is None
    assert made.path.exists()
    assert caplog.records == []
    assert made.own() is None
    assert made.own() is None
    assert made.path.with_name(f"{made.path.name}.broken").read_bytes() == content[:left]
    [said] = [record.getMessage() for record in caplog.records]
    assert "set aside" in said
    assert str(made.path) in said
    assert content.splitlines()[1].decode() not in said


def test_a_corrupt_order_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = store(tmp_path)
    pending = Pending("https://acme.example.org/order/1", self_made()[1])
    made.keep_pending(pending)
    assert made.pending() == pending
    [path] = (tmp_path / "acme").rglob("*.order")
    for content in (b"", b"{", b"[]", b'{"order": 1, "key": "x"}', b'{"order": "https://x", "key": "x"}', b"\xff"):
        write_file(path, content)
        assert made.pending() is None
        assert not path.exists()
    assert len(caplog.records) == 6
    made.drop_pending()


def test_a_corrupt_account_is_set_aside_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = store(tmp_path)
    [folder] = [path for path in (tmp_path / "acme").iterdir() if path.is_dir()]
    first = made.account(lambda: self_made()[1])
    assert made.account(lambda: b"never asked for") == first
    (folder / "account.pem").write_bytes(first[:50])
    second = made.account(lambda: self_made("other.test")[1])
    assert second != first
    assert (folder / "account.pem.broken").read_bytes() == first[:50]
    assert ["holds no account key" in record.getMessage() for record in caplog.records] == [True]
    assert first[40:50].decode() not in caplog.text


def test_all_who_ask_at_once_get_the_same_account(tmp_path: Path) -> None:
    made, got = store(tmp_path), []
    keys = [self_made(f"n{n}.test")[1] for n in range(4)]
    threads = [threading.Thread(target=lambda key=key: got.append(made.account(lambda: key))) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len(set(got)) == 1


def test_contact(tmp_path: Path) -> None:
    made = store(tmp_path)
    assert made.contact() is None
    made.keep_contact(["mailto:a@example.org"])
    assert made.contact() == ["mailto:a@example.org"]
    [path] = (tmp_path / "acme").rglob("account.json")
    for content in ("", "[]", "{", '{"contact": 1}', "[" * 100_000):
        path.write_text(content[:60_000])
        assert made.contact() is None


def test_certificates_of_other_names_help_out_while_they_are_valid(tmp_path: Path) -> None:
    now = time.time()
    store(tmp_path).keep(*self_made())
    store(tmp_path, "other.test").keep(*self_made("other.test"))
    made = store(tmp_path, "localhost", "new.test")
    assert [held.certificate.names[0] for held in made.others(now)] == ["localhost"]
    assert made.others(now + 2 * 86400) == []
    assert store(tmp_path, "new.test").others(now) == []


def test_a_file_that_others_may_write_is_refused_and_one_they_may_read_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = store(tmp_path)
    made.keep(*self_made())
    made.path.chmod(0o644)
    assert made.own()
    assert made.own()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "chmod 600" in caplog.text
    made.path.chmod(0o666)
    with pytest.raises(KeepingError, match="others may write"):
        made.own()


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    made = store(tmp_path)
    first, second, other = made.lock(), made.lock(), store(tmp_path, "other.test").lock()
    assert [first.take(), second.take(), other.take()] == [True, False, True]
    first.drop()
    third = made.lock()
    assert third.take()
    third.drop()
    other.drop()


def test_a_lock_that_was_dropped_before_is_never_taken(tmp_path: Path) -> None:
    made = store(tmp_path)
    first, second = made.lock(), made.lock()
    first.drop()
    assert not first.take()
    assert second.take()
    second.drop()
