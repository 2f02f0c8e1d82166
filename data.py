"""Load a data set as uint8 tensors, and draw shuffled batches from it.

    dataset = load_dataset("fashion_mnist")                # train_images (60000, 1, 28, 28), uint8
    batches = Batches(dataset.train_images, dataset.train_labels, 128, seed=0, device="cpu")
    real, labels = batches[0]                              # (128, 1, 28, 28) in [-1, 1], (128,)

A data set below 2 GiB stays on the training device as one tensor, so no worker process loads
images during training. The files of mnist, fashion_mnist and cifar10 are looked up in --data_dir,
and are downloaded if they are missing. Their checksums are verified. The files of Debian's
package are found as well. A folder of images is decoded once, into a cache file, which is then
mapped into memory.
"""

from support.command import InputError
from support.processes import local_rank_zero_first, local_rows, local_slice

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from support.device import SHUFFLES, seeded
from support.download import CLASSES, load_cifar10, load_idx
from support.files import remove_stale_files, user_cache
from support.folders import hold_out_tenth, list_splits
from support.image_cache import decoded
from support.images import IMAGE_SIZES, to_float

DATASETS = ("mnist", "fashion_mnist", "cifar10", "folder")
KEEP_ON_DEVICE = 2 << 30  # bytes; a data set of this size stays on the CPU and is moved per batch


@dataclass
class Dataset:
    """Hold square images, uint8 (N, C, H, W) with C 1 or 3, and labels, int64 (N,) from 0."""

    name: str
    train_images: Tensor
    train_labels: Tensor  # all 0 if there are no classes
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]  # kept by --classes; empty for a folder without class subfolders
    all_classes: tuple[str, ...] = ()  # of the whole data set; the index is the class number

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train_images.shape[-1]

    def require_classes(self, advice: str) -> None:
        """Raise InputError with `advice` if the images have no classes."""
        if not self.classes:
            raise InputError(f"--dataset {self.name}: there are no class subfolders; {advice}")


