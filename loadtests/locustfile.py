"""Visitors of a shop behind a router, for locust: they browse, fill carts, upload, talk over WebSocket, read slowly.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8080

The servers are those of upstream.py. Beside requests, the statistics tell who answered those that are bound to no
session ("server one"), where sessions began and how they went ("sessions kept", "sessions broken"). A broken session
is a failure.
Traces begin here with --trace URL. What is pure stands in load_sessions.py.
"""

import contextlib
import csv
import json
import os
import random
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import websocket
from load_sessions import KINDS, Session, figures, server_of, summary
from load_tracing import Span, Tracing, tracing
from locust import FastHttpUser, between, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

#: Bytes of the bodies that are posted.
SIZES = (100, 1 << 10, 16 << 10, 128 << 10)
#: Seconds until a request counts as failed.
PATIENCE = 15.0
#: Requests of a session, and messages of a WebSocket connection.
VISITS, MESSAGES = (4, 12), (2, 6)
#: A slow reader's body, its piece, and seconds between two pieces.
SLOW_BYTES, PIECE, PAUSE = 512 << 10, 64 << 10, 0.1


class State:
    """What the users of this process share; locust makes the users, so it cannot be handed to them."""

    environment: Environment
    tracing = Tracing()


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    hidden = {"include_in_web_ui": False}
    parser.add_argument("--trace", default="", metavar="URL", help="OTLP receiver that spans go to", **hidden)
    parser.add_argument("--trace-ratio", type=float, default=1.0, help="share of requests that are traced", **hidden)
    parser.add_argument("--figures", default="", metavar="FILE", help="write all figures there, as JSON", **hidden)


@events.init.add_listener
def keep_environment(environment: Environment, **_: Any) -> None:
    State.environment = environment


@events.test_start.add_listener
def start_tracing(environment: Environment, **_: Any) -> None:
    # Not earlier: workers are forked off first, and threads do not survive that.
    if not isinstance(environment.runner, MasterRunner):
        options = environment.parsed_options
        State.tracing = tracing("locust", options.trace, options.trace_ratio)


@events.quitting.add_listener
def stop_tracing(environment: Environment, **_: Any) -> None:
    State.tracing.close()


@events.quit.add_listener
def tell(**_: Any) -> None:
    environment = State.environment
    if isinstance(environment.runner, WorkerRunner):
        return
    found = figures(environment.stats)
    found["exceptions"] = sum(each["count"] for each in environment.runner.exceptions.values())
    print(summary(found))
    if prefix := environment.parsed_options.csv_prefix:
        # Once more: locust's own writer ends before the last requests do.
        with Path(f"{prefix}_stats.csv").open("w", newline="") as file:
            StatsCSV(environment, PERCENTILES_TO_REPORT).requests_csv(csv.writer(file))
    if environment.parsed_options.figures:
        Path(environment.parsed_options.figures).write_text(json.dumps(found, indent=2) + os.linesep)


@events.request.add_listener
def count_server(response: Any, response_time: float, exception: Any, context: dict[str, Any], **_: Any) -> None:
    name = context.get("server") or server_of(response)
    if name and not context.get("session"):
        count("SERVER", name, response_time, exception)


def count(kind: str, name: str, milliseconds: float = 0, failed: object = None) -> None:
    """Counts in a row of its own, which is no part of the sum of all requests."""
    entry = State.environment.stats.get(KINDS[kind] + name, kind)
    entry.log(round(milliseconds), 0)
    if failed:
        entry.log_error(failed)


class Shopper(FastHttpUser):
    """What all visitors have in common."""

    abstract = True
    wait_time = between(0.02, 0.2)
    network_timeout = connection_timeout = PATIENCE

    @contextlib.contextmanager
    def ask(self, method: str, path: str, name: str, **options: Any) -> Iterator[Any]:
        """Sends a request within a span of its own; the answer may be failed by the caller."""
        with (
            State.tracing.client(method, name, f"{self.host}{path}") as span,
            self.client.request(
                method, path, name=name, headers=dict(span.headers), catch_response=True, **options
            ) as response,
        ):
            yield response
            _note(span, response.status_code)


def _note(span: Span, status: int) -> None:
    if status:
        span.status(status)
    else:
        span.failed("no answer")


