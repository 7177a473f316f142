from __future__ import annotations

from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from matchmaking.base.escape import for_html, for_markdown, for_terminal, log_lines, visible
from tests.hostile import TEXTS


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    return parser


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_shown_as_it_is_and_does_nothing(text: str) -> None:
    shown = for_terminal(text)
    assert shown.isprintable()
    page = read(f"<p title='{for_html(text)}'>{for_html(text)}</p>")
    assert (page.tags, page.text) == (["p"], shown)
    # as whole line, in a list, in a table: the same text, and no element but those around it
    parser = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table")
    listed = read(parser.render(f"- {for_markdown(text)}\n"))
    assert (listed.tags, listed.text.strip()) == (["ul", "li"], shown.strip())
    table = read(parser.render(f"| a | b |\n|---|---|\n| {for_markdown(text)} | 1 |\n"))
    assert table.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert shown.strip() in table.text


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert for_terminal("Delhi") == "Delhi"
    assert for_terminal("कोलकाता, Köln") == "कोलकाता, Köln"
    assert for_terminal("a\u200bb\xa0c\x1b[2J\u202ed\ne") == r"a\u200bb\xa0c\x1b[2J\u202ed e"


@pytest.mark.parametrize(
    "white", ["\t", "\n", "\r", "\v", "\xa0", "\u2003", "\u200b", "\u3000", "\u3164", "\u2800", "\ufe0f"]
)
def test_of_a_value_white_space_is_told_apart(white: str) -> None:
    shown = visible(f"New{white}Delhi")
    assert shown == f"New{ascii(white)[1:-1]}Delhi"
    # wherever it goes from there, it stays in sight
    assert for_terminal(shown) == visible(shown) == shown
    assert shown.replace("\\", "\\\\") in for_markdown(shown)
    assert for_html(shown) == shown


def test_of_several_spaces_each_is_seen() -> None:
    assert visible("New Delhi") == "New Delhi"
    assert visible("New   Delhi") == r"New \x20\x20Delhi"
    assert visible("कोलकाता, Köln") == "कोलकाता, Köln"


def test_the_lines_of_a_log() -> None:
    log = "\x1b[1;31mred\x1b[0m\ta\r\n\n" + "\x1b[2Jb\u2028c\x85\n"
    assert list(log_lines(log)) == ["red a", "", r"\x1b[2Jb\u2028c\x85"]
    assert list(log_lines("")) == []


def test_what_cannot_be_seen_is_shown_as_its_escape() -> None:
    assert for_terminal("Delhi\u200b\x1b[31m\u00a0") == "Delhi\\u200b\\x1b[31m\\xa0"
    assert (
        for_terminal("M\u00fcnchen \u0926\u093f\u0932\u094d\u0932\u0940")
        == "M\u00fcnchen \u0926\u093f\u0932\u094d\u0932\u0940"
    )
