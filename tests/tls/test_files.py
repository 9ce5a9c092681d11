"""Certificates from files: found by their keys, followed through every renewal, and said once where they are wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from router_tls import files, reading, standing

DAY = 86400.0


def encrypted(key: bytes) -> bytes:
    data: bytes = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    return data


# Which key goes with which certificate


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        ("a.pem", "a.key"),
        ("tls.crt", "tls.key"),
        ("example.test.cer", "example.test.key"),
        ("a.pem", "a-key.pem"),
        ("a-cert.pem", "a-key.pem"),
        ("fullchain.pem", "privkey.pem"),
        ("fullchain3.pem", "privkey3.pem"),
        ("cert.pem", "key.pem"),
        ("a.pem", "quite-another.pem"),
        ("A.PEM", "b.KEY"),
    ],
)
def test_a_key_beside_the_certificate(still: Any, certificate: str, key: str) -> None:
    made = still.issue("a.test")
    still.put(f"certs/{certificate}", made.chain)
    still.put(f"certs/{key}", made.key)
    for path in ("certs", f"certs/{certificate}", str(still.folder / "certs")):
        (found,) = still.make(path).load()
        assert (found.names, found.chain.encode(), found.key.encode()) == (("a.test",), made.chain, made.key)


def test_chain_and_key_in_one_file(still: Any) -> None:
    still.put("certs/a.pem", still.issue("a.test").both)
    assert still.load("certs") == still.load("certs/a.pem") == ["a.test"]


def test_a_pair_by_name(still: Any) -> None:
    made = still.issue("a.test")
    still.put("public/a.txt", made.chain)
    still.put("secret/b.txt", made.key)
    assert still.load({"certificate": "public/a.txt", "key": "secret/b.txt"}) == ["a.test"]
    assert still.load("public/a.txt", "secret/b.txt") == ["a.test"]


def test_keys_are_matched_by_what_they_are_not_by_name(still: Any) -> None:
    one, two = still.issue("one.test"), still.issue("two.test")
    still.put("certs/one.pem", one.chain)
    still.put("certs/two.pem", two.chain)
    still.put("certs/one.key", two.key)
    still.put("certs/two.key", one.key)
    assert still.load("certs") == ["one.test", "two.test"]


def test_a_folder_with_many_kinds_of_keys(still: Any, rsa_pair: Any) -> None:
    still.pair("certs/ecdsa.pem", "rsa.test")
    still.renew("certs/rsa.pem", rsa_pair)
    assert still.load("certs") == ["rsa.test", "rsa.test"]


def test_the_layout_of_certbot(still: Any) -> None:
    """live/<name>/ with links into archive/; README beside, and the parts beside the whole chain."""
    for name in ("one.test", "two.test"):
        made = still.issue(name)
        leaf, issuer = made.chain.split(b"-----END CERTIFICATE-----\n")[:2]
        end = b"-----END CERTIFICATE-----\n"
        parts = {"cert": leaf + end, "chain": issuer + end, "fullchain": made.chain, "privkey": made.key}
        for part, content in parts.items():
            still.put(f"archive/{name}/{part}1.pem", content)
            link = still.folder / "live" / name / f"{part}.pem"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../../archive/{name}/{part}1.pem")
        still.put(f"live/{name}/README", b"hello")
    still.put("live/README", b"hello")
    found = still.make("live").load()
    assert [each.names[0] for each in found] == ["one.test", "two.test"]
    assert [each.chain.count("BEGIN CERTIFICATE") for each in found] == [2, 2]
    assert still.load("live/two.test") == ["two.test"]


def test_the_layout_of_kubernetes(still: Any) -> None:
    made = still.issue("a.test")
    still.put("mount/..2024/tls.crt", made.chain)
    still.put("mount/..2024/tls.key", made.key)
    still.put("mount/..2024/ca.crt", still.root)
    (still.folder / "mount/..data").symlink_to("..2024")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (still.folder / "mount" / name).symlink_to(f"..data/{name}")
    assert still.load("mount") == ["a.test"]


def test_what_is_left_out_of_a_folder(still: Any) -> None:
    still.pair("certs/a.pem", "a.test")
    still.put("certs/.hidden.pem", b"garbage")
    still.put("certs/notes.txt", b"garbage")
    still.put("certs/a.pem~", b"garbage")
    still.put("certs/dhparam.pem", b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n")
    still.put("certs/root.pem", still.root)
    still.pair("certs/below/b.pem", "b.test")
    still.pair("certs/below/deeper/c.pem", "c.test")
    still.pair("certs/.secret/d.pem", "d.test")
    assert still.load("certs") == ["a.test", "b.test"]
    assert still.load("certs", "certs/below/deeper") == ["a.test", "b.test", "c.test"]


def test_a_certificate_that_vouches_for_itself_is_no_issuer(still: Any, tmp_path: Path) -> None:
    """As in many a how-to; it counts as an authority."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    (tmp_path / "certs").mkdir()
    subprocess.run(
        [*command.split(), "-keyout", "certs/some.key", "-out", "certs/other.pem"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert still.load("certs") == still.load("certs/other.pem") == ["localhost"]


def test_the_same_certificate_is_given_once_with_its_longest_chain(still: Any) -> None:
    made = still.issue("a.test")
    end = b"-----END CERTIFICATE-----\n"
    still.put("certs/a.crt", made.chain.split(end)[0] + end)
    still.put("certs/a.key", made.key)
    still.put("certs/b.pem", made.both)
    still.put("certs/c.crt", made.chain.split(end)[0] + end)
    (found,) = still.make("certs", "certs/b.pem", {"certificate": "certs/c.crt", "key": "certs/a.key"}).load()
    assert found.chain.encode() == made.chain


def test_two_certificates_of_the_same_names_are_both_given(still: Any) -> None:
    still.pair("certs/old.pem", "a.test", ends=DAY)
    still.pair("certs/new.pem", "a.test", ends=2 * DAY)
    assert still.load("certs") == ["a.test", "a.test"]


# What is refused


def test_paths_are_needed(still: Any) -> None:
    assert "paths names at least one file or folder" in still.fault()
    for path in ("", "a\0b", {"certificate": "a", "key": ""}):
        assert "paths names files and folders" in still.fault(path)
    assert "missing required field key" in still.fault({"certificate": "a.pem"})
    assert "unknown field" in still.fault({"certificate": "a.pem", "key": "b", "password": "c"})


def test_a_file_that_is_missing(still: Any) -> None:
    assert still.refused("a.pem") == "a.pem: does not exist: put it there, or take it out of paths"
    still.put("b.pem", still.issue("b.test").chain)
    assert "no.key: does not exist" in still.refused({"certificate": "b.pem", "key": "no.key"})
    assert "no.pem: does not exist" in still.refused({"certificate": "no.pem", "key": "b.pem"})


def test_a_folder_without_a_certificate(still: Any) -> None:
    (still.folder / "certs").mkdir()
    assert still.refused("certs").startswith("certs: no certificate with its key in this folder")
    still.put("certs/root.pem", still.root)
    assert still.refused("certs").startswith("certs: no certificate with its key in this folder")


def test_a_certificate_without_a_key(still: Any) -> None:
    still.put("certs/a.pem", still.issue("a.test").chain)
    for path in ("certs", "certs/a.pem"):
        assert still.refused(path) == "certs/a.pem: no key for it: put it beside, as a.key"
    still.put("certs/root.pem", still.root)
    assert still.refused("certs/root.pem") == "certs/root.pem: no key for it: put it beside, as root.key"
    assert "holds no private key, only CERTIFICATE" in still.refused(
        {"certificate": "certs/a.pem", "key": "certs/root.pem"}
    )


def test_a_key_without_a_certificate(still: Any) -> None:
    still.put("certs/a.key", still.issue("a.test").key)
    for path in ("certs", "certs/a.key"):
        assert still.refused(path) == "certs/a.key: no certificate for this key: put it beside"
    pair = {"certificate": "certs/a.key", "key": "certs/a.key"}
    assert still.refused(pair) == "certs/a.key: holds no certificate, only PRIVATE KEY"


def test_a_key_that_does_not_match(still: Any) -> None:
    still.renew("certs/a.pem", still.issue("a.test")._replace(key=still.issue("b.test").key))
    words = "certs/a.pem: the key in certs/a.key does not match"
    assert still.refused("certs").startswith(words)
    assert still.refused("certs/a.pem").startswith(words)
    assert still.refused("certs/a.pem", "certs/a.key").startswith(words)
    assert "certs/a.pem with certs/a.key: the key does not match" in still.refused(
        {"certificate": "certs/a.pem", "key": "certs/a.key"}
    )


def test_a_key_in_the_same_file_that_does_not_match(still: Any) -> None:
    still.put("certs/a.pem", still.issue("a.test").chain + still.issue("b.test").key)
    for path in ("certs", "certs/a.pem"):
        assert still.refused(path).startswith("certs/a.pem: the key in it does not match the certificate")


def test_a_key_whose_certificate_cannot_be_read_is_not_said_to_be_without(still: Any) -> None:
    still.renew("certs/a.pem", still.issue("a.test")._replace(chain=b"garbage"))
    still.put("certs/b.key", still.issue("b.test").key)
    for paths in (["certs"], ["certs/a.pem", "certs/a.key", "certs/b.key"]):
        texts = still.refused(*paths).split("; ")
        assert [text.split(": ")[:2] for text in texts] == [
            ["certs/a.pem", "no PEM"],
            ["certs/b.key", "no certificate for this key"],
        ]


def test_an_encrypted_key_is_said_once(still: Any) -> None:
    made = still.issue("a.test")
    still.renew("certs/a.pem", made._replace(key=encrypted(made.key)))
    still.put("both/a.pem", made.chain + encrypted(made.key))
    for path in ("certs", "certs/a.pem"):
        text = still.refused(path)
        assert text.startswith("certs/a.key: the key is encrypted: decrypt it with `openssl pkey ")
        assert text.count("certs/") == 1
    for path in ("both", "both/a.pem"):
        assert still.refused(path).startswith("both/a.pem: the key is encrypted")


def test_a_key_file_without_a_key(still: Any) -> None:
    made = still.issue("a.test")
    still.renew("certs/a.pem", made._replace(key=still.root))
    assert "certs/a.key: holds no private key, only CERTIFICATE" in still.refused("certs/a.pem")


@pytest.mark.parametrize(
    ("begins", "ends", "words"), [(-2 * DAY, -DAY, "expired on "), (DAY, 2 * DAY, "not valid before ")]
)
def test_a_certificate_that_is_out_of_date(still: Any, begins: float, ends: float, words: str) -> None:
    still.pair("certs/a.pem", "a.test", begins=begins, ends=ends)
    assert still.refused("certs").startswith(f"certs/a.pem: {words}")


@pytest.mark.parametrize(("begins", "ends"), [(-2 * DAY, -DAY), (DAY, 90 * DAY)])
@pytest.mark.parametrize(
    ("valid", "dated"),
    [
        (["a.test"], ["a.test"]),
        (["*.a.test", "10.0.0.1"], ["b.a.test", "10.0.0.1"]),
        (["a.test", "b.test"], ["b.test"]),
    ],
)
def test_one_that_is_out_of_date_is_left_out_beside_one_with_its_names(
    still: Any, begins: float, ends: float, valid: list[str], dated: list[str]
) -> None:
    good = still.pair("certs/a.pem", *valid)
    still.pair("certs/other.pem", *dated, begins=begins, ends=ends)
    (found,) = still.make("certs").load()
    assert (found.chain.encode(), found.names) == (good.chain, tuple(valid))


@pytest.mark.parametrize(("begins", "ends"), [(-2 * DAY, -DAY), (DAY, 90 * DAY)])
@pytest.mark.parametrize("names", [["b.test"], ["a.test", "b.test"], ["*.test"], ["b.c.test"]])
def test_one_that_is_out_of_date_is_refused_while_no_other_has_its_names(
    still: Any, begins: float, ends: float, names: list[str]
) -> None:
    still.pair("certs/a.pem", "a.test", "*.a.test")
    still.pair("certs/other.pem", *names, begins=begins, ends=ends)
    text = still.refused("certs")
    assert text.startswith("certs/other.pem: ")
    assert text.count("certs/") == 1


def test_those_that_are_out_of_date_do_not_stand_in_for_each_other(still: Any) -> None:
    still.pair("certs/next.pem", "a.test", begins=DAY, ends=2 * DAY)
    still.pair("certs/old.pem", "a.test", begins=-2 * DAY, ends=-DAY)
    text = still.refused("certs")
    assert "certs/next.pem: not valid before " in text
    assert "certs/old.pem: expired on " in text


def test_garbage_der_and_what_is_too_large(still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = still.pair("certs/good.pem", "a.test")
    still.put("certs/der.crt", x509.load_pem_x509_certificate(made.chain).public_bytes(Encoding.DER))
    still.put("certs/empty.pem", b"")
    still.put("certs/garbage.pem", b"garbage")
    still.put("certs/large.pem", b"\n" * ((1 << 20) + 1))
    still.put("certs/broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    texts = still.refused("certs").split("; ")
    assert [text.split(":")[0] for text in texts] == [
        "certs/broken.pem",
        "certs/der.crt",
        "certs/empty.pem",
        "certs/garbage.pem",
        "certs/large.pem",
    ]
    for words in ("cannot be read", "openssl x509 -inform DER", "empty", "no PEM", "larger than 1 MiB"):
        assert any(words in text for text in texts)


def test_a_file_named_alone_that_holds_something_else(still: Any) -> None:
    still.put("dh.pem", b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n")
    assert still.refused("dh.pem") == "dh.pem: holds no certificate, only DH PARAMETERS"


def test_what_is_no_regular_file(still: Any) -> None:
    os.mkfifo(still.folder / "pipe.pem")
    assert still.refused("pipe.pem").startswith("pipe.pem: no regular file")
    assert still.refused("/dev/zero").startswith("/dev/zero: no regular file")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(still.folder / "s.pem"))
        assert still.refused("s.pem").startswith("s.pem: cannot be read: ")
    (still.folder / "loop.pem").symlink_to("loop.pem")
    assert still.refused("loop.pem").startswith("loop.pem: cannot be read: ")
    still.pair("a.pem", "a.test")
    assert still.refused("a.pem/b.pem").startswith("a.pem/b.pem: cannot be read: ")
    assert "is a directory" in still.refused({"certificate": ".", "key": "a.key"}) or "no regular" in still.refused(
        {"certificate": ".", "key": "a.key"}
    )


def test_what_may_not_be_read(still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file system this is only told, for to the superuser all is readable."""
    still.pair("certs/a.pem", "a.test")
    real_open, real_list = os.open, os.listdir

    def refuse_open(path: Any, *arguments: Any) -> int:
        if str(path).endswith("a.key"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments)

    def refuse_list(path: Any) -> list[str]:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real_list(path)

    monkeypatch.setattr(reading.os, "open", refuse_open)
    monkeypatch.setattr(os, "listdir", refuse_list)
    words = f"certs/a.key: may not be read by user {os.geteuid()}, as whom the router runs"
    assert still.refused("certs").startswith(words)
    assert still.refused("certs/a.pem").startswith(words)
    (still.folder / "locked").mkdir()
    still.put("locked/b.pem", still.issue("b.test").both)
    assert still.refused("locked").startswith("locked: may not be read")
    assert still.load("locked/b.pem") == ["b.test"]
    still.put("locked/c.pem", still.issue("c.test").chain)
    assert still.refused("locked/c.pem") == "locked/c.pem: no key for it: put it beside, as c.key"


def test_everything_wrong_is_said_at_once(still: Any) -> None:
    still.pair("certs/good.pem", "a.test")
    still.pair("certs/old.pem", "b.test", begins=-2 * DAY, ends=-DAY)
    still.put("certs/lone.pem", still.issue("c.test").chain)
    still.put("garbage.pem", b"garbage")
    text = still.refused("certs", "garbage.pem", "missing.pem", "certs/good.pem", {"certificate": "x", "key": "y"})
    for words in ("certs/old.pem: expired", "certs/lone.pem: no key", "garbage.pem: no PEM", "missing.pem: does"):
        assert text.count(words) == 1
    assert "x: does not exist" in text
    assert "y: does not exist" in text


def test_names_that_do_not_print_are_escaped(still: Any) -> None:
    assert still.refused("a\n\x1b[2J.pem").startswith("a\\n\\x1b[2J.pem: does not exist")
    assert len(still.refused("a" * 240)) < 300
    still.put("certs/\udcff\n.pem", b"")
    assert "certs/\\udcff\\n.pem: empty" in still.refused("certs")


def test_a_file_that_cannot_be_served_stands_beside_others(still: Any) -> None:
    """What OpenSSL says of a pair is said of its file."""
    still.pair("certs/a.pem", "a.test")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /O=x"
    nameless = subprocess.run(command.split(), check=True, capture_output=True, cwd=still.folder, timeout=30)
    still.put("certs/b.pem", nameless.stdout + (still.folder / "privkey.pem").read_bytes())
    assert still.refused("certs").startswith("certs/b.pem: the certificate names no host")


# Rights


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o644, 1), (0o622, 1)])
def test_a_key_that_others_can_read_is_said_once(still: Any, mode: int, warned: int) -> None:
    made = still.issue("a.test")
    still.put("certs/a.pem", made.chain, 0o644)
    still.put("certs/a.key", made.key, mode)
    for _ in range(3):
        assert still.load("certs") == ["a.test"]
    found = [
        text
        for text in still.logged()
        if f"certs/a.key: others than its owner can read this key (mode {mode:04o})" in text
    ]
    assert len(found) == len(still.logged()) == warned


def test_nothing_is_written_and_no_right_is_changed(still: Any) -> None:
    still.pair("certs/a.pem", "a.test")
    before = sorted((path, path.stat().st_mode, path.stat().st_mtime_ns) for path in still.folder.rglob("*"))
    still.load("certs")
    after = sorted((path, path.stat().st_mode, path.stat().st_mtime_ns) for path in still.folder.rglob("*"))
    assert after == before
    assert stat.S_IMODE((still.folder / "certs/a.key").stat().st_mode) == 0o600


def test_the_start_does_not_wait_for_cryptography() -> None:
    code = "import sys, router_tls.files; assert not {'cryptography', 'acme', 'josepy'} & set(sys.modules), sys.modules"
    folder = str(Path(files.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env={**os.environ, "PYTHONPATH": folder})


# Followed


async def test_a_renewal_is_served_without_a_complaint(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "_SETTLED", 0.7)
    first = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves_chain(first)
        second = bench.issue("a.test")
        bench.put("certs/a.key", second.key)
        await asyncio.sleep(0.1)
        bench.put("certs/a.pem", second.chain)
        await follower.serves_chain(second)
        await asyncio.sleep(1.0)
        assert len(follower.sets) == 2
        assert bench.logged() == []
        assert "certs/a.pem: a new certificate" in bench.logged(0)
        assert follower.watches == 1


async def test_files_that_are_replaced(bench: Any) -> None:
    made = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs/a.pem") as follower:
        await follower.serves_chain(made)
        for _ in range(3):
            made = bench.issue("a.test")
            bench.put("draft.pem", made.chain).replace(bench.folder / "certs/a.pem")
            bench.put("draft.key", made.key).replace(bench.folder / "certs/a.key")
            await follower.serves_chain(made)
        assert bench.logged() == []


async def test_kubernetes_swaps_a_link(bench: Any) -> None:
    mount = bench.folder / "mount"
    for number in (1, 2, 3):
        made = bench.issue(f"{number}.test")
        bench.put(f"mount/..{number}/tls.crt", made.chain)
        bench.put(f"mount/..{number}/tls.key", made.key)
    (mount / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    async with bench.following("mount") as folder, bench.following("mount/tls.crt") as single:
        await folder.serves("1.test")
        await single.serves("1.test")
        for number in (2, 3):
            (mount / "..next").symlink_to(f"..{number}")
            (mount / "..next").replace(mount / "..data")
            shutil.rmtree(mount / f"..{number - 1}")
            await folder.serves(f"{number}.test")
            await single.serves(f"{number}.test")
        assert bench.logged() == []


async def test_a_bad_file_keeps_the_old_certificate_and_is_said_once(bench: Any) -> None:
    good = bench.pair("certs/a.pem", "a.test")
    bench.pair("certs/b.pem", "b.test")
    async with bench.following("certs") as follower:
        await follower.serves("a.test", "b.test")
        bench.put("certs/a.pem", b"garbage")
        await bench.logs("certs/a.pem: no PEM")
        # Something else changes; what is known is not said again.
        bench.pair("certs/c.pem", "c.test")
        await follower.serves("a.test", "b.test", "c.test")
        await bench.stays_so()
        await bench.logs("certs/a.pem: no PEM")
        assert bench.logged()[0].endswith("; what was good there stays")
        assert good.chain.decode() in {each.chain for each in follower.sets[-1]}
        renewed = bench.issue("a.test")
        bench.renew("certs/a.pem", renewed)
        await bench.eventually(lambda: renewed.chain.decode() in {each.chain for each in follower.sets[-1]})
        # Once it was right, the same is news.
        bench.put("certs/a.pem", b"garbage")
        await bench.eventually(lambda: len([text for text in bench.logged() if "certs/a.pem: no PEM" in text]) == 2)
        assert follower.said == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda bench, old: bench.put("certs/a.pem", bench.issue("a.test").chain), "does not match"),
        (lambda bench, old: bench.put("certs/a.pem", old.chain[:400]), "cut off"),
        (lambda bench, old: bench.put("certs/a.pem", b""), "empty"),
        (lambda bench, old: bench.put("certs/a.pem", old.key), "no certificate for this key"),
        (lambda bench, old: bench.put("certs/a.key", encrypted(old.key)), "encrypted"),
        (lambda bench, old: (bench.folder / "certs/a.key").unlink(), "no key for it"),
        (lambda bench, old: bench.pair("certs/a.pem", "a.test", begins=-2 * DAY, ends=-DAY), "expired on"),
        (lambda bench, old: bench.pair("certs/a.pem", "a.test", begins=DAY, ends=2 * DAY), "not valid before"),
        (lambda bench, old: (bench.folder / "certs").rename(bench.folder / "gone"), "does not exist"),
    ],
)
async def test_whatever_is_wrong_the_old_one_stays(bench: Any, spoil: Any, words: str) -> None:
    old = bench.pair("certs/a.pem", "a.test")
    bench.pair("others/b.pem", "b.test")
    async with bench.following("certs", "others") as follower:
        await follower.serves("a.test", "b.test")
        spoil(bench, old)
        await bench.eventually(lambda: any(words in text for text in bench.logged()), lambda: str(bench.logged()))
        await bench.eventually(lambda: any(text.endswith("stays") for text in bench.logged()))
        await bench.stays_so()
        assert old.chain.decode() in {each.chain for each in follower.sets[-1]}
        assert len(follower.sets[-1]) == 2
        assert len(bench.logged()) == len(set(bench.logged()))


async def test_a_pair_that_is_deleted_is_served_no_longer(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test")
    bench.pair("certs/b.pem", "b.test")
    async with bench.following("certs") as follower:
        await follower.serves("a.test", "b.test")
        for name in ("b.pem", "b.key"):
            (bench.folder / "certs" / name).unlink()
        await follower.serves("a.test")
        assert bench.logged() == ["certs/b.pem: gone; its certificate is served no longer"]
        assert len(follower.sets) == 2


async def test_a_pair_that_is_gone_for_a_moment_is_served_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "_SETTLED", 0.7)
    bench.pair("certs/a.pem", "a.test")
    made = bench.pair("certs/b.pem", "b.test")
    async with bench.following("certs") as follower:
        await follower.serves("a.test", "b.test")
        for name in ("b.pem", "b.key"):
            (bench.folder / "certs" / name).unlink()
        await asyncio.sleep(0.1)
        bench.renew("certs/b.pem", made)
        await asyncio.sleep(1.0)
        assert len(follower.sets) == 1
        assert bench.logged() == []


async def test_the_last_pair_stays_though_it_is_deleted(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test")
    bench.pair("certs/b.pem", "b.test")
    async with bench.following("certs") as follower:
        await follower.serves("a.test", "b.test")
        for file in (bench.folder / "certs").iterdir():
            file.unlink()
        await bench.logs("certs/a.pem: gone; the last certificates stay until there are others")
        await bench.logs("certs/b.pem: gone; the last")
        await bench.logs("certs: no certificate with its key")
        assert len(follower.sets) == 1
        bench.pair("certs/c.pem", "c.test")
        await follower.serves("c.test")
        assert follower.said == []


async def test_a_pair_and_a_folder_that_come_later(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves("a.test")
        bench.pair("certs/b.pem", "b.test")
        await follower.serves("a.test", "b.test")
        bench.pair("certs/live/c.pem", "c.test")
        await follower.serves("a.test", "b.test", "c.test")
        renewed = bench.pair("certs/live/c.pem", "c.test")
        await bench.eventually(lambda: renewed.chain.decode() in {each.chain for each in follower.sets[-1]})
        assert bench.logged() == []


async def test_a_key_that_comes_later_than_what_names_it(bench: Any) -> None:
    made = bench.issue("b.test")
    bench.pair("a.pem", "a.test")
    bench.put("b.pem", made.chain)
    async with bench.following("a.pem", "b.pem") as follower:
        await follower.serves("a.test")
        await bench.logs("b.pem: no key for it")
        bench.put("b-key.pem", made.key)
        await follower.serves("a.test", "b.test")


async def test_with_nothing_at_all_a_watch_says_so_once_and_waits(bench: Any) -> None:
    async with bench.following("certs") as follower:
        await follower.says("certs: does not exist")
        await bench.eventually(lambda: follower.watches == 2)
        await bench.stays_so()
        assert (follower.watches, len(follower.said)) == (2, 1)
        bench.put("certs", b"garbage")
        await follower.says("certs: no PEM")
        (bench.folder / "certs").unlink()
        bench.pair("certs/a.pem", "a.test")
        await follower.serves("a.test")
        assert follower.sets[0][0].names == ("a.test",)


async def test_a_long_list_of_complaints_is_cut(bench: Any) -> None:
    async with bench.following(*(f"{number}{'x' * 100}.pem" for number in range(20))) as follower:
        await follower.says("; and 19 more")
        assert follower.said[0].startswith("0xxx")


async def test_a_new_watch_begins_with_what_stood(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test")
    source = bench.make("certs")
    assert [each.names for each in source.load()] == [("a.test",)]
    bench.put("certs/a.pem", b"garbage")
    for _ in range(2):
        watch = source.watch({})
        assert [each.names for each in await anext(watch)] == [("a.test",)]
        await watch.aclose()


async def test_an_expired_one_is_served_where_there_is_none_better(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test", begins=-2 * DAY, ends=-DAY)
    async with bench.following("certs") as follower:
        await follower.serves("a.test")
        await bench.logs("certs/a.pem: expired on ")
        # One that expired later replaces it all the same: neither is valid.
        later = bench.pair("certs/a.pem", "a.test", begins=-2 * DAY, ends=-3600.0)
        await follower.serves_chain(later)
        good = bench.pair("certs/a.pem", "a.test")
        await follower.serves_chain(good)


async def test_one_that_is_not_valid_yet_is_served_once_it_is(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test", ends=DAY)
    async with bench.following("certs") as follower:
        await follower.serves("a.test")
        # Dates are whole seconds.
        bench.hold_time()
        coming = bench.pair("certs/a.pem", "a.test", begins=1.3, ends=2 * DAY)
        await asyncio.sleep(0.3)
        assert len(follower.sets) == 1
        bench.let_time_go()
        await follower.serves_chain(coming)


async def test_the_next_certificate_waits_beside_the_valid_one(bench: Any) -> None:
    good = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves_chain(good)
        bench.hold_time()
        coming = bench.pair("certs/next.pem", "a.test", begins=1.3, ends=90 * DAY)
        await bench.eventually(lambda: "certs/next.pem: not valid before " in str(bench.logged(0)))
        # Something else changes: it is not said again.
        other = bench.pair("certs/b.pem", "b.test")
        await follower.serves_chain(good, other)
        assert len(follower.sets) == 2
        bench.let_time_go()
        await follower.serves_chain(good, other, coming)
        assert len(follower.sets) == 3
        assert "certs/next.pem: valid by now: its certificate is served" in bench.logged(0)
        waits = [text for text in bench.logged(0) if "not valid before" in text]
        assert len(waits) == 1
        assert waits[0].endswith(" UTC: it waits until then, for others have its names")
        assert bench.logged() == []


async def test_the_next_certificate_serves_names_that_no_other_has_and_no_more(bench: Any) -> None:
    good = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves_chain(good)
        bench.hold_time()
        coming = bench.pair("certs/next.pem", "a.test", "b.test", begins=1.3, ends=90 * DAY)
        await follower.serves_chain(good, coming)
        assert {each.names for each in follower.sets[-1]} == {("a.test",), ("b.test",)}
        bench.let_time_go()
        await bench.eventually(
            lambda: {each.names for each in follower.sets[-1]} == {("a.test",), ("a.test", "b.test")}
        )


async def test_the_next_certificate_waits_though_it_is_moved_or_deleted(bench: Any) -> None:
    good = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves_chain(good)
        coming = bench.pair("certs/next.pem", "a.test", begins=DAY, ends=90 * DAY)
        await bench.eventually(lambda: "certs/next.pem: not valid before " in str(bench.logged(0)))
        for name in ("next.pem", "next.key"):
            (bench.folder / "certs" / name).unlink()
        bench.renew("certs/a.pem", coming)
        await bench.logs("certs/a.pem: not valid before ")
        assert len(follower.sets) == 1
        assert len(bench.logged()) == 1
        assert bench.logged()[0].endswith("; the one before it stays")


async def test_an_expired_one_beside_a_valid_one_is_left_out_and_said_once(bench: Any) -> None:
    bench.pair("certs/old.pem", "a.test", begins=-2 * DAY, ends=-DAY)
    good = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves_chain(good)
        await bench.logs("certs/old.pem: expired on ")
        other = bench.pair("certs/b.pem", "b.test")
        await follower.serves_chain(good, other)
        for name in ("old.pem", "old.key"):
            (bench.folder / "certs" / name).unlink()
        await bench.stays_so()
        assert len(follower.sets) == 2
        assert len(bench.logged()) == 1
        assert bench.logged()[0].endswith(": left out, for others have its names")


async def test_one_that_expires_while_it_is_served_gives_way_at_its_time(bench: Any) -> None:
    bench.hold_time()
    old = bench.pair("certs/old.pem", "a.test", ends=1.3)
    good = bench.pair("certs/a.pem", "*.test", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves_chain(old, good)
        bench.let_time_go()
        await follower.serves_chain(good)
        await bench.logs("certs/old.pem: expired on ")


async def test_no_key_is_in_the_log(bench: Any) -> None:
    made = bench.pair("certs/a.pem", "a.test")
    async with bench.following("certs") as follower:
        await follower.serves("a.test")
        bench.put("certs/a.pem", made.key[:-30], 0o644)
        await bench.logs("cut off")
        bench.put("certs/a.pem", made.both, 0o644)
        bench.put("certs/a.key", bench.issue("b.test").key[:100])
        await bench.logs("certs/a.key: cut off")
    lines = [line for line in made.key.decode().splitlines() if "-----" not in line]
    assert not [text for text in bench.logged(0) if any(line[:20] in text for line in lines)]
