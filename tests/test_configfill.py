"""${VAR} and { file = ... } are filled in anywhere, once, and never shown."""

import os

import pytest

from router.configfill import MAX_FILE_BYTES, Problem, fill, is_file_table, is_unicode, read_file

ENV = {"HOST": "a.example", "EMPTY": "", "DOLLAR": "${HOST}$$", "BROKEN": "\udcff"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("http://${HOST}:1", "http://a.example:1"),
        ("${HOST}${EMPTY}${HOST}", "a.examplea.example"),
        ("$$", "$"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$a.example"),
        ("costs 5$ or $x", "costs 5$ or $x"),
        ("${DOLLAR}", "${HOST}$$"),
    ],
)
def test_fill(text, filled):
    assert fill(text, ENV) == (filled, [])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("${HOTS}", "the environment variable HOTS is not set", "did you mean 'HOST'?"),
        ("${QQQQQQ}", "the environment variable QQQQQQ is not set", "write $${QQQQQQ}"),
        ("${}", "written ${NAME}", ""),
        ("${A-B}", "written ${NAME}", ""),
        ("${HOST", "written ${NAME}", ""),
        ("${BROKEN}", "not valid Unicode", ""),
        ("\ud800", "not valid Unicode", ""),
    ],
)
def test_what_cannot_be_filled_in(text, message, hint):
    _, [problem] = fill(text, ENV)
    assert message in problem.message
    assert hint in problem.hint


def test_each_unset_variable_is_named():
    _, problems = fill("${ONE} ${TWO}", {})
    assert ["ONE" in problems[0].message, "TWO" in problems[1].message] == [True, True]


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"secret\n", "secret"), (b"secret\r\n", "secret"), (b"a\n\n", "a\n"), (b"", ""), ("ü".encode(), "ü")],
)
def test_read_file(tmp_path, raw, text):
    (tmp_path / "key").write_bytes(raw)
    assert read_file(tmp_path, "key") == text
    assert read_file(tmp_path / "elsewhere", str(tmp_path / "key")) == text


def test_the_largest_file(tmp_path):
    (tmp_path / "key").write_bytes(b"x" * MAX_FILE_BYTES)
    assert len(read_file(tmp_path, "key")) == MAX_FILE_BYTES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
        (lambda path: path.write_bytes(b"x" * (MAX_FILE_BYTES + 1)), "larger than 1 MiB"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path / "key")
    problem = read_file(tmp_path, "key")
    assert isinstance(problem, Problem)
    assert message in problem.message


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_names_that_no_file_has(tmp_path, name):
    assert isinstance(read_file(tmp_path, name), Problem)


def test_only_the_exact_table_names_a_file():
    assert is_file_table({"file": "x"})
    assert not is_file_table({"file": 1})
    assert not is_file_table({"file": "x", "use": "y"})
    assert not is_file_table("file")


def test_is_unicode():
    assert is_unicode("ü😀")
    assert not is_unicode("a\udfff")
