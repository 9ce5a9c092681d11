"""What `cookie` can be told, and every reason to refuse it. Reads no file and never shows a secret."""

from __future__ import annotations

import re
from typing import Any, Literal

from router import Duration, Options

__all__ = ["CookieOptions"]

_NEVER = float("inf")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_PATH = re.compile(r"/[!-:<-~]*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
#: Browsers keep no cookie for longer (RFC 6265bis §5.5).
_LONGEST = 400 * 24 * 3600
#: Bytes below which a secret could be guessed.
_SHORTEST_SECRET = 16
_MOST_SECRETS = 8
_STATE_DIR = ".router"


class CookieOptions(Options, frozen=True):
    """The cookie, and the secrets that vouch for it.

    Args:
        name: pools that share a host need different ones.
        ttl: how long a pin lasts; "none" as long as the browser is open.
        renew: "sliding": ttl runs from the last visit. "absolute": from the first.
        path: where the browser sends it.
        domain: whose hosts get it; the asked one alone if empty.
        same_site: whether requests that other sites bring about carry it.
        secure: whether it is sent over TLS alone; "auto" as the request that it answers.
        http_only: whether scripts of the page cannot read it.
        secrets: the first signs, all verify; routers with the same ones know each other's cookies.
        state_dir: where a key is kept if there are no secrets; relative ones start at the configuration's folder.
        pass_upstream: whether endpoints see the cookie.
    """

    name: str = "router"
    ttl: Duration = Duration("inf")
    renew: Literal["sliding", "absolute"] = "sliding"
    path: str = "/"
    domain: str = ""
    same_site: Literal["lax", "strict", "none"] = "lax"
    secure: Literal["auto", "always", "never"] = "auto"
    http_only: bool = True
    secrets: tuple[str, ...] = ()
    state_dir: str = _STATE_DIR
    pass_upstream: bool = False

    def __post_init__(self) -> None:
        self._check_scope()
        self._check_secure()
        if self.ttl != _NEVER and not 1 <= self.ttl <= _LONGEST:
            raise ValueError('ttl is a time from "1s" to "9600h" (400 days), or "none"')
        if self.ttl == _NEVER and self.renew == "absolute":
            raise ValueError('renew = "absolute" means nothing without a ttl: set one, as in "8h"')
        self._check_secrets()

    def _check_scope(self) -> None:
        if not _TOKEN.fullmatch(self.name):
            raise ValueError('name has 1 to 64 letters, digits and characters of "!#$%&\'*+-.^_`|~", as in "router"')
        if not _PATH.fullmatch(self.path):
            raise ValueError('path starts with "/" and has neither blanks nor ";", nor anything beyond ASCII')
        if self.domain.startswith("."):
            raise ValueError("domain starts without a dot, and means all hosts below it anyway")
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            raise ValueError('domain is a host name in its ASCII form, as in "example.test"')

    def _check_secure(self) -> None:
        always, prefix = self.secure == "always", self.name.lower()
        # Browsers refuse all of these without a word.
        if self.same_site == "none" and not always:
            raise ValueError('same_site = "none" needs secure = "always"')
        if prefix.startswith(("__secure-", "__host-")) and not always:
            raise ValueError(f'a name that begins with "{self.name[: prefix.index("-") + 1]}" needs secure = "always"')
        if prefix.startswith("__host-") and (self.path != "/" or self.domain):
            raise ValueError(f'a name that begins with "{self.name[:7]}" needs path = "/" and no domain')

    def _check_secrets(self) -> None:
        for number, secret in enumerate(self.secrets, 1):
            if len(secret.encode("utf-8", "surrogatepass")) < _SHORTEST_SECRET:
                raise ValueError(
                    f"secrets: number {number} has fewer than {_SHORTEST_SECRET} bytes: use 32 random ones"
                )
        if len(self.secrets) > _MOST_SECRETS:
            raise ValueError(f"secrets holds more than {_MOST_SECRETS}: drop the last ones, which are the oldest")
        if self.secrets and self.state_dir != _STATE_DIR:
            raise ValueError("state_dir means nothing where there are secrets: leave one of them out")
        if not self.state_dir or not self.state_dir.isprintable():
            raise ValueError(f'state_dir names a folder, as in "{_STATE_DIR}"')

    # Both, for rich has a way of its own.

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "secrets"]
        return [*shown, ("secrets", f"{len(self.secrets)} of them")]

    def __repr__(self) -> str:
        return f"CookieOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"
