"""Frechet distance of two sets of images, from scratch (Heusel et al., 2017, arXiv:1706.08500).

    python fid.py fashion_mnist:test runs/RUN              # a data set's split, samples of a run
    python fid.py pictures/real pictures/fake              # folders of images
    python fid.py fashion_mnist:train --save_stats s.npz   # and later: python fid.py s.npz ...

Through a feature network (features.py), each set becomes a Gaussian with its mean and covariance;
the distance is that between the Gaussians (Frechet 1957; Dowson & Landau 1982):

    d^2 = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

It is FID through FID's Inception, and called FCD (Frechet classifier distance) through a data set's
classifier. Both are biased by the number of images: compare only at equal numbers. The distance is
the same both ways; for --prdc, the first set is the real one and the second is judged.
"""

from support.command import InputError, exit_on_input_error, progress, say, shown

import argparse
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from data import DATASETS, Dataset, labels_as_in, load_dataset
from generate import CHUNK, noise, sample
from support.checkpoints import load_generator
from support.device import autocast_for, pick_device
from support.download import CLASSES
from support.features import (
    FEATURES,
    ClassifierFeatures,
    InceptionFeatures,
    load_features,
    require_classifier,
)
from support.files import assembling, check_npz
from support.folders import list_images
from support.images import LARGE_PIXELS, attempt, read_image, refuse

FeatureNetwork = InceptionFeatures | ClassifierFeatures
ArrayType = tuple[np.dtype, tuple[int, ...]]  # an array's type and shape
IMAGES = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, called images or arr_0"
STATISTICS = "statistics mu (d,) and sigma (d, d)"


@dataclass
class Gaussian:
    """A mean (d,) and a root R (d, r) of the covariance, R R' = S, in float64; from n features."""

    mean: Tensor
    root: Tensor
    n: int | None  # None where statistics were saved without it

    @classmethod
    def of(cls, mean: Tensor, cov: Tensor, n: int | None) -> "Gaussian":
        """Cholesky's root where it exists; else the eigenvectors', rounded-off negatives as 0.

        InputError where an eigenvalue is too negative for rounding: then `cov` is no covariance.
        """
        root, failed = torch.linalg.cholesky_ex(cov)
        if failed:
            values, vectors = torch.linalg.eigh(cov)
            if values[0] < -1e-5 * values[-1].abs():
                raise InputError(f"not a covariance: it has the eigenvalue {float(values[0]):.3g}")
            root = vectors * values.clamp(min=0).sqrt()
        return cls(mean, root, n)

    @property
    def cov(self) -> Tensor:
        return self.root @ self.root.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), in float64.

    The square roots of the eigenvalues of S1 S2 are the singular values of R1' R2: nothing turns
    complex where S1 S2 is singular, and with r < d columns (few images) it costs less.
    """
    cross = torch.linalg.svdvals(a.root.T @ b.root).sum()
    traces = a.root.square().sum() + b.root.square().sum()
    distance = float((a.mean - b.mean).square().sum() + traces - 2 * cross)
    # By definition the distance is at least 0. The terms are rounded by up to 1e-15 of the traces,
    # so equal sets come to a tiny number of either sign: it counts as 0. NaN stays NaN.
    return 0.0 if distance < 1e-14 * float(traces) else distance


class Statistics:
    """Mean and covariance (ddof = 1) of features that come in batches, in O(d^2) memory.

    Up to d features are kept as they are, which says the same in less; then their sums are.
    """

    def __init__(self, dim: int) -> None:
        self.n, self.dim = 0, dim
        self.rows: list[Tensor] | None = []
        self.origin = self.sum = torch.zeros(dim, dtype=torch.float64)
        self.products = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Take in features (B, d). InputError if one is not finite."""
        features = features.detach().cpu().double()  # on the CPU: not every device has float64
        if not features.isfinite().all():
            raise InputError("a feature is NaN or infinite: the images or the network are broken")
        self.n += len(features)
        if self.rows is not None:
            self.rows.append(features)
            if self.n <= self.dim:
                return
            features, self.rows = torch.cat(self.rows), None
            # Sums of x - origin: far from 0, those of x would lose the covariance's digits.
            self.origin = features.mean(dim=0)
        centred = features - self.origin
        self.sum = self.sum + centred.sum(dim=0)
        self.products.addmm_(centred.T, centred)

    def gaussian(self) -> Gaussian:
        """InputError for fewer than two features: they have no covariance."""
        if self.n < 2:
            raise InputError(f"{self.n} image(s): a covariance needs at least 2")
        if self.rows is not None:
            features = torch.cat(self.rows)
            mean = features.mean(dim=0)
            return Gaussian(mean, (features - mean).T / (self.n - 1) ** 0.5, self.n)
        shift = self.sum / self.n
        cov = (self.products - self.n * torch.outer(shift, shift)) / (self.n - 1)
        return Gaussian.of(self.origin + shift, cov, self.n)


