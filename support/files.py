"""Write files that appear whole or not at all, and load tensors without executing code."""

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

UNFINISHED = ".gan-scripts.part"  # suffix of unfinished files and folders
ABANDONED = 86_400  # seconds; an unfinished file that has not changed for longer has no writer


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path. After the block, rename the file to `path`, or remove it on error."""
    # The name is random, because processes in two containers may have the same process number.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_stale_files(folder: Path) -> None:
    """Remove the unfinished files and folders of killed processes from `folder`.

    Only the age identifies them, because a process that still writes may run on another machine or
    in another container.
    """
    if not os.path.isdir(folder):  # also False if the folder may not be entered; glob would raise
        return
    for path in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError):  # another process has removed it, or it belongs to another user
            if time.time() - path.lstat().st_mtime > ABANDONED:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def locked(folder: Path) -> IO[str]:
    """Return an open file that locks `folder` until the file is closed.

    Raise InputError if another process holds the lock. The operating system releases the lock when
    the process ends. Windows and some network drives have no such lock: there `folder` is not
    locked.
    """
    # The package filelock would create a missing folder, and fails on a drive without locks.
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
    """Return `path`. Raise InputError if `path` is a file, with the run's folder as advice."""
    if os.path.isfile(path):
        of_run = os.path.isfile(path.parent / "config.json")
        advice = f"give its folder, {path.parent}" if of_run else "give a run folder"
        raise InputError(f"{path} is a file: {advice}")
    return path


def user_cache() -> Path:
    """Return the folder for files that a user's runs share and can create again."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user may have no home folder
        home = Path("/")
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "gan-scripts"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Use atomic() for `path`, create missing folders and turn an OSError into an InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as unfinished:
            yield unfinished
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder. After the block, rename it to `path`, or remove it on error.

    Raise InputError if `path` exists or cannot be written.
    """
    if os.path.lexists(path):
        raise InputError(f"{path} exists: name a new folder")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def assembling(path: Path) -> Iterator[io.BytesIO]:
    """Yield a buffer in memory. After the block the content is written to `path` by writing().

    torch and numpy would hide the error of a full disk behind errors of their own writers.
    """
    buffer = io.BytesIO()
    yield buffer
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and text for load_tensors(). Raise InputError if that fails."""
    with assembling(path) as buffer:
        torch.save(content, buffer)


def load_tensors(path: str | Path) -> Any:
    """Load the tensors, numbers and text of a file that torch.save() wrote. No code is executed.

    A damaged file raises any of torch's errors. Raise ValueError for a file that claims more data
    than it has: a compressed archive, or a large tensor over a small memory.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > os.path.getsize(path):  # torch.save() does not compress
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
    content = torch.load(path, map_location="cpu", weights_only=True)
    _check_tensors(content)
    return content


def _check_tensors(content: Any) -> None:
    """Raise ValueError if `content` has a tensor that is not dense or is larger than its memory."""
    if isinstance(content, Tensor):
        dense = content.layout == torch.strided and content.device.type != "meta"
        if not dense or content.untyped_storage().nbytes() < content.nbytes:
            raise ValueError("a tensor claims more memory than it has")
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            _check_tensors(part)


def check_npz(path: Path) -> None:
    """Raise InputError if an archive of arrays would unpack to far more bytes than it has.

    Images and statistics compress to between a half and a tenth, zeros to a thousandth. Files that
    are no zip archives pass.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(1 << 29, 100 * os.path.getsize(path)):
        limit = "more than images or statistics can"
        raise InputError(f"{path} would unpack to {unpacked:,} bytes, {limit}")


def is_name(text: object) -> bool:
    """Return whether `text` can be a class name, which is written into images and file names."""
    controls = ("Cc", "Cs")  # control characters, and bytes that are not text
    fits = isinstance(text, str) and len(text) < 256
    return fits and not any(unicodedata.category(c) in controls for c in str(text))
