"""What `acme` can be told: every reason to refuse it, and that no secret shows."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from router_tls.acme import AcmeOptions, AcmeSource

from router import Tools
from router.options import PluginFault, describe_options, read_options

GOOD: dict[str, Any] = {"directory": "https://acme.example.org/dir", "names": ["www.example.org"], "agree_tos": True}
SECRET = "c2VjcmV0LXNlY3JldA"


def read(**options: Any) -> AcmeOptions:
    made = read_options(AcmeOptions, GOOD | options, "acme")
    assert isinstance(made, AcmeOptions)
    return made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"agree_tos": False}, "agree_tos = true"),
        ({"names": []}, "at least one name"),
        ({"names": [f"n{n}.example.org" for n in range(101)]}, "at most 100"),
        ({"names": ["*.example.org"]}, "http-01 cannot prove"),
        ({"names": ["www.*.org"]}, "http-01 cannot prove"),
        ({"names": ["b\u00fccher.example"]}, "xn--"),
        ({"names": ["www.example.org:443"]}, "no host name"),
        ({"names": ["https://www.example.org"]}, "no host name"),
        ({"names": ["a..b"]}, "no host name"),
        ({"names": ["www.example.org\n"]}, "no host name"),
        ({"names": ["fe80::1%eth0"]}, "no host name"),
        ({"names": [""]}, "no host name"),
        ({"email": "nobody"}, "no address"),
        ({"email": ["a@example.org", "b"]}, "no address"),
        ({"directory": "http://acme.example.org/dir"}, "https alone"),
        ({"directory": "letsencrpyt"}, '"letsencrypt"'),
        ({"directory": "https://user:pass@acme.example.org/"}, "https alone"),
        ({"directory": "https://acme.example.org:x/"}, "https alone"),
        ({"directory": "https://acme.example.org/a b"}, "https alone"),
        ({"folder": ""}, "folder"),
        ({"folder": "a\0b"}, "folder"),
        ({"key_type": "dsa"}, '"ecdsa" or "rsa"'),
        ({"eab_kid": "kid"}, "go together"),
        ({"eab_hmac_key": SECRET}, "go together"),
        ({"eab_kid": "kid", "eab_hmac_key": f"{SECRET}!"}, "base64url"),
        ({"eab_kid": "kid", "eab_hmac_key": "a"}, "base64url"),
        ({"eab_kid": "kid", "eab_hmac_key": "aaaaa"}, "base64url"),
        ({"eab_kid": "a\nb", "eab_hmac_key": SECRET}, "eab_kid"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginFault) as caught:
        read(**options)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert SECRET not in str(caught.value)


def test_names_become_those_of_certificates() -> None:
    made = read(names=["WWW.example.org", "www.EXAMPLE.org", "127.0.0.1", "::0:1", "a_b.example.org"])
    assert made.wanted == ("www.example.org", "127.0.0.1", "::1", "a_b.example.org")


@pytest.mark.parametrize(
    ("email", "addresses"), [("", ()), ("a@b.org", ("a@b.org",)), (["a@b.org", "c@d"], ("a@b.org", "c@d"))]
)
def test_addresses(email: Any, addresses: tuple[str, ...]) -> None:
    assert read(email=email).addresses == addresses


def test_words_for_directories() -> None:
    assert read(directory="letsencrypt").url == "https://acme-v02.api.letsencrypt.org/directory"
    assert read(directory="letsencrypt-staging").url == "https://acme-staging-v02.api.letsencrypt.org/directory"
    assert read().url == GOOD["directory"]


def test_the_key_of_an_account_never_shows() -> None:
    made = read(eab_kid="kid", eab_hmac_key=SECRET)
    text = io.StringIO()
    Console(file=text, width=500).print(made)
    assert made.eab == ("kid", SECRET)
    for shown in (repr(made), str(made), text.getvalue()):
        assert "eab_hmac_key='set'" in shown
        assert SECRET not in shown
    assert ("eab_hmac_key", "str", '""') in describe_options(AcmeOptions)


def test_no_library_is_loaded_before_a_certificate_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys, random, time, pathlib\n"
        "from router import Tools\n"
        "from router_tls.acme import AcmeOptions, AcmeSource\n"
        "options = AcmeOptions(directory='letsencrypt', names=('a.example',), agree_tos=True)\n"
        f"AcmeSource(options, Tools(time.monotonic, random.Random(1), pathlib.Path({str(tmp_path)!r}))).load()\n"
        "print({'acme', 'josepy', 'cryptography', 'requests', 'asyncio'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n", done.stdout


def tools(folder: Path) -> Tools:
    return Tools(time.monotonic, random.Random(1), folder)


def test_load_without_a_folder_writes_nothing(tmp_path: Path) -> None:
    assert list(AcmeSource(read(), tools(tmp_path)).load()) == []
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_what_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nothing")
    for options, words in [
        ({"ca": "missing.pem"}, "cannot be read"),
        ({"ca": "file"}, "no certificate in PEM"),
        ({"folder": "file"}, "is no folder"),
        ({"folder": "missing/folder"}, "is not there"),
    ]:
        with pytest.raises(ValueError, match=words):
            AcmeSource(read(**options), tools(tmp_path)).load()
    (tmp_path / "open").mkdir(0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ValueError, match="chmod 700"):
        AcmeSource(read(folder="open"), tools(tmp_path)).load()
