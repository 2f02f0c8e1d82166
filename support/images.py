"""Image files as arrays: one reader for training and for metrics; uint8 to [-1, 1] and back."""

from support.command import InputError

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MOST_PIXELS = 1 << 26  # of an image: a file of a few KB may claim to be gigabytes
Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow only warns up to twice this: opened() refuses
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LARGE_PIXELS, large_image_lock = 1 << 24, threading.Lock()  # larger ones: one at a time
# All formats that Pillow reads by itself. It gives EPS, which is a program, to Ghostscript.
Image.preinit()  # the common formats, which are then tried first
Image.init()
FORMATS = [name for name in Image.ID if name != "EPS"]
LISTED = 10  # faulty files that an error names
T = TypeVar("T")


@contextmanager
def opened(path: Path, most: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """Open an image and read its header; the block may decode it.

    Raises InputError, which names the file, if any of that fails, or if the header claims more
    than `most` pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > most:
                size = f"{image.width} x {image.height} pixels, more than {most:,}"
                raise InputError(f"{path} is too large ({size}): shrink it or remove it")
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise anything on a broken file
        raise InputError(f"{path} cannot be decoded ({error}): remove it or replace it") from error


def is_grey(path: Path) -> bool:
    """Return whether an image has no colours, by its header. InputError if it has no header."""
    with opened(path) as image:
        return image.mode in ("1", "L", "LA", "La") or _is_deep(image)


def read_image(path: Path, side: int | None = None, most: int = MOST_PIXELS) -> Image.Image:
    """Read an image file: upright by its EXIF data, on white where transparent, mode L or RGB.

    16-bit values keep their upper eight bits. `side`: the image will be shrunk to about this many
    pixels a side, so a large one may be decoded at a half, a quarter or an eighth of its size.
    Raises InputError as opened() does, and for pixels of unknown range (32 bits, floats).
    """
    with opened(path, most) as image, _turn(image):
        _scale_transparent_value(image)
        if side:
            image.draft(None, (2 * side, 2 * side))  # acts on JPEG files only
        ImageOps.exif_transpose(image, in_place=True)
        if _is_deep(image):  # before any conversion: Pillow would clip 16 bits, not scale them
            image = _upper_eight_bits(image)
        if image.mode in ("I", "F"):
            raise ValueError(f"mode {image.mode}, of no certain range: save it with 8 or 16 bits")
        if image.mode == "La":  # premultiplied grey, which Pillow converts to LA only
            image = image.convert("LA")
        if image.has_transparency_data and image.mode != "RGBA":
            image = image.convert("RGBA")
        large = image.width * image.height > LARGE_PIXELS
        if side and large and image.mode in ("L", "RGB", "RGBA"):
            image = image.reduce(max(1, min(image.size) // (4 * side)))  # copies are small, then
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if image.mode in ("1", "L") else "RGB")


def attempt(read: Callable[[Path], T], path: Path) -> T | InputError:
    """Return what `read` returns, or its InputError, so that all files are looked at."""
    try:
        return read(path)
    except InputError as error:
        return error


def refuse(problems: Sequence[object]) -> None:
    """Raise one InputError that lists the first problems and their number, if there are any."""
    if len(problems) == 1:
        raise InputError(str(problems[0]))
    if problems:
        more = f"; and {len(problems) - LISTED:,} more" if len(problems) > LISTED else ""
        listed = "; ".join(map(str, problems[:LISTED]))
        raise InputError(f"{len(problems):,} files cannot be used: {listed}{more}")


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1], the range of the generators' tanh."""
    return (images - 127.5).div_(127.5)  # x / 127.5 - 1 with one rounding and one pass less


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] -> uint8 in [0, 255]; the inverse of to_float, values outside clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _turn(image: Image.Image) -> AbstractContextManager[object]:
    """Return what a thread waits for before it decodes: together, large images take gigabytes."""
    return large_image_lock if image.width * image.height > LARGE_PIXELS else nullcontext()


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image has grey values from 0 to 65,535; PGM files have mode I, then."""
    return image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    """Return mode L, or LA where one of the 65,536 values is transparent."""
    pixels = np.asarray(image)
    grey = Image.fromarray((pixels // 256).astype(np.uint8))
    value = image.info.get("transparency")
    if not isinstance(value, int):
        return grey
    alpha = Image.fromarray(np.where(pixels == value, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _scale_transparent_value(image: Image.Image) -> None:
    """Give a PNG file's transparent value the range of the pixels as Pillow decodes them.

    Pillow scales pixels of 2, 4 and 16 bits to 8, but leaves this value as the file has it.
    """
    value = image.info.get("transparency")
    tile = getattr(image, "tile", ()) if image.format == "PNG" else ()
    rawmode = tile[0][3] if tile else None
    if rawmode in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * (85 if rawmode == "L;2" else 17)
    elif rawmode == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)
