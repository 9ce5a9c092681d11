"""`router init`: a starter configuration, written once and never over anything.

The starter is the one place that explains the keys in a line each: the schema takes its descriptions from here. What
is commented out shows the defaults; tests hold it to that.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import rich_click as click

from router.faults import visible

__all__ = ["STARTER", "explanations", "write_starter"]

STARTER = """\
# A configuration of the router. What is commented out is the default, or an example where the comment says so.
#
#   router check    says what is wrong with this file
#   router run      serves it

[[listeners]]
bind = "127.0.0.1:8080"  # where requests come in; ":8080" is every interface, "unix:/run/router.sock" a socket
# max_connections = 10000  # open at once; above that, clients wait
# tls = { certificates = [{ use = "files", paths = ["tls"] }], profile = "intermediate" }  # example: https
# redirect_to_https = false  # true: answers all with the same address on the listener with tls
# hsts = ""  # such as "max-age=31536000": browsers stay with https
# timeouts = { handshake = "10s", header = "10s", idle = "75s", stream = "60s" }  # TLS; a head; idle; a body's pieces

[[routes]]  # the first one that matches, in the order of the file, takes a request
pool = "web"  # where its requests go
# pools = [{ name = "web", weight = 9 }, { name = "next", weight = 1 }]  # instead of pool: several, by weight
# split_by = "random"  # with pools: "client", "header:x" or "cookie:x" keeps equals together
# answer = { redirect = "https://shop.example/" }  # instead of pool: the router answers, also { status, body }
# name = "shop"  # example: what logs and `router check` call it
# host = ["shop.example", "*.shop.example"]  # example: hosts that it takes; every host without this key
# path = ["/cart", "/api/*"]  # example: exact, or everything below
# methods = ["GET", "POST"]  # example: methods that it takes
# headers = { X-Beta = "1" }  # example: fields that a request must have; "*" asks for presence alone
# query = { v = "2" }  # example: parameters that a request must have
# timeout = "none"  # for the whole exchange, retries included
# max_body = "none"  # bytes of a request's body, such as "10MiB"; a larger one gets 413
# rewrite = { strip_prefix = "/api", replace_prefix = "/v2", host = "" }  # example: what a server is asked for instead
# request_headers = { set = { X-From = "router" }, remove = ["X-Debug"] }  # example: fields that a server gets, or not
# response_headers = { set = { X-Served = "yes" }, remove = ["Server"] }  # example: fields that a client gets, or not
# filters = []  # plugins that see its requests and responses

[[pools]]
name = "web"  # what routes call it
endpoints = ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]  # the servers: URLs, or tables with url, weight, ...
# discovery = ""  # plugin that finds more servers while the router runs, beside endpoints or instead of them
# selection = "least_request"  # who gets a request; `router plugins` lists the strategies
# affinity = ""  # plugin that keeps a session on its server
# probe = { use = "http", path = "/", interval = "2s", timeout = "1s", fall = 3, rise = 2 }  # example: asks servers
# detectors = ["consecutive"]  # plugins that take failing servers out
# ejection = { base = "30s", max = "300s", max_share = "10%" }  # how long they stay out, and how many at once
# when_few_ready = "try_all"  # with too few servers ready: try them all, or "refuse"
# few_ready = "0%"  # how many ready servers are too few
# slow_start = { window = "0s", min = "10%" }  # how long a server that comes back takes to its full weight
# drain_timeout = "60s"  # for requests under way at a server that was removed
# prefer_zone = false  # servers of the router's own zone first
# timeouts = { connect = "2s", head = "30s", stream = "60s" }  # to connect; for the head; between pieces of a body
# tls = { ca = "", server_name = "", certificate = "", key = "", verify = "full" }  # example: for https:// servers

# [pools.limits]  # 0 is no limit
# in_flight = 0  # requests under way at once
# in_flight_per_endpoint = 0  # the same for each server
# queue = 0  # requests that may wait for room
# queue_timeout = "1s"  # how long they wait
# adaptive = "none"  # "gradient" or "aimd" finds out how much each server can take

