"""No pattern that a configuration can hold stops the router: what could take minutes is refused, the rest is quick."""

from __future__ import annotations

import re

import pytest
from router_health.pattern import LONGEST, compile_safe

#: Patterns, and a text that is as bad for them as it gets.
FINE = [
    ("ok", "o" * LONGEST),
    (".*ok", "x" * LONGEST),
    (r"\w+!", "x" * LONGEST),
    (r"^\s*ok\s?$", " " * LONGEST),
    (r'"status"\s*:\s*"(ok|up)"', '"status"   :   "' * 256),
    (r'"db":\s*"ok".*"cache":\s*"ok"', '"db": "ok" "cache":' * 215),
    (r'"version":"[^"]*"', '"version":"' + "x" * LONGEST),
    (r"=\d+;=\D+1=[a-f]*;", "=1;=x1" * 600),
    (r"(\d{1,3}\.){3}\d{1,3}!", "1." * 2048),
    (r"v\d+\.\d+\.\d+", "v1.1." * 800),
    ("(foo|bar)+!", "foobar" * 600),
    ('("a*")+!', '"aaaa"' * 600),
    ("(a)?(?(1)b|c*)d", "c" * LONGEST),
    ("(?i)ok|(?<=a)b|(?!c)d|(?>e|f)", "g" * LONGEST),
    ("(?s:.)*?ok", "x" * LONGEST),
    ("(" * 90 + "a" + ")" * 90, "b" * LONGEST),
]
EXPLOSIVE = [
    "(a+)+$",
    "(a|a)*b",
    "(?:a|ab)+c",
    "(|a)*b",
    "((a|b)|c)*d",
    r"(\d+,)+",
    "(ab?)+",
    "(?=(a+)+b)",
    "(?<!x)(?>(a+)+b)",
    "(x)?(?(1)(a+)+b)",
    "(a{0,50}){50}",
    "(a?){30}a{30}",
    ".*a.*b",
    r"\s*\s*\s*x",
    r'"\s*\s*"',
    "(?i)Aa*A.*b",
    "((a+)+)++b",
    "(?:a*?)*?b",
]


@pytest.mark.parametrize(("pattern", "text"), FINE)
def test_what_is_quick_is_taken(pattern: str, text: str) -> None:
    assert compile_safe(pattern).search(text[:LONGEST]) is None


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_what_can_explode_is_refused_with_a_remedy(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape(r"matching could take minutes: leave at most one open repeat")):
        compile_safe(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a(b", "missing ), unterminated subpattern at character 2"),
        ("[a", "unterminated character set at character 1"),
        ("a**", "multiple repeat at character 3"),
        ("a{2,1}", "min repeat greater than max repeat at character 3"),
        (r"\1", "invalid group reference 1 at character 2"),
        ("a{99999999999}", "it repeats or nests too much"),
        ("(" * 3000 + ")" * 3000, "it repeats or nests too much"),
    ],
)
def test_what_is_no_pattern_is_refused_with_its_place(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"no regular expression: {words}")):
        compile_safe(pattern)


def test_fences_hold_only_where_case_matters() -> None:
    assert compile_safe('"a*A.*"').search('"aaaA"')
    with pytest.raises(ValueError, match="one open repeat"):
        compile_safe('(?i:"a*A.*")')
