"""How a law is put: a sentence, and an AssertionError that says it with what was seen instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from router import Factory, Options
from router.testing.make import make_tools

__all__ = ["Made", "law", "make_plugin", "unraised"]

#: What a plugin registers, or a class for "module:Name".
Made = Factory | type[Any]


def law(holds: bool, sentence: str, seen: str = "") -> None:
    """Raises AssertionError with the sentence unless the law holds."""
    if not holds:
        raise AssertionError(f"broken law: {sentence}" + (f" ({seen})" if seen else ""))


def unraised(sentence: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result; an exception breaks the law that the sentence states."""
    try:
        return call(*arguments)
    except Exception as error:
        raise AssertionError(f"broken law: {sentence} (raised {error!r})") from error


def make_plugin(factory: Made, options: Options | None, seed: int) -> Any:
    """Makes a plugin object as the router does: a class without an `__init__` is called with nothing."""
    if isinstance(factory, type) and not _has_own_init(factory):
        return factory()
    if options is None:
        options = getattr(factory, "Options", Options)()
    return factory(options, make_tools(seed))


def _has_own_init(kind: type[Any]) -> bool:
    own = [c.__dict__ for c in kind.__mro__ if c is not object and not c.__dict__.get("_is_protocol", False)]
    # typing gives a class that derives from a Protocol object's __init__ when it is first called.
    return any(c.get("__init__", object.__init__) is not object.__init__ or "__new__" in c for c in own)
