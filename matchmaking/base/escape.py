"""Text from outside (categories, columns, paths, names, messages), made harmless for each medium that shows it.

Whoever puts a text on a page, into Markdown or on a terminal passes it through here at that very place: what is kept in
JSON, parquet and MLflow's parameters stays as it came.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#!~$])")
# what makes a line a list or a heading where it begins it
_LEADING = re.compile(r"^(\d*)([-+.)=](?!\d)|>)")
_SPACES = re.compile(r"[\t\n\r\v\f]+")
# of a value: white space, but single spaces; and letters and marks that show nothing (Unicode's Default_Ignorable)
_UNSEEN = re.compile(
    r"[\t\n\r\v\f\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
    r"|(?<= ) "
)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def for_terminal(text: object) -> str:
    r"""One line of text in which every character can be seen: what moves a cursor, hides or turns text is spelled out.

    An ESC becomes `\x1b`, a zero-width space `\u200b`, a non-breaking one `\xa0`; line breaks and tabs are a space.
    """
    shown = _SPACES.sub(" ", str(text))
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else _spelled(each) for each in shown)


def for_rich(text: object) -> str:
    """Text for the console of rich, which takes `[red]` for a colour."""
    from rich.markup import escape

    return escape(for_terminal(text))


def say(text: object, err: bool = False) -> None:
    """Prints a line in which addresses, names, reasons and answers are what somebody else wrote."""
    print(for_terminal(text), file=sys.stderr if err else sys.stdout, flush=True)


def visible(text: object) -> str:
    r"""A single value (a category, a column's name) in which white space can be told apart, too.

    A tab becomes `\t`, a line break `\n`, of several spaces each but the first `\x20`; else as `for_terminal` has it.
    """
    return for_terminal(_UNSEEN.sub(lambda found: _spelled(found[0]), str(text)))


def log_lines(text: str) -> Iterator[str]:
    """The lines of a program's log, for a terminal; its colours are left out."""
    for line in text.removesuffix("\n").split("\n") if text else []:
        yield for_terminal(_COLOURS.sub("", line.removesuffix("\r")))


def for_html(text: object) -> str:
    """Text for an HTML page, in an element or an attribute."""
    return html.escape(for_terminal(text))


def for_markdown(text: object) -> str:
    """Text for Markdown, also in a table's cell: neither Markdown's own syntax, nor HTML, nor a bare address."""
    escaped = _LEADING.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", for_terminal(text).strip()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace("://", r"\://")


def _spelled(char: str) -> str:
    return r"\x20" if char == " " else ascii(char)[1:-1]
