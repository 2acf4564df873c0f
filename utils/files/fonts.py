"""A font that has the glyphs of a text, among those of this machine: nothing is fetched.

Pillow's own font knows the Latin letters, matplotlib's DejaVu (found as a file, not imported) Greek and Cyrillic too;
Chinese, Japanese and Korean need a font of the system.
"""

import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont

from utils.general import LOGGER

FONT_FOLDERS = {
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
}
LINUX_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
FONT_SUFFIXES = frozenset({".ttf", ".ttc", ".otf"})
# Families made to cover many scripts in one plain sans-serif face: tried before all others, in this order.
BROAD_FAMILIES = ("dejavusans.", "notosanscjk-regular", "notosanssc", "msyh.", "pingfang", "arialuni", "wqy", "malgun")
UNASSIGNED = "\U0010ffff"  # no font has it: it shows what a font draws for a missing glyph
TOLD: set[str] = set()  # what the log was told that no font has: once in a process is enough
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def load_font(text: str, size: int) -> Font:
    """A font of `size` pixels with a glyph for every character of `text`, or the built-in one, saying what it lacks."""
    path = find_font("".join(sorted(set(text))))
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@functools.cache
def find_font(characters: str) -> str | None:
    """The file of a font with all `characters`; None where Pillow's built-in font has them or no font has."""
    if has_glyphs(ImageFont.load_default(16), characters):
        return None
    for path in font_files():
        try:
            font = ImageFont.truetype(path, 16)
        except OSError:  # a bitmap or damaged font
            continue
        if has_glyphs(font, characters):
            return str(path)
    special = "".join(c for c in characters if not c.isascii())
    if TOLD:
        return None
    TOLD.add(special)
    LOGGER.warning(f"no installed font has all of {special!r}: boxes stand for them. Install one, e.g. Noto Sans CJK")
    return None


def has_glyphs(font: Font, characters: str) -> bool:
    """Whether the font draws every character as something else than its sign for a missing one."""
    missing = font.getmask(UNASSIGNED)
    blank = (missing.size, bytes(missing))
    return all(c.isspace() or ((mask := font.getmask(c)).size, bytes(mask)) != blank for c in characters)


def font_files() -> Iterator[Path]:
    """The fonts of this machine: matplotlib's sans-serif, then the broad families, then the rest by name."""
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        yield Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    folders = [Path(folder).expanduser() for folder in FONT_FOLDERS.get(sys.platform, LINUX_FONT_FOLDERS)]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in FONT_SUFFIXES]

    def preference(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        return next((i for i, start in enumerate(BROAD_FAMILIES) if name.startswith(start)), len(BROAD_FAMILIES)), name

    yield from sorted(files, key=preference)
