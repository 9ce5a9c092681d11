"""The build files: targets that exist, refusals that help, versions that are exact."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TARGETS = (
    "demo",
    "install",
    "test",
    "lint",
    "types",
    "check",
    "bench",
    "hostile",
    "faults",
    "changes",
    "sticky",
    "clean",
)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_make_alone_lists_the_targets() -> None:
    result = make()
    assert result.returncode == 0
    for target in TARGETS:
        assert f"make {target} " in result.stdout


def test_the_demo_needs_nothing_but_python(tmp_path: Path) -> None:
    plan = make("--dry-run", "demo", f"VENV={tmp_path}/venv", "PYTHON=python3").stdout
    steps = [plan.index(step) for step in ("-m venv", "--constraint constraints.txt", "/router demo --listen")]
    assert steps == sorted(steps)


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    for name in ("bin/python", ".installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    arguments = ("--dry-run", "demo", f"VENV={tmp_path}")
    assert "pip" not in make(*arguments).stdout
    assert "pip" in make(*arguments, "--what-if=constraints.txt").stdout
    assert "pip" in make(*arguments, "--what-if=pyproject.toml").stdout


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    result = make("install", f"VENV={tmp_path}/venv", "PYTHON=no-such-python")
    assert result.returncode == 2
    assert "no-such-python is not installed; Python 3.11 or later is needed" in result.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('case "$*" in *version*) echo Python 3.9.2; exit 1;; esac', "Python 3.9.2 is too old"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "apt install python3-venv"),
    ],
)
def test_an_unfit_python_is_refused_with_what_helps(script: str, message: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    result = make("install", f"VENV={tmp_path}/venv", f"PYTHON={python}")
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "venv").exists()


def test_every_version_is_exact_and_sorted() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    exact = re.compile(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; python_version < "3\.\d+")?')
    assert all(exact.fullmatch(line) for line in lines)
    assert lines == sorted(lines, key=str.lower)
    assert "://" not in text


def test_every_dependency_is_pinned_to_a_version_that_will_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {canonical(name): version for name, version in pins().items()}
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for line in project["dependencies"] + extras:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonical(requirement.name)]), line


def test_what_dependencies_need_is_pinned_too() -> None:
    pinned = {canonical(name) for name in pins()}
    for name in pins():
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonical(requirement.name) in pinned, f"{name} needs {line}"


def test_the_checks_run_what_make_test_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert script.read_text().splitlines()[-1].startswith("make test")
