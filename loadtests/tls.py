"""The router's TLS on loopback: what it costs beside other proxies, and what clients see while certificates change.

    python loadtests/tls.py --help

This file is the command; what is done and what must hold stands in the modules that it names. Exit code: 0 all held,
1 a row was missed or something went wrong while measuring, 2 a wrong option.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import bench_main
from bench_main import Result
from bench_procs import Pinning, workbench
from tls_acme import play_acme
from tls_clients import play_clients
from tls_cost import play_handshake, play_keepalive
from tls_house import FULL, QUICK, Home, Pace
from tls_swaps import play_swaps
from tls_testssl import play_testssl


class Row(NamedTuple):
    """One row of the table."""

    name: str
    text: str
    play: Callable[[Home, Pace], Result]


ROWS = (
    Row("keepalive", "CPU per request on connections that stay, beside other proxies", play_keepalive),
    Row("handshake", "CPU per full handshake with one request, beside nginx", play_handshake),
    Row("swaps", "certificates are swapped under new connections and such that stay", play_swaps),
    Row("testssl", "what testssl.sh finds", play_testssl),
    Row("clients", "openssl, curl, httpx and Chromium", play_clients),
    Row("acme", "certificates from pebble, which fails", play_acme),
)


def play(args: argparse.Namespace, pins: Pinning, row: Row) -> Result:
    """Plays a row with processes and a folder of its own.

    Raises:
        BenchError: something did not do its part.
    """
    with workbench() as fleet, contextlib.closing(Home(fleet, pins, args.router)) as home:
        return row.play(home, QUICK if args.quick else FULL)._replace(name=row.name, text=row.text)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    few = "few rounds, connections and swaps, some of testssl.sh, and the quick stages of ACME"
    return bench_main.run(bench_main.parser("tls.py", __doc__ or "", ROWS, few).parse_args(argv), ROWS, play)


if __name__ == "__main__":
    sys.exit(main())
