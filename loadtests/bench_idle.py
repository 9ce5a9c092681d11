"""Memory per idle keep-alive connection.

Each proxy is started afresh for it: memory that load left behind would be used again and hide the cost.
"""

import contextlib
import http.client
import time

from bench_procs import BenchError
from bench_rounds import Up
from bench_usage import rss_bytes

#: Opened before the first reading, so that what is loaded on first use is not counted.
WARM_UP = 50
#: Seconds before each reading.
SETTLE = 0.5


def bytes_per_connection(up: Up, count: int) -> float:
    """Promises the growth of resident memory over `count` open connections of one request each, per connection.

    Raises:
        BenchError: a connection was refused, closed or answered with anything but 200.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(WARM_UP):
            stack.enter_context(contextlib.closing(_idle(up)))
        time.sleep(SETTLE)
        before = rss_bytes(up.process.session)
        for _ in range(count):
            stack.enter_context(contextlib.closing(_idle(up)))
        time.sleep(SETTLE)
        return (rss_bytes(up.process.session) - before) / count


def _idle(up: Up) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", up.peer.port, timeout=5)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise BenchError(f"{up.peer.name}: an idle connection failed: {error!r}") from error
    if response.status != 200 or connection.sock is None:
        connection.close()
        raise BenchError(f"{up.peer.name}: status {response.status}, or it closed a keep-alive connection")
    return connection
