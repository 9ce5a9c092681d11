"""The hostile bench at a tenth of its numbers: what hostile clients do leaves the router's memory bounded."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"
#: MiB by which each scenario may make the router grow, several times what it does.
GROWTH = {"drip": 20, "uploads": 20, "readers": 40, "idle": 20, "pipeline": 20, "up": 20, "down": 20}


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


hostile = load("hostile")
peers = load("hostile_peers")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("hostile") / "figures.json"
    only = [word for name in GROWTH for word in ("--only", name)]
    command = [sys.executable, str(LOADTESTS / "hostile.py"), "--quick", "--json", str(file), *only]
    done = subprocess.run(
        [*command, "--router", f"{sys.executable} -m router"], capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {result["name"]: result for result in json.loads(file.read_text())["results"]}


@pytest.mark.parametrize("name", GROWTH)
def test_memory_is_bounded(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert result["rss_max"] - result["rss_before"] < GROWTH[name]
    assert result["requests"] > 0
    assert result["faults"] == []


def test_those_who_drip_a_header_are_cut_with_408(results: dict[str, dict[str, Any]]) -> None:
    assert results["drip"]["ends"]["408"] >= 100


def test_those_who_are_only_slow_are_not_cut(results: dict[str, dict[str, Any]]) -> None:
    assert results["uploads"]["ends"] == {"not cut": 30}
    assert results["readers"]["ends"] == {"not cut": 10}
    assert results["idle"]["ends"] == {"not cut": 300}


def test_large_bodies_pass_whole(results: dict[str, dict[str, Any]]) -> None:
    for name in ("up", "down"):
        assert results[name]["ends"] == {"200": 1}
        assert results[name]["moved_mib"] == pytest.approx(102.4, abs=0.1)


# Its parts


def test_every_scenario_is_reduced_in_clients_or_else_in_bytes() -> None:
    for scenario in hostile.SCENARIOS:
        reduced = hostile.reduced(scenario)
        assert (reduced.count < scenario.count or reduced.size < scenario.size) == bool(scenario.kind)
        assert not scenario.kind or reduced.count >= 1


def test_only_the_second_listener_differs_from_the_defaults() -> None:
    made = tomllib.loads(hostile.configuration(1, 2, 3, 4, 2))
    assert [set(listener) for listener in made["listeners"]] == [{"bind"}, {"bind", "timeouts"}]
    assert made["listeners"][1]["timeouts"] == {"header": "2s"}
    assert [set(pool) for pool in made["pools"]] == [{"name", "endpoints"}] * 2


def test_ends_are_told_with_the_most_frequent_first() -> None:
    assert hostile.cut_with({"200": 1, "408": 7}) == "408: 7, 200: 1"
    assert hostile.cut_with({}) == "-"


def test_quantiles_are_not_moved_by_one_bad_moment() -> None:
    calm = [(n / peers.RATE, 0.001) for n in range(5 * peers.RATE)]
    stopped = [(moment, 0.2 if 2.1 < moment < 2.3 else seconds) for moment, seconds in calm]
    assert peers.quantiles(stopped)["p99_ms"] == pytest.approx(1)
    assert peers.quantiles(stopped)["p99_whole_ms"] == pytest.approx(200)
    assert math.isnan(peers.quantiles([])["p99_ms"])


def test_a_wrong_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        hostile.parser().parse_args(["--only", "nothing"])
    assert stop.value.code == 2
    assert "baseline" in capsys.readouterr().err
