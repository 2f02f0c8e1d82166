"""The decoded images of a folder, in a file that is mapped into memory.

A folder is decoded once, into the user's cache folder. Nothing is written into the folder itself.
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

CACHE_VERSION = 3  # of the decoded folder: raise it when decoding changes
IN_MEMORY = 2 << 30  # bytes of decoded images that need no cache file


def decoded(paths: Sequence[Path], root: Path, size: int) -> np.ndarray:
    """Return uint8 (N, C, size, size) of the images, mapped from a cache file.

    The file is made where it is not there, and takes the place of an older one of this folder.
    Where none can be written, few images are kept in memory; for many, InputError.
    """
    listing = []
    for path in paths:
        stat = path.stat()
        # Archives and rsync restore names, sizes and times of modification. The time of change
        # and the inode are the system's own: whatever writes or moves a file changes them.
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
        say(f"warning: {reason}: the next run decodes {root} again")
        return np.stack(list(_decode_all(paths, size)))
    for old in file.parent.glob(f"images-{about}-*.npy"):
        if old != file:
            with suppress(OSError):  # another run has removed it, or maps it (Windows)
                old.unlink()
    _clear_folder(root)
    images = _open_cache(file, len(paths), size)
    if images is None:
        raise InputError(f"{file} cannot be read after writing: check that disk")
    return images


def _clear_folder(root: Path) -> None:
    """Take out of the folder what other versions of this code cached in it.

    torchvision's ImageFolder takes a folder called .cache for a class.
    """
    with suppress(OSError):  # it is not there, or may not be changed
        for path in (root / ".cache").iterdir():
            if re.fullmatch(r"[0-9a-f]{64}\.npy", path.name):
                path.unlink()
            elif re.fullmatch(r"classifier-[0-9a-f]{16}\.pt", path.name):
                shutil.move(path, user_cache() / path.name)
        (root / ".cache").rmdir()


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _open_cache(file: Path, count: int, size: int) -> np.ndarray | None:
    """Return the cache as a memory map; None if it is not there or not what it should be."""
    try:  # mode "c": private to this process, yet writable, as torch wants its memory
        images = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    fits = images.dtype == np.uint8 and images.shape in [(count, c, size, size) for c in (1, 3)]
    return images if fits else None


def _write_cache(file: Path, paths: Sequence[Path], size: int) -> None:
    """Decode all images into a .npy file, row by row. InputError lists the broken images."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as unfinished, open(unfinished, "wb") as out:
        for i, row in enumerate(_decode_all(paths, size)):
            if i == 0:
                shape = (len(paths), *row.shape)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
            # Written, not mapped: a full disk is then an error and not a SIGBUS.
            out.write(row.tobytes())


def _decode_all(paths: Sequence[Path], size: int) -> Iterator[np.ndarray]:
    """Yield uint8 (C, size, size) of each image, decoded in threads (Pillow releases the GIL).

    C is 1 if all images are grey, else 3. InputError lists the broken ones, after all are read.
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
    """Return uint8 (channels, size, size): upright, on white, cropped to its centre."""
    image, mode = read_image(path, side=size), "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
