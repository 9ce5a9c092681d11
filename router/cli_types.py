"""Types of command-line arguments: addresses in their short forms.

Only reading of one argument lives here; what is wrong with it is said as a usage error.
"""

from __future__ import annotations

import rich_click as click

__all__ = ["read_bind", "read_url"]


def read_url(text: str) -> str:
    """An endpoint's URL; "9001", ":9001" and "host:9001" are short for http URLs."""
    from router.model import parse_address

    url = text if "://" in text or text.startswith("unix:") else f"http://{_with_host(text)}"
    try:
        parse_address(url)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from error
    return url


def read_bind(text: str) -> str:
    """An address to listen on; "8080" and ":8080" stand for this machine alone."""
    from router.configforms import parse_bind

    bind = _with_host(text)
    try:
        parse_bind(bind)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from error
    return bind


def _with_host(text: str) -> str:
    port = text.removeprefix(":")
    return f"127.0.0.1:{port}" if port.isascii() and port.isdigit() else text
