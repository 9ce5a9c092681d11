"""The buffer, its thread, and what the log hears; then with a receiver that is slow, away, or never answers."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import random
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from router_tracing.otlp import OtlpHttp, Target
from router_tracing.otlp_encode import Encoder
from router_tracing.reports import Reports
from router_tracing.sender import BATCH_BYTES, Sender, size_of
from router_tracing.span import Event, Span

_spec = importlib.util.spec_from_file_location("otlp_receiver", Path(__file__).with_name("otlp_receiver.py"))
assert _spec is not None
assert _spec.loader is not None
otlp_receiver = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(otlp_receiver)
Receiver = otlp_receiver.Receiver

PATIENCE = 15.0
#: Long enough to be waited for by nobody.
NEVER = 3600.0
TRACE = "0af7651916cd43dd8448eb211c80319c"


def make_span(number: int = 0, text: str = "") -> Span:
    attributes = (("http.request.method", "GET"), ("lb.attempts", 1), ("text", text))
    return Span(TRACE, f"{number + 1:016x}", "", f"{number}", "server", 10**18, 10**18 + 5, attributes)


def make_spans(count: int, start: int = 0) -> list[Span]:
    return [make_span(number) for number in range(start, start + count)]


def wait(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


class Scripted:
    """An exporter that answers as told: "taken" unless `answers` has something left."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.batches: list[list[Span]] = []
        self.tried: list[tuple[float, list[Span]]] = []
        self.closed = 0
        self.threads: set[str] = set()
        self.retry_after, self.too_large, self.rejected = 0.0, False, 0
        self.most = 10**9
        self.held = threading.Event()
        self.held.set()

    def export(self, spans: list[Span]) -> tuple[Any, str]:
        self.tried.append((time.monotonic(), list(spans)))
        self.threads.add(threading.current_thread().name)
        self.held.wait(PATIENCE)
        self.too_large = len(spans) > self.most
        verdict = "refused" if self.too_large else self.answers.pop(0) if self.answers else "taken"
        if verdict == "raise":
            raise RuntimeError("a fault")
        if verdict == "taken":
            self.batches.append(spans)
        return verdict, "" if verdict == "taken" else "scripted"

    def close(self) -> None:
        self.closed += 1
        self.threads.add(threading.current_thread().name)

    @property
    def names(self) -> list[str]:
        return [span.name for batch in self.batches for span in batch]


@contextmanager
def sending(exporter: Any, **options: Any) -> Iterator[Sender]:
    """A sender under way, that tries again at once rather than after half a second."""
    sender = Sender(exporter, **{"delay": NEVER, "first": 0.002, "longest": 0.01, **options})
    sender.start()
    yield sender
    sender.close(5.0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.exc_info is None for record in caplog.records)
    return [record.getMessage() for record in caplog.records if record.name == "router_tracing"]


# When batches go, and of what size.


def test_a_full_batch_is_sent_at_once_and_no_less() -> None:
    exporter = Scripted()
    with sending(exporter, batch=4) as sender:
        sender.put(make_spans(3))
        assert exporter.tried == []
        sender.put(make_spans(1, start=3))
        wait(lambda: sender.sent == 4)
        sender.put(make_spans(2, start=4))
        assert (sender.sent, sender.waiting, sender.dropped) == (4, 2, 0)
    assert exporter.names == list("012345")
    assert exporter.threads == {"router-tracing"}
    assert exporter.closed == 1


def test_fewer_are_sent_after_the_delay() -> None:
    exporter = Scripted()
    with sending(exporter, delay=0.02) as sender:
        for number in range(3):
            sender.put(make_spans(1, start=number))
            wait(lambda number=number: sender.sent == number + 1)  # type: ignore[misc]
    assert exporter.names == list("012")


def test_batches_hold_whole_requests_and_no_more_than_told() -> None:
    exporter = Scripted()
    sender = Sender(exporter, batch=10)
    for start in range(0, 30, 3):
        sender.put(make_spans(3, start))
    sender.start()
    sender.close(5.0)
    assert [len(batch) for batch in exporter.batches] == [9, 9, 9, 3]
    assert exporter.names == [str(number) for number in range(30)]


