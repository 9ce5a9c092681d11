"""Affinity: which server a client was on, told by a cookie of the router's own or by a value that the client sends.

These import from `router` only. Whether the server that they name may be used, and what happens if not, is the core's
decision.
"""

from router import Register, hookimpl
from router_affinity.app_cookie import AppCookie, AppCookieOptions
from router_affinity.cookie import Cookie
from router_affinity.cookie_options import CookieOptions
from router_affinity.header import Header, HeaderOptions
from router_affinity.query import Query, QueryOptions

__all__ = ["register_affinities"]


@hookimpl
def register_affinities(register: Register) -> None:
    register("cookie", Cookie, CookieOptions)
    register("app_cookie", AppCookie, AppCookieOptions)
    register("header", Header, HeaderOptions)
    register("query", Query, QueryOptions)
