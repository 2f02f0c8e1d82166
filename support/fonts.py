"""Load the font for names in grids, and replace names that the font cannot write.

The font is DejaVu Sans, which comes with matplotlib. It has Latin, Cyrillic, Greek and many
symbols, but no Chinese, Japanese or Korean.
"""

from support.command import say

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans in `size` pixels."""
    matplotlib = find_spec("matplotlib")  # not imported, because that takes a third of a second
    package = Path(matplotlib.origin).parent if matplotlib and matplotlib.origin else Path()
    file = package / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    # With a str, Pillow also searches the system's fonts: Debian's matplotlib needs that.
    # The basic layout draws the same pixels whether or not the machine has Raqm.
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _characters() -> frozenset[str]:
    """Return the characters for which the font has a glyph."""
    from matplotlib.ft2font import FT2Font  # here, because most names are ASCII

    return frozenset(map(chr, FT2Font(str(font(11).path)).get_charmap()))


def _fits(name: str) -> bool:
    """Return whether the font can write all characters of `name`, from left to right.

    The basic layout cannot write from right to left (Hebrew), and cannot join letters (Arabic).
    """
    if name.isascii() and name.isprintable():
        return True
    right_to_left = any(unicodedata.bidirectional(c) in ("R", "AL") for c in name)
    return name.isprintable() and not right_to_left and _characters().issuperset(name)


def drawable(names: Sequence[str], numbers: Iterable[object]) -> list[str]:
    """Return `names`. A number from `numbers` replaces each name that the font cannot write.

    A warning on standard error lists the replaced names.
    """
    drawn, replaced = [], {}
    for name, number in zip(names, numbers, strict=True):
        # In file names from macOS, an accent is a separate character. Some spaces have no glyph.
        composed = unicodedata.normalize("NFC", name)
        composed = "".join(" " if c.isspace() else c for c in composed)
        if not _fits(composed):
            composed = str(number)
            replaced[composed] = f"{name!r} is drawn as {composed}"
        drawn.append(composed)
    if replaced:
        listed = ", ".join(replaced.values())
        say(f"warning: the font of the images cannot write every name: {listed}")
    return drawn
