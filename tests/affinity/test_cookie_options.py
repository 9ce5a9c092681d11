"""The options of `cookie`: what is wrong with them is said in a sentence, and a secret in none."""

from __future__ import annotations

import io
from typing import Any

import pytest
import rich.console
import router_affinity
from router_affinity.cookie_options import CookieOptions

from router.options import PluginFault, describe_options
from router.plugins import Registry

SECRET = "0123456789abcdef"

REGISTRY = Registry()
REGISTRY.add(router_affinity, "affinity")


def read(**options: Any) -> CookieOptions:
    made = REGISTRY.resolve("affinity", {"use": "cookie", **options}, None).options
    assert isinstance(made, CookieOptions)
    return made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": ""}, "name has 1 to 64 letters, digits"),
        ({"name": "a b"}, "name has 1 to 64"),
        ({"name": "a=b"}, "name has 1 to 64"),
        ({"name": "a;b"}, "name has 1 to 64"),
        ({"name": "a\r\nb"}, "name has 1 to 64"),
        ({"name": "pin\n"}, "name has 1 to 64"),
        ({"name": "k\u00e4se"}, "name has 1 to 64"),
        ({"name": "a" * 65}, "name has 1 to 64"),
        ({"name": "__Host-pin"}, 'a name that begins with "__Host-" needs secure = "always"'),
        ({"name": "__Secure-pin"}, 'a name that begins with "__Secure-" needs secure = "always"'),
        ({"name": "__host-pin", "secure": "never"}, 'begins with "__host-" needs secure'),
        ({"name": "__Host-pin", "secure": "always", "path": "/a"}, 'needs path = "/" and no domain'),
        ({"name": "__Host-pin", "secure": "always", "domain": "a.test"}, 'needs path = "/" and no domain'),
        ({"same_site": "none"}, 'same_site = "none" needs secure = "always"'),
        ({"same_site": "none", "secure": "never"}, 'same_site = "none" needs secure = "always"'),
        ({"same_site": "Lax"}, 'same_site: expected "lax" or "strict" or "none", not'),
        ({"secure": True}, "secure: expected"),
        ({"ttl": "0s"}, 'ttl is a time from "1s" to "9600h" (400 days), or "none"'),
        ({"ttl": "999ms"}, 'ttl is a time from "1s"'),
        ({"ttl": "9601h"}, 'ttl is a time from "1s"'),
        ({"ttl": 60}, "ttl: a duration is written like"),
        ({"renew": "absolute"}, 'renew = "absolute" means nothing without a ttl: set one, as in "8h"'),
        ({"renew": "never"}, 'renew: expected "sliding" or "absolute"'),
        ({"path": ""}, 'path starts with "/"'),
        ({"path": "shop"}, 'path starts with "/"'),
        ({"path": "/a;b"}, 'path starts with "/"'),
        ({"path": "/a b"}, 'path starts with "/"'),
        ({"path": "/a\r\nX: y"}, 'path starts with "/"'),
        ({"path": "/\u00fc"}, 'path starts with "/"'),
        ({"domain": ".example.test"}, "domain starts without a dot"),
        ({"domain": "a..b"}, "domain is a host name"),
        ({"domain": "a b"}, "domain is a host name"),
        ({"domain": "example.test; Secure"}, "domain is a host name"),
        ({"domain": "example.test:80"}, "domain is a host name"),
        ({"domain": "example.test\n"}, "domain is a host name"),
        ({"domain": "b\u00fccher.test"}, "domain is a host name in its ASCII form"),
        ({"domain": "a." * 127 + "aa"}, "domain is a host name"),
        ({"secrets": [SECRET, "short"]}, "secrets: number 2 has fewer than 16 bytes: use 32 random ones"),
        ({"secrets": [""]}, "secrets: number 1 has fewer than 16 bytes"),
        ({"secrets": [SECRET] * 9}, "secrets holds more than 8: drop the last ones"),
        ({"secrets": SECRET}, "secrets: expected a list, not a string"),
        ({"secrets": [1]}, "secrets.0: expected a string, not a whole number"),
        ({"secrets": [SECRET], "state_dir": "/run/router"}, "state_dir means nothing where there are secrets"),
        ({"state_dir": ""}, 'state_dir names a folder, as in ".router"'),
        ({"state_dir": "a\0b"}, "state_dir names a folder"),
        ({"secret": SECRET}, 'did you mean "secrets"?'),
        ({"http_only": "yes"}, "http_only: expected true or false"),
        ({"on_unready": "refuse"}, 'has no option "on_unready"'),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginFault) as fault:
        read(**options)
    assert said in str(fault.value)
    assert str(fault.value).startswith('affinity "cookie"')
    assert str(fault.value).isprintable()


@pytest.mark.parametrize(
    "options",
    [
        {"name": "__Host-pin", "secure": "always"},
        {"name": "__Secure-pin", "secure": "always", "path": "/a", "domain": "a.test"},
        {"name": "!#$%&'*+-.^_`|~09"},
        {"same_site": "none", "secure": "always"},
        {"ttl": "1s"},
        {"ttl": "9600h", "renew": "absolute"},
        {"ttl": "none"},
        {"path": "/a,b=c%20"},
        {"domain": "Example.test"},
        {"domain": "localhost"},
        {"secrets": [SECRET]},
        {"secrets": ["\u00fc" * 8, SECRET]},
        {"state_dir": "/var/lib/router"},
    ],
)
def test_what_is_taken(options: dict[str, Any]) -> None:
    assert set(options) <= set(read(**options).__struct_fields__)


def test_secrets_are_never_shown() -> None:
    options = read(secrets=[SECRET, SECRET[::-1]], name="pin")
    out = io.StringIO()
    rich.console.Console(file=out, width=500).print(options)
    for shown in (repr(options), str(options), f"{options}", out.getvalue()):
        assert "pin" in shown
        assert "2 of them" in shown
        assert SECRET not in shown
        assert SECRET[::-1] not in shown


@pytest.mark.parametrize("wrong", [{"name": "a b"}, {"ttl": "1ms"}, {"state_dir": "x"}, {"sekrets": 1}])
def test_no_fault_shows_a_secret(wrong: dict[str, Any]) -> None:
    with pytest.raises(PluginFault) as fault:
        read(secrets=[SECRET, "tooshort"], **wrong)
    assert SECRET not in str(fault.value)
    assert "tooshort" not in str(fault.value)
    with pytest.raises(PluginFault, match="number 2 has fewer") as fault:
        read(secrets=[SECRET, "tooshort"])
    assert SECRET not in str(fault.value)
    assert "tooshort" not in str(fault.value)


def test_how_they_are_described() -> None:
    described = {name: (kind, default) for name, kind, default in describe_options(CookieOptions)}
    assert described["ttl"] == ("duration", '"none"')
    assert described["secrets"] == ("list of str", "[]")
    assert described["state_dir"] == ("str", '".router"')
