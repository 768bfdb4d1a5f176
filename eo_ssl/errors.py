"""The one error a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can repair: one sentence that says what was expected, what came and what to do.

    The command line prints the sentence and exits with status 2; no stack trace is shown unless asked for.
    """


def expect(condition: object, *, expected: str, got: object, remedy: str) -> None:
    """Raise a `UserError` in the one form of this library unless ``condition`` holds: one line per check.

    Args:
        condition: what must be true.
        expected: what should have come, after the word "expected".
        got: what came instead, after the word "got".
        remedy: what to do about it.

    Raises:
        UserError: "expected {expected}, got {got}; {remedy}".
    """
    if not condition:
        raise UserError(f"expected {expected}, got {got}; {remedy}")


def suggest_nearest(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``options``, or an empty string when none is close."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
