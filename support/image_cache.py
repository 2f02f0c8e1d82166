"""Decode the images of a folder once, into a file that is mapped into memory.

The file lies in the user's cache folder. Nothing is written into the folder of the images.
"""

from support.command import InputError, progress, say

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from support.files import atomic, user_cache
from support.images import attempt, is_grey, read_image, refuse

CACHE_VERSION = 3  # to be increased when decoding changes
IN_MEMORY = 2 << 30  # bytes of decoded images that are kept in memory if the cache fails


def decoded(paths: Sequence[Path], root: Path, size: int) -> np.ndarray:
    """Return the images as uint8 (N, C, size, size), mapped from a cache file.

    A missing cache file is written, and older cache files of this folder and size are removed. If
    the cache cannot be written, keep up to 2 GB in memory; for more, raise InputError.
    """
    listing = []
    for path in paths:
        stat = path.stat()
        # Archives and rsync restore names, sizes and modification times. They cannot restore the
        # change time (ctime) and the inode, so these two reveal that a file was replaced.
        state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        listing.append((str(path), *state))
    about = _digest(str(root), size)
    file = user_cache() / f"images-{about}-{_digest(CACHE_VERSION, listing)}.npy"
    images = _open_cache(file, len(paths), size)
    if images is not None:
        return images
    try:
        _write_cache(file, paths, size)
    except OSError as error:
        reason = f"{file.parent} cannot be written ({error.strerror or error})"
        if 3 * size * size * len(paths) > IN_MEMORY:
            advice = "set XDG_CACHE_HOME to a folder with room"
            raise InputError(f"{reason}, and {root} needs it: {advice}") from None
        say(f"warning: {reason}: the next run will decode {root} again")
        return np.stack(list(_decode_all(paths, size)))
    for old in file.parent.glob(f"images-{about}-*.npy"):
        if old != file:
            with suppress(OSError):  # another run has removed the file, or maps it (Windows)
                old.unlink()
    _clear_folder(root)
    images = _open_cache(file, len(paths), size)
    if images is None:
        raise InputError(f"{file} cannot be read after writing: check that disk")
    return images


def _clear_folder(root: Path) -> None:
    """Remove cache files of other versions of this code from `root`; move classifiers to the cache.

    torchvision's ImageFolder takes a folder called .cache for a class.
    """
    with suppress(OSError):  # the folder is missing or may not be changed
        for path in (root / ".cache").iterdir():
            if re.fullmatch(r"[0-9a-f]{64}\.npy", path.name):
                path.unlink()
            elif re.fullmatch(r"classifier-[0-9a-f]{16}\.pt", path.name):
                shutil.move(path, user_cache() / path.name)
        (root / ".cache").rmdir()


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _open_cache(file: Path, count: int, size: int) -> np.ndarray | None:
    """Return the cache file as a memory map; None if the file is missing or does not fit."""
    try:  # mode "c": writable memory, as torch needs, without changes to the file
        images = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    fits = images.dtype == np.uint8 and images.shape in [(count, c, size, size) for c in (1, 3)]
    return images if fits else None


def _write_cache(file: Path, paths: Sequence[Path], size: int) -> None:
    """Decode all images into a .npy file, one by one. Raise InputError that lists broken images."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as unfinished, open(unfinished, "wb") as out:
        for i, row in enumerate(_decode_all(paths, size)):
            if i == 0:
                shape = (len(paths), *row.shape)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
            # write(), because with a memory map a full disk would kill the process (SIGBUS).
            out.write(row.tobytes())


def _decode_all(paths: Sequence[Path], size: int) -> Iterator[np.ndarray]:
    """Yield each image as uint8 (C, size, size), decoded in threads (Pillow releases the GIL).

    C is 1 if all images are grey, else 3. After all files, raise InputError that lists the broken
    files, if there are any.
    """
    channels = 1 if all(attempt(is_grey, path) is True for path in paths) else 3
    decode = partial(attempt, partial(_decode, channels=channels, size=size))
    problems: list[object] = []
    with ThreadPool(os.cpu_count()) as pool:
        rows = pool.imap(decode, paths, chunksize=8)
        for row in progress(rows, "decoding images", len(paths), unit="image"):
            if isinstance(row, InputError):
                problems.append(row)
            elif not problems:
                yield row
    refuse(problems)


def _decode(path: Path, channels: int, size: int) -> np.ndarray:
    """Return an image as uint8 (channels, size, size): upright, on white, cropped at the centre."""
    image, mode = read_image(path, side=size), "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
