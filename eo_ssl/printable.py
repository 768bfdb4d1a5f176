r"""Text from people and data where it is printed: what would break a line or turn the direction of writing is shown.

A name may hold a line break, which begins a new line of YAML or Markdown, or a mark that lets the rest of a line read
backwards (Boucher and Anderson 2021, arXiv 2111.00169). Both are written as escapes, such as ``\u202e``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from eo_ssl.errors import expect

if TYPE_CHECKING:
    from rich.console import Console

_BIDI = {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Unicode's controls of direction."""
_LONGEST = 900  # characters of a sentence in a terminal
_BREAKS = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
_CONTROLS = _BIDI | _BREAKS | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_IN_PAGES = {code: shown for code, shown in _CONTROLS.items() if chr(code) not in "\n\r\t"}


def show_bidi(text: object) -> str:
    """Return ``text`` with the controls of direction as escapes; lines stay lines."""
    return str(text).translate(_BIDI)


def show_sentence(error: object) -> str:
    """Return what an error says as `show_bidi`, without its middle where a name in it has thousands of letters."""
    text = show_bidi(error)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 3 :]}"


def show_controls(text: object, *, keep_lines: bool = False) -> str:
    """Return ``text`` on one line: line breaks, control characters and controls of direction as escapes.

    Args:
        text: of a person, a file or a whole page.
        keep_lines: leave tabs and line breaks as they are.
    """
    return str(text).translate(_IN_PAGES if keep_lines else _CONTROLS)


def check_name(name: str, *, what: str) -> None:
    """Refuse a name that does not fit on a line as it is.

    Raises:
        UserError: control characters, or nothing to see.
    """
    expect(
        name.strip() and show_controls(name) == name,
        expected=f"{what} of printable characters on one line",
        got=f"'{show_controls(name)}'",
        remedy="choose another",
    )


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that prints text as it is: what a name holds in brackets or colons is neither style nor emoji.

    Styled text is a ``rich.text.Text``.

    Args:
        stderr: print on standard error.
        width: characters of a line, if not the terminal's.
    """
    from rich.console import Console  # not before a command prints: signals are not watched yet

    return Console(stderr=stderr, width=width, markup=False, emoji=False)


@contextmanager
def show_bidi_in_terminal() -> Iterator[None]:
    """Inside the block what is printed goes through `show_bidi`."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is not None:
                stack.enter_context(redirect(_ShownStream(stream)))
        yield


class _ShownStream:
    """A text stream in front of another one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write with controls of direction shown."""
        written: int = self._stream.write(show_bidi(text))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
