"""Files that can be trusted: they appear whole or not at all, and loading them executes no code."""

from support.command import InputError

import io
import os
import secrets
import shutil
import sys
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

if sys.platform != "win32":
    import fcntl

UNFINISHED = ".gan-scripts.part"  # how the name of an unfinished file or folder ends
ABANDONED = 86_400  # seconds: what is unfinished and was not written to for so long has no writer


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: becomes `path` when the block ends well, else is removed."""
    # By chance, not by the process: another container may have one of the same number.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_stale_files(folder: Path) -> None:
    """Remove from `folder` the unfinished files and folders of processes that were killed.

    Their age tells them: a process that still writes may run on another machine, or in another
    container that shares the folder.
    """
    if not os.path.isdir(folder):  # or may not be entered, where glob raises
        return
    for path in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError):  # removed by another start, or not ours to remove
            if time.time() - path.lstat().st_mtime > ABANDONED:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def locked(folder: Path) -> IO[str]:
    """An open file that keeps other processes out of `folder` until it is closed.

    InputError if another process holds it. The lock is the system's and goes with its process,
    however that ends. Where there is no such lock (Windows, some network drives), nothing is held.
    """
    # Not filelock's: it makes a folder that is missing, and fails on a drive without locks.
    path = folder / ".lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from None
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(f"{folder} is in use: another process trains in it") from None
        except OSError:  # a network drive without locks
            pass
    return file


def run_folder(path: Path) -> Path:
    """Return `path`, if it can be a run's folder. InputError names the folder of a run's file."""
    if os.path.isfile(path):
        of_run = os.path.isfile(path.parent / "config.json")
        advice = f"give its folder, {path.parent}" if of_run else "give a run folder"
        raise InputError(f"{path} is a file: {advice}")
    return path


def user_cache() -> Path:
    """The folder for what a user's runs share and can make again."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a name: most likely not writable, then
        home = Path("/")
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "gan-scripts"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """atomic() for what a user asked for: folders are made, failures are InputErrors."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as unfinished:
            yield unfinished
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


@contextmanager
def assembling(path: Path) -> Iterator[io.BytesIO]:
    """writing() by way of memory, for torch's and numpy's archives.

    Where the disk fills up under their writers, these end in errors of their own on top of it.
    """
    buffer = io.BytesIO()
    yield buffer
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write what torch.load reads with weights_only=True: whole, or not at all and InputError."""
    with assembling(path) as buffer:
        torch.save(content, buffer)


def load_tensors(path: str | Path) -> Any:
    """What torch.save wrote: tensors, numbers and text, nothing of which is executed.

    Raises whatever torch does for a damaged file, ValueError for one that claims more than it has:
    an archive that inflates, a tensor of gigabytes over four bytes.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > os.path.getsize(path):  # torch.save does not compress
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
    content = torch.load(path, map_location="cpu", weights_only=True)
    _check_tensors(content)
    return content


def _check_tensors(content: Any) -> None:
    """ValueError for a tensor, at any depth, that is not dense or larger than its memory."""
    if isinstance(content, Tensor):
        dense = content.layout == torch.strided and content.device.type != "meta"
        if not dense or content.untyped_storage().nbytes() < content.nbytes:
            raise ValueError("a tensor without the memory that it claims")
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            _check_tensors(part)


def check_npz(path: Path) -> None:
    """InputError for an archive of arrays that inflates out of proportion; others are not judged.

    Pictures and statistics pack to a half or a tenth, zeros to a thousandth.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(1 << 29, 100 * os.path.getsize(path)):
        raise InputError(f"{path} would unpack to {unpacked:,} bytes: no images or statistics do")


def is_name(text: object) -> bool:
    """Return whether a class can be called so: it is written into images and files' names."""
    controls = ("Cc", "Cs")  # control characters, and bytes that are no text
    fits = isinstance(text, str) and len(text) < 256
    return fits and not any(unicodedata.category(c) in controls for c in str(text))
