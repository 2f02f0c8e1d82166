"""What a command line can call a set of images, and the network that looks at it.

fid.py and inception_score.py share these. A set is a split of a data set ("mnist:test"), a folder,
an .npz, a checkpoint or a run folder.
"""

from support.command import InputError, progress

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# The one module in support/ that looks up: a set of images may be a data set's split.
from data import DATASETS, Dataset, labels_as_in, load_dataset
from support.arrays import is_npz, npz_images
from support.checkpoints import load_generator
from support.device import pick_device
from support.download import CLASSES
from support.features import (
    FEATURES,
    FeatureNetwork,
    extract,
    load_features,
    require_classifier,
)
from support.folders import list_images
from support.images import LARGE_PIXELS, attempt, read_image, refuse
from support.sampling import noise, sample

SOURCES = "a data set (mnist:test), folder, .npz, checkpoint or run folder"


def metric_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that fid.py and inception_score.py share."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--features", choices=FEATURES, help="default: classifier where a data set is known")
    add("--dataset", choices=DATASETS, help="whose classifier (default: what the sources say)")
    add("--inception_path", help="FID's Inception weights (default: downloaded once)")
    add("--data_dir", default="data", help="where data sets are or go; the pictures of folder:test")
    add("--num_images", type=int, default=10_000, help="samples of a checkpoint (default 10000)")
    add("--seed", type=int, default=0, help="of those samples")
    add("--batch_size", type=int, default=100, help="images at a time")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add("--precision", choices=("auto", "fp32", "bf16"), default="fp32", help="of the network")
    add("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(image_size=None, classes=None)  # of a folder, if no run says what it saw
    return parser


def network_for(sources: Sequence[str], args: argparse.Namespace) -> FeatureNetwork:
    for flag in ("batch_size", "num_images"):
        if not 1 <= getattr(args, flag) <= 10**7:
            raise InputError(f"--{flag} {getattr(args, flag)}: give a number from 1 to {10**7}")
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed {args.seed}: give a number from 0 to 2^63 - 1")
    inferred = infer_dataset(sources, args)
    dataset, device = args.dataset or inferred, pick_device(args.device)
    known = args.dataset or inferred in CLASSES
    kind = args.features or ("classifier" if known else "inception")
    if (kind, dataset) == ("classifier", "folder"):
        data = load_named("folder", args)
        about = (data.name, data.train_images, data.train_labels, data.classes)
        return require_classifier(*about, args.data_dir).to(device)
    return load_features(kind, dataset, device, args.inception_path)


def features_of(
    source: str, network: FeatureNetwork, args: argparse.Namespace
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features and logits of a set of images, batch by batch, under a progress bar."""
    batches = progress(image_batches(source, args), source, unit="batch", leave=False)
    return extract(batches, network, args.precision)


def infer_dataset(sources: Sequence[str], args: argparse.Namespace) -> str | None:
    """The data set that the sources are about, by name or by what a checkpoint says.

    Of a checkpoint that was trained on a folder, its size and classes go into `args`.
    """
    named = [name for name, _ in map(named_split, sources) if name]
    for source in sources:
        if source.endswith(".pt") or os.path.isfile(Path(source, "config.json")):
            _, checkpoint = load_generator(source)
            named.append(checkpoint["dataset"])
            if checkpoint["dataset"] == "folder":
                args.image_size = checkpoint["generator_args"]["image_size"]
                args.classes = checkpoint["classes"] or None
            break
    return next(iter(named), None)


def named_split(source: str) -> tuple[str, str]:
    """Of "mnist:test": ("mnist", "test"). Of what names no data set: ("", "")."""
    name, _, split = source.partition(":")
    return (name, split) if name in CLASSES or (name == "folder" and split) else ("", "")


def load_named(name: str, args: argparse.Namespace) -> Dataset:
    """The data set; of a folder, the pictures in --data_dir as a run among the sources saw them."""
    if name in CLASSES:
        return load_dataset(name, args.data_dir)
    return load_dataset(name, args.data_dir, args.image_size, args.classes)


def image_batches(source: str, args: argparse.Namespace) -> Iterator[Tensor]:
    """uint8 (B, C, H, W) batches of what a command line calls a set of images.

    `source`: a data set and split ("mnist:test"; "folder:test": of the pictures in --data_dir), a
    folder of images of one size, an .npz with `images` or `arr_0`, a checkpoint or a run folder (of
    which --num_images samples are drawn).
    InputError if it is none of these or cannot be read.
    """
    path, (name, split) = Path(source), named_split(source)
    if name:
        if split not in ("train", "test"):
            raise InputError(f"{source}: which split? {name}:train or {name}:test")
        dataset = load_named(name, args)
        images = dataset.train_images if split == "train" else dataset.test_images
        yield from images.split(args.batch_size)
    elif is_npz(path):
        images = npz_images(path)
        yield from images.split(at_once(images[0, 0].numel(), args.batch_size))
    elif path.suffix == ".pt" or os.path.isfile(path / "config.json"):
        yield from samples(path, args)
    elif os.path.isdir(path):
        yield from folder_images(path, args.batch_size)
    else:
        known = "a data set (mnist:test), a folder, an .npz, a checkpoint or a run folder"
        raise InputError(f"{source} is not there, or not {known}")


def samples(path: Path, args: argparse.Namespace) -> Iterator[Tensor]:
    """--num_images samples of a trained generator.

    Its classes are as frequent as in the split that they are compared with ("mnist:test"); where
    that has other classes, or is not named so, equally frequent.
    """
    device = pick_device(args.device)
    generator, checkpoint = load_generator(path, device)
    generator_args = checkpoint["generator_args"]
    z = noise(args.num_images, generator_args["z_dim"], args.seed, device)
    labels = None
    if "num_classes" in generator_args:
        given = torch.arange(generator_args["num_classes"])
        for name, split in filter(all, map(named_split, args.sources)):
            dataset = load_named(name, args)
            if dataset.classes == tuple(checkpoint["classes"]):
                given = dataset.train_labels if split == "train" else dataset.test_labels
        labels = labels_as_in(given, args.num_images).to(device)
    for start in range(0, args.num_images, args.batch_size):
        part = slice(start, start + args.batch_size)
        yield sample(generator, z[part], None if labels is None else labels[part])


def at_once(pixels: int, batch_size: int) -> int:
    """How many images of so many pixels go together: large ones are floats of gigabytes."""
    return max(1, min(batch_size, LARGE_PIXELS // pixels))


def folder_images(folder: Path, batch_size: int) -> Iterator[Tensor]:
    """Yield the images in and below a folder as RGB, in batches; they must all be of one size.

    They are read as for training: upright and, where they are transparent, on white.
    InputError lists all files that cannot be used.
    """
    root = folder.resolve()
    try:
        paths = list_images(root, root)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error})") from None
    if not paths:
        raise InputError(f"{folder} holds no images")
    arrays: list[np.ndarray] = []
    problems: list[object] = []
    first = None
    for path in paths:
        image = attempt(partial(read_image, most=LARGE_PIXELS), path)
        if isinstance(image, InputError):
            problems.append(image)
            continue
        first = first or (path, image.size)
        if image.size != first[1]:
            size = "{} x {}".format(*image.size)
            other = "{} x {}".format(*first[1])
            problems.append(f"{path} is {size} and {first[0].name} {other}: resize one of them")
        elif not problems:  # else the others are only looked at
            arrays.append(np.asarray(image.convert("RGB")))
            if len(arrays) == at_once(first[1][0] * first[1][1], batch_size):
                yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
                arrays = []
    refuse(problems)
    if arrays:
        yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
