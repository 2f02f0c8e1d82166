"""Draw from a trained generator: a grid, one class, a walk through z, or many single images.

python generate.py --load_path runs/RUN --grid_size 8              # a grid, one row a class
python generate.py --load_path runs/RUN --class Sneaker --seed 1   # a grid of one class
python generate.py --load_path runs/RUN --gif                      # the grid, walking through z
python generate.py --load_path runs/RUN --interpolate 6            # six rows from z to z
python generate.py --load_path runs/RUN --neighbours 8             # has it memorised?
python generate.py --load_path runs/RUN --num_images 10000 --format npz
"""

from support.command import InputError, exit_on_input_error, progress

import argparse
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.utils import make_grid

from data import class_index, load_dataset
from support.checkpoints import load_generator
from support.device import NOISE, pick_device, seeded
from support.files import assembling, writing
from support.fonts import drawable, font
from support.images import MOST_PIXELS, to_uint8

CHUNK = 500  # images drawn at a time: bounds memory, and no sample depends on it
WALK_STOPS, WALK_FRAMES = 4, 16  # a GIF passes so many z, in so many frames from one to the next
GIF_SIDE = 2**16 - 1  # pixels: the format has two bytes for a side
PRETRAINED_GENERATOR = Path(__file__).parent / "pretrained" / "cdcgan-fashion_mnist.pt"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = "a checkpoint, or a run folder: its best.pt, else last.pt (default: the pretrained one)"
    add("--load_path", default=PRETRAINED_GENERATOR, help=what)
    add("--save_path", default="samples", help="a folder, or a file ending in .png, .gif or .npz")
    add("--grid_size", type=int, help="images a row (default 8); rows: one a class, else as many")
    add("--class", dest="class_name", help="draw this class only, by name or number")
    help_neighbours = "a sample a row, beside its N closest training images"
    add("--neighbours", type=int, metavar="N", help=help_neighbours)
    add("--data_dir", default="data", help="where those are, as in training")
    add("--interpolate", type=int, help="rows, each from one z (and class) to another in steps")
    loop = "of --interpolate or the grid: a loop instead of a picture"
    add("--gif", action="store_true", help=loop)
    add("--num_images", type=int, metavar="N", help="draw N single images instead of a grid")
    kind = "of --num_images: files, or one array (default png)"
    add("--format", choices=("png", "npz"), help=kind)
    shorter = "factor of z: below 1 more typical and less varied (cf. Brock et al. 2019)"
    add("--truncation", type=float, default=1.0, help=shorter)
    add("--seed", type=int, default=0, help="of z: the same seed gives the same images")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