def test_a_request_with_more_spans_than_a_batch_stays_whole() -> None:
    exporter = Scripted()
    with sending(exporter, batch=4) as sender:
        sender.put(make_spans(9))
        wait(lambda: sender.sent == 9)
    assert [len(batch) for batch in exporter.batches] == [9]


def test_a_batch_is_bounded_in_bytes_too() -> None:
    exporter = Scripted()
    sender = Sender(exporter, batch=512)
    for number in range(40):
        sender.put([make_span(number, text="x" * 100_000)])
    sender.start()
    sender.close(5.0)
    assert max(size_of(batch) for batch in exporter.batches) < BATCH_BYTES + 200_000
    assert sum(map(len, exporter.batches)) == 40


def test_an_empty_put_is_nothing() -> None:
    exporter = Scripted()
    with sending(exporter) as sender:
        sender.put([])
    assert exporter.batches == []


# Without room.


def test_the_newest_are_dropped_whole_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted()
    sender = Sender(exporter, most=10, batch=4)
    for start in range(0, 30, 3):
        sender.put(make_spans(3, start))
    assert (sender.waiting, sender.dropped, sender.sent) == (9, 21, 0)
    sender.put(make_spans(1, 30))
    assert (sender.waiting, sender.dropped) == (10, 21)
    sender.start()
    sender.close(5.0)
    assert exporter.names == [*map(str, range(9)), "30"]
    assert (sender.waiting, sender.dropped, sender.sent) == (0, 21, 10)
    said = lines(caplog)
    assert said[0].startswith("spans are dropped: ")
    assert said[1:] == ["21 spans were dropped while too many waited"]


def test_bytes_are_bounded() -> None:
    sender = Sender(Scripted(), most_bytes=1_000_000)
    for number in range(30):
        sender.put([make_span(number, text="x" * 100_000)])
    assert (sender.waiting, sender.dropped) == (9, 21)


def test_room_comes_back_with_what_is_sent() -> None:
    exporter = Scripted()
    with sending(exporter, most=4, batch=2, most_bytes=size_of(make_spans(5))) as sender:
        for number in range(50):
            wait(lambda: sender.waiting < 4)
            sender.put(make_spans(1, number))
    assert exporter.names == [str(number) for number in range(50)]
    assert sender.dropped == 0


def _with(*attributes: tuple[str, Any], events: tuple[Event, ...] = (), state: str = "", number: int = 0) -> Span:
    ids = f"{number:032x}", f"{number:016x}", f"{-number:016x}"
    common = (("key", "value"),) * 11
    times = 10**18 + number, 10**18 + number + 1
    return Span(*ids, "GET", "server", *times, (*common, *attributes), events, None, False, state, common)


