"""The house of affinity.py: servers that can be killed one by one, a router in front, and clients that have jars.

What is done there, and what must hold meanwhile, stands in affinity_scenarios.py and affinity_cost.py.
"""

import contextlib
import http.client
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from affinity_client import Forgery, Visits
from bench_procs import BenchError, Running
from change_house import Site
from fault_client import HOST
from fault_house import HERE, PATIENCE, House, is_out


class Pace(NamedTuple):
    """How much of everything."""

    visits: Visits
    #: Seconds in which nothing changes.
    phase: float
    mutations: int
    #: Different ids, entries of the table, and seconds of load between two readings of memory.
    ids: int
    entries: int
    chunk: int
    #: Seconds and number of the rounds in which CPU is measured.
    seconds: int
    rounds: int


FULL = Pace(Visits(200, 0.1, 50, 4), 2.4, 10_000, 1_000_000, 100_000, 2, 1, 45)
QUICK = Pace(Visits(60, 0.1, 20, 8), 0.8, 500, 120_000, 30_000, 1, 1, 6)


class Abode(Site):
    """A house whose visitors have a jar."""

    def serve_apart(self, count: int) -> None:
        """Starts each server as a process of its own, so that one can be killed alone."""
        House.serve(self, *[1] * count)
        self.addresses = {server.name: server.addresses[0] for server in self.servers}

    def clients(self, what: str, plan: Visits | Forgery) -> tuple[Running, Path]:
        """Starts clients, which end by themselves and then have written the file."""
        file = self.folder / f"{what}.seen"
        script = [sys.executable, str(HERE / "affinity_client.py"), what, str(self.port), str(file)]
        running = self.fleet.start(what, [*self.pins.load, *script, json.dumps(plan._asdict())])
        self.wait_for("ready", running)
        return running, file

    def told(self, running: Running, file: Path, seconds: float) -> list[Any]:
        """Waits for clients to end; promises what they wrote.

        Raises:
            BenchError: they did not end well.
        """
        ended = self.wait(seconds, lambda: running.popen.poll() is not None)
        if not ended or running.popen.wait():
            raise BenchError(f"{running.name} did not end well\n{running.last_words()}")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def is_out(self, name: str) -> bool:
        """Whether, by the router's log, this server is out of service."""
        self.look()
        return is_out(self.log, name)


def came(port: int, path: str, fields: Mapping[str, str]) -> tuple[str, str]:
    """Makes one request; promises the server that names itself in the answer, and the cookie that it sets: "" if none.

    Raises:
        BenchError: it was not answered well.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"X-Fault-Key": "one", **fields})
        response = connection.getresponse()
        response.read()
    if response.status != 200:
        raise BenchError(f"the router answered with status {response.status}")
    return response.getheader("X-Fault-Server", ""), response.getheader("Set-Cookie", "").partition(";")[0]
