"""Draw samples from a trained generator: a grid, one class, an interpolation or single images.

python generate.py --load_path runs/RUN --grid_size 8              # a grid, one row per class
python generate.py --load_path runs/RUN --class Sneaker --seed 1   # a grid of one class
python generate.py --load_path runs/RUN --gif                      # an animated grid: z moves
python generate.py --load_path runs/RUN --interpolate 6            # six rows, each from z to z
python generate.py --load_path runs/RUN --neighbours 8             # does G copy training images?
python generate.py --load_path runs/RUN --num_images 10000 --format npz
python generate.py --load_path runs/RUN --export mine.pt           # the weights of G, no images
"""

from support.command import InputError, exit_on_input_error, progress

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from data import class_index, load_dataset
from support import drawing
from support.arrays import write_npz
from support.checkpoints import export_generator, load_generator
from support.device import pick_device
from support.features import extract, require_classifier
from support.fonts import drawable
from support.sampling import CHUNK, noise, sample, sample_between, slerp

WALK_STOPS, WALK_FRAMES = 4, 16  # z on the closed path of a GIF, frames from each to the next
PRETRAINED_GENERATOR = Path(__file__).parent / "pretrained" / "cdcgan-fashion_mnist.pt"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    load_path = "checkpoint, or run folder with a last.pt (default: the pretrained cdcgan)"
    parser.add_argument("--load_path", default=PRETRAINED_GENERATOR, help=load_path)
    save_path = "folder, or file that ends in .png, .gif or .npz (default: samples)"
    parser.add_argument("--save_path", default="samples", help=save_path)
    grid_size = "images per row (default: 8); one row per class, or a square grid for at most one"
    parser.add_argument("--grid_size", type=int, help=grid_size)
    class_name = "draw only the class with this name or number (default: all classes)"
    parser.add_argument("--class", dest="class_name", help=class_name)
    neighbours = "draw one sample per row, with the N nearest training images beside it"
    parser.add_argument("--neighbours", type=int, metavar="N", help=neighbours)
    data_dir = "folder with the training data, for --neighbours (default: data)"
    parser.add_argument("--data_dir", default="data", help=data_dir)
    interpolate = "draw ROWS rows, each from one z and class to another (slerp: White 2016)"
    parser.add_argument("--interpolate", type=int, metavar="ROWS", help=interpolate)
    parser.add_argument("--gif", action="store_true", help="write an animated GIF (default: a PNG)")
    parser.add_argument("--num_images", type=int, metavar="N", help="draw N single images, no grid")
    file_format = "write --num_images as PNG files or as one .npz file (default: png)"
    parser.add_argument("--format", choices=("png", "npz"), help=file_format)
    export = "write only G's EMA weights to FILE, in float16, and draw nothing"
    parser.add_argument("--export", metavar="FILE", help=export)
    z_scale = "factor of z (default: 1); Brock et al. 2019 resample large entries of z instead"
    parser.add_argument("--z_scale", type=float, default=1.0, help=z_scale)
    parser.add_argument("--seed", type=int, default=0, help="seed of z (default: 0)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


class Neighbours:
    """Find the training images nearest to a sample, in features of the data set's classifier.

    Similar images have similar features, even if many pixels differ.
    """

    def __init__(
        self, checkpoint: dict[str, Any], data_dir: str, device: torch.device, prepare: bool = True
    ) -> None:
        """Load data set and classifier. With prepare=False, the data set is not downloaded.

        Raises InputError if the data set is missing, or if a folder has no classifier yet.
        """
        keep = checkpoint["classes"] or None
        size = checkpoint["generator_args"]["image_size"]
        dataset = load_dataset(checkpoint["dataset"], data_dir, size, keep, fetch=prepare)
        self.images = dataset.train_images.cpu()
        about = (dataset.name, dataset.train_images, dataset.train_labels, dataset.classes)
        self.network = require_classifier(*about, data_dir).to(device)
        self.features = self.features_of(self.images)

    def features_of(self, images: Tensor) -> Tensor:
        extracted = extract(images.split(CHUNK), self.network)
        return torch.cat([features.cpu() for features, _ in extracted])

    def __call__(self, images: Tensor, number: int) -> Tensor:
        """Return the nearest training images to uint8 (N, C, H, W), as (N, number, C, H, W)."""
        if number > len(self.images):
            raise InputError(f"{number} neighbours of {len(self.images)} training images: too many")
        distances = torch.cdist(self.features_of(images), self.features)
        return self.images[distances.topk(number, largest=False).indices]


def check_args(args: argparse.Namespace, path: Path) -> None:
    """Raise InputError if flags contradict each other or a value is out of range."""
    suffix = path.suffix.lower()
    limits = {"num_images": 10**7, "neighbours": 30, "interpolate": 30, "grid_size": 100}
    if args.export:
        defaults = vars(parse_args([])) | {"load_path": args.load_path, "export": args.export}
        if vars(args) != defaults:
            raise InputError("--export draws nothing: give --load_path and no other flag")
    given = [flag for flag in limits if getattr(args, flag) is not None]
    if len(given) > 1 and set(given) != {"interpolate", "grid_size"}:  # rows and steps per row
        raise InputError(f"--{given[0]} and --{given[1]} exclude each other")
    for flag in given:
        value, most = getattr(args, flag), limits[flag]
        if not 1 <= value <= most:
            raise InputError(f"--{flag} {value}: give a number from 1 to {most}")
    if not 0 <= args.z_scale <= 2:
        raise InputError(f"--z_scale {args.z_scale}: give a number from 0 to 2")
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed {args.seed}: give a number from 0 to 2^63 - 1")
    if suffix not in ("", ".png", ".gif", ".npz") and not os.path.isdir(path):
        raise InputError(f"--save_path {path}: give a folder or a .png, .gif or .npz file")
    if args.num_images is None and (suffix == ".npz" or args.format):
        raise InputError("--format and .npz need --num_images N, the number of images")
    if args.gif and suffix not in ("", ".gif"):
        raise InputError(f"--gif writes a GIF, but {path} does not end in .gif")
    if args.neighbours is not None and (args.gif or suffix == ".gif"):
        raise InputError("--neighbours writes a PNG: leave out --gif and .gif")
    misnamed = suffix in (".png", ".gif") or (suffix == ".npz" and args.format == "png")
    if args.num_images is not None and (args.gif or misnamed):
        raise InputError(f"--num_images writes a folder of PNG files or an .npz, not {path}")


def save_images(images: Tensor, labels: Tensor | None, classes: Sequence[str], path: Path) -> None:
    """Write one PNG file per image into the folder `path`, named by number and class."""
    for i, image in enumerate(progress(images, unit="file")):
        name = "" if labels is None else "_" + classes[int(labels[i])].replace("/", "-")
        name = name[:50]  # file names have at most 255 bytes, and a character has up to 4
        array = image.permute(1, 2, 0).squeeze(2).numpy()
        drawing.save_picture(Image.fromarray(array), path / f"{i:05d}{name.replace(' ', '-')}.png")


def save_npz(images: Tensor, labels: Tensor | None, path: Path) -> None:
    """Write images as uint8 (N, H, W) or (N, H, W, 3); and labels as int64 (N,), if given."""
    given = {} if labels is None else {"labels": labels.numpy()}
    images = images.permute(0, 2, 3, 1).squeeze(3)
    write_npz(path, compress=True, images=images.numpy(), **given)


def walk(generator: nn.Module, z: Tensor, labels: Tensor | None, seed: int) -> Iterator[Tensor]:
    """Yield frames of a grid. Each z moves through WALK_STOPS - 1 other z and back to the start."""
    others = [noise(len(z), z.shape[1], seed + i, z.device) for i in range(1, WALK_STOPS)]
    for a, b in zip([z, *others], [*others, z], strict=True):
        for i in range(WALK_FRAMES):
            yield sample(generator, slerp(a, b, i / WALK_FRAMES), labels)


def interpolation(
    generator: nn.Module, z: Tensor, labels: Tensor | None, columns: int, seed: int, moving: bool
) -> Iterator[Tensor]:
    """Yield one grid whose rows go from one z and class to another, or its frames if `moving`.

    z: (rows * columns, z_dim); labels: (rows * columns,). A row ends in the class of the next row.
    """
    end_labels = None if labels is None else labels.roll(-columns)
    end = noise(len(z), z.shape[1], seed + 1, z.device)
    if moving:  # each cell has a separate end; the frames go there and back
        there = [i / WALK_FRAMES for i in range(WALK_FRAMES + 1)]
        times = [torch.full((len(z), 1), t, device=z.device) for t in there + there[-2:0:-1]]
    else:  # all cells of a row have one start and one end
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
    if args.export:
        export_generator(args.load_path, Path(args.export))
        return
    as_npz = suffix == ".npz" or args.format == "npz"
    if args.num_images is not None and not as_npz:
        drawing.check_empty(path)
    device = pick_device(args.device)
    generator, checkpoint = load_generator(args.load_path, device)
    # A hook, because every z of a walk or an interpolation must be scaled.
    generator.register_forward_pre_hook(lambda _, x: (args.z_scale * x[0], *x[1:]))
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
        row_labels = [drawn[i % len(drawn)] for i in range(rows)] if classes else []
    else:
        rows = len(drawn) if len(drawn) > 1 else columns
        row_labels = list(drawn) * (rows // len(drawn)) if classes else []
    shown = dict(zip(drawn, drawable([classes[i] for i in drawn], drawn), strict=True))
    names = [shown[i] for i in row_labels]
    if args.interpolate and len(drawn) > 1:  # a row ends in the class of the next row
        names = [f"{a} to {b}" for a, b in zip(names, names[1:] + names[:1], strict=True)]
    across = args.neighbours + 2 if args.neighbours else columns
    image_size = checkpoint["generator_args"]["image_size"]
    drawing.check_layout(drawing.lay_out(rows * across, across, image_size, names), moving)

    labels = torch.tensor(row_labels, device=device).repeat_interleave(columns) if classes else None
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
        # Both in RGB, because a folder with grey images at training may have colour images now.
        row = [images.expand(-1, -1, 3, -1, -1) for images in (fake[:, None], white, nearest)]
        frames = [torch.cat(row, dim=1).flatten(0, 1)]
    else:
        frames = [sample(generator, z, labels)]
    grids = (drawing.draw_grid(images, across, names) for images in frames)
    if moving:
        path = drawing.place_of_grid(path, ".gif")
        drawing.save_gif(grids, path, seconds=0.08)
    else:
        path = drawing.place_of_grid(path, ".png")
        drawing.save_picture(next(grids), path)
    print(f"{rows} x {across} images: {path}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
