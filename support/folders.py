"""List the images of a folder by split and class."""

from support.command import InputError, say

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from support.files import is_name
from support.images import image_suffixes, refuse

SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx")  # left in folders by Windows and macOS
# Names of splits, in any case. A suffix may follow, as in Training_Set and val2017.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = (  # in this order: the first existing split is used
    *("test", "testing", "val", "valid", "validation", "dev", "development"),
    *("eval", "evaluation", "holdout"),
)
Listing = dict[str, list[Path]]  # class name -> image paths; a flat folder has one class, ""


def list_splits(root: Path) -> tuple[Listing, Listing | None]:
    """Return the training and the test images of a folder by class, or None without a test split.

    Raise InputError for a layout that is unclear, and for files that are no images.
    """
    folders = [entry.name for entry in entries_of(root, root) if entry.is_dir()]
    train, test, others = _by_split(folders, _split)
    clear = bool(train and test)
    if not clear:  # the names may be cars_train and cars_test, or classes such as freight_train
        longer = _by_split(folders, _split_within)
        if longer[0] and longer[1]:
            train, test, others = longer
    if not (train or test) or (others and not clear):
        if train or test:
            names = _some([*train, *test])
            say(
                f"warning: {root}: {names} beside {_some(others)}: taken as a class, not as a split"
            )
        return list_classes(root, root), None
    if others:
        splits = _some([*train, *test])
        raise InputError(
            f"{root} has the splits {splits} and beside them {_some(others)}: move these elsewhere"
        )
    if len(train) != 1:
        found = _some([*train, *test])
        raise InputError(
            f"{root} has {found}, and needs one training split: name one of them train"
        )
    training = list_classes(root / train[0], root)
    if not test:
        return training, None
    first = min(test, key=lambda name: TEST_NAMES.index(_split_within(name)))
    testing = list_classes(root / first, root)
    if training.keys() != testing.keys():
        odd = sorted(name or "images without a class" for name in training.keys() ^ testing.keys())
        raise InputError(
            f"{root}: {train[0]} and {first} have different classes (only in one: {_some(odd)})"
        )
    return training, testing


def list_classes(folder: Path, root: Path) -> Listing:
    """Return class name -> image paths, both sorted. A flat folder is one class named ""."""
    entries = entries_of(folder, root)
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        return {"": list_images(folder, root)}
    refuse(
        [
            f"{entry.path} lies beside class folders: remove it, or move it out of {root}"
            for entry in entries
            if entry not in classes
        ]
    )
    for entry in classes:
        if not is_name(entry.name):
            raise InputError(f"{folder} has a class {entry.name!r}: give it a name of plain text")
    listing: Listing = {}
    problems: list[str] = []
    for entry in classes:
        _check_class(Path(entry.path), folder, root, alone=len(classes) == 1)
        listing[entry.name] = list(_walk(Path(entry.path), root, problems))
    refuse(problems)
    for name, paths in listing.items():
        if not paths:
            raise InputError(f"{folder / name} has no images: fill the class folder or remove it")
    _warn_of_parts(folder, listing)
    return listing


def list_images(folder: Path, root: Path) -> list[Path]:
    """Return the images in and below `folder`, sorted. Raise InputError that lists other files."""
    problems: list[str] = []
    paths = list(_walk(folder, root, problems))
    refuse(problems)
    return paths


