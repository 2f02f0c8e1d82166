"""Every data set as one uint8 tensor, and shuffled batches of it.

    dataset = load_dataset("fashion_mnist")                # train_images (60000, 1, 28, 28), uint8
    batches = Batches(dataset.train_images, dataset.train_labels, 128, seed=0, device="cpu")
    real, labels = batches[0]                              # (128, 1, 28, 28) in [-1, 1], (128,)

The whole set stays on the training device and is indexed there: at these sizes, worker processes
and per-image transforms cost more than the networks. The files of mnist, fashion_mnist and cifar10
are looked for in --data_dir, then on the system, then on the network, and verified by checksum; a
folder of images is decoded once, into a cache file that is then mapped into memory.
"""

import hashlib
import json
import math
import os
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from device import SHUFFLES, seeded
from files import InputError, atomic, remove_abandoned, user_cache
from parallel import first_goes_first, processes, rank
from sources import load_cifar10, load_idx

DATASETS = ("mnist", "fashion_mnist", "cifar10", "folder")
IMAGE_SIZES = (28, 32, 64, 128)
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": tuple(
        "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
    ),
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
}
KEEP_ON_DEVICE = 2 << 30  # bytes; a larger set stays on the CPU and is moved batch by batch
CACHE_VERSION = 2  # of the decoded folder: raise it when decoding changes
MOST_PIXELS = 1 << 26  # of a picture: a few KB may claim to be gigabytes
Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow only warns of up to twice this: opened() refuses
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LARGE_PIXELS, LARGE = 1 << 24, threading.Lock()  # larger ones are decoded one at a time
# What Pillow reads by itself: it gives EPS, which is a program, to Ghostscript.
Image.preinit()  # the common ones, which are then tried first
Image.init()
FORMATS = [name for name in Image.ID if name != "EPS"]
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # what Windows leaves in a folder of pictures


@dataclass
class Dataset:
    """Square images, uint8 (N, C, H, W) with C 1 or 3, and labels, int64 (N,) in [0, classes)."""

    name: str
    train_images: Tensor
    train_labels: Tensor  # all 0 where there are no classes
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]  # empty for a flat folder

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train_images.shape[-1]


@first_goes_first()
def load_dataset(
    name: str,
    data_dir: str | Path = "data",
    image_size: int | None = None,
    classes: str | Sequence[str] | None = None,
    fetch: bool = True,
) -> Dataset:
    """Load one of DATASETS, fetching it into `data_dir` where it is nowhere to be found.

    fetch: False never downloads; what is nowhere to be found is then an InputError.
    image_size: one of IMAGE_SIZES; None is the native size (28 or 32), or 64 for a folder.
    classes: names or numbers to keep, a list or separated by commas; labels count them from 0.
    Raises InputError for whatever the user can mend, unreadable and unwritable places included.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if image_size is not None and image_size not in IMAGE_SIZES:
        sizes = ", ".join(map(str, IMAGE_SIZES))
        raise InputError(f"--image_size {image_size} is not supported: choose one of {sizes}")
    try:
        places = (Path(data_dir), Path(data_dir, name), Path(data_dir, ".cache"), user_cache())
        for place in places:
            remove_abandoned(place)
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
    return Dataset(name, *train, *test, classes=tuple(CLASSES[name][i] for i in kept))


def class_index(classes: Sequence[str], name_or_number: str | int) -> int:
    """The number of a class given by name (case does not matter) or number; names go first."""
    if name_or_number in classes:
        return classes.index(str(name_or_number))
    wanted = str(name_or_number).strip()
    if wanted in classes:
        return classes.index(wanted)
    folded = [name.casefold() for name in classes]
    if wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    if wanted.isdecimal() and len(wanted) < 10 and int(wanted) < len(classes):
        return int(wanted)
    known = ", ".join(f"{i} {name}" for i, name in enumerate(classes)) or "none: it has no classes"
    raise InputError(f"unknown class {wanted!r}: the data set's classes are {known}")


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1], the range of the generators' tanh."""
    return (images - 127.5).div_(127.5)  # x / 127.5 - 1 with one rounding and one pass less


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] -> uint8 in [0, 255]; the inverse of to_float, values outside clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def labels_as_in(labels: Tensor, number: int) -> Tensor:
    """`number` labels in the proportions of `labels`, both int64: those of each evenly spread.

    Where all are as frequent: 0, 1, 2, ..., 0, 1, 2, ...
    """
    shares = (labels.bincount() / len(labels)).tolist()
    # The i-th of a class is due when its share of all labels so far is i + 1/2.
    due = [(torch.arange(math.ceil(number * share) + 1) + 0.5) / share for share in shares]
    classes = [torch.full_like(times, i, dtype=torch.int64) for i, times in enumerate(due)]
    return torch.cat(classes)[torch.cat(due).argsort(stable=True)[:number]]


