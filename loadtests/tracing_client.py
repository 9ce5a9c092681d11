"""The client of tracing.py: that of faults.py, whose every request belongs to a trace of its own that is sampled.

    python tracing_client.py PORT LABEL GETS POSTS RATE FILE [MOST]

Ids follow from the request's key (`tracing_spans.ids_of`). It ends at SIGTERM, or by itself after MOST requests.
"""

import asyncio
import json
import signal
import sys
import time
from asyncio import StreamWriter
from pathlib import Path

from fault_client import Answer, Load, Seen, Wire
from tracing_spans import parent_of


class Traced(Load):
    """Requests that carry a `traceparent`."""

    async def _ask(self, wire: Wire, writer: StreamWriter, method: str, key: str) -> tuple[str, Answer | None]:
        # The head is made before anything is waited for, so connections do not get each other's field.
        self.field = f"traceparent: {parent_of(key)}\r\n"
        return await super()._ask(wire, writer, method, key)


async def run(port: int, label: str, gets: int, posts: int, rate: float, most: int) -> list[Seen]:
    load = Traced(port, label, rate, most=most)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop.set)
    methods = ["GET"] * gets + ["POST"] * posts
    start = time.monotonic() + 0.02
    everybody = [
        asyncio.ensure_future(load.connection(number, method, start + load.pause * number / len(methods)))
        for number, method in enumerate(methods)
    ]
    print("ready", flush=True)
    await asyncio.gather(*everybody)
    return load.seen


def main(words: list[str]) -> None:
    port, label, gets, posts, rate, file, *most = words
    seen = asyncio.run(run(int(port), label, int(gets), int(posts), float(rate), int(most[0]) if most else 0))
    Path(file).write_text("".join(json.dumps(each) + "\n" for each in seen))


if __name__ == "__main__":
    main(sys.argv[1:])