# ---- beside the distance: what it cannot tell apart ----


def kid(real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    """Kernel Inception Distance (Binkowski et al., 2018, arXiv:1801.01401), of features (N, d).

    The unbiased squared MMD with the kernel (x.y / d + 1)^3, a mean over random subsets. It may be
    slightly negative. InputError for fewer than two features.
    """
    size = min(size, len(real), len(fake))
    if size < 2:
        raise InputError("KID needs at least 2 images on either side")
    real, fake, d = real.double(), fake.double(), real.shape[1]
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(subsets):
        x = real[torch.randperm(len(real), generator=generator)[:size]]
        y = fake[torch.randperm(len(fake), generator=generator)[:size]]
        xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        total += float(within - 2 * xy.mean())
    return total / subsets


def neighbour_radii(x: Tensor, k: int) -> Tensor:
    """The distance from each of (N, d) to its k-th nearest other, (N,), less a hair.

    A ball is open: what lies on its edge, as that neighbour's own copy does, is outside of it, and
    the hair keeps it there whichever way the two distances were rounded.
    """
    if len(x) <= k:
        raise InputError(f"{len(x)} images: {k} neighbours of each need at least {k + 1}")
    # k + 1 of them: the nearest of all is the point itself.
    radii = [torch.cdist(part, x).kthvalue(k + 1).values for part in x.split(CHUNK)]
    return torch.cat(radii) * (1 - 1e-9)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019, arXiv:1904.06991), of (N, d).

    Precision: the share of fakes inside any real image's ball, which reaches to its k-th
    neighbour. Recall: the share of reals inside any fake's.
    """
    real, fake = real.double(), fake.double()

    def share(points: Tensor, centres: Tensor) -> float:
        radii = neighbour_radii(centres, k)
        inside = [(torch.cdist(p, centres) < radii).any(dim=1) for p in points.split(CHUNK)]
        return torch.cat(inside).double().mean().item()

    return share(fake, real), share(real, fake)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al., 2020, arXiv:2002.09797, Eq. 3 and 4), of (N, d).

    Density: how many real balls a fake lies in, over k. Coverage: the share of real balls with a
    fake in them.
    """
    real, fake = real.double(), fake.double()
    radii = neighbour_radii(real, k)
    balls, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for part in fake.split(CHUNK):
        inside = torch.cdist(part, real) < radii
        balls += int(inside.sum())
        covered |= inside.any(dim=0)
    return balls / (k * len(fake)), covered.double().mean().item()


# ---- sets of images, from the command line ----


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


def named_split(source: str) -> tuple[str, str]:
    """Of "mnist:test": ("mnist", "test"). Of what names no data set: ("", "")."""
    name, _, split = source.partition(":")
    return (name, split) if name in CLASSES or (name == "folder" and split) else ("", "")


def load_named(name: str, args: argparse.Namespace) -> Dataset:
    """The data set; of a folder, the pictures in --data_dir as a run among the sources saw them."""
    if name in CLASSES:
        return load_dataset(name, args.data_dir)
    return load_dataset(name, args.data_dir, args.image_size, args.classes)


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


def is_npz(source: str | Path) -> bool:
    """Return whether a source is meant as an array file. An .npy is, to be refused by name."""
    return Path(source).suffix.lower() in (".npz", ".npy")


def array_type(file: IO[bytes]) -> ArrayType:
    """Read the type and shape from the header of an .npy file."""
    version, _ = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, _, dtype = header[version > 1](file)
    return dtype, shape