def entries_of(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of `folder`, sorted. Raise InputError for a link out of `root`."""
    entries = []
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                continue
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
                raise InputError(f"{entry.path} links out of {root}: copy the images there instead")
            entries.append(entry)
    return entries


def _split(name: str) -> str:
    """Return the name in lower case without suffix: training for Training_Set, val for val2017."""
    plain = re.sub(r"[\W_]+", "", name.casefold())
    return re.sub(r"(?<=.)(set|data|images|imgs|split|\d{4})$", "", plain)


def _split_within(name: str) -> str:
    """Return the first split among the words of a name: test for cars_test, testA and Test (1)."""
    words = re.findall(r"[^\W\d_a-z]+(?![a-z])|[^\W\d_]?[a-z]+", name)
    splits = [_split(part) for part in (name, *words)]
    return next((split for split in splits if split in (*TRAIN_NAMES, *TEST_NAMES)), "")


def _by_split(names: Sequence[str], split: Callable[[str], str]) -> tuple[list[str], ...]:
    """Return the names of training splits, the names of test splits, and all other names."""
    train = [name for name in names if split(name) in TRAIN_NAMES]
    test = [name for name in names if split(name) in TEST_NAMES]
    return train, test, [name for name in names if name not in (*train, *test)]


def _some(names: Sequence[str]) -> str:
    """Return the first five names and the number of further names, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_class(path: Path, folder: Path, root: Path, alone: bool) -> None:
    """Raise InputError, or warn, if a class folder holds only folders or a train and a test split.

    The folders below may be the classes.
    """
    inside = entries_of(path, root)
    below = [entry.name for entry in inside if entry.is_dir()]
    train, test, _ = _by_split(below, _split)
    splits = train and test  # two splits, even if a file such as a preview lies beside them
    if not below or (len(below) < len(inside) and not splits):
        return
    if (train or test) and not alone:
        raise InputError(
            f"{path} holds the splits {_some(below)}: put the splits above the classes, "
            f"as in {below[0]}/{path.name}"
        )
    if alone:
        what = "splits" if splits else "only folders"
        advice = f"give --data_dir {path}" if folder == root else f"move them up into {folder}"
        raise InputError(
            f"{folder} holds one folder, {path.name}, which holds {what} ({_some(below)}): "
            f"if you mean these, {advice}"
        )
    say(
        f"warning: {path} holds only folders ({_some(below)}): all images below count as one "
        f"class, {path.name}"
    )


def _warn_of_parts(folder: Path, listing: Listing) -> None:
    """Warn if class folders look like parts of one numbered list, as in StyleGAN's data sets."""
    if len(listing) < 2 or not all(re.fullmatch(r"\d{4,}", name) for name in listing):
        return
    numbers = [[re.findall(r"\d+", path.stem)[-1:] for path in paths] for paths in listing.values()]
    ends = [(min(part), max(part)) for part in numbers]
    if all(a[1] < b[0] for a, b in zip(ends, ends[1:], strict=False)):
        say(
            f"warning: {folder}: {_some(list(listing))} look like numbered parts of one list and "
            "count as classes; for images without classes put all images into one folder"
        )


def _walk(
    folder: Path, root: Path, problems: list[str], seen: set[str] | None = None
) -> Iterator[Path]:
    """Yield the images in and below `folder`, sorted; add a line per other file to `problems`.

    Raise InputError for a folder that is reached twice, because links could form an endless loop.
    """
    seen, place = seen or set(), os.path.realpath(folder)
    if place in seen:
        raise InputError(f"{folder} is {place} again: remove the link")
    seen.add(place)
    for entry in entries_of(folder, root):
        if entry.is_dir():
            yield from _walk(Path(entry.path), root, problems, seen)
        elif entry.is_file() and Path(entry.name).suffix.lower() in image_suffixes():
            yield Path(entry.path)
        else:
            problems.append(f"{entry.path} is not an image: remove it or move it elsewhere")


def hold_out_tenth(files: Listing) -> tuple[Listing, Listing]:
    """Split the files of each class at random into training (nine tenths) and test files.

    Each class of two or more files has a file in both splits.
    """
    train: Listing = {}
    test: Listing = {}
    for name, paths in files.items():
        # Each class has a new generator, so the split of a class does not depend on other classes.
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
        cut = max(len(paths) // 10, min(1, len(paths) - 1))
        test[name] = [paths[i] for i in sorted(order[:cut])]
        train[name] = [paths[i] for i in sorted(order[cut:])]
    return train, test
