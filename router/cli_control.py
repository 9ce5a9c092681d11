"""Commands that ask a running router by its control socket: status, reload, drain, undrain, weight, explain.

Only questions are put together here; the router decides. Exit codes: 0 done, 1 refused or not reached, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import rich_click as click

from router.cli_requests import Field, Request, completed, parse_client, parse_field, parse_request

if TYPE_CHECKING:
    from router.status import Answer, Question

__all__ = ["control_commands"]

#: Seconds in which a router answers what it knows, and in which it has read its configuration and probed new servers.
_SOON, _RELOADED = 5.0, 60.0
#: Seconds that a shell waits for names to complete.
_AT_ONCE = 1.0
_FILE = Path("router.toml")
_HIGHEST_WEIGHT = 65_535

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Read = TypeVar("_Read")


def _read_field(text: str) -> Field:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError("a header is written like 'Name: value'")
    return parse_field(name, value)


def _read_weight(text: str) -> int | None:
    if text == "configured":
        return None
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= _HIGHEST_WEIGHT:
        return int(text)
    raise ValueError(f"a weight is a whole number from 0 to {_HIGHEST_WEIGHT}, or 'configured'")


def _argument(read: Callable[[str], _Read]) -> Callable[[str], _Read]:
    """A type of click that says what `read` says."""

    def convert(text: str) -> _Read:
        try:
            return read(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}") from error

    return convert


def _reaches_router(command: _Command) -> _Command:
    """Adds the options that say which router is asked."""
    for option in (
        click.option(
            "--control",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Control socket of the router, instead of the one that FILE names.",
        ),
        click.option(
            "-f",
            "--file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            default=_FILE,
            show_default=True,
            help="Configuration of the router, whose server.control is its control socket.",
        ),
    ):
        command = option(command)
    return command


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of pools, or of the endpoints of the pool named before, for the completion of a shell."""
    from router.cli_client import Unanswered, read_status
    from router.status import AskStatus

    try:
        status = read_status(_ask(AskStatus(), _AT_ONCE, ctx.params.get("file"), ctx.params.get("control")))
    except Unanswered:
        return []
    names = [pool.name for pool in status.pools]
    if parameter.name == "endpoint":
        pools = [pool for pool in status.pools if pool.name == ctx.params.get("pool")]
        names = [endpoint.id for pool in pools for endpoint in pool.endpoints]
    return [name for name in names if name.startswith(incomplete) and name.isprintable()]


_pool = click.argument("pool", shell_complete=_complete)
_endpoint = click.argument("endpoint", shell_complete=_complete)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command()
@_json
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
@_reaches_router
def status(as_json: bool, watch: bool, file: Path, control: Path | None) -> None:
    """Show what a running router does: pools, servers and why they are out, listeners, configuration.

    --watch fills the terminal. Where there is none, or with --json, one status follows the other, each JSON on one
    line. A router that goes away is waited for, for half a minute.
    """
    from router.status import AskStatus

    path = control or _control_of(file)

    def read() -> Answer:
        return _done(_ask(AskStatus(), _SOON, file, path))

    if watch:
        _watch(read, as_json)
    elif as_json:
        from router.cli_output import print_json

        print_json(read().result)
    else:
        _print_status(read())


@click.command()
@_reaches_router
def reload(file: Path, control: Path | None) -> None:
    """Let a running router read its configuration again, and say what came of it.

    A faulty one is refused with the messages of `router check`; then the old one stays in force and the exit code is 1.
    """
    from router.status import AskReload

    _tell(_ask(AskReload(), _RELOADED, file, control))


@click.command()
@_pool
@_endpoint
@_reaches_router
def drain(pool: str, endpoint: str, file: Path, control: Path | None) -> None:
    """Give ENDPOINT of POOL no new requests, but for sessions that it has; what is under way finishes.

    ENDPOINT is written as `router status` shows it. This survives reloads, until `router undrain`.
    """
    from router.status import AskDrain

    _tell(_ask(AskDrain(pool, endpoint), _SOON, file, control))


@click.command()
@_pool
@_endpoint
@_reaches_router
def undrain(pool: str, endpoint: str, file: Path, control: Path | None) -> None:
    """Give ENDPOINT of POOL requests again.

    ENDPOINT is written as `router status` shows it.
    """
    from router.status import AskUndrain

    _tell(_ask(AskUndrain(pool, endpoint), _SOON, file, control))


@click.command()
@_pool
@_endpoint
@click.argument("weight", metavar="N", type=_argument(_read_weight))
@_reaches_router
def weight(pool: str, endpoint: str, weight: int | None, file: Path, control: Path | None) -> None:
    """Set the weight of ENDPOINT of POOL to N, from 0 to 65535; the word configured undoes it.

    ENDPOINT is written as `router status` shows it. The weight survives reloads, until it is undone.
    """
    from router.status import AskWeight

    _tell(_ask(AskWeight(pool, endpoint, weight), _SOON, file, control))


@click.command()
@click.argument("request", metavar="'METHOD URL'", type=_argument(parse_request))
@click.option(
    "-H",
    "--header",
    "fields",
    type=_argument(_read_field),
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Header field of the request; repeatable.",
)
@click.option("--client", type=_argument(parse_client), metavar="ADDR", help="Address that it comes from.")
@_json
@_reaches_router
def explain(
    request: Request, fields: tuple[Field, ...], client: str | None, as_json: bool, file: Path, control: Path | None
) -> None:
    """Show where a running router would send a request now, and why; nothing is sent.

    The request is written like 'GET https://shop.example/cart/7'.
    """
    from router.status import AskExplain

    (asked,) = completed([request], fields, client)
    url = f"{asked.scheme}://{asked.host}{asked.target}"
    question = AskExplain(asked.method, url, asked.fields)
    if asked.client:
        question = msgspec.structs.replace(question, client=asked.client)
    answer = _done(_ask(question, _SOON, file, control))

    from router.cli_explain import print_explanation

    print_explanation(answer.result, as_json)


#: In the order of the help.
control_commands = (status, reload, drain, undrain, weight, explain)


def _ask(question: Question, seconds: float, file: Path | None, control: Path | None) -> Answer:
    from router.cli_client import ask

    return ask(control or _control_of(file or _FILE), question, seconds)


def _control_of(file: Path) -> Path:
    from router.cli_client import find_control

    return find_control(file)


def _done(answer: Answer) -> Answer:
    """The answer, if the router did as it was asked. Raises Unanswered with what it said otherwise."""
    from router.cli_client import Unanswered

    if not answer.ok:
        raise Unanswered(_shown(answer.text))
    return answer


def _tell(answer: Answer) -> None:
    print(_shown(_done(answer).text))


def _shown(text: str) -> str:
    """What the router says, for a terminal."""
    from router.faults import visible

    return "\n".join(map(visible, text.split("\n")))


def _print_status(answer: Answer) -> None:
    from router.cli_client import read_status
    from router.cli_status import print_status

    print_status(read_status(answer))


def _watch(read: Callable[[], Answer], as_json: bool) -> None:
    from router.cli_client import read_status
    from router.cli_watch import is_screen, watch_in_place, watch_lines

    def show_line(answer: Answer) -> None:
        print(msgspec.json.encode(answer.result).decode())

    def show_status(answer: Answer) -> None:
        _print_status(answer)
        print()

    try:
        if is_screen() and not as_json:
            watch_in_place(lambda: read_status(read()))
        else:
            watch_lines(read, show_line if as_json else show_status)
    except KeyboardInterrupt:
        return