@torch.no_grad()
def sample(generator: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images uint8 (N, C, H, W) on the CPU for z (N, z_dim) and, if conditional, labels (N,).

    Always in eval mode, where batch norm uses its running statistics: a sample then depends on
    its own z alone. The generator is left in the mode in which it came.
    """
    was_training = generator.training
    generator.eval()
    images = []
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        fake = generator(z[part]) if labels is None else generator(z[part], labels[part])
        images.append(to_uint8(fake).cpu())
    generator.train(was_training)
    return torch.cat(images)


def noise(number: int, z_dim: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """z ~ N(0, I), (number, z_dim): drawn on the CPU, so that a seed means the same z anywhere."""
    return torch.randn(number, z_dim, generator=seeded(seed, NOISE)).to(device)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Spherical interpolation from a (t = 0) to b (t = 1), row by row of (N, z_dim).

    t: one number, or (N, 1).

    White, 2016 (arXiv:1609.04468), Sec. 2.1: z ~ N(0, I) has its length close to sqrt(z_dim), and
    a straight line would cut through short z, which the generator has hardly seen.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine).unsqueeze(1).clamp(min=1e-6)
    arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    # Between opposites no arc is the shortest: through the middle, then.
    return torch.where(cosine.unsqueeze(1) < -0.9999, torch.lerp(a, b, t), arc)


def sample_between(
    generator: nn.Module, z: Tensor, start: Tensor | None, end: Tensor | None, t: Tensor
) -> Tensor:
    """As sample(), of classes between `start` (t = 0) and `end` (t = 1), (N,), with t (N, 1).

    What lies between two classes is the mean of their embeddings, in shares of t.
    """
    if start is None or end is None:
        return sample(generator, z)
    images = []
    for part in (slice(i, i + CHUNK) for i in range(0, len(z), CHUNK)):
        embed = generator.get_submodule("embed")
        weight = embed.get_parameter("weight")
        mixed = torch.lerp(weight[start[part]], weight[end[part]], t[part])
        hook = embed.register_forward_hook(lambda *_, mixed=mixed: mixed)
        images.append(sample(generator, z[part], start[part]))
        hook.remove()
    return torch.cat(images)


@dataclass
class Layout:
    """The measures of a grid's picture in pixels; `across`: images per row."""

    across: int
    scale: int
    cell: int  # an image and its line of frame, enlarged
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
    if number == 1:  # make_grid leaves a single image without a frame
        return Layout(1, scale, cell, margin, margin + size * scale, size * scale)
    width, height = across * cell + scale, math.ceil(number / across) * cell + scale
    return Layout(across, scale, cell, margin, margin + width, height)


def row_font(cell: int) -> ImageFont.FreeTypeFont:
    """Return the font for the names of rows that are `cell` pixels high."""
    return font(max(11, cell // 4))


def draw_grid(images: Tensor, columns: int, row_names: Sequence[str] = ()) -> Image.Image:
    """Draw images uint8 (N, C, H, W), `columns` per row, with a name at the left of each row.

    The images are enlarged by a whole factor, which lets small ones be seen and keeps their pixels.
    A name that the font cannot write is replaced by the row's number, which counts from 0.
    """
    row_names = drawable(row_names, range(len(row_names)))
    layout = lay_out(len(images), columns, images.shape[-1], row_names)
    grid = make_grid(images, nrow=layout.across, padding=1, pad_value=255)
    small = Image.fromarray(grid.permute(1, 2, 0).numpy())
    size = (layout.scale * small.width, layout.scale * small.height)
    picture = Image.new("RGB", (layout.width, layout.height), "white")
    place = (layout.margin, 0, layout.width, layout.height)
    picture.paste(small.resize(size, Image.Resampling.NEAREST), place)  # raises if it does not fit
    draw, cell = ImageDraw.Draw(picture), layout.cell
    for row, name in enumerate(row_names):
        middle = (layout.margin - cell // 6, layout.scale + row * cell + cell // 2)
        draw.text(middle, name, fill="black", font=row_font(cell), anchor="rm")
    return picture


def check_layout(layout: Layout, moving: bool) -> None:
    """Raise InputError if a picture is too large for a GIF, or for the readers of a PNG."""
    width, height = layout.width, layout.height
    limit = ""
    if moving and max(width, height) > GIF_SIDE:
        limit = f"a GIF has at most {GIF_SIDE:,} per side"
    elif width * height > MOST_PIXELS:
        limit = f"at most {MOST_PIXELS:,} pixels are drawn"
    if limit:
        advice = "a smaller --grid_size, --class NAME or --interpolate ROWS makes it smaller"
        raise InputError(f"the picture would be {width:,} x {height:,} pixels; {limit}; {advice}")


class Neighbours:
    """The training images closest to a sample, in the features of the data set's classifier.

    There, two pictures of one thing are close; pixel by pixel they need not be.
    """

    def __init__(
        self,
        checkpoint: dict[str, Any],
        data_dir: str,
        device: torch.device,
        prepare: bool = True,
    ) -> None:
        """prepare: False does not download the data.

        InputError where the data is then missing, or a folder has no classifier yet.
        """
        from support.features import require_classifier  # here, for a quick start of drawing

        keep = checkpoint["classes"] or None
        size = checkpoint["generator_args"]["image_size"]
        dataset = load_dataset(checkpoint["dataset"], data_dir, size, keep, fetch=prepare)
        self.device, self.images = device, dataset.train_images.cpu()
        about = (dataset.name, dataset.train_images, dataset.train_labels, dataset.classes)
        self.network = require_classifier(*about, data_dir).to(device)
        self.features = self.extract(self.images)

    def extract(self, images: Tensor) -> Tensor:
        parts = [self.network(part.to(self.device))[0].cpu() for part in images.split(CHUNK)]
        return torch.cat(parts)

    def __call__(self, images: Tensor, number: int) -> Tensor:
        """uint8 (N, C, H, W) -> the `number` closest to each, uint8 (N, number, C, H, W)."""
        if number > len(self.images):
            raise InputError(f"{number} neighbours of {len(self.images)} training images")
        distances = torch.cdist(self.extract(images), self.features)
        return self.images[distances.topk(number, largest=False).indices]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, complete or not at all."""
    with writing(path) as temporary:
        picture.save(temporary, format="PNG")


def save_gif(frames: Iterable[Image.Image], path: Path, seconds: float, hold: float = 0) -> None:
    """Write a GIF that loops: each frame for `seconds`, the last for `hold` more.

    Each frame is written as soon as the next one differs. Pillow's save() would keep them all.
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


def check_args(args: argparse.Namespace, path: Path) -> None:
    """InputError where the flags contradict each other or cannot be met."""
    suffix = path.suffix.lower()
    limits = {"num_images": 10**7, "neighbours": 30, "interpolate": 30, "grid_size": 100}
    given = [flag for flag in limits if getattr(args, flag) is not None]
    together = {"interpolate", "grid_size"}  # n rows of so many steps
    if len(given) > 1 and set(given) != together:
        raise InputError(f"--{given[0]} and --{given[1]} exclude each other")
    for flag in given:
        value, most = getattr(args, flag), limits[flag]
        if not 1 <= value <= most:
            raise InputError(f"--{flag} {value}: give a number from 1 to {most}")
    if not 0 <= args.truncation <= 2:
        raise InputError(f"--truncation {args.truncation}: give a number from 0 to 2")
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed {args.seed}: give a number from 0 to 2^63 - 1")
    if suffix not in ("", ".png", ".gif", ".npz") and not os.path.isdir(path):
        raise InputError(f"--save_path {path}: give a folder or a name in .png, .gif or .npz")
    if args.num_images is None and (suffix == ".npz" or args.format):
        raise InputError("--format and .npz go with --num_images N: say how many images")
    if args.gif and suffix not in ("", ".gif"):
        raise InputError(f"--gif makes a GIF, which {path} is not named as")
    if args.neighbours is not None and (args.gif or suffix == ".gif"):
        raise InputError("--neighbours draws a still picture: leave out --gif and .gif")
    if args.num_images is not None and (
        args.gif or suffix in (".png", ".gif") or (suffix == ".npz" and args.format == "png")
    ):
        raise InputError(f"--num_images writes a folder of PNG files or an .npz, not {path}")


def check_no_images(folder: Path) -> None:
    """Raise InputError if `folder` holds images in any depth.

    fid.py and training read all of them, so older images would count as new samples.
    """
    names = (Path(name) for _, _, files in os.walk(folder) for name in files)
    endings = Image.registered_extensions()
    found = sum(name.suffix.lower() in endings and name.name[0] != "." for name in names)
    if found:
        images = "1 image" if found == 1 else f"{found:,} images"
        advice = "give a new or empty folder as --save_path"
        raise InputError(
            f"{folder} holds {images} already, which would mix with new ones: {advice}"
        )


def save_images(images: Tensor, labels: Tensor | None, classes: Sequence[str], path: Path) -> None:
    """One PNG file an image into the folder `path`, numbered, its class in its name."""
    for i, image in enumerate(progress(images, unit="file")):
        name = "" if labels is None else "_" + classes[int(labels[i])].replace("/", "-")
        name = name[:50]  # a file's name may have 255 bytes, and a character has up to four
        array = image.permute(1, 2, 0).squeeze(2).numpy()
        save_picture(Image.fromarray(array), path / f"{i:05d}{name.replace(' ', '-')}.png")


def save_npz(images: Tensor, labels: Tensor | None, path: Path) -> None:
    """`images` uint8 (N, H, W) or (N, H, W, 3); `labels` int64 (N,) where there are classes."""
    arrays: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).squeeze(3).numpy()}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with assembling(path) as buffer:
        np.savez_compressed(buffer, **arrays)


def walk(generator: nn.Module, z: Tensor, labels: Tensor | None, seed: int) -> Iterator[Tensor]:
    """Draw frames of a grid whose every z passes WALK_STOPS - 1 others and returns to itself."""
    others = [noise(len(z), z.shape[1], seed + i, z.device) for i in range(1, WALK_STOPS)]
    for a, b in zip([z, *others], [*others, z], strict=True):
        for i in range(WALK_FRAMES):
            yield sample(generator, slerp(a, b, i / WALK_FRAMES), labels)


def interpolation(
    generator: nn.Module,
    z: Tensor,
    labels: Tensor | None,
    columns: int,
    seed: int,
    moving: bool,
) -> Iterator[Tensor]:
    """Draw a grid whose every row goes from one z, and class, to another; or frames that do so.

    z: (rows * columns, z_dim), labels alike. Each row's class goes on to that of the next row.
    """
    end_labels = None if labels is None else labels.roll(-columns)
    end = noise(len(z), z.shape[1], seed + 1, z.device)
    if moving:  # every cell of its own, there and back
        there = [i / WALK_FRAMES for i in range(WALK_FRAMES + 1)]
        times = [torch.full((len(z), 1), t, device=z.device) for t in there + there[-2:0:-1]]
    else:  # a row has one start and one end
        z, end = (x[::columns].repeat_interleave(columns, dim=0) for x in (z, end))
        step = torch.linspace(0, 1, columns, device=z.device).unsqueeze(1)
        times = [step.repeat(len(z) // columns, 1)]
    for t in times:
        yield sample_between(generator, slerp(z, end, t), labels, end_labels, t)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    path = Path(args.save_path)
    suffix = path.suffix.lower()
    check_args(args, path)
    as_npz = suffix == ".npz" or args.format == "npz"
    if args.num_images is not None and not as_npz:
        check_no_images(path)
    device = pick_device(args.device)
    generator, checkpoint = load_generator(args.load_path, device)
    # Here, so that it holds for every z of a walk or an interpolation, too.
    generator.register_forward_pre_hook(lambda _, x: (args.truncation * x[0], *x[1:]))
    z_dim = checkpoint["generator_args"]["z_dim"]
    classes = tuple(checkpoint["classes"]) if "num_classes" in checkpoint["generator_args"] else ()
    if args.class_name is not None and not classes:
        raise InputError(f"--class: {checkpoint['script']} has no classes; try a cdcgan checkpoint")
    drawn = range(len(classes))
    if args.class_name is not None:
        index = class_index(classes, args.class_name, checkpoint["all_classes"])
        drawn = range(index, index + 1)

    if args.num_images is not None:
        number = args.num_images
        labels = torch.tensor(drawn)[torch.arange(number) % len(drawn)] if classes else None
        z = noise(number, z_dim, args.seed, device)
        images = sample(generator, z, None if labels is None else labels.to(device))
        if as_npz:
            path = path if suffix == ".npz" else path / "samples.npz"
            save_npz(images, labels, path)
        else:
            save_images(images, labels, classes, path)
        print(f"{number} images: {path}")
        return

    columns = args.grid_size or 8
    moving = args.gif or suffix == ".gif"
    if args.interpolate:
        rows = args.interpolate
        of_row = [drawn[i % len(drawn)] for i in range(rows)] if classes else []
    else:
        rows = len(drawn) if len(drawn) > 1 else columns
        of_row = list(drawn) * (rows // len(drawn)) if classes else []
    shown = dict(zip(drawn, drawable([classes[i] for i in drawn], drawn), strict=True))
    names = [shown[i] for i in of_row]
    if args.interpolate and len(drawn) > 1:  # each row goes on to the class of the next
        names = [f"{a} to {b}" for a, b in zip(names, names[1:] + names[:1], strict=True)]
    across = args.neighbours + 2 if args.neighbours else columns
    image_size = checkpoint["generator_args"]["image_size"]
    check_layout(lay_out(rows * across, across, image_size, names), moving)

    labels = torch.tensor(of_row, device=device).repeat_interleave(columns) if classes else None
    z = noise(rows * columns, z_dim, args.seed, device)
    frames: Iterable[Tensor]
    if args.interpolate:
        frames = interpolation(generator, z, labels, columns, args.seed, moving)
    elif moving:
        frames = walk(generator, z, labels, args.seed)
    elif args.neighbours:
        fake = sample(generator, z[::columns], None if labels is None else labels[::columns])
        nearest = Neighbours(checkpoint, args.data_dir, device)(fake, args.neighbours)
        white = torch.full_like(fake[:, None], 255)
        # Both in colour: a folder may have got its first colour picture since the training.
        row = [images.expand(-1, -1, 3, -1, -1) for images in (fake[:, None], white, nearest)]
        frames = [torch.cat(row, dim=1).flatten(0, 1)]
    else:
        frames = [sample(generator, z, labels)]
    pictures = (draw_grid(images, across, names) for images in frames)
    if moving:
        path = path if suffix == ".gif" else path / "grid.gif"
        save_gif(pictures, path, seconds=0.08)
    else:
        path = path if suffix == ".png" else path / "grid.png"
        save_picture(next(pictures), path)
    print(f"{rows} x {across} images: {path}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