class Batches:
    """Shuffled mini-batches as a pure function of (seed, number): a run resumes from any step."""

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
        """images: uint8 (N, C, H, W); labels: int64 (N,); hflip mirrors each with probability 1/2;
        shared gives each of torchrun's processes its part of every batch.

        Raises InputError if there are fewer images than batch_size, or it cannot be shared.
        """
        if not 1 <= batch_size <= len(images):
            raise InputError(
                f"--batch_size {batch_size} does not fit {len(images)} training images: "
                f"choose 1 to {len(images)}"
            )
        parts, part = (processes(), rank()) if shared else (1, 0)
        if batch_size % parts:
            raise InputError(
                f"--batch_size {batch_size} cannot be shared by {parts} processes: "
                f"choose a multiple of {parts}"
            )
        self.batch_size, self.seed, self.hflip = batch_size, seed, hflip
        self.mine = slice(part * batch_size // parts, (part + 1) * batch_size // parts)
        self.device = torch.device(device)
        # Of a larger set that is a memory map, index_select reads the rows it needs.
        home = self.device if images.nbytes < KEEP_ON_DEVICE else torch.device("cpu")
        self.images, self.labels = images.to(home), labels.to(home)
        self.epoch = -1

    def __len__(self) -> int:
        """Batches in an epoch; the last, incomplete one is dropped."""
        return len(self.images) // self.batch_size

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch `number`, counted on over the epochs, on the device.

        Returns float32 (B, C, H, W) in [-1, 1] (channels_last) and int64 (B,), or a share of it.
        """
        if number < 0:
            raise IndexError("batches are counted from 0, without an end")
        epoch, position = divmod(number, len(self))
        if epoch != self.epoch:
            self._shuffle(epoch)
        first = position * self.batch_size
        rows = slice(first + self.mine.start, first + self.mine.stop)
        index = self.order[rows]
        images = self.images.index_select(0, index).to(self.device)
        if self.hflip:
            images = torch.where(self.mirrored[rows].to(self.device), images.flip(3), images)
        images = to_float(images).to(memory_format=torch.channels_last)
        return images, self.labels.index_select(0, index).to(self.device)

    def _shuffle(self, epoch: int) -> None:
        generator = seeded(self.seed, SHUFFLES, epoch)
        self.order = torch.randperm(len(self.images), generator=generator).to(self.images.device)
        coins = torch.rand(len(self.images), 1, 1, 1, generator=generator) < 0.5
        self.mirrored = coins.to(self.images.device)
        self.epoch = epoch


def _kept_classes(classes: Sequence[str], wanted: str | Sequence[str] | None) -> list[int]:
    """The numbers of the classes that --classes keeps, ascending; all where it is not given."""
    if wanted is None:
        return list(range(len(classes)))
    names = wanted.split(",") if isinstance(wanted, str) else wanted
    return sorted({class_index(classes, name) for name in names})


def _resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size), bilinear, antialiased when shrinking."""
    if images.shape[-1] == size:
        return images
    resized = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for chunk, out in zip(images.split(1024), resized.split(1024), strict=True):
        # in chunks: as floats the whole set would take four times its memory
        scaled = F.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=True)
        out.copy_(scaled.round().clamp(0, 255))
    return resized


