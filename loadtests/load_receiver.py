"""A small receiver of spans: OTLP over HTTP in protobuf, kept in memory up to a number, given back as JSON.

    python loadtests/load_receiver.py --port 4318 --most 50000

POST /v1/traces takes spans, GET /spans.json gives all of them. Needs aiohttp and opentelemetry-proto.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web
from google.protobuf.message import DecodeError
from load_options import number
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

#: Bytes of one batch.
LARGEST = 16 << 20


class Receiver:
    """Keeps so many spans; those that come later are counted and dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spans: list[dict[str, Any]] = []
        self._dropped = 0

    async def take(self, request: web.Request) -> web.Response:
        if request.content_type != "application/x-protobuf":
            return web.Response(status=415, text="only application/x-protobuf\n")
        batch = ExportTraceServiceRequest()
        try:
            batch.ParseFromString(await request.read())
        except DecodeError:
            return web.Response(status=400, text="this is no ExportTraceServiceRequest\n")
        for span in spans_of(batch):
            if len(self._spans) < self._most:
                self._spans.append(span)
            else:
                self._dropped += 1
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    async def show(self, _request: web.Request) -> web.Response:
        text = json.dumps({"spans": self._spans, "dropped": self._dropped})
        return web.Response(text=text, content_type="application/json")


def spans_of(batch: ExportTraceServiceRequest) -> Iterator[dict[str, Any]]:
    """Promises each span of a batch as plain data; times in nanoseconds since the epoch, ids in hexadecimal."""
    for group in batch.resource_spans:
        service = _plain(group.resource.attributes).get("service.name", "")
        for span in (span for scope in group.scope_spans for span in scope.spans):
            yield {
                "service": service,
                "trace": span.trace_id.hex(),
                "span": span.span_id.hex(),
                "parent": span.parent_span_id.hex(),
                "name": span.name,
                "start": span.start_time_unix_nano,
                "end": span.end_time_unix_nano,
                "error": span.status.code == span.status.STATUS_CODE_ERROR,
                "attributes": _plain(span.attributes),
                "events": [event.name for event in span.events],
            }


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in attributes}


async def serve(port: int, most: int) -> None:
    """Serves until SIGTERM or SIGINT. Raises OSError if it cannot listen."""
    receiver, loop, ended = Receiver(most), asyncio.get_running_loop(), asyncio.Event()
    app = web.Application(client_max_size=LARGEST)
    app.add_routes([web.post("/v1/traces", receiver.take), web.get("/spans.json", receiver.show)])
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await ended.wait()
    finally:
        await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code: 0 ended as asked, 1 it could not listen, 2 a wrong option."""
    made = argparse.ArgumentParser(prog="load_receiver.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--port", type=number(1, 65535), default=4318, help="of 127.0.0.1 (default 4318)")
    made.add_argument("--most", type=number(1, 1 << 20), default=50_000, help="spans that are kept (default 50000)")
    args = made.parse_args(argv)
    try:
        asyncio.run(serve(args.port, args.most))
    except OSError as error:
        print(f"load_receiver.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
