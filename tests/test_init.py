"""The public names are complete, cheap to import, and nothing else."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import router
from router import api, errors


def test_all_names_are_there_and_sorted() -> None:
    assert router.__all__ == sorted(router.__all__)
    assert all(hasattr(router, name) for name in router.__all__)
    assert set(api.__all__) <= set(router.__all__)
    assert router.RouterError is errors.RouterError


def test_importing_it_opens_nothing() -> None:
    code = (
        "import sys, router; print(*[m for m in ('aiohttp', 'asyncio', 'ssl', 'uvloop', 'click') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == ""


def test_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    assert router.__version__ == metadata.version("edge-router")

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    source = runpy.run_path(str(Path(router.__file__)))
    assert source["__version__"] == "0"