def npz_arrays(path: Path) -> dict[str, ArrayType]:
    """Return the type and shape of every array in an .npz by its name. No array is loaded.

    InputError for another file than an .npz, and for an array that is larger than its data.
    """
    try:
        with open(path, "rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                file.seek(0)
                dtype, shape = array_type(file)
                advice = "save it with np.savez(FILE, images=ARRAY)"
                raise InputError(f"{path} is one array without a name, {dtype} {shape}: {advice}")
        check_npz(path)
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as member:
                        dtype, shape = array_type(member)
                    if math.prod(shape) * dtype.itemsize > info.file_size and not dtype.hasobject:
                        raise ValueError("larger than its data")
                    arrays[info.filename.removesuffix(".npy")] = dtype, shape
        return arrays
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception:  # zipfile and numpy raise many kinds on a damaged file
        expected = f"expected {IMAGES}; or {STATISTICS}"
        raise InputError(f"{path} is not an .npz of arrays, or is damaged: {expected}") from None


def npz_meant(path: Path) -> str:
    """Return the name of the images in an .npz, or "mu" if the .npz holds statistics.

    InputError if neither is there, if both are, or if they have another type or shape.
    """
    arrays = npz_arrays(path)
    several = [f"{name:.40} {dtype!s:.40} {shape}" for name, (dtype, shape) in arrays.items()]
    several[10:] = [f"{len(several) - 10} more"] if len(several) > 10 else []
    found = f"{path} holds {', '.join(several) or 'no arrays'}"
    meant = [
        name
        for name, (_, shape) in arrays.items()  # numpy calls arrays without a name arr_0, arr_1
        if name == "images" or (name.startswith("arr_") and len(shape) > 1)
    ]
    if "mu" in arrays or "sigma" in arrays:
        meant.append("mu")
    if len(meant) > 1:
        raise InputError(f"{found}; keep images or statistics, one set in a file")
    if not meant:
        raise InputError(f"{found}; expected {IMAGES}; or {STATISTICS}")
    if meant == ["mu"]:
        (mean_type, mean), (cov_type, cov) = (
            arrays.get(name, (np.dtype(object), ())) for name in ("mu", "sigma")
        )
        if not (mean_type.kind in "fiu" and cov_type.kind in "fiu" and mean and cov == mean * 2):
            raise InputError(f"{found}; expected {STATISTICS}, which are numbers")
    elif problem := images_problem(*arrays[meant[0]]):
        raise InputError(f"{found}; expected {IMAGES}: {problem}")
    return meant[0]


def images_problem(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """Say why an array is no set of images, and what to do. "" if it is one.

    The axis of the channels must be certain: either the second or the last axis has length 1 or 3.
    """
    if dtype.kind not in "fiub":
        return "its entries are no numbers: resize the images to one size and save one array"
    if dtype != np.uint8:
        scale = "255 * x if x is in [0, 1], (x + 1) * 127.5 if x is in [-1, 1]"
        return f"convert x to [0, 255] ({scale}), round it and save it as np.uint8"
    if 0 in shape:
        return "the array is empty"
    if len(shape) == 3:
        one = "it may be one image (H, W, C): save several as (N, H, W, C)"
        return one if shape[2] <= 4 else ""
    if len(shape) != 4:
        return f"it has {len(shape)} axes"
    second, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if second and last:
        return "the second and the last axis could both be the channels"
    if not second and not last and 4 in (shape[1], shape[3]):
        return "it has 4 channels: put transparent images on white and save 3 channels"
    return "" if second or last else "no axis holds 1 or 3 channels"


def npz_load(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Load arrays from an .npz by their names. InputError if one is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except MemoryError:
        raise
    except Exception:  # zipfile and numpy raise many kinds on a damaged file
        raise InputError(f"{path} is damaged: its arrays cannot be read") from None


def npz_images(path: Path) -> Tensor:
    """Load the images of an .npz as uint8 (N, C, H, W). InputError for anything else."""
    name = npz_meant(path)
    if name == "mu":
        raise InputError(f"{path} holds statistics (mu and sigma); images are needed here")
    images = torch.from_numpy(npz_load(path, [name])[name])
    if images.ndim == 3:
        return images[:, None]
    return images if images.shape[1] in (1, 3) else images.permute(0, 3, 1, 2)


def check_arrays(sources: Sequence[str]) -> None:
    """Raise InputError that names every .npz among the sources that cannot be used."""
    problems = []
    for source in dict.fromkeys(sources):
        try:
            is_statistics(source)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))


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


@torch.no_grad()
def extract(
    batches: Iterable[Tensor], network: FeatureNetwork, precision: str = "fp32", keep: bool = False
) -> tuple[Statistics, Tensor, Tensor]:
    """Statistics, features (N, d) and logits (N, K) of batches of uint8 images.

    The features and logits themselves are kept only if `keep`, else those two are empty.
    """
    device = next(network.buffers()).device
    autocast = autocast_for(device, precision)
    statistics = Statistics(network.dim)
    kept: list[tuple[Tensor, Tensor]] = []
    for images in batches:
        # A GPU's convolutions would keep 10 of float32's 23 bits (TF32).
        with autocast(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features, logits = network(images.to(device))
        statistics.update(features)
        if keep:
            kept.append((features.cpu(), logits.cpu()))
    empty = torch.empty(0)
    features, logits = (torch.cat(x) for x in zip(*kept, strict=True)) if kept else (empty, empty)
    return statistics, features, logits


def load_statistics(path: Path, features: str) -> Gaussian:
    """`mu` and `sigma` of an .npz as pytorch-fid writes it; `n` and `features` where fid.py did.

    InputError for anything else, and for statistics made through another network than `features`.
    """
    if npz_meant(path) != "mu":
        raise InputError(f"{path} holds images; statistics (mu and sigma) are needed here")
    kinds = {name: dtype.kind for name, (dtype, shape) in npz_arrays(path).items() if shape == ()}
    # Other projects may save something else under these two names: then it is left alone.
    counted, labelled = kinds.get("n") in ("i", "u"), kinds.get("features") == "U"
    own = ["n"] * counted + ["features"] * labelled
    arrays = npz_load(path, ["mu", "sigma", *own])
    mean, cov = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
    n = int(arrays["n"]) if counted else 0
    made_by = str(arrays["features"]) if labelled else features
    if not (mean.isfinite().all() and cov.isfinite().all()):
        raise InputError(f"{path}: mu or sigma holds a number that is not finite")
    if made_by != features:
        raise InputError(f"{path} was made through {made_by}, and cannot be compared in {features}")
    try:
        return Gaussian.of(mean, (cov + cov.T) / 2, n if n > 0 else None)
    except InputError as error:
        raise InputError(f"{path}: sigma is {error}") from None


def save_statistics(gaussian: Gaussian, path: Path, features: str) -> None:
    mu, sigma = gaussian.mean.numpy(), gaussian.cov.numpy()
    with assembling(path) as buffer:
        np.savez(buffer, mu=mu, sigma=sigma, n=gaussian.n or 0, features=features)


def is_statistics(source: str) -> bool:
    """Return whether a source is an .npz of statistics. InputError for an .npz of nothing known."""
    return is_npz(source) and npz_meant(Path(source)) == "mu"


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that fid.py and inception_score.py share."""
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = "a data set (mnist:test), folder, .npz, checkpoint, run folder or saved statistics"
    add("sources", nargs="+", metavar="A", help=f"real, then generated images: {what}")
    add("--save_stats", metavar="FILE", help="write the statistics of one source to an .npz")
    add("--kid", action="store_true", help="Kernel Inception Distance as well")
    add(
        "--prdc", action="store_true", help="precision, recall, density, coverage of the second set"
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    if len(args.sources) != (1 if args.save_stats else 2):
        raise InputError("give two sets of images, or one and --save_stats FILE")
    if args.save_stats and not args.save_stats.endswith(".npz"):
        raise InputError(f"--save_stats {args.save_stats}: give a name that ends in .npz")
    check_arrays(args.sources)
    if (args.kid or args.prdc) and any(map(is_statistics, args.sources)):
        raise InputError("--kid and --prdc need images on both sides, not saved statistics")
    network = network_for(args.sources, args)
    gaussians, features = [], []
    for source in args.sources:
        if is_statistics(source):
            gaussians.append(load_statistics(Path(source), network.name))
            continue
        batches = progress(image_batches(source, args), source, unit="batch", leave=False)
        statistics, kept, _ = extract(batches, network, args.precision, args.kid or args.prdc)
        try:
            gaussians.append(statistics.gaussian())
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        features.append(kept)
    for gaussian, source in zip(gaussians, args.sources, strict=True):
        if len(gaussian.mean) != network.dim:
            raise InputError(f"{source}: of {len(gaussian.mean)} features, not {network.dim}")
    if args.save_stats:
        save_statistics(gaussians[0], Path(args.save_stats), network.name)
        print(f"{gaussians[0].n or '?'} images through {network.name}: {args.save_stats}")
        return
    report(gaussians, features, network, args)


def report(
    gaussians: Sequence[Gaussian],
    features: Sequence[Tensor],
    network: FeatureNetwork,
    args: argparse.Namespace,
) -> None:
    """Print the distance and what else was asked for; A counts as real, B as generated."""
    a, b = gaussians
    results: dict[str, Any] = {network.distance.lower(): frechet_distance(a, b)}
    if args.kid:
        results["kid"] = kid(features[0], features[1], seed=args.seed)
    if args.prdc:
        results["precision"], results["recall"] = precision_recall(features[0], features[1])
        results["density"], results["coverage"] = density_coverage(features[0], features[1])
    about = {"n_a": a.n, "n_b": b.n, "features": network.name, "dim": network.dim}
    n_a, n_b = a.n or "an unknown number of", b.n or "an unknown number of"
    if n_a != n_b:
        say(f"warning: {n_a} against {n_b} images: the distance depends on N")
    if min(a.n or network.dim, b.n or network.dim) < network.dim:
        say(f"warning: fewer images than the {network.dim} dimensions")
    if args.json:
        print(json.dumps(results | about))
        return
    for name, value in results.items():
        print(f"{name:<10}{shown(value, '12.4f')}")
    print(f"{n_a} and {n_b} images through {network.name}, {network.dim} features")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
