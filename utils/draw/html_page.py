"""HTML pages of one file each: nothing is fetched, no script runs, all text is escaped.

What a function here calls markup is HTML that may be put into a page as it is; text is anything else, and is escaped.
"""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.general import atomic_write

STYLE = Path(__file__).with_name("page.css")
# The browser is told to fetch nothing and to run nothing, whatever the text of the page may look like.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
UNKNOWN = "-"
# Control characters, marks and embeddings of direction, and what is not seen at all; not joiners, which scripts need.
INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
QUALITY = 82  # of JPEGs


def escaped(text: object) -> str:
    """Markup of a text, for use between tags and within the quotes of an attribute.

    Characters that control a terminal, or turn the direction of what follows, are shown, `\\u202e`.
    """
    return html.escape(INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text)), quote=True)


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Writes parts, which are markup, as one page; folders are made, an older page is replaced."""
    head = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style></head><body>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:  # a file's name may hold bytes that are no text: they are replaced
        temporary.write_text(f"{head}{chr(10).join(parts)}\n</body></html>\n", encoding="utf-8", errors="replace")


def section(title: str, *parts: str) -> str:
    """Markup of a heading, which can be linked to, and what is below it; nothing where all parts are empty."""
    content = "\n".join(part for part in parts if part)
    return f'<h2 id="{anchor(title)}">{escaped(title)}</h2>\n{content}' if content else ""


def anchor(title: str) -> str:
    """What a link to the section of this title names."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def table(head: Sequence[object], rows: Sequence[Sequence[object]], kind: str = "", first_is_all: bool = False) -> str:
    """Markup of a table; cells are text, but for those that are `Markup`. Nothing where there are no rows."""
    if not rows:
        return ""
    titles = "".join(f"<th>{_content(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=all' if first_is_all and i == 0 else ''}>{''.join(_cell(cell) for cell in row)}</tr>\n"
        for i, row in enumerate(rows)
    )
    return f'<div class="scroll"><table class="{kind}"><tr>{titles}</tr>\n{body}</table></div>'


class Markup(str):
    """A table's cell that is markup already."""


def bars(*shares: float) -> Markup:
    """A cell with a bar for each of the shares, which are in 0..1; the first is the thickest."""
    lengths = "".join(f'<div style="width:{100 * min(max(share, 0), 1):.1f}%"></div>' for share in shares)
    return Markup(f'<div class="bar">{lengths}</div>')


def number(value: float | None) -> str:
    """A share to three places, a dash for what is not known."""
    return UNKNOWN if value is None or not np.isfinite(value) else f"{value:.3f}"


def lines(texts: Sequence[str], kind: str) -> str:
    """Markup of a list; nothing where it has no entries."""
    items = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def jpeg(image: np.ndarray) -> str:
    """The JPEG of an image (h, w, 3) uint8 BGR, in base64."""
    written, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert written, f"an image of shape {image.shape}"
    return base64.b64encode(data.tobytes()).decode("ascii")


def image_tag(code: str, text: str) -> str:
    """Markup of an image, given as `jpeg` gives it; the text is its description."""
    return f'<img src="data:image/jpeg;base64,{escaped(code)}" alt="{escaped(text)}" title="{escaped(text)}">'


def _cell(cell: object) -> str:
    return f"<td>{_content(cell)}</td>"


def _content(cell: object) -> str:
    return cell if isinstance(cell, Markup) else escaped(cell)
