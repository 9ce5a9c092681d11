"""CPU time and memory of a proxy, read from /proc.

A proxy is a session: the harness starts each one as a session leader, so its processes are found by their session
number even when one of them was orphaned. Nothing here starts or ends a process.
"""

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """CPU time since the start, seen twice: per live thread, and per process by the clock tick."""

    #: (process, thread) -> nanoseconds on a core. Exact, but a thread that exits takes its share with it.
    threads: dict[tuple[int, int], int]
    #: Exited threads and reaped children included, but cut to whole ticks.
    ticks: int
    processes: int


def members(session: int, proc: Path = PROC) -> list[int]:
    """Promises the ids of all living processes of a session, the leader included."""
    pids = (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _is_alive_in(session, _stat(pid, proc))]


def usage(session: int, proc: Path = PROC) -> Usage:
    """Promises what the session's processes used so far; a process that vanishes meanwhile is left out."""
    threads: dict[tuple[int, int], int] = {}
    ticks = 0
    pids = members(session, proc)
    for pid in pids:
        # utime, stime, and both again for reaped children: a worker's time moves there when it ends.
        ticks += sum(int(field) for field in _stat(pid, proc)[11:15])
        threads.update(_thread_times(pid, proc))
    return Usage(threads, ticks, len(pids))


def cpu_seconds(before: Usage, after: Usage) -> float:
    """Promises the CPU time between two readings, in seconds: by the nanosecond, unless threads got lost.

    When the ticks say clearly more than the threads do, threads or processes have exited in between; then the ticks
    are the truth. Each process may be off by four ticks (two counters, both ends), so less is no evidence.
    """
    by_tick = (after.ticks - before.ticks) / TICKS_PER_SECOND
    by_thread = sum(_grown(before.threads.get(key, 0), now) for key, now in after.threads.items()) / 1e9
    slack = 4 * max(before.processes, after.processes) / TICKS_PER_SECOND
    return by_tick if by_tick - by_thread > slack else by_thread


def rss_bytes(session: int, proc: Path = PROC) -> int:
    """Promises the resident memory of the session's processes; pages that two of them share count twice."""
    return sum(_rss(pid, proc) for pid in members(session, proc))


def _is_alive_in(session: int, fields: list[str]) -> bool:
    return bool(fields) and int(fields[3]) == session and fields[0] not in "ZX"


def _grown(before: int, now: int) -> int:
    # A smaller number under the same id is another thread that got the id.
    return now - before if now >= before else now


def _stat(pid: int, proc: Path) -> list[str]:
    """Fields of stat from the third (state) on; the name before them may hold blanks and brackets."""
    try:
        return (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _thread_times(pid: int, proc: Path) -> dict[tuple[int, int], int]:
    times = {}
    try:
        tasks = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return times
    for task in tasks:
        try:
            times[pid, int(task.name)] = int((task / "schedstat").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            continue
    return times


def _rss(pid: int, proc: Path) -> int:
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