@local_rank_zero_first()
def load_dataset(
    name: str,
    data_dir: str | Path = "data",
    image_size: int | None = None,
    classes: str | Sequence[str] | None = None,
    fetch: bool = True,
) -> Dataset:
    """Load one of DATASETS, and download missing files into `data_dir`.

    fetch: with False, a missing file raises InputError instead of a download.
    image_size: one of IMAGE_SIZES; None is the native size (28 or 32), or 64 for a folder.
    classes: names or numbers to keep, as a list or separated by commas; labels count from 0.
    Raises InputError for unknown values, and for files that cannot be found, read or written.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if image_size is not None and image_size not in IMAGE_SIZES:
        sizes = ", ".join(map(str, IMAGE_SIZES))
        raise InputError(f"--image_size {image_size} is not supported: choose one of {sizes}")
    try:
        for place in (Path(data_dir), Path(data_dir, name), user_cache()):
            remove_stale_files(place)
        if name == "folder":
            return _load_folder(Path(data_dir), image_size or 64, classes)
        kept = torch.tensor(_kept_classes(CLASSES[name], classes))
        load = load_cifar10 if name == "cifar10" else partial(load_idx, name)
        arrays = load(Path(data_dir), fetch)
        images, labels, test_images, test_labels = map(torch.from_numpy, arrays)
    except OSError as error:
        where, reason = error.filename or data_dir, error.strerror or error
        raise InputError(f"cannot use {where}: {reason}; check --data_dir {data_dir}") from error

    def select(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(kept) < len(CLASSES[name]):
            mask = torch.isin(labels, kept)
            images, labels = images[mask], torch.searchsorted(kept, labels[mask])
        return _resize(images, image_size or images.shape[-1]), labels

    train, test = select(images, labels), select(test_images, test_labels)
    return Dataset(name, *train, *test, tuple(CLASSES[name][i] for i in kept), CLASSES[name])


def class_index(
    classes: Sequence[str], name_or_number: str | int, all_classes: Sequence[str] = ()
) -> int:
    """Return the index in `classes` of the class with this name or class number.

    all_classes: all classes of the data set, if `classes` is a part of them. A class number is an
    index into all_classes. An exact name has priority over a name in another case, and a name over
    a number. If a class has a number as name ("3"), only names are valid, because "3" would mean
    two classes. Raises InputError for a class that is not in `classes`.
    """
    text, all_classes = str(name_or_number), all_classes or classes
    number, folded = text.strip(), [name.casefold() for name in classes]
    for wanted, names in ((text, classes), (number, classes), (number.casefold(), folded)):
        if wanted in names:
            return names.index(wanted)
    numbered = not any(name.strip().isdecimal() for name in all_classes)
    if numbered and number.isdecimal() and len(number) < 10 and int(number) < len(all_classes):
        name = all_classes[int(number)]
        if name in classes:
            return classes.index(name)
    known = [f"{all_classes.index(name)} {name}" if numbered else name for name in classes]
    listed = ", ".join(known) or "none: it has no classes"
    raise InputError(f"unknown class {number!r}: the classes are {listed}")


def labels_as_in(labels: Tensor, number: int) -> Tensor:
    """Return `number` labels with the class frequencies of `labels`, evenly interleaved, as int64.

    If all classes are equally frequent, the result is 0, 1, 2, ..., 0, 1, 2, ...
    """
    fractions = (labels.bincount() / len(labels)).tolist()
    # Label i of a class with fraction f is due at time (i + 1/2) / f. Sorting merges the classes.
    due = [(torch.arange(math.ceil(number * f) + 1) + 0.5) / f for f in fractions]
    classes = [torch.full_like(times, i, dtype=torch.int64) for i, times in enumerate(due)]
    return torch.cat(classes)[torch.cat(due).argsort(stable=True)[:number]]


class Batches:
    """Give shuffled mini-batches that depend only on seed and step, so that a run can resume."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        hflip: bool = False,
        shared: bool = False,
    ) -> None:
        """Take images uint8 (N, C, H, W) and labels int64 (N,).

        hflip mirrors each image with probability 1/2. shared gives each process of torchrun a
        slice of every batch.
        Raises InputError if batch_size exceeds N or gives no equal slices.
        """
        if not 1 <= batch_size <= len(images):
            raise InputError(
                f"--batch_size {batch_size} does not fit {len(images)} training images: "
                f"choose 1 to {len(images)}"
            )
        self.batch_size, self.seed, self.hflip = batch_size, seed, hflip
        self.rank_slice = local_rows(batch_size) if shared else slice(0, batch_size)
        self.device = torch.device(device)
        # index_select reads only the rows of the batch, also from a memory map on the CPU.
        home = self.device if images.nbytes < KEEP_ON_DEVICE else torch.device("cpu")
        self.images, self.labels = images.to(home), labels.to(home)
        self.epoch = -1

    def __len__(self) -> int:
        """Return the number of batches per epoch, without the last, incomplete batch."""
        return len(self.images) // self.batch_size

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return batch `number`, counted from 0 across epochs, on the device.

        Images are float32 (B, C, H, W) in [-1, 1], channels_last; labels are int64 (B,). With
        `shared`, B is the size of a slice. Raises IndexError for a negative number.
        """
        if number < 0:
            raise IndexError("batches are counted from 0")
        epoch, position = divmod(number, len(self))
        if epoch != self.epoch:
            self._shuffle(epoch)
        first = position * self.batch_size
        rows = slice(first + self.rank_slice.start, first + self.rank_slice.stop)
        index = self.order[rows]
        images = self.images.index_select(0, index).to(self.device)
        if self.hflip:
            images = torch.where(self.mirrored[rows].to(self.device), images.flip(3), images)
        images = to_float(images).to(memory_format=torch.channels_last)
        return images, self.labels.index_select(0, index).to(self.device)

    def noise(self, z_dim: int) -> Tensor:
        """Return z ~ N(0, I), (B, z_dim), on the device; under torchrun, the slice of a process."""
        return local_slice(torch.randn(self.batch_size, z_dim, device=self.device))

    def _shuffle(self, epoch: int) -> None:
        generator = seeded(self.seed, SHUFFLES, epoch)
        self.order = torch.randperm(len(self.images), generator=generator).to(self.images.device)
        coins = torch.rand(len(self.images), 1, 1, 1, generator=generator) < 0.5
        self.mirrored = coins.to(self.images.device)
        self.epoch = epoch


def _kept_classes(classes: Sequence[str], wanted: str | Sequence[str] | None) -> list[int]:
    """Return the sorted numbers of the classes that --classes keeps; all numbers for None."""
    if wanted is None:
        return list(range(len(classes)))
    names = wanted.split(",") if isinstance(wanted, str) else wanted
    return sorted({class_index(classes, name) for name in names})


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (N, C, H, W) to (N, C, size, size), bilinear, antialiased when shrinking."""
    if images.shape[-1] == size:
        return images
    resized = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for chunk, out in zip(images.split(1024), resized.split(1024), strict=True):
        # In chunks, because the whole data set as float32 would take four times the memory.
        scaled = F.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=True)
        out.copy_(scaled.round().clamp(0, 255))
    return resized


def _load_folder(data_dir: Path, size: int, wanted: str | Sequence[str] | None) -> Dataset:
    """Load a folder of images. Without test images, hold out about a tenth of each class."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: give a folder of images as --data_dir")
    root = data_dir.resolve()
    train, test = list_splits(root)
    classes = tuple(name for name in train if name)  # a folder without classes has one entry, ""
    kept = tuple(classes[i] for i in _kept_classes(classes, wanted))
    names = kept or ("",)
    if test is None:
        train, test = hold_out_tenth({name: train[name] for name in names})
    training = [(path, i) for i, name in enumerate(names) for path in train[name]]
    testing = [(path, i) for i, name in enumerate(names) for path in test[name]]
    if not training:
        raise InputError(f"{data_dir} holds no images to train on")
    if not testing:
        what = f"{len(names)} classes of one image each" if len(names) > 1 else "a single image"
        raise InputError(f"{data_dir} holds {what}, which leaves none for testing: add images")
    # The splits are slices of one array, training images first, because copies take memory.
    images = torch.from_numpy(decoded([path for path, _ in training + testing], root, size))
    labels = torch.tensor([label for _, label in training + testing])
    n = len(training)
    return Dataset("folder", images[:n], labels[:n], images[n:], labels[n:], kept, classes)