# ---- folder: any images, decoded once into a memory-mapped cache ----


def _load_folder(data_dir: Path, size: int, wanted: str | Sequence[str] | None) -> Dataset:
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: give a folder of images as --data_dir")
    root = data_dir.resolve()
    top = {entry.name for entry in _entries(root, root) if entry.is_dir()}
    # These names only: "train" beside "bus" and "car" is a class.
    held_out_names = ("test", "val", "valid", "validation")
    if "train" in top and top <= {"train", *held_out_names}:
        held_out = next((split for split in held_out_names if split in top), None)
        train = _list_classes(root / "train", root)
        test = _list_classes(root / held_out, root) if held_out else None
    else:
        train, test = _list_classes(root, root), None
    if test is not None and train.keys() != test.keys():
        odd = ", ".join(sorted(train.keys() ^ test.keys())) or "flat"
        raise InputError(
            f"{root}: train and {held_out} have different classes (only in one: {odd})"
        )

    classes = tuple(name for name in train if name)  # "" is a flat folder's only entry
    kept = _kept_classes(classes, wanted)
    names = [classes[i] for i in kept] or [""]
    if test is None:
        train, test = _tenth_held_out({name: train[name] for name in names})
    labelled = [(path, i) for i, name in enumerate(names) for path in train[name]]
    held = [(path, i) for i, name in enumerate(names) for path in test[name]]
    if not labelled or not held:
        raise InputError(f"{data_dir}: one image to train on and one to test on are needed")

    # One array, training images first: the splits are slices of it, and no copy is made.
    images = torch.from_numpy(_decoded([path for path, _ in labelled + held], root, size))
    labels = torch.tensor([label for _, label in labelled + held])
    n = len(labelled)
    kept_names = tuple(classes[i] for i in kept)
    return Dataset("folder", images[:n], labels[:n], images[n:], labels[n:], kept_names)