class Browse(Shopper):
    """Looks at pages."""

    weight = 5

    @task(1)
    def first(self) -> None:
        with self.ask("GET", "/", "/"):
            pass

    @task(4)
    def item(self) -> None:
        with self.ask("GET", f"/items/{random.randrange(1000)}", "/items/N"):
            pass


class Cart(Shopper):
    """Puts things into a cart, and sees whether all of them are there and whether the server is still the same."""

    weight = 4

    def on_start(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.client.cookiejar.clear()
        self.session = Session(random.randint(*VISITS))
        self.began = time.monotonic()

    @task(2)
    def add(self) -> None:
        self.visit("POST", adds=1)

    @task(1)
    def look(self) -> None:
        self.visit("GET", adds=0)

    def visit(self, method: str, adds: int) -> None:
        with self.ask(method, "/cart", "/cart", context={"session": True}) as response:
            if response.status_code != 200:
                self.session.failed(adds)
            else:
                new = not self.session.server
                broken = self.session.answered(server_of(response), response.content, adds)
                if new and self.session.server:
                    count("BEGUN", self.session.server)
                if broken:
                    response.failure(f"broken session: {broken}")
        if self.session.over:
            if self.session.verdict:
                count("SESSION", self.session.verdict, (time.monotonic() - self.began) * 1000)
            self.begin()


class Upload(Shopper):
    """Posts bodies, which must come back as they were."""

    weight = 2

    @task
    def echo(self) -> None:
        size = random.choice(SIZES)
        body = random.randbytes(min(size, 1024)) * max(1, size // 1024)
        name = f"/echo {size >> 10} KiB" if size >= 1024 else f"/echo {size} bytes"
        with self.ask("POST", "/echo", name, data=body) as response:
            if response.status_code == 200 and response.content != body:
                response.failure("the body came back changed")


class Slow(Shopper):
    """Takes its time to read."""

    weight = 1

    @task
    def read(self) -> None:
        path = f"/slow-body?bytes={SLOW_BYTES}&seconds=0"
        with self.ask("GET", path, "/slow-body", stream=True) as response:
            got = 0
            for piece in response.iter_content(PIECE, decode_content=False) if response.status_code else ():
                got += len(piece)
                gevent.sleep(PAUSE)
            if response.status_code == 200 and got != SLOW_BYTES:
                response.failure("the body broke off")


class Sockets(Shopper):
    """Opens a WebSocket and talks a little; each message must come back."""

    weight = 1

    @task
    def talk(self) -> None:
        url = f"ws{str(self.host).removeprefix('http')}/ws"
        with State.tracing.client("GET", "/ws", url) as span:
            talk: Any = None
            try:
                with self.timed("/ws handshake") as facts:
                    talk = _opened(url, span)
                    facts["context"]["server"] = talk.headers.get("x-upstream", "")
                    span.status(talk.getstatus())
                for place in range(random.randint(*MESSAGES)):
                    with self.timed("/ws message"):
                        _said(talk, f"message {place} " + "." * random.randrange(1000))
                    gevent.sleep(0.05)
            except (OSError, websocket.WebSocketException) as error:
                span.failed(type(error).__name__)
            finally:
                if talk is not None:
                    talk.close(timeout=1)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[dict[str, Any]]:
        """Makes a request of locust's of what is done inside; an error is noted and goes on."""
        facts: dict[str, Any] = {"request_type": "WS", "name": name, "response": None, "context": {}}
        began, failed = time.perf_counter(), None
        try:
            yield facts
        except (OSError, websocket.WebSocketException) as error:
            failed = error
            raise
        finally:
            took = (time.perf_counter() - began) * 1000
            self.environment.events.request.fire(**facts, response_time=took, response_length=0, exception=failed)


def _opened(url: str, span: Span) -> websocket.WebSocket:
    # As FastHttpUser does: the certificate of a test is nobody's business.
    return websocket.create_connection(
        url, timeout=PATIENCE, header=dict(span.headers), sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    )


def _said(talk: websocket.WebSocket, text: str) -> None:
    talk.send(text)
    if talk.recv() != text:
        raise websocket.WebSocketPayloadException("the message came back changed")
