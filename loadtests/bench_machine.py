"""The machine that a figure belongs to, and the one limit that the harness raises for itself and its children."""

import os
import platform
import resource
from pathlib import Path

#: Some programs size tables by the limit, so it is not raised without end.
FILES_CAP = 1 << 18


def machine() -> dict[str, str | int]:
    """Promises cores, processor, kernel and Python, for the line under the table and for --json."""
    return {
        "cores": os.cpu_count() or 1,
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def machine_line() -> str:
    facts = machine()
    return f"machine: {facts['cores']} cores, {facts['processor']}, {facts['kernel']}, {facts['python']}"


def raise_file_limit() -> int:
    """Raises the soft limit of open files to the hard one, and promises what then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_CAP if hard == resource.RLIM_INFINITY else min(hard, FILES_CAP)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return FILES_CAP if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
