"""Configured, discovered, and what an operator has set on top."""

from __future__ import annotations

from typing import Any

import pytest

from router import EndpointSpec
from router.policy.membership import Membership, Override


def spec(name: str, **more: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://{name}.test", id=name, **more)


def specs(names: str, **more: Any) -> dict[str, EndpointSpec]:
    return {name: spec(name, **more) for name in names}


@pytest.fixture
def members() -> Membership:
    made = Membership()
    made.configured = specs("ab")
    made.found = specs("cd")
    return made


def test_both_kinds_mix_the_configured_ones_first(members: Membership) -> None:
    assert list(members.wanted()) == ["a", "b", "c", "d"]


def test_of_the_same_identity_the_configuration_counts(members: Membership) -> None:
    members.found = specs("bc", weight=9)
    wanted = members.wanted()
    assert {name: spec.weight for name, spec in wanted.items()} == {"a": 1, "b": 1, "c": 9}


def test_an_operators_word_lies_on_top_and_can_be_undone(members: Membership) -> None:
    assert members.operate("a", "drain")
    assert not members.operate("a", "drain"), "nothing has changed"
    assert members.wanted()["a"].state == "drain"
    assert members.weigh("a", 7)
    assert members.overrides["a"].words == ("drain", "weight")
    assert members.operate("a", "up")
    assert (members.wanted()["a"].state, members.wanted()["a"].weight) == ("up", 7)
    assert members.weigh("a", None)
    assert members.wanted()["a"] == spec("a")
    assert members.overrides == {}
    assert not members.weigh("a", None)


def test_weight_0_is_a_weight(members: Membership) -> None:
    assert members.weigh("c", 0)
    assert members.wanted()["c"].weight == 0
    assert members.overrides["c"].words == ("weight",)


def test_what_is_configured_anyway_needs_no_override(members: Membership) -> None:
    members.configured = specs("ab", state="drain", weight=4)
    assert not members.operate("a", "drain")
    assert not members.weigh("a", 4)
    assert members.operate("a", "up")
    assert members.wanted()["a"].state == "up"
    assert members.overrides["a"].words == ("up",)


def test_an_override_outlives_reloads_and_its_endpoint(members: Membership) -> None:
    members.operate("c", "drain")
    members.found = specs("d")
    assert "c" not in members.wanted()
    members.found = specs("cd", weight=3)
    assert members.wanted()["c"] == spec("c", weight=3, state="drain")


def test_overrides_may_be_kept_elsewhere() -> None:
    kept = {"a": Override("drain")}
    members = Membership(kept)
    members.configured = specs("a")
    assert members.wanted()["a"].state == "drain"
    members.operate("a", "up")
    assert kept == {}


@pytest.mark.parametrize(
    "change", [lambda m: m.operate("x", "drain"), lambda m: m.weigh("x", 2), lambda m: m.plain("x")]
)
def test_an_endpoint_that_is_not_there_is_refused(members: Membership, change: Any) -> None:
    with pytest.raises(LookupError, match="x"):
        change(members)
    assert members.overrides == {}


def test_all_that_was_set_for_an_endpoint_can_be_undone_where_it_is_not(members: Membership) -> None:
    members.operate("c", "drain")
    members.found = {}
    assert members.undo("c")
    assert not members.undo("c")
    assert members.overrides == {}
