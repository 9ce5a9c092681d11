"""The development CA: made once whoever comes first, taken by strict clients, refused if others could have had it."""

from __future__ import annotations

import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from router_tls import authority, keeping
from router_tls.authority import Authority, AuthorityError, KeyType, load_authority, make_authority
from router_tls.keeping import KeepingError, create_file, find_folder, make_folder, read_file, write_file

DAY = 86400.0
NAMES = ("localhost", "*.dev.example", "127.0.0.1", "::1")
PROGRAM = """
import os, sys, time
from pathlib import Path
from router_tls.authority import make_authority
import cryptography.x509, cryptography.hazmat.primitives.asymmetric.ec
print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.0005)
made = make_authority(Path(sys.argv[1]), time.time())
chain, key = made.issue(["localhost"], "ecdsa", time.time(), 3600)
print(chain.hex())
"""
DYING = """
import os, signal, sys, time
from pathlib import Path
from router_tls.authority import make_authority
left, fsync = int(sys.argv[2]), os.fsync
def dying(descriptor):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)
os.fsync = dying
make_authority(Path(sys.argv[1]), time.time())
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "router-tls"


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refusal(folder: Path, now: float | None = None) -> str:
    """What both ways say, which is the same, and neither changes anything."""
    texts = []
    before = contents(folder)
    for call in (load_authority, make_authority):
        with pytest.raises(ValueError) as refused:
            call(folder, time.time() if now is None else now)
        texts.append(str(refused.value))
    assert contents(folder) == before
    assert texts[0] == texts[1]
    assert texts[0].isprintable()
    assert str(folder) in texts[0]
    return texts[0]


def openssl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def handshake(chain: bytes, key: bytes, ca: Path, name: str, folder: Path) -> str:
    """Both sides in memory, the client verifying as Python's default does and strictly; the agreed cipher."""
    pair = folder / "pair.pem"
    pair.write_bytes(key + chain)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pair)
    asking = ssl.create_default_context(cafile=str(ca))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = asking.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    cipher = client.cipher()
    assert cipher is not None
    return cipher[0]


# The authority


def test_it_is_made_once_and_for_its_user_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        made = make_authority(folder, time.time())
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert names(folder) == [".gitignore", "ca.key", "ca.pem"]
    assert (mode(folder / "ca.key"), mode(folder / "ca.pem")) == (0o600, 0o644)
    assert (folder / ".gitignore").read_text() == "*\n"
    assert made.path == folder / "ca.pem"
    first = contents(folder)
    assert make_authority(folder, time.time()).not_after == made.not_after
    assert contents(folder) == first


def test_what_it_is(folder: Path) -> None:
    now = time.time()
    made = make_authority(folder, now)
    certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert made.not_after == certificate.not_valid_after_utc.timestamp()
    assert 3652 * DAY <= made.not_after - now <= 3653 * DAY
    assert openssl("verify", "-x509_strict", "-CAfile", made.path, made.path).returncode == 0


def test_two_have_two_names(tmp_path: Path) -> None:
    subjects = set()
    for name in ("a", "b"):
        made = make_authority(tmp_path / name, time.time())
        subjects.add(x509.load_pem_x509_certificate(made.path.read_bytes()).subject)
    assert len(subjects) == 2


def test_its_repr_shows_no_key(folder: Path) -> None:
    assert repr(make_authority(folder, time.time())) == f"<Authority {folder / 'ca.pem'}>"


def test_to_load_writes_nothing(folder: Path) -> None:
    assert load_authority(folder, time.time()) is None
    assert not folder.exists()
    made = make_authority(folder, time.time())
    before = contents(folder)
    loaded = load_authority(folder, time.time())
    assert loaded is not None
    assert loaded.has_issued(made.issue(["localhost"], "ecdsa", time.time(), DAY)[0])
    assert contents(folder) == before


def test_one_that_was_not_finished_is_finished_with_the_same_key(folder: Path) -> None:
    make_authority(folder, time.time())
    key = (folder / "ca.key").read_bytes()
    (folder / "ca.pem").unlink()
    assert load_authority(folder, time.time()) is None
    make_authority(folder, time.time())
    assert (folder / "ca.key").read_bytes() == key
    assert load_authority(folder, time.time()) is not None


# Certificates of it


