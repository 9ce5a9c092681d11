"""The command `router`: reads arguments, calls the part that does the work, ends with an exit code.

No work of its own lives here. Each command imports what it needs when it runs, so that `--help` and `check`
stay quick. Exit codes: 0 done, 1 failed, 2 wrong usage or a bad configuration.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import rich_click as click
from click.exceptions import Exit
from rich_click import RichGroup

from router.cli_control import control_commands
from router.cli_output import is_coloured, print_faults, say
from router.cli_requests import Field, Request, completed, request_options
from router.cli_types import read_bind, read_url

if TYPE_CHECKING:
    from router.prepare import Prepared

__all__ = ["Commands", "main", "router"]

_LISTEN = "127.0.0.1:8080"
_LEVELS = ("debug", "info", "warning", "error")
#: What shells report for a program that SIGINT ended.
_INTERRUPTED = 130
#: Where a context keeps the commands of plugins, so that they load once.
_PLUGINS = "router.cli.plugins"


class Commands(RichGroup):
    """The built-in commands, then those of plugins, which load only when help or an unknown name asks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self._of_plugins(ctx).commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._of_plugins(ctx).commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        unknown = not name.startswith("-") and self.get_command(ctx, name) is None
        if unknown and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            raise click.UsageError(f"no command {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""), ctx)
        return super().resolve_command(ctx, args)

    def _of_plugins(self, ctx: click.Context) -> click.Group:
        from router.cli_plugins import plugin_commands

        if _PLUGINS not in ctx.meta:
            ctx.meta[_PLUGINS] = plugin_commands(self.commands)
        group: click.Group = ctx.meta[_PLUGINS]
        return group


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-router", prog_name="router", message="%(prog)s %(version)s")
def router() -> None:
    """An HTTP load balancer whose every decision is a plugin.

    Write a router.toml and start with `router run`, or try `router demo` first.
    """


_file = click.argument("file", type=click.Path(path_type=Path), default=Path("router.toml"))
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_log_level = click.option(
    "--log-level",
    type=click.Choice(_LEVELS),
    default="info",
    show_default=True,
    help="What to log on stderr.",
)


@router.command()
@_file
@click.option("--watch/--no-watch", default=True, show_default=True, help="Reload when FILE changes.")
@_log_level
def run(file: Path, watch: bool, log_level: str) -> None:
    """Serve what FILE describes, until SIGTERM or Ctrl-C.

    FILE is router.toml if none is named. SIGHUP reloads it, SIGUSR2 starts a new process in place of this one.
    """
    from router.prepare import prepare_file

    _log(log_level)
    _serve(lambda: prepare_file(file), file, watch)


@router.command()
@click.option(
    "--listen",
    type=read_bind,
    metavar="ADDR",
    default=_LISTEN,
    show_default=True,
    help="Address to accept requests on.",
)
@click.option("--selection", default="least_request", show_default=True, help="Strategy that chooses the server.")
@_log_level
@click.argument("urls", metavar="URL...", type=read_url, nargs=-1, required=True)
def proxy(listen: str, selection: str, log_level: str, urls: tuple[str, ...]) -> None:
    """Route to the servers at URL..., without a file.

    A URL is http://host:port; 9001 and :9001 are short for http://127.0.0.1:9001.
    """
    from router.cli_check import prepare_tables

    _log(log_level)
    pool = {"name": "web", "selection": selection, "endpoints": list(urls)}
    tables = {"listeners": [{"bind": listen}], "routes": [{"pool": "web"}], "pools": [pool]}
    _serve(lambda: prepare_tables(tables, "command line"))


for _command in control_commands:
    router.add_command(_command)


@router.command()
@_file
@request_options
@_json
def check(
    file: Path, requests: tuple[Request, ...], fields: tuple[Field, ...], client: str, tests: Path | None, as_json: bool
) -> None:
    """Say everything that `router run` would refuse in FILE, without opening a socket.

    FILE is router.toml if none is named. Exit code 2 if there are faults.
    """
    asked = completed(requests, fields, client)
    if asked or tests is not None:
        from router.cli_routing import check_requests

        raise Exit(check_requests(file, asked, tests, as_json))
    from router.cli_check import check_file

    raise Exit(check_file(file, as_json))


@router.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default=Path("router.toml"))
def init(file: Path) -> None:
    """Write a commented starter configuration into FILE, which must not exist yet.

    FILE is router.toml if none is named; `-` is stdout.
    """
    from router.cli_init import write_starter

    write_starter(file)