# [pools.retry]
# attempts = 2  # further tries of a request, after the first
# on = ["connect", "reset", "timeout"]  # also "5xx", or single statuses; what was never sent goes on anyway
# attempt_timeout = "none"  # for the head of one try's response; a POST that is later gets 504
# buffer = "64KiB"  # of a request's body, held for sending it again
# budget = "20%"  # retries, as a share of all requests
# reserve = 10  # retries that are always allowed
# hedge_after = "none"  # ask a second server when the first is silent for so long, such as "50ms" or "p95"

# [server]
# shutdown_timeout = "30s"  # for requests under way at the end
# drain_delay = "0s"  # not ready for so long before the end begins
# zone = ""  # where this router stands, for prefer_zone
# trusted_proxies = []  # addresses and networks whose X-Forwarded-* are believed
# forwarded = false  # true: servers get Forwarded (RFC 7239) beside X-Forwarded-*
# control = ""  # such as "router.sock", beside this file: what `router status` and its like ask
# health_path = ""  # such as "/-/health": ready there and at PATH/ready, live at PATH/live
# max_header_bytes = "32KiB"  # of a request's head
# max_headers = 128  # fields of a request's head

# [plugins]
# disable = []  # names of plugins or distributions to leave out
# strict = false  # true: a broken plugin is a fault, not a line at the start
"""

_TABLE = re.compile(r"(?:# )?\[\[?([a-z_.]+)\]\]?(?:  # (.+))?")
_KEY = re.compile(r"(?:# )?([a-z_]+) = .*?  # (?:example: )?(.+)")
_OTHER_FORMATS = (".json", ".yaml", ".yml")


def explanations() -> dict[tuple[str, ...], str]:
    """What the starter says about tables and keys, by where they stand: ("pools", "retry", "attempts")."""
    found: dict[tuple[str, ...], str] = {}
    table: tuple[str, ...] = ()
    for line in STARTER.splitlines():
        if header := _TABLE.fullmatch(line):
            table = tuple(header[1].split("."))
            if header[2]:
                found[table] = header[2]
        elif key := _KEY.fullmatch(line):
            found[*table, key[1]] = key[2]
    return found


def write_starter(file: Path) -> None:
    """Writes the starter into a new file, or on stdout for "-", and says what to do next.

    Raises:
        click.ClickException: there is something of this name already, or the file cannot be made.
    """
    if str(file) == "-":
        print(STARTER, end="")
        return
    if file.suffix.lower() in _OTHER_FORMATS:
        raise click.UsageError(f"the starter is TOML: name a file that ends in .toml, not {file.suffix}")
    try:
        _create(file)
    except FileExistsError:
        raise _exists(file) from None
    except FileNotFoundError:
        folder = _shown(file.parent)
        raise click.ClickException(f"there is no folder {folder}; make it with: mkdir -p {folder}") from None
    except NotADirectoryError:
        raise click.ClickException(f"{_shown(file.parent)} is not a folder; name a file in one") from None
    except PermissionError:
        message = f"no permission to write {_shown(file)}; name a file in a folder of yours"
        raise click.ClickException(message) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a file name"
        raise click.ClickException(f"{_shown(file)} cannot be written: {reason}") from None
    print(f"{_shown(file)} is written. Name your servers in it, then: router check {_shown(file)}")


def _create(file: Path) -> None:
    """O_EXCL takes neither a file nor a link, even one that appears at this moment."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as opened:
            opened.write(STARTER)
    except OSError:
        # Half a file would stand in the way of the next try.
        with suppress(OSError):
            file.unlink()
        raise


def _exists(file: Path) -> click.ClickException:
    if file.is_dir():
        return click.ClickException(
            f"{_shown(file)} is a folder; name a file in it, such as {_shown(file / 'router.toml')}"
        )
    return click.ClickException(f"{_shown(file)} exists and stays as it is; name another file, or move it away first")


def _shown(path: Path) -> str:
    return visible(str(path))
