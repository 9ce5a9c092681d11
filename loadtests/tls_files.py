"""A certificate authority of the bench's own, and what it signs: PEM files, made with the command `openssl`.

Every certificate is good for 200 days, so that no client finds it too short or too long.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

from bench_procs import BenchError

#: What clients call the router, and the names that its usual certificate has besides.
NAME = "bench.test"
NAMES = (f"DNS:{NAME}", "DNS:localhost", "IP:127.0.0.1")
DAYS = 200
#: Kinds of keys, as the words of `openssl req`.
KEYS = {"ecdsa": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "rsa": ("rsa:2048",)}
_SECONDS = 30


class Pair(NamedTuple):
    """A certificate and its key, each in a file of its own."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates.

    Raises:
        BenchError: `openssl` is missing, or did not do it; with what it said last.
    """

    def __init__(self, folder: Path, name: str = "bench CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.pair = Pair(folder / "ca.pem", folder / "ca.key")
        _request(
            "ecdsa", self.pair, "-subj", f"/CN={name}",
            *_extensions("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"),
        )  # fmt: skip

    @property
    def file(self) -> Path:
        """What clients trust."""
        return self.pair.certificate

    def sign(self, folder: Path, stem: str, *names: str, kind: str = "ecdsa", of: str = "server") -> Pair:
        """Promises STEM.crt and STEM.key in a folder that is made if need be.

        Args:
            names: for the subject's alternative names, as `openssl` writes them; the first is the common name too.
            kind: one of KEYS.
            of: "server" or "client".
        """
        folder.mkdir(parents=True, exist_ok=True)
        made = Pair(folder / f"{stem}.crt", folder / f"{stem}.key")
        _request(
            kind, made, "-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key),
            "-subj", f"/CN={names[0].partition(':')[2]}",
            *_extensions(
                f"subjectAltName={','.join(names)}",
                "basicConstraints=critical,CA:FALSE",
                "keyUsage=critical,digitalSignature",
                f"extendedKeyUsage={of}Auth",
            ),
        )  # fmt: skip
        return made


def serial(certificate: Path) -> str:
    """Promises the serial number, as Python's ssl module tells it of a peer."""
    return _said("x509", "-noout", "-serial", "-in", str(certificate)).strip().partition("=")[2]


def fingerprint(certificate: Path) -> str:
    """Promises the SHA-256 of a certificate in small hexadecimal digits."""
    text = _said("x509", "-noout", "-fingerprint", "-sha256", "-in", str(certificate))
    return text.strip().partition("=")[2].replace(":", "").lower()


def _extensions(*all_of_them: str) -> list[str]:
    return [word for each in all_of_them for word in ("-addext", each)]


def _request(kind: str, made: Pair, *words: str) -> None:
    files = ("-out", str(made.certificate), "-keyout", str(made.key))
    _said("req", "-x509", "-nodes", "-days", str(DAYS), "-newkey", *KEYS[kind], *files, *words)
    made.key.chmod(0o600)


def _said(*words: str) -> str:
    try:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"openssl is needed for certificates (Debian: apt install openssl): {error}") from error
    if done.returncode:
        raise BenchError(f"openssl {words[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
