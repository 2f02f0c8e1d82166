"""Draw grids of images with a name beside each row, and write PNG and GIF files."""

from support.command import InputError, say

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import GifImagePlugin, Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from support.files import writing
from support.fonts import drawable, font
from support.images import MOST_PIXELS

GIF_SIDE = 2**16 - 1  # pixels, because the format has two bytes per side
NEAREST = Image.Resampling.NEAREST


@dataclass
class Layout:
    """Hold the sizes of a drawn grid in pixels, except `across` and `scale`."""

    across: int  # images per row
    scale: int  # factor by which each image is enlarged
    cell: int  # an enlarged image and one line of the frame
    margin: int  # for the names, at the left
    width: int
    height: int


def lay_out(number: int, columns: int, size: int, row_names: Sequence[str] = ()) -> Layout:
    """Return how draw_grid() lays out `number` images of size x size pixels."""
    scale = max(1, math.ceil(56 / size))
    cell = (size + 1) * scale
    across, margin = min(columns, number), 0
    if row_names:
        margin = math.ceil(max(map(row_font(cell).getlength, row_names))) + cell // 3
    if number == 1:  # without a frame
        return Layout(1, scale, cell, margin, margin + size * scale, size * scale)
    width, height = across * cell + scale, math.ceil(number / across) * cell + scale
    return Layout(across, scale, cell, margin, margin + width, height)


def row_font(cell: int) -> ImageFont.FreeTypeFont:
    """Return the font for the names of rows that are `cell` pixels high."""
    return font(max(11, cell // 4))


def draw_grid(images: Tensor, columns: int, row_names: Sequence[str] = ()) -> Image.Image:
    """Draw images uint8 (N, C, H, W), `columns` per row, with a name at the left of each row.

    Small images are enlarged by an integer factor, which keeps all pixels sharp. If the font cannot
    write a name, the number of the row, from 0, replaces the name.
    """
    row_names = drawable(row_names, range(len(row_names)))
    layout = lay_out(len(images), columns, images.shape[-1], row_names)
    scale, cell = layout.scale, layout.cell
    frame = scale if len(images) > 1 else 0
    picture = Image.new("RGB", (layout.width, layout.height), "white")
    # Only Pillow is used, because an import of torchvision would double the start-up time.
    for i, image in enumerate(images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        row, column = divmod(i, layout.across)
        place = (layout.margin + frame + column * cell, frame + row * cell)
        picture.paste(ImageOps.scale(Image.fromarray(image), scale, NEAREST), place)
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(row_names):
        middle = (layout.margin - cell // 6, scale + row * cell + cell // 2)
        draw.text(middle, name, fill="black", font=row_font(cell), anchor="rm")
    return picture


def check_layout(layout: Layout, moving: bool) -> None:
    """Raise InputError if a grid has too many pixels, or is too wide or high for a GIF."""
    width, height = layout.width, layout.height
    limit = ""
    if moving and max(width, height) > GIF_SIDE:
        limit = f"a GIF has at most {GIF_SIDE:,} per side"
    elif width * height > MOST_PIXELS:
        limit = f"at most {MOST_PIXELS:,} pixels are drawn"
    if limit:
        advice = "make it smaller with --grid_size, --class NAME or --interpolate ROWS"
        raise InputError(f"the image would be {width:,} x {height:,} pixels; {limit}; {advice}")


def count_images(folder: Path, apart: Sequence[str] = ()) -> int:
    """Return the number of images in and below `folder`, without files whose name is in `apart`."""
    names = (Path(name) for _, _, files in os.walk(folder) for name in files if name not in apart)
    endings = Image.registered_extensions()
    return sum(name.suffix.lower() in endings and name.name[0] != "." for name in names)


def check_empty(folder: Path) -> None:
    """Raise InputError if there are images in or below `folder`.

    fid.py and training read all images in and below a folder. Older images would count as samples.
    """
    if found := count_images(folder):
        images = "1 image" if found == 1 else f"{found:,} images"
        advice = "give a new or empty folder as --save_path"
        raise InputError(
            f"{folder} holds {images} already, which would mix with the samples: {advice}"
        )


def place_of_grid(path: Path, suffix: str) -> Path:
    """Return `path` if the suffix fits, else the path of a grid in the folder `path`.

    Print a warning if the folder holds other images.
    """
    if path.suffix.lower() == suffix:
        return path
    if count_images(path, ("grid.png", "grid.gif")):
        say(f"warning: {path} holds images: fid.py and training will read the grid as an image too")
    return path / f"grid{suffix}"


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, complete or not at all."""
    with writing(path) as temporary:
        picture.save(temporary, format="PNG")


def save_gif(frames: Iterable[Image.Image], path: Path, seconds: float, hold: float = 0) -> None:
    """Write a GIF that loops. Each frame is shown for `seconds`, the last for `hold` seconds more.

    Equal frames in a row are written as one. Each frame is written as soon as a different frame
    follows, because Pillow's save() would keep all frames in memory.
    """
    small = (frame.convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for frame in frames)
    with writing(path) as temporary, temporary.open("wb") as file:

        def write(frame: Image.Image, seconds: float) -> None:
            duration = round(1000 * seconds)  # in ms
            file.writelines(
                GifImagePlugin.getdata(frame, duration=duration, include_color_table=True)
            )

        shown, shown_for = next(small), seconds
        # A copy, because getheader() changes the palette.
        file.writelines(GifImagePlugin.getheader(shown.copy(), info={"loop": 0})[0])
        for frame in small:
            if frame != shown:
                write(shown, shown_for)
                shown, shown_for = frame, 0.0
            shown_for += seconds
        write(shown, shown_for + hold)
        file.write(b";")
