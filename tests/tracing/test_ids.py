"""Which span ids requests get: 16 digits, and none twice in one trace."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

from router_tracing.options import TracingOptions
from router_tracing.tokens import new_span_id
from router_tracing.tracing import Tracing

from router import Exchange, Tools
from router.testing import make_exchange

DIGITS = re.compile("[0-9a-f]{16}")


def test_ids_are_whole_and_differ() -> None:
    found = [new_span_id() for _ in range(1000)]
    assert all(map(DIGITS.fullmatch, found))
    assert len({*found}) == 1000


def test_requests_in_another_observers_trace_have_ids_of_their_own() -> None:
    options = TracingOptions(export="none", sampling="never", keep=("errors",))
    tracing = Tracing(options, Tools(time.monotonic, random.Random(1), Path()))

    def begun() -> Exchange:
        exchange = make_exchange()
        exchange.trace_id = "ab" * 16
        return exchange

    one, other = (tracing.request_started(begun()) for _ in range(2))
    assert DIGITS.fullmatch(one.span_id)
    assert DIGITS.fullmatch(other.span_id)
    assert one.span_id != other.span_id