def _tenth_held_out(files: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], ...]:
    """The files of each class, parted by chance: a class of two or more has some on both sides."""
    train, test = {}, {}
    for name, paths in files.items():
        # From a seed of its own: a class is parted alike whatever other classes there are.
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
        cut = max(len(paths) // 10, min(1, len(paths) - 1))
        test[name] = [paths[i] for i in sorted(order[:cut])]
        train[name] = [paths[i] for i in sorted(order[cut:])]
    return train, test


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """What is in `folder`, sorted, hidden files left out; InputError for a link out of `root`."""
    entries = []
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                continue
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
                raise InputError(f"{entry.path} links out of {root}: copy the images there instead")
            entries.append(entry)
    return entries


def list_images(folder: Path, root: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """The images in and below `folder`, sorted; InputError for a file that is no image.

    Likewise for a folder that links lead to twice: it might be one that it lies in.
    """
    seen, place = seen or set(), os.path.realpath(folder)
    if place in seen:
        raise InputError(f"{folder} is {place} again: remove the link")
    seen.add(place)
    for entry in _entries(folder, root):
        if entry.is_dir():
            yield from list_images(Path(entry.path), root, seen)
        elif entry.is_file() and Path(entry.name).suffix.lower() in Image.registered_extensions():
            yield Path(entry.path)
        else:
            raise InputError(f"{entry.path} is not an image: remove it or move it elsewhere")


def is_name(text: object) -> bool:
    """Whether a class can be called so: it is written into pictures and files' names."""
    controls = ("Cc", "Cs")  # control characters, and bytes that are no text
    fits = isinstance(text, str) and len(text) < 256
    return fits and not any(unicodedata.category(c) in controls for c in str(text))


def _list_classes(folder: Path, root: Path) -> dict[str, list[Path]]:
    """Class name -> its images, both sorted; a flat folder is one class named ""."""
    entries = _entries(folder, root)
    if not any(entry.is_dir() for entry in entries):
        return {"": list(list_images(folder, root))}
    for entry in entries:
        if not entry.is_dir():
            raise InputError(f"{entry.path} lies beside class folders: move it into one or away")
    for entry in entries:
        if not is_name(entry.name):
            raise InputError(f"{folder} has a class {entry.name!r}: give it a name of plain text")
    listing = {entry.name: list(list_images(Path(entry.path), root)) for entry in entries}
    for name, paths in listing.items():
        if not paths:
            raise InputError(f"{folder / name} has no images: fill the class folder or remove it")
    return listing


def _decoded(paths: Sequence[Path], root: Path, size: int) -> np.ndarray:
    """uint8 (N, C, size, size), mapped from a cache file that is written if it is not there."""
    stats = [path.stat() for path in paths]
    listing = [
        (str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns)
        for path, stat in zip(paths, stats, strict=True)
    ]
    key = hashlib.sha256(json.dumps([CACHE_VERSION, size, listing]).encode()).hexdigest()
    files = [folder / f"{key}.npy" for folder in (root / ".cache", user_cache())]
    for file in files:
        images = _open_cache(file, len(paths), size)
        if images is not None:
            return images
    refused = []
    for file in files:
        try:
            _write_cache(file, paths, size)
        except OSError as error:
            refused.append(f"{file.parent} ({error.strerror or error})")
            continue
        images = _open_cache(file, len(paths), size)
        if images is not None:
            return images
    raise InputError(
        f"cannot write the decoded images to {' or '.join(refused)}: make one writable"
    )


def _open_cache(file: Path, count: int, size: int) -> np.ndarray | None:
    """The cache as a memory map, None if it is not there or not what it should be."""
    try:  # mode "c": private to this process, yet writable, as torch wants its memory
        images = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    fits = images.dtype == np.uint8 and images.shape in [(count, c, size, size) for c in (1, 3)]
    return images if fits else None


def _write_cache(file: Path, paths: Sequence[Path], size: int) -> None:
    """Decode all images, in threads (Pillow releases the GIL), into a .npy file, row by row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as unfinished, open(unfinished, "wb") as out:
        channels = 1 if all(map(_is_grey, paths)) else 3
        shape = (len(paths), channels, size, size)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        decode = partial(_decode, channels=channels, size=size)
        with ThreadPool(os.cpu_count()) as pool:
            rows = pool.imap(decode, paths, chunksize=8)
            for row in tqdm(rows, "decoding images", len(paths), unit="image", disable=None):
                # Written, not mapped: a full disk is then an error and not a SIGBUS.
                out.write(row.tobytes())


@contextmanager
def opened(path: Path, most: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """The image, its header read; InputError naming the file if that or what follows fails.

    Likewise where the header claims more pixels than `most`.
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


def _turn(image: Image.Image) -> AbstractContextManager[object]:
    """What a thread waits for before it decodes: together, large ones would take gigabytes."""
    return LARGE if image.width * image.height > LARGE_PIXELS else nullcontext()


def _is_grey(path: Path) -> bool:
    with opened(path) as image:
        return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")


def _decode(path: Path, channels: int, size: int) -> np.ndarray:
    """One image file -> uint8 (channels, size, size): upright, on white, cropped to its centre."""
    with opened(path) as image, _turn(image):
        image.draft(None, (2 * size, 2 * size))  # large JPEGs: decode at a half, quarter, eighth
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data and image.mode != "RGBA":
            image = image.convert("RGBA")
        if image.width * image.height > LARGE_PIXELS and image.mode in ("L", "RGB", "RGBA"):
            image = image.reduce(max(1, min(image.size) // (4 * size)))  # copies are small, then
        if image.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
            image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError(f"mode {image.mode}, of no certain range: save it with 8 or 16 bits")
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
