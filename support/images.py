"""Read image files, for training and metrics alike, and convert uint8 to [-1, 1] and back."""

from support.command import InputError

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

IMAGE_SIZES = (28, 32, 64, 128)  # pixels per side that the networks are built for
MOST_PIXELS = 1 << 26  # limit per image, because a file of a few KB may claim gigabytes
Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow only warns up to twice the limit; opened() refuses
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LARGE_PIXELS, large_image_lock = 1 << 24, threading.Lock()  # larger images are read one at a time
LISTED = 10  # number of faulty files that an error names
T = TypeVar("T")


@cache
def readable_formats() -> list[str]:
    """Return all formats that Pillow reads without another program; EPS would need Ghostscript."""
    Image.preinit()  # registers the common formats first, so that Pillow tries them first
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def image_suffixes() -> dict[str, str]:
    """Return image suffix (in lower case) -> format for all formats that Pillow knows."""
    readable_formats()
    return Image.EXTENSION


@contextmanager
def opened(path: Path, most: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """Open an image file and read the header. The block inside may decode the image.

    Raise InputError, which names the file, if opening or decoding fails, or if the header claims
    more than `most` pixels.
    """
    try:
        with Image.open(path, formats=readable_formats()) as image:
            if image.width * image.height > most:
                size = f"{image.width} x {image.height} pixels, more than {most:,}"
                raise InputError(f"{path} is too large ({size}): shrink it or remove it")
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise any error on a broken file
        raise InputError(f"{path} cannot be decoded ({error}): remove it or replace it") from error


def is_grey(path: Path) -> bool:
    """Return whether the header says that an image is grey. Raise InputError as opened() does."""
    with opened(path) as image:
        return image.mode in ("1", "L", "LA", "La") or _is_deep(image)


def read_image(path: Path, side: int | None = None, most: int = MOST_PIXELS) -> Image.Image:
    """Read an image file: upright by the EXIF data, on white where transparent, in mode L or RGB.

    Only the upper eight bits of 16-bit values are kept. `side`: the caller shrinks the image to
    this many pixels per side, so a large image may be decoded or reduced to a smaller size.
    Raise InputError as opened() does, and for pixels of unknown range (32 bits, floats).
    """
    with opened(path, most) as image, _turn(image):
        _scale_transparent_value(image)
        if side:
            image.draft(None, (2 * side, 2 * side))  # acts on JPEG files only
        ImageOps.exif_transpose(image, in_place=True)
        if _is_deep(image):  # before any conversion, because Pillow would clip 16-bit values
            image = _upper_eight_bits(image)
        if image.mode in ("I", "F"):
            raise ValueError(f"mode {image.mode} has no fixed range: save it with 8 or 16 bits")
        if image.mode == "La":  # premultiplied grey, which Pillow converts only to LA
            image = image.convert("LA")
        if image.has_transparency_data and image.mode != "RGBA":
            image = image.convert("RGBA")
        large = image.width * image.height > LARGE_PIXELS
        if side and large and image.mode in ("L", "RGB", "RGBA"):
            image = image.reduce(max(1, min(image.size) // (4 * side)))  # makes later copies small
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if image.mode in ("1", "L") else "RGB")


def attempt(read: Callable[[Path], T], path: Path) -> T | InputError:
    """Return the result of `read` or the InputError that it raises, so that all files are read."""
    try:
        return read(path)
    except InputError as error:
        return error


def refuse(problems: Sequence[object]) -> None:
    """Raise one InputError that lists the first problems and the number of problems, if any."""
    if len(problems) == 1:
        raise InputError(str(problems[0]))
    if problems:
        more = f"; and {len(problems) - LISTED:,} more" if len(problems) > LISTED else ""
        listed = "; ".join(map(str, problems[:LISTED]))
        raise InputError(f"{len(problems):,} files cannot be used: {listed}{more}")


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [-1, 1], the range of the generators' tanh."""
    return (images - 127.5).div_(127.5)  # faster than x / 127.5 - 1, and rounded once, not twice


def to_uint8(images: Tensor) -> Tensor:
    """Convert floats in [-1, 1] to uint8 in [0, 255], inverse to to_float(). Clamp other values."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _turn(image: Image.Image) -> AbstractContextManager[object]:
    """Return the lock that a thread needs for a large image, or a null context for a small image.

    Several large images decoded at once would need gigabytes.
    """
    return large_image_lock if image.width * image.height > LARGE_PIXELS else nullcontext()


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image has grey values from 0 to 65,535. For PGM files this is mode I."""
    return image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit image in mode L, or in LA if one of the 65,536 values is transparent."""
    pixels = np.asarray(image)
    grey = Image.fromarray((pixels // 256).astype(np.uint8))
    value = image.info.get("transparency")
    if not isinstance(value, int):
        return grey
    alpha = Image.fromarray(np.where(pixels == value, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _scale_transparent_value(image: Image.Image) -> None:
    """Scale the transparent value of a PNG file to the range of the decoded pixels.

    Pillow scales pixels of 2, 4 and 16 bits to 8 bits, but does not scale the transparent value.
    """
    value = image.info.get("transparency")
    tile = getattr(image, "tile", ()) if image.format == "PNG" else ()
    rawmode = tile[0][3] if tile else None
    if rawmode in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * (85 if rawmode == "L;2" else 17)
    elif rawmode == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)
