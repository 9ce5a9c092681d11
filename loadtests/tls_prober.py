"""The prober of certificates that are issued and renewed: a handshake and a plain request, again and again.

    python tls_prober.py TLS_PORT PLAIN_PORT NAME ROOTS FILE

ROOTS is a file of authorities, read anew each time; chain, name and time are verified. Prints `ready`, goes on until
SIGTERM, and writes a line of JSON for each handshake into FILE at once, and for each request into the one beside it.
"""

import contextlib
import http.client
import json
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from fault_client import HOST
from tls_house import shaken, trusting
from tls_report import DOWN, OK, Probe

#: Seconds from one handshake to the next; seconds that it may take.
EVERY, PATIENCE = 0.1, 3.0


def beside(file: Path) -> Path:
    """Promises the file of plain requests."""
    return file.with_suffix(".plain")


def probed(port: int, name: str, roots: Path) -> Probe:
    """Makes one handshake; what goes wrong is told, never raised."""
    begun = time.monotonic()
    try:
        with shaken(port, trusting(roots), name, PATIENCE) as sock:
            return Probe(begun, str((sock.getpeercert() or {}).get("serialNumber", "")), OK)
    except (ConnectionError, ssl.SSLEOFError):
        return Probe(begun, "", DOWN)
    except OSError as error:
        return Probe(begun, "", f"{type(error).__name__}: {error}")


def asked(port: int) -> Probe:
    """Makes one plain request; what goes wrong is told, never raised."""
    begun, connection = time.monotonic(), http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        with contextlib.closing(connection):
            connection.request("GET", "/200")
            response = connection.getresponse()
            response.read()
    except (ConnectionError, http.client.HTTPException):
        return Probe(begun, "", DOWN)
    except OSError as error:
        return Probe(begun, "", f"{type(error).__name__}: {error}")
    return Probe(begun, "", OK if response.status == 200 else f"status {response.status}")


def main(port: str, plain: str, name: str, roots: str, file: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print("ready", flush=True)
    with Path(file).open("w") as seen, beside(Path(file)).open("w") as answered:
        every: list[tuple[TextIO, Callable[[], Probe]]] = [
            (seen, lambda: probed(int(port), name, Path(roots))),
            (answered, lambda: asked(int(plain))),
        ]
        while not stop.wait(EVERY):
            for out, look in every:
                print(json.dumps(look()), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