SHAPES: dict[str, Callable[[int], Span]] = {
    "bare": lambda n: _with(number=n),
    "usual": lambda n: _with(*((f"key {key}", f"value {n} {key} " * 3) for key in range(8)), number=n),
    "numbers": lambda n: _with(*((f"key {key}", 10**6 + 12 * n + key) for key in range(12)), number=n),
    "long": lambda n: _with(("path", f"{n:08192}"), number=n),
    "short, four bytes a character": lambda n: _with(
        *((f"key {key}", f"{n} {key}" + "\U0001f600" * 12) for key in range(8)), number=n
    ),
    "two bytes a character": lambda n: _with(("path", f"{n}" + "\u3042" * 1000), number=n),
    "one that makes all others wide": lambda n: _with(("path", f"{n:02000}\U0001f600"), number=n),
    "state": lambda n: _with(state=f"{n:0512}", number=n),
    "events": lambda n: _with(events=tuple(Event(10**18 + 50 * n + at, "queued") for at in range(50)), number=n),
    "events that say more": lambda n: _with(
        events=tuple(
            Event(10**18 + 50 * n + at, "retry", (("lb.seconds", n / (at + 7)), ("lb.reason", f"{n:0300} {at}")))
            for at in range(50)
        ),
        number=n,
    ),
}


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_sizes_are_about_the_memory_that_spans_take(make: Callable[[int], Span]) -> None:
    make(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        spans = [make(number) for number in range(1000, 1200)]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken * 0.8 < size_of(spans) < taken * 1.6


def test_what_spans_share_is_not_counted() -> None:
    common = (("key", "value" * 1000),)
    alone, shared = (Span(TRACE, "1" * 16, "", "x", "server", 1, 2, common, common=own) for own in ((), common))
    assert size_of([alone]) > 5000 > size_of([shared])


# An exporter that is away, or refuses.


def test_a_batch_is_sent_again_until_it_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted(*["later"] * 6)
    with sending(exporter, batch=2) as sender:
        sender.put(make_spans(2))
        sender.put(make_spans(2, 2))
        wait(lambda: sender.sent == 4)
    assert exporter.names == list("0123")
    assert sender.dropped == 0
    said = lines(caplog)
    assert said[0] == "spans are not taken (scripted): they wait in memory, and are sent again"
    assert said[1].startswith("spans are taken again, after ")
    assert len(said) == 2


def test_one_failure_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted("later")
    with sending(exporter, batch=1) as sender:
        sender.put(make_spans(1))
        wait(lambda: sender.sent == 1)
    assert lines(caplog) == []


def test_the_waits_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    exporter = Scripted(*["later"] * 7)
    sender = Sender(exporter, batch=1, rng=random.Random(1))
    monkeypatch.setattr(sender, "_rest", waits.append)
    sender.put(make_spans(1))
    sender.start()
    wait(lambda: sender.sent == 1)
    sender.close(5.0)
    for waited, full in zip(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0], strict=True):
        assert 0.8 * full <= waited <= 1.2 * full
    assert len({waited / full for waited, full in zip(waits, [0.5, 1, 2, 4, 8, 15, 15], strict=True)}) == 7


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (86400.0, 60.0)])
def test_the_receiver_is_spared_as_long_as_it_asks_within_bounds(
    asked: float, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    exporter = Scripted("later")
    exporter.retry_after = asked
    sender = Sender(exporter, batch=1)
    monkeypatch.setattr(sender, "_rest", waits.append)
    sender.put(make_spans(1))
    sender.start()
    wait(lambda: sender.sent == 1)
    sender.close(5.0)
    assert waits == [waited]


@pytest.mark.parametrize("verdict", ["refused", "raise"])
def test_what_is_refused_is_dropped_counted_and_said_once(verdict: str, caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted(verdict, verdict, "taken", verdict)
    with sending(exporter, batch=2) as sender:
        for start in range(0, 8, 2):
            sender.put(make_spans(2, start))
            wait(lambda: sender.waiting == 0)
    assert exporter.names == list("45")
    assert (sender.sent, sender.dropped) == (2, 6)
    why = "scripted" if verdict == "refused" else "RuntimeError in the exporter"
    assert lines(caplog) == [
        f"spans are dropped: they are refused ({why})",
        "6 spans were dropped while they were refused",
    ]


def test_a_batch_that_is_too_large_is_halved_and_the_next_are_smaller() -> None:
    exporter = Scripted()
    exporter.most = 3
    with sending(exporter, batch=16, delay=0.02) as sender:
        for number in range(16):
            sender.put(make_spans(1, number))
        wait(lambda: sender.sent == 16)
        tries = len(exporter.tried)
        for number in range(16, 24):
            sender.put(make_spans(1, number))
        wait(lambda: sender.sent == 24)
        assert all(len(spans) <= 3 for _, spans in exporter.tried[tries:])
    assert exporter.names == [str(number) for number in range(24)]
    assert sender.dropped == 0


def test_one_span_that_is_too_large_is_dropped_alone() -> None:
    exporter = Scripted()
    exporter.most = 0
    with sending(exporter, batch=4) as sender:
        sender.put(make_spans(4))
        wait(lambda: sender.dropped == 4)
    assert (sender.sent, sender.waiting) == (0, 0)


def test_what_the_receiver_did_not_keep_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted()
    exporter.rejected = 3
    with sending(exporter, batch=4) as sender:
        sender.put(make_spans(4))
        wait(lambda: sender.waiting == 0)
    assert (sender.sent, sender.dropped) == (1, 3)
    assert lines(caplog)[1:] == ["3 spans were dropped while the receiver kept only some"]


# The end.


def test_an_end_is_held_up_by_no_exporter(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted()
    exporter.held.clear()
    sender = Sender(exporter, batch=2)
    sender.start()
    sender.put(make_spans(2))
    wait(lambda: exporter.tried)
    sender.put(make_spans(3, 2))
    sender.close(0.05)
    assert (sender.sent, sender.waiting, sender.dropped) == (0, 0, 5)
    assert lines(caplog) == ["5 spans were dropped: they were not taken before the end"]
    sender.put(make_spans(1))
    sender.close(0.05)
    assert (sender.waiting, sender.dropped) == (0, 6)
    exporter.held.set()
    wait(lambda: exporter.closed == 1)
    assert (sender.sent, sender.waiting, sender.dropped) == (0, 0, 6)
    assert len(exporter.tried) == 1


def test_an_end_during_an_outage_tries_again_while_there_is_time() -> None:
    exporter = Scripted("later", "later", "later", "later")
    sender = Sender(exporter, batch=2, first=0.01, longest=NEVER)
    exporter.retry_after = 50.0
    sender.start()
    sender.put(make_spans(2))
    wait(lambda: exporter.tried)
    sender.put(make_spans(1, 2))
    sender.close(5.0)
    assert exporter.names == list("012")
    assert (sender.sent, sender.dropped) == (3, 0)


def test_an_end_during_an_outage_that_lasts() -> None:
    exporter = Scripted(*["later"] * 10_000)
    sender = Sender(exporter, batch=2, first=0.01)
    sender.start()
    sender.put(make_spans(5))
    wait(lambda: exporter.tried)
    sender.close(0.1)
    assert (sender.sent, sender.dropped) == (0, 5)
    wait(lambda: exporter.closed == 1)


def test_the_end_says_what_nobody_had_said_yet(caplog: pytest.LogCaptureFixture) -> None:
    """The thread that would have said it hangs."""
    exporter = Scripted()
    exporter.held.clear()
    sender = Sender(exporter, batch=2, most=4)
    sender.start()
    for start in range(0, 20, 2):
        sender.put(make_spans(2, start))
    sender.close(0.05)
    exporter.held.set()
    assert lines(caplog)[1:] == [
        "16 spans were dropped while too many waited",
        "4 spans were dropped: they were not taken before the end",
    ]
    assert (sender.sent, sender.dropped) == (0, 20)


def test_an_end_without_a_start() -> None:
    exporter = Scripted()
    sender = Sender(exporter)
    sender.put(make_spans(2))
    sender.close(1.0)
    assert (exporter.closed, exporter.tried, sender.dropped) == (1, [], 2)


async def test_the_loop_runs_while_the_end_is_awaited() -> None:
    exporter = Scripted()
    exporter.held.clear()
    sender = Sender(exporter, batch=1)
    sender.start()
    sender.put(make_spans(1))
    ending = asyncio.create_task(sender.aclose(5.0))
    await asyncio.sleep(0.01)
    assert not ending.done()
    exporter.held.set()
    await ending
    assert sender.sent == 1


# What the log hears.


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_loss_is_said_once_and_again_with_its_count_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    reports = Reports(clock, quiet=30)
    for _ in range(50):
        reports.lost(2, "it rained", "it rains")
        clock.now += 29
        reports.settle()
    assert lines(caplog) == ["spans are dropped: it rains"]
    clock.now += 1
    reports.settle()
    reports.settle()
    assert lines(caplog)[1:] == ["100 spans were dropped while it rained"]
    reports.lost(1, "it rained")
    reports.end(0)
    assert lines(caplog)[2:] == ["spans are dropped: it rained", "1 spans were dropped while it rained"]


def test_drops_are_said_during_the_outage(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Scripted(*["later"] * 10_000)
    with sending(exporter, batch=2, most=4) as sender:
        sender.put(make_spans(4))
        sender.put(make_spans(4))
        wait(lambda: any("4 wait already" in line for line in lines(caplog)))
        exporter.answers.clear()
        wait(lambda: sender.sent == 4)
    assert lines(caplog)[-1] == "4 spans were dropped while too many waited"
    assert all(record.levelno == logging.WARNING for record in caplog.records if record.name == "router_tracing")


# With a receiver.


def over_http(receiver: Any, timeout: float = 10.0) -> OtlpHttp:
    return OtlpHttp(Target(endpoint=receiver.endpoint, timeout=timeout), Encoder({"service.name": "r"}, ("s", "1")))


def test_every_span_arrives_once_and_in_order() -> None:
    with Receiver() as receiver:
        sender = Sender(over_http(receiver), batch=200, delay=NEVER)
        sender.start()
        for start in range(0, 3000, 3):
            sender.put(make_spans(3, start))
        sender.close(PATIENCE)
        assert [span["name"] for span in receiver.spans] == [str(number) for number in range(3000)]
    assert (sender.sent, sender.dropped, sender.waiting) == (3000, 0, 0)


@pytest.mark.parametrize("mode", ["503", "429", "cut", "hang"])
def test_a_receiver_that_comes_back_gets_every_span(mode: str) -> None:
    with Receiver() as receiver:
        receiver.mode = mode
        with sending(over_http(receiver, timeout=0.1), batch=30) as sender:
            for start in range(0, 300, 3):
                sender.put(make_spans(3, start))
            wait(lambda: receiver.requests >= 3)
            assert (sender.sent, sender.waiting, sender.dropped) == (0, 300, 0)
            receiver.mode = "ok"
            receiver.wait(300)
        assert [span["name"] for span in receiver.spans] == [str(number) for number in range(300)]


def test_a_receiver_that_is_not_there_yet() -> None:
    """Its port is held by a socket that nobody listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        exporter = OtlpHttp(Target(endpoint=f"http://127.0.0.1:{port}/v1/traces"), Encoder({}, ("s", "1")))
        sender = Sender(exporter, batch=3, first=0.002, longest=0.01)
        sender.start()
        sender.put(make_spans(3))
        verdict = exporter.export(make_spans(1))
        place.close()
        with Receiver(port=port) as receiver:
            receiver.wait(3)
            sender.close(5.0)
            assert [span["name"] for span in receiver.spans] == list("012")
    assert verdict == ("later", "Connection refused")


def test_a_receiver_that_restarts_between_batches() -> None:
    """The connection that was kept is dead; that costs a try, and no span."""
    with Receiver() as receiver:
        port = receiver.port
        sender = Sender(over_http(receiver), batch=3, first=0.002, longest=0.01)
        sender.start()
        sender.put(make_spans(3))
        receiver.wait(3)
    sender.put(make_spans(3, 3))
    with Receiver(port=port) as again:
        again.wait(3)
        sender.close(5.0)
        assert [span["name"] for span in again.spans] == list("345")
    assert (sender.sent, sender.dropped) == (6, 0)


def test_memory_stays_bounded_while_a_receiver_hangs() -> None:
    with Receiver() as receiver:
        receiver.mode = "hang"
        sender = Sender(over_http(receiver, timeout=0.05), first=0.002, longest=0.01)
        sender.start()
        tracemalloc.start()
        try:
            for number in range(3000):
                sender.put([make_span(number, text=f"{number}" * 3000) for _ in range(3)])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sender.close(0.05)
    assert sender.dropped == 9000
    assert peak < 40 * 1024 * 1024