@router.command()
def schema() -> None:
    """Print the JSON Schema of a configuration, with the options of all installed plugins.

    Editors complete and check a router.toml by it.
    """
    from router.cli_schema import show_schema

    show_schema()


@router.command()
@_json
def plugins(as_json: bool) -> None:
    """List every plugin by kind and name, with its options, and the broken ones with the reason."""
    from router.cli_plugins import show_plugins

    show_plugins(as_json, router.commands)


@router.command()
@click.option(
    "--listen", type=read_bind, metavar="ADDR", default=_LISTEN, show_default=True, help="Address of the router."
)
@click.option("--tls", is_flag=True, help="Answer https, with an authority of its own kept in ./router-tls.")
@click.option(
    "--trace",
    type=read_bind,
    metavar="[ADDR]",
    is_flag=False,
    flag_value="127.0.0.1:16687",
    help="Show the requests as traces, on a page at ADDR, or else at 127.0.0.1:16687.",
)
def demo(listen: str, tls: bool, trace: str | None) -> None:
    """Start three small example servers and the router in front of them, and show which one answers what."""
    from router.demo import run_demo

    _log("warning")
    raise Exit(run_demo(listen, tls, trace or ""))


@router.command()
def version() -> None:
    """Show the versions of the router, Python, aiohttp, uvloop and the plugins."""
    from router.cli_plugins import show_versions

    show_versions()


@router.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    For bash, put `eval "$(router completion bash)"` into ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    print(made(router, {}, "router", "_ROUTER_COMPLETE").source())


def _serve(prepare: Callable[[], Prepared], file: Path | None = None, watch: bool = False) -> NoReturn:
    from router.app import Router, StartError
    from router.configfile import ConfigFaults

    try:
        raise Exit(Router(prepare(), file=file, watch=watch).serve(say))
    except ConfigFaults as error:
        print_faults(error.faults, sys.stderr)
        raise Exit(2) from error
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _log(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; never ends in a traceback unless one was asked for.

    Args:
        arguments: without the program's name; those of the process if None.
    """
    code = _guarded(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on. The interpreter would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _guarded(arguments: Sequence[str] | None) -> int:
    try:
        return _run(arguments)
    except SystemExit as end:  # shell completion, a closed pipe, and `router` alone end this way
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        return 1
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except Exception as error:
        return _internal_error(error)


def _run(arguments: Sequence[str] | None) -> int:
    coloured = is_coloured(sys.stdout)
    router.context_settings["rich_help_config"] = {
        "force_terminal": coloured,
        "color_system": "auto" if coloured else None,
    }
    try:
        code = router.main(arguments, "router", "_ROUTER_COMPLETE", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "router"
        say(f"router: {error.format_message()}\nTry '{command} --help'.")
        return error.exit_code
    except click.ClickException as error:
        say(f"router: {error.format_message()}")
        return error.exit_code
    return code if isinstance(code, int) else 0


def _internal_error(error: Exception) -> int:
    if os.environ.get("ROUTER_DEBUG") or logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("router").critical("internal error", exc_info=error)
        return 1
    text = " ".join(str(error).split())
    say(f"router: internal error: {type(error).__name__}: {text}")
    say("--log-level debug or ROUTER_DEBUG=1 shows the traceback.")
    return 1
