"""A document of headings, paragraphs, tables and rows of pictures, as HTML in one file or as Markdown.

Not here: what is in it (`export/report.py`).

    to_html("Title", [Heading("Part"), Text("A paragraph with <any> characters.")])
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Color: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Heading:
    """A heading below the title."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph. verdict: "good" or "bad" where it says how it went."""

    text: str
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header; colors: of the rows' first cells, where they are classes."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colors: tuple[Color, ...] = ()


@dataclass(frozen=True)
class Figure:
    """Encoded pictures side by side: (caption, file ending, bytes) each."""

    name: str
    caption: str
    parts: tuple[tuple[str, str, bytes], ...]


Block: TypeAlias = Heading | Text | Table | Figure


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #dde1e6; white-space: nowrap; }
th { font-weight: 600; color: #545b64; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.good { color: #116329; font-weight: 600; } .bad { color: #b3001b; font-weight: 600; }
i { display: inline-block; width: .9em; height: .9em; margin-right: .5em; border: 1px solid #0003;
  vertical-align: -.1em; }
figure { margin: 1rem 0; } figcaption { margin-bottom: .3rem; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem; }
.row span { font-size: .85em; color: #545b64; } .row img { width: 100%; display: block; }
@media (max-width: 40rem) { .row { grid-template-columns: repeat(2, 1fr); } }
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One file that needs nothing else; every text is escaped."""
    body = "\n".join(map(_html_block, blocks))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _html_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Text):
        kind = f' class="{block.verdict}"' if block.verdict else ""
        return f"<p{kind}>{html.escape(block.text)}</p>"
    if isinstance(block, Table):
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
        rows = []
        for index, row in enumerate(block.rows):
            swatch = f'<i style="background: rgb{block.colors[index]}"></i>' if block.colors else ""
            cells = "".join(f"<td>{swatch * (not at)}{html.escape(cell)}</td>" for at, cell in enumerate(row))
            rows.append(f"<tr>{cells}</tr>\n")
        return f'<div class="scroll"><table><tr>{head}</tr>\n{"".join(rows)}</table></div>'
    parts = []
    for caption, ending, data in block.parts:
        kind = "jpeg" if ending == "jpg" else ending
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        parts.append(f'<div><span>{caption}</span><img alt="{caption}" src="{source}"></div>')
    return (
        f"<figure><figcaption>{html.escape(block.caption)}</figcaption>"
        f'<div class="row">{"".join(parts)}</div></figure>'
    )


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Markdown whose pictures lie in `pictures/`, named by figure and place; every text is escaped."""
    return f"# {_escaped(title)}\n\n" + "\n\n".join(map(_markdown_block, blocks)) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_escaped(block.text)}"
    if isinstance(block, Text):
        return f"**{_escaped(block.text)}**" if block.verdict else _escaped(block.text)
    if isinstance(block, Table):
        rows = [block.header, ("---",) + ("---:",) * (len(block.header) - 1), *block.rows]
        return "\n".join(
            f"| {' | '.join(cell if index == 1 else _escaped(cell) for cell in row)} |"
            for index, row in enumerate(rows)
        )
    names = " | ".join(caption for caption, _, _ in block.parts)
    pictures = " | ".join(
        f"![{caption}](pictures/{block.name}-{index}.{ending})"
        for index, (caption, ending, _) in enumerate(block.parts)
    )
    return f"{_escaped(block.caption)}\n\n| {names} |\n|{'---|' * len(block.parts)}\n| {pictures} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it stands: no HTML, no table cell of its own, no emphasis."""
    safe = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\|`*_[]#" else letter for letter in safe)
