"""Load the sets of images that a command line names, and the feature extractor for them.

fid.py and inception_score.py share these functions. A set of images is a split of a data set
("mnist:test"), a folder, an .npz, or samples drawn from a checkpoint or run folder.
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

# Only this module in support/ imports data.py, because a set of images may be a data set's split.
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
    kinds = "default: classifier for a published data set or with --dataset, else inception"
    named = "data set whose classifier extracts features (default: the one that a source names)"
    precisions = "feature extractor's precision; auto: bf16 if it is native (default: fp32)"
    folder = "folder of the data sets, and of the images of folder:test (default: data)"
    parser.add_argument("--features", choices=FEATURES, help=f"feature extractor ({kinds})")
    parser.add_argument("--dataset", choices=DATASETS, help=named)
    parser.add_argument(
        "--inception_path", help="file with FID's Inception weights (default: downloaded once)"
    )
    parser.add_argument("--data_dir", default="data", help=folder)
    parser.add_argument(
        "--num_images",
        type=int,
        default=10_000,
        help="samples drawn per checkpoint (default: 10000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the samples of a checkpoint (default: 0)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=100, help="images per batch (default: 100)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="fp32", help=precisions
    )
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")
    # No flags: load_named() needs both for a folder, and infer_dataset() may set them.
    parser.set_defaults(image_size=None, classes=None)
    return parser


def network_for(sources: Sequence[str], args: argparse.Namespace) -> FeatureNetwork:
    """Return the feature extractor for the sources. Raise InputError for flags out of range."""
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
    """Yield features and logits of a set of images, batch by batch, with a progress bar."""
    batches = progress(image_batches(source, args), source, unit="batch", leave=False)
    return extract(batches, network, args.precision)


def infer_dataset(sources: Sequence[str], args: argparse.Namespace) -> str | None:
    """Return the data set that the sources or their first checkpoint name, or None.

    If the checkpoint was trained on a folder, write image size and classes into `args`.
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
    """Return name and split, as ("mnist", "test") for "mnist:test"; ("", "") without a data set."""
    name, _, split = source.partition(":")
    return (name, split) if name in CLASSES or (name == "folder" and split) else ("", "")


def load_named(name: str, args: argparse.Namespace) -> Dataset:
    """Load a data set. The folder in --data_dir is loaded with the size and classes in `args`."""
    if name in CLASSES:
        return load_dataset(name, args.data_dir)
    return load_dataset(name, args.data_dir, args.image_size, args.classes)


def image_batches(source: str, args: argparse.Namespace) -> Iterator[Tensor]:
    """Yield a set of images in batches uint8 (B, C, H, W).

    `source` is one of:
    - a data set and split ("mnist:test"; "folder:test" is a split of the images in --data_dir)
    - a folder of images of one size
    - an .npz with `images` or `arr_0`
    - a checkpoint or run folder, from which --num_images samples are drawn
    Raise InputError if `source` is something else or cannot be read.
    """
    path, (name, split) = Path(source), named_split(source)
    if name:
        if split not in ("train", "test"):
            raise InputError(f"{source}: which split? give {name}:train or {name}:test")
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
        raise InputError(f"{source} does not exist, or is not {known}")


def samples(path: Path, args: argparse.Namespace) -> Iterator[Tensor]:
    """Yield --num_images samples of a trained generator in batches.

    If a source is a split ("mnist:test") with the classes of the generator, the samples have the
    class frequencies of the split. Otherwise all classes are equally frequent.
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
    """Return the batch size for images of `pixels` pixels each: smaller for large images.

    A full batch of large images would need gigabytes.
    """
    return max(1, min(batch_size, LARGE_PIXELS // pixels))


def folder_images(folder: Path, batch_size: int) -> Iterator[Tensor]:
    """Yield the images in and below a folder as RGB batches, uint8 (B, 3, H, W).

    All images must have one size. The images are read as in training: upright, and on white where
    transparent. Raise InputError that lists all files that cannot be used.
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
        elif not problems:  # after a problem, the other files are only checked
            arrays.append(np.asarray(image.convert("RGB")))
            if len(arrays) == at_once(first[1][0] * first[1][1], batch_size):
                yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
                arrays = []
    refuse(problems)
    if arrays:
        yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
