"""Text from outside (categories, columns, paths, names, messages), made harmless for each medium that shows it.

Whoever puts a text on a page, into Markdown or on a terminal passes it through here at that very place: what is kept in
JSON, parquet and MLflow's parameters stays as it came.
"""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#!~$])")
# what makes a line a list or a heading where it begins it
_LEADING = re.compile(r"^(\d*)([-+.)=](?!\d)|>)")
_SPACES = re.compile(r"[\t\n\r\v\f]+")


def for_terminal(text: object) -> str:
    r"""One line of text in which every character can be seen: what moves a cursor, hides or turns text is spelled out.

    An ESC becomes `\x1b`, a zero-width space `\u200b`, a non-breaking one `\xa0`; line breaks and tabs are a space.
    """
    shown = _SPACES.sub(" ", str(text))
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)


def for_html(text: object) -> str:
    """Text for an HTML page, in an element or an attribute."""
    return html.escape(for_terminal(text))


def for_markdown(text: object) -> str:
    """Text for Markdown, also in a table's cell: neither Markdown's own syntax, nor HTML, nor a bare address."""
    escaped = _LEADING.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", for_terminal(text).strip()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace("://", r"\://")
