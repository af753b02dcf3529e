"""Documents as HTML and Markdown: nothing in a text can become markup."""

import base64
import re
from html.parser import HTMLParser

import pytest

from export.document import Block, Figure, Heading, Table, Text, to_html, to_markdown

HOSTILE = '<script>alert("x")</script> | `a` & *b* [c](d) ![e](f) \\ _g_ # h'
BLOCKS: list[Block] = [
    Heading(HOSTILE),
    Text(HOSTILE, "bad"),
    Table(("class", "pixels"), ((HOSTILE, "1,000"), ("road", "5")), ((255, 0, 0), (0, 9, 8))),
    Figure("engine0-image0", HOSTILE, (("image", "jpg", b"picture"), ("engine", "png", b"labels"))),
]


class Reader(HTMLParser):
    """Tags that open and close, and the texts between them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data)


def test_html_shows_every_text_as_it_stands_and_its_tags_balance() -> None:
    reader = Reader()
    reader.feed(to_html(HOSTILE, BLOCKS))
    assert not reader.open
    assert "script" not in reader.seen
    # Title, heading, paragraph, cell, caption.
    assert reader.texts.count(HOSTILE) == 6
    assert reader.seen.count("i") == 2
    assert {"1,000", "road", "5", "image", "engine"} <= set(reader.texts)


def test_html_needs_no_other_file() -> None:
    text = to_html("title", BLOCKS)
    sources = re.findall(r'src="([^"]*)"', text)
    assert [source.partition(",")[0] for source in sources] == [
        "data:image/jpeg;base64",
        "data:image/png;base64",
    ]
    assert base64.b64decode(sources[1].partition(",")[2]) == b"labels"
    assert "http" not in text


def test_markdown_escapes_what_would_be_markup() -> None:
    lines = to_markdown(HOSTILE, BLOCKS).splitlines()
    escaped = lines[0].removeprefix("# ")
    assert "<" not in escaped
    assert not re.search(r"(?<!\\)[|`*_\[\]#]", escaped)
    row = next(line for line in lines if "1,000" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "![image](pictures/engine0-image0-0.jpg)" in lines[-1]


@pytest.mark.parametrize("text", ["two\nlines", "two\r\n\r\nlines"])
def test_a_text_of_several_lines_stays_one_row_in_markdown(text: str) -> None:
    assert "| two lines | 1 |" in to_markdown("t", [Table(("a", "b"), ((text, "1"),))]).splitlines()