@pytest.mark.parametrize("key_type", ["ecdsa", "rsa"])
def test_strict_clients_accept_what_it_issues(folder: Path, tmp_path: Path, key_type: KeyType) -> None:
    made = make_authority(folder, time.time())
    chain, key = made.issue(NAMES, key_type, time.time(), 90 * DAY)
    (tmp_path / "leaf.pem").write_bytes(chain)
    verify = ("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", made.path)
    for name in (("-verify_hostname", "localhost"), ("-verify_hostname", "a.dev.example"), ("-verify_ip", "::1")):
        result = openssl(*verify, *name, tmp_path / "leaf.pem")
        assert (result.returncode, result.stderr) == (0, "")
    assert openssl(*verify, "-verify_hostname", "other.example", tmp_path / "leaf.pem").returncode != 0
    for name in ("localhost", "a.dev.example", "127.0.0.1", "::1"):
        assert handshake(chain, key, made.path, name, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(chain, key, made.path, "other.example", tmp_path)


@pytest.mark.parametrize(("key_type", "kind"), [("ecdsa", ec.EllipticCurvePublicKey), ("rsa", rsa.RSAPublicKey)])
def test_what_a_certificate_is(folder: Path, key_type: KeyType, kind: type[object]) -> None:
    now = time.time()
    chain, key = make_authority(folder, now).issue(NAMES, key_type, now, 90 * DAY)
    certificate = x509.load_pem_x509_certificate(chain)
    found = certificate.extensions
    assert isinstance(certificate.public_key(), kind)
    alternatives = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["localhost", "*.dev.example"]
    assert list(map(str, alternatives.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert found.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert found.get_extension_for_class(x509.KeyUsage).value.key_encipherment is (key_type == "rsa")
    assert abs(certificate.not_valid_after_utc.timestamp() - now - 90 * DAY) <= 1
    assert certificate.not_valid_before_utc.timestamp() < now
    private = serialization.load_pem_private_key(key, None)
    assert private.public_key() == certificate.public_key()


def test_each_has_its_own_key_and_number(folder: Path) -> None:
    made = make_authority(folder, time.time())
    issued = [made.issue(["localhost"], "ecdsa", time.time(), DAY) for _ in range(2)]
    assert issued[0][1] != issued[1][1]
    assert len({x509.load_pem_x509_certificate(chain).serial_number for chain, _ in issued}) == 2


def test_none_outlives_its_authority(folder: Path) -> None:
    made = make_authority(folder, time.time(), life=DAY)
    chain, _ = made.issue(["localhost"], "ecdsa", time.time(), 90 * DAY)
    assert x509.load_pem_x509_certificate(chain).not_valid_after_utc.timestamp() == made.not_after


def test_it_knows_its_own(tmp_path: Path) -> None:
    one, other = (make_authority(tmp_path / name, time.time()) for name in ("one", "other"))
    chain, _ = one.issue(["localhost"], "ecdsa", time.time(), DAY)
    assert one.has_issued(chain)
    assert not other.has_issued(chain)
    assert not one.has_issued(b"")
    assert not one.has_issued(other.path.read_bytes())


# Several at once


def test_processes_that_start_together_have_one_authority(folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start.touch()
    chains = [bytes.fromhex(process.communicate(timeout=20)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    made = load_authority(folder, time.time())
    assert made is not None
    assert [made.has_issued(chain) for chain in chains] == [True] * 4
    assert names(folder) == [".gitignore", "ca.key", "ca.pem"]


def test_threads_that_start_together_have_one_authority(folder: Path) -> None:
    made: list[Authority] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        made.append(make_authority(folder, time.time()))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain, _ = made[0].issue(["localhost"], "ecdsa", time.time(), DAY)
    assert [each.has_issued(chain) for each in made] == [True] * 8


def test_a_crash_at_any_write_leaves_what_the_next_start_completes(tmp_path: Path) -> None:
    """A process is killed at its first fsync, another at its second, and so on, until one has them all."""
    for writes in range(1, 20):
        folder = tmp_path / str(writes)
        ended = subprocess.run(
            [sys.executable, "-c", DYING, str(folder), str(writes)], env=ENVIRONMENT, timeout=20, check=False
        ).returncode
        found = load_authority(folder, time.time())
        made = make_authority(folder, time.time())
        assert made.has_issued(made.issue(["localhost"], "ecdsa", time.time(), DAY)[0])
        if ended == 0:
            assert found is not None
            break
        assert ended == -signal.SIGKILL
    assert writes > 5


# What is refused


def test_a_lost_key(folder: Path) -> None:
    make_authority(folder, time.time())
    (folder / "ca.key").unlink()
    assert refusal(folder).endswith("ca.key is missing: put it back, or remove ca.pem for a new authority")


def test_a_key_of_another_authority(tmp_path: Path, folder: Path) -> None:
    make_authority(folder, time.time())
    other = make_authority(tmp_path / "other", time.time())
    (folder / "ca.key").write_bytes((other.path.parent / "ca.key").read_bytes())
    assert "put back what belongs together" in refusal(folder)


@pytest.mark.parametrize(
    ("later", "words"), [(3653 * DAY, "expired on"), (-2 * DAY, "set the clock")], ids=["expired", "not yet"]
)
def test_one_that_is_not_valid_now(folder: Path, later: float, words: str) -> None:
    now = time.time()
    make_authority(folder, now)
    assert words in refusal(folder, now + later)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\xff" * 100, b"x" * 70000]
)
def test_what_is_not_pem(folder: Path, name: str, content: bytes) -> None:
    make_authority(folder, time.time())
    (folder / name).write_bytes(content)
    text = refusal(folder)
    assert name in text
    assert "remove" in text


def pem_of(key: object, encryption: object = None) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )


def test_an_encrypted_key(folder: Path) -> None:
    make_authority(folder, time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.key").write_bytes(pem_of(key, serialization.BestAvailableEncryption(b"word")))
    assert "ca.key is encrypted: decrypt it" in refusal(folder)


def test_a_key_of_another_kind(folder: Path) -> None:
    make_authority(folder, time.time())
    (folder / "ca.key").write_bytes(pem_of(ed25519.Ed25519PrivateKey.generate()))
    assert "neither an ECDSA nor an RSA key" in refusal(folder)


def test_a_certificate_that_is_none_of_an_authority(folder: Path) -> None:
    made = make_authority(folder, time.time())
    chain, key = made.issue(["localhost"], "ecdsa", time.time(), DAY)
    (folder / "ca.pem").write_bytes(chain)
    (folder / "ca.key").write_bytes(key)
    assert "is no authority that signed itself" in refusal(folder)


def test_an_authority_that_may_not_sign(folder: Path) -> None:
    make_authority(folder, time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = authority._begin(authority._name("x"), authority._name("x"), key, time.time(), DAY)
    for extension in (x509.BasicConstraints(True, None), authority._usage(digital_signature=True)):
        builder = builder.add_extension(extension, critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "ca.key").write_bytes(pem_of(key))
    assert "is no authority that signed itself" in refusal(folder)


def test_an_own_rsa_authority_is_taken(folder: Path, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    make_folder(folder)
    write_file(folder / "ca.key", pem_of(key))
    made = make_authority(folder, time.time())
    chain, leaf = made.issue(["localhost"], "ecdsa", time.time(), DAY)
    assert handshake(chain, leaf, made.path, "localhost", tmp_path)


def chmod(name: str, bits: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(bits)


def link(folder: Path) -> None:
    (folder / "ca.key").rename(folder / "kept")
    (folder / "ca.key").symlink_to(folder / "kept")


def pipe(folder: Path) -> None:
    (folder / "ca.key").unlink()
    os.mkfifo(folder / "ca.key", 0o600)


def nested(folder: Path) -> None:
    (folder / "ca.pem").unlink()
    (folder / "ca.pem").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (chmod("", 0o770), "others may write to"),
        (chmod("", 0o702), "(mode 0702): chmod 700 it"),
        (chmod("ca.key", 0o640), "others may read"),
        (chmod("ca.key", 0o604), "chmod 600 it"),
        (chmod("ca.pem", 0o664), "others may write"),
        (link, "is a symbolic link"),
        (pipe, "is no regular file"),
        (nested, "is no regular file"),
    ],
)
def test_what_others_could_have_had_or_changed(folder: Path, spoil: Callable[[Path], None], words: str) -> None:
    make_authority(folder, time.time())
    spoil(folder)
    assert words in refusal(folder)


def test_what_belongs_to_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_authority(folder, time.time())
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {owner}, and the router runs as {owner + 1}" in refusal(folder)


def test_a_file_in_the_folders_place(folder: Path) -> None:
    folder.write_text("")
    for call in (load_authority, make_authority):
        with pytest.raises(KeepingError, match="is no folder"):
            call(folder, time.time())


def test_a_folder_that_is_there_stays_as_it_is(folder: Path) -> None:
    folder.mkdir(0o755)
    make_authority(folder, time.time())
    assert names(folder) == ["ca.key", "ca.pem"]
    assert mode(folder) == 0o755


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(KeepingError, match="no such file or directory; let the router read and write there"):
        make_authority(tmp_path / "missing" / "folder", time.time())
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KeepingError, match="is a link that leads nowhere"):
        make_authority(tmp_path / "link", time.time())


def test_somebody_who_removes_what_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "create_file", lambda *arguments: True)
    with pytest.raises(AuthorityError, match="is gone as soon as it is made"):
        make_authority(folder, time.time())


# Keeping


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("write", [write_file, create_file])
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, full: None, write: Callable[..., object]) -> None:
    with pytest.raises(KeepingError, match="no space left on device"):
        write(tmp_path / "key", b"secret")
    assert names(tmp_path) == []


def test_a_write_replaces_and_a_creation_does_not(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert read_file(path) is None
    assert create_file(path, b"one")
    assert not create_file(path, b"two")
    assert read_file(path) == b"one"
    write_file(path, b"three")
    assert read_file(path) == b"three"
    assert mode(path) == 0o600
    assert names(tmp_path) == ["key"]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeepingError, match="not a directory"):
        read_file(tmp_path / "file" / "key")


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "key", b"one")

    def replace(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeepingError, match="permission denied"):
        write_file(tmp_path / "key", b"two")
    assert read_file(tmp_path / "key") == b"one"
    assert names(tmp_path) == ["key"]


def test_no_descriptor_stays_open(folder: Path) -> None:
    make_authority(folder, time.time())
    (folder / "ca.pem").chmod(0o666)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(KeepingError):
            load_authority(folder, time.time())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_is_found_or_not(tmp_path: Path) -> None:
    assert find_folder(tmp_path)
    assert not find_folder(tmp_path / "missing")
    assert keeping.MOST_BYTES == 65536
