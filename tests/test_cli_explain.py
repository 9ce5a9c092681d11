"""What `router explain` prints: readable at 80 columns, whole as JSON, and nothing that a terminal would obey."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from router.cli_explain import layout, print_explanation
from router.explanation import Choice, Explanation, LeftEndpoint, LeftOut, Option, PoolVerdict, Retries, Waiting

RETRIES = Retries(2, ("connect", "reset"), 10.9)
WEB = PoolVerdict(
    name="web",
    share=1.0,
    selection="least_request",
    members=18,
    ready=3,
    in_flight=4,
    decision="web-1",
    endpoint="web-1",
    affinity="names none",
    left_out=(
        LeftOut("draining", 2, (LeftEndpoint("web-4"), LeftEndpoint("web-5"))),
        LeftOut(
            "ejected", 13, (LeftEndpoint("web-6", "status 500; back in 21 s"), LeftEndpoint("web-7", "status 500"))
        ),
    ),
    choices=(
        Choice(
            0,
            1.0,
            3,
            (Option("web-1", 0, 1, share=1.0), Option("web-20", 3, 0.25, "on probation", 0.0), Option("web-3", 1, 10)),
            why="zone z alone",
        ),
    ),
    retries=RETRIES,
)
SHOP = Explanation(
    "GET http://shop.example/cart", "shop", "router.toml:12", "/v2/cart", filters=("Auth",), pools=(WEB,)
)

WHOLE = """\
GET http://shop.example/cart
  route       shop (router.toml:12)
  sent as     /v2/cart
  filters     Auth: not asked here, may answer instead
  pool        web (least_request): 3 of 18 ready, 4 in flight
  affinity    names none
  left out    15
    draining  web-4, web-5
    ejected   web-6 (status 500; back in 21 s)
              web-7 (status 500)
              and 11 more
  candidates  3 (zone z alone)
    web-1   load 0  weight 1                   certain
    web-20  load 3  weight 0.25  on probation
    web-3   load 1  weight 10
  decision    web-1
  on failure  up to 2 more attempts at others, on connect, reset; budget 10
"""


def shown(explanation: Explanation, width: int = 80) -> str:
    return "".join(f"{line.plain}\n" for line in layout(explanation, width))


def pool(**fields: Any) -> Explanation:
    return Explanation("GET http://h/", "all", pools=(replace(WEB, **fields),))


def row(explanation: Explanation, label: str) -> str:
    """What is said behind a label."""
    return next(line for line in shown(explanation, 400).splitlines() if line.split("  ")[1:2] == [label])[14:]


def test_the_whole_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(SHOP) == WHOLE
    print_explanation(msgspec.to_builtins(SHOP), False)
    assert capsys.readouterr().out == WHOLE


def test_json_is_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    print_explanation({**msgspec.to_builtins(SHOP), "more": 1}, True)
    said = json.loads(capsys.readouterr().out)
    assert said.pop("more") == 1
    assert msgspec.convert(said, Explanation) == SHOP


def test_the_answer_of_another_version(capsys: pytest.CaptureFixture[str]) -> None:
    print_explanation({**msgspec.to_builtins(SHOP), "more": 1}, False)
    assert capsys.readouterr().out == WHOLE
    print_explanation({"request": 7}, False)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"request": 7}
    assert "another version" in err


@pytest.mark.parametrize("width", [30, 50, 80])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    several = replace(SHOP, pools=(WEB, replace(WEB, left_out=(), choices=())))
    lines = shown(several, width).splitlines()
    assert max(map(len, lines)) <= max(width, 46)
    assert not any(line.endswith(" ") for line in lines)


def test_the_routers_own_answer() -> None:
    assert shown(Explanation("GET http://x/", status=404, reason="no route")) == (
        "GET http://x/\n  route       none\n  answer      404, no route\n"
    )
    styles = {span.style for line in layout(Explanation("", status=200, reason="health"), 80) for span in line.spans}
    assert "bold red" not in styles


def test_what_chance_decides() -> None:
    said = shown(replace(SHOP, pools=(replace(WEB, share=0.25), replace(WEB, name="new", share=0.75))))
    assert "\n\n  pool        web (least_request), 25% of such requests: 3 of 18 ready" in said
    assert "\n\n  pool        new (least_request), 75% of such requests: 3 of 18 ready" in said
    tiers = tuple(Choice(tier, share, 1, (Option("a", 0, 1, share=share),)) for tier, share in ((0, 0.56), (1, 0.44)))
    said = shown(pool(choices=tiers, decision="one of 2, by chance", endpoint=""))
    assert "  candidates  1 of tier 0, 56% of requests\n    a  load 0  weight 1  56%\n" in said
    assert "  candidates  1 of tier 1, 44% of requests\n    a  load 0  weight 1  44%\n" in said
    assert "  decision    one of 2, by chance\n" in said


def test_candidates_beyond_those_that_are_shown() -> None:
    choice = Choice(1, 1.0, 30, (Option("a", 0, 1),), failed="X.scores raised ValueError: no")
    said = shown(pool(choices=(choice,)))
    assert (
        "  candidates  30 of tier 1\n    a  load 0  weight 1\n    and 29 more\n    X.scores raised ValueError: no\n"
        in said
    )


def test_who_waits_and_who_is_refused() -> None:
    waiting = pool(decision="waits up to 1 s", endpoint="", waiting=Waiting("full", 1, 2, 1.0), choices=())
    assert row(waiting, "decision") == "waits up to 1 s"
    assert "on failure" in shown(waiting)
    refused = pool(decision="503: none may wait", endpoint="", status=503, affinity="")
    assert row(refused, "decision") == "503: none may wait"
    assert "on failure" not in shown(refused)
    assert "affinity" not in shown(refused)


@pytest.mark.parametrize(
    ("retries", "said"),
    [
        (Retries(0, ("reset",), 3), "no second attempt"),
        (Retries(1, (), 3), "up to 1 more attempt at others, if nothing was sent; budget 3"),
        (
            Retries(1, ("5xx",), 0.2, only_unsent=True),
            "up to 1 more attempt at others, on 5xx, as long as nothing was sent; budget 0",
        ),
        (
            Retries(1, ("5xx",), 3, hedge_after=0.25),
            "up to 1 more attempt at others, on 5xx; budget 3; after 0.25 s without a response head, another is asked"
            " as well",
        ),
    ],
)
def test_retries_in_words(retries: Retries, said: str) -> None:
    assert row(pool(retries=retries), "on failure") == said


def test_no_name_is_obeyed() -> None:
    evil = "\x1b]0;x\x07[bold]\udc80\u202e"
    pools = (
        replace(
            WEB,
            name=evil,
            decision=evil,
            affinity=evil,
            selection=evil,
            left_out=(LeftOut(evil, 1, (LeftEndpoint(evil, evil),)),),
            choices=(Choice(0, 1.0, 1, (Option(evil, 0, 1, evil),), evil, evil),),
        ),
    )
    said = shown(Explanation(evil, evil, evil, evil, None, evil, (evil,), pools), 400)
    assert said.replace("\n", "").isprintable()
    assert said.count("[bold]") >= 14
