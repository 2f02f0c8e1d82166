"""The one font of all images, and which names it can write.

DejaVu Sans comes with matplotlib. It has Latin, Cyrillic, Greek and many symbols, but no Chinese,
Japanese or Korean.
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
    matplotlib = find_spec("matplotlib")  # an import of matplotlib would take a third of a second
    package = Path(matplotlib.origin).parent if matplotlib and matplotlib.origin else Path()
    file = package / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    # Given a str, Pillow also looks among the system's fonts, where Debian's matplotlib has it.
    # The basic layout draws the same pixels whether or not the machine has Raqm.
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _characters() -> frozenset[str]:
    """Return the characters for which the font has a glyph."""
    from matplotlib.ft2font import FT2Font  # here, because most names are ASCII

    return frozenset(map(chr, FT2Font(str(font(11).path)).get_charmap()))


def _fits(name: str) -> bool:
    """Return whether the font shows `name` as it is read.

    The basic layout writes from left to right and joins no letters, which Arabic and Hebrew need.
    """
    if name.isascii() and name.isprintable():
        return True
    right_to_left = any(unicodedata.bidirectional(c) in ("R", "AL") for c in name)
    return name.isprintable() and not right_to_left and _characters().issuperset(name)


def drawable(names: Sequence[str], numbers: Iterable[object]) -> list[str]:
    """Return `names` as the font can write them, each of the others replaced by its number.

    One line on standard error lists the replaced names.
    """
    drawn, replaced = [], {}
    for name, number in zip(names, numbers, strict=True):
        # A Mac's file names hold an accent as a character of its own; some spaces have no glyph.
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
