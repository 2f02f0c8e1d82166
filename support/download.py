"""Load the published data sets from this machine, or download them, and verify all checksums.

load_idx() searches --data_dir, a system folder, the mirrors and, for Fashion-MNIST, Debian's
package. load_cifar10() searches --data_dir and CIFAR-10's server. download() also fetches FID's
weights.
"""

from support.command import InputError, progress, say

import gzip
import hashlib
import http.client
import io
import math
import os
import pickle
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from support.files import UNFINISHED, atomic

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": tuple(
        "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
    ),
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
}
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
IDX_FILES = [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
# SHA-256 of the uncompressed IDX_FILES. The compressed files differ between the mirrors.
IDX_SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
SYSTEM_FOLDERS = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
TIMEOUT = 10.0  # seconds that a mirror may stay silent
SLOWEST = 10_000  # bytes per second; a slower mirror is given up
LARGEST_IDX = 16 + 60_000 * 28 * 28  # bytes, uncompressed
LARGEST_BATCH = 1 << 26  # bytes, twice the size of a CIFAR-10 batch file


def published(name: str) -> Any:
    """Return torchvision's class of a data set, with the addresses, file names and checksums."""
    from torchvision import datasets  # here, because the import takes longer than torch's

    return getattr(datasets, TORCHVISION[name])


def download(url: str, path: Path, verify: Callable[[Path], object]) -> None:
    """Download `url` to `path`. The file appears under this name only when whole and verified.

    torchvision's download has no time limit, and writes under the final name of the file.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "gan-scripts"})
    with atomic(path) as unfinished:
        with (
            urllib.request.urlopen(request, timeout=TIMEOUT) as response,
            open(unfinished, "wb") as file,
            progress(
                desc=path.name,
                total=int(response.headers.get("Content-Length", 0)) or None,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            start = time.monotonic()
            while chunk := response.read1(1 << 16):
                bar.update(file.write(chunk))
                # The socket's timeout detects silence only, not a mirror that sends very slowly.
                if time.monotonic() - start > TIMEOUT + file.tell() / SLOWEST:
                    raise TimeoutError("too slow")
        verify(unfinished)


def _read_verified(path: Path, digest: str, foreign: Sequence[str] = ()) -> bytes | None:
    """Return the uncompressed bytes of a raw or gzipped file whose SHA-256 is `digest`.

    Return None if the SHA-256 is in `foreign`. Raise InputError for any other SHA-256.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            content = file.read(LARGEST_IDX + 1)  # a limit, because a few KB may inflate to GB
        found = hashlib.sha256(content).hexdigest()
    except (OSError, EOFError, zlib.error):
        found = "not a whole gzip file"
    if found == digest:
        return content
    if found in foreign:
        return None
    raise InputError(f"{path} is corrupt or cut short (wrong checksum): delete it or replace it")


# ---- mnist and fashion_mnist: four IDX files ----


def load_idx(name: str, data_dir: Path, fetch: bool = True) -> list[np.ndarray]:
    """Return training images uint8 (N, 1, 28, 28) and labels (N,), test images, test labels."""
    contents = {file: _find_idx(name, file, data_dir) for file in IDX_FILES}
    missing = [file for file, content in contents.items() if content is None]
    if missing and not fetch:
        raise InputError(f"{name} is not in {data_dir}")
    if missing:
        _fetch_idx(name, data_dir / name, missing)
        contents |= {file: _find_idx(name, file, data_dir) for file in missing}
    arrays = [_parse_idx(content) for content in contents.values() if content is not None]
    return [a[:, None] if a.ndim == 3 else a.astype(np.int64) for a in arrays]


def _find_idx(name: str, file: str, data_dir: Path) -> bytes | None:
    """Return the uncompressed bytes of a file from the first folder that has the file, or None."""
    folders = [data_dir, data_dir / name, data_dir / TORCHVISION[name] / "raw"]
    folders += [SYSTEM_FOLDERS[name]] if name in SYSTEM_FOLDERS else []
    # MNIST and Fashion-MNIST use the same file names. In data_dir itself, a file of the other data
    # set counts as absent.
    foreign = [_digest(other, file) for other in IDX_SHA256 if other != name]
    for folder in folders:
        for path in (folder / file, folder / f"{file}.gz"):
            if path.is_file():
                others = foreign if folder == data_dir else []
                content = _read_verified(path, _digest(name, file), others)
                if content is not None:
                    return content
    return None


def _digest(name: str, file: str) -> str:
    return IDX_SHA256[name][IDX_FILES.index(file)]


def _fetch_idx(name: str, folder: Path, missing: Sequence[str]) -> None:
    """Fetch the missing files into `folder`. Raise InputError if all sources fail.

    The mirrors are tried in turn, then Debian's package. A mirror that fails once is not asked
    again, but the verified files from the mirror are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tried = []
    for mirror in published(name).mirrors:
        try:
            for file in missing:
                path = folder / f"{file}.gz"
                if not path.exists():
                    verify = partial(_read_verified, digest=_digest(name, file))
                    download(f"{mirror}{file}.gz", path, verify)
            return
        except (OSError, http.client.HTTPException, InputError) as error:
            tried.append(f"{mirror} ({error})")
    advice = f"put {', '.join(missing)} (or .gz) into {folder}"
    if name == "fashion_mnist":
        try:
            _unpack_debian_package(folder, missing)
            return
        except (OSError, subprocess.SubprocessError, InputError) as error:
            tried.append(f"the package {DEBIAN_PACKAGE} ({error})")
        advice += f", or apt-get install {DEBIAN_PACKAGE}"
    sources = ", ".join(tried)
    absent = f"{name} is not in {folder.parent} and cannot be fetched"
    raise InputError(f"{absent}: tried {sources}; {advice}")


def _unpack_debian_package(folder: Path, missing: Sequence[str]) -> None:
    """Download and unpack Debian's package, without root and without installing the package."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise InputError("apt-get or dpkg-deb is not installed")
    say(f"no mirror answers: unpacking Debian's {DEBIAN_PACKAGE} into {folder}")
    with tempfile.TemporaryDirectory(
        dir=folder.resolve(), prefix=".debian-", suffix=UNFINISHED
    ) as temporary:
        place = Path(temporary)

        def run(*command: str) -> None:
            with open(place / "log", "wb") as log:  # reading a pipe would wait for apt's children
                code = subprocess.call(
                    command,
                    cwd=place,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=300,
                )
            if code != 0:
                lines = (place / "log").read_text(errors="replace").strip().splitlines()
                raise InputError(f"{command[0]}: {lines[-1] if lines else f'exit code {code}'}")

        apt = ["apt-get", "-o", f"Acquire::http::Timeout={TIMEOUT:.0f}", "-o", "Acquire::Retries=0"]
        apt += ["-o", "APT::Sandbox::User=root"]  # the user _apt may not enter a private folder
        try:
            run(*apt, "download", DEBIAN_PACKAGE)
        except InputError:  # the system's package lists may be empty: fetch private lists
            for needed in ("lists/partial", "cache/archives/partial"):
                (place / needed).mkdir(parents=True)
            apt += ["-o", f"Dir::State::Lists={place}/lists", "-o", f"Dir::Cache={place}/cache"]
            run(*apt, "update")
            run(*apt, "download", DEBIAN_PACKAGE)
        for package in place.glob("*.deb"):
            run("dpkg-deb", "-x", str(package), "unpacked")
        for file in missing:
            source = place / "unpacked/usr/share/datasets/fashion-mnist" / f"{file}.gz"
            _read_verified(source, _digest("fashion_mnist", file))
            os.replace(source, folder / source.name)


def _parse_idx(content: bytes) -> np.ndarray:
    """Return the uint8 array of an IDX file.

    The bytes are: two zeros, type 8, number of dimensions, size of each dimension, data.
    """
    # torchvision's reader needs an unpacked file. The verified bytes are in memory only.
    header = 4 + 4 * (content[3] if len(content) > 3 else 0)
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if content[:3] != b"\0\0\x08" or len(content) != header + math.prod(shape):
        raise InputError(f"an IDX file of {len(content)} bytes is not uint8 of shape {shape}")
    # a bytearray, because torch.from_numpy() needs writable memory
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)


# ---- cifar10: torchvision's cifar-10-batches-py ----


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays and plain containers only. Other names are refused and never called."""

    allowed = {
        "_reconstruct": np.empty(0).__reduce__()[0],  # numpy 2 moved this function
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] != "numpy" or name not in self.allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.allowed[name]


def load_cifar10(data_dir: Path, fetch: bool = True) -> list[np.ndarray]:
    """Return training images uint8 (N, 3, 32, 32) and labels (N,), test images, test labels."""
    cifar10 = published("cifar10")
    base = cifar10.base_folder
    for folder in (data_dir / base, data_dir / "cifar10" / base, data_dir):
        if (folder / cifar10.train_list[0][0]).exists():
            break
    else:
        folder = data_dir / base
        if folder.exists():  # checked first, because the download could not replace the folder
            raise InputError(
                f"{folder} lacks {published('cifar10').train_list[0][0]}: delete it or replace it"
            )
        if not (fetch or (data_dir / cifar10.filename).is_file()):
            raise InputError(f"cifar10 is not in {data_dir}")
        _fetch_cifar10(folder)
    arrays = []
    for listing in (cifar10.train_list, cifar10.test_list):
        images, labels = zip(*(_read_batch(folder / f, md5) for f, md5 in listing), strict=True)
        arrays += [np.concatenate(images), np.concatenate(labels)]
    return arrays


def _read_batch(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images uint8 (N, 3, 32, 32) and labels int64 (N,) of one of CIFAR-10's pickles."""
    advice = "delete its folder or replace it"
    if not path.is_file():
        raise InputError(f"{path} is missing: {advice}")
    if _md5(path) != md5:
        raise InputError(f"{path} is corrupt or cut short (wrong checksum): {advice}")
    try:  # a file with the right MD5 can be forged, so the unpickler is restricted as well
        batch = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        images = batch["data"].reshape(-1, 3, 32, 32).astype(np.uint8, casting="no")
        labels = np.array(batch["labels"], np.int64).reshape(len(images))
        if not all(0 <= label < 10 for label in labels):
            raise ValueError("a label is not between 0 and 9")
    except Exception as error:  # a hostile pickle can raise any exception
        raise InputError(f"{path} is no CIFAR-10 batch ({error}): {advice}") from error
    return images, labels


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch_cifar10(folder: Path) -> None:
    """Unpack CIFAR-10's archive into `folder`. Download the archive if it is not there yet."""
    cifar10 = published("cifar10")

    def verify(path: Path) -> None:
        if _md5(path) != cifar10.tgz_md5:
            raise InputError(f"{path} is corrupt or cut short: delete it or replace it")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=".cifar10-", suffix=UNFINISHED
    ) as temporary:
        archive = folder.parent / cifar10.filename
        if archive.is_file():
            verify(archive)
        else:
            archive = Path(temporary) / cifar10.filename
            try:
                download(cifar10.url, archive, verify)
            except (OSError, http.client.HTTPException, InputError) as error:
                raise InputError(
                    f"cifar10 is not in {folder.parent} and cannot be fetched: tried {cifar10.url} "
                    f"({error}); put {cifar10.filename} or its folder {folder.name} there"
                ) from error
        unpacked = Path(temporary) / folder.name
        unpacked.mkdir()
        try:
            with tarfile.open(archive) as tar:
                for file, _ in cifar10.train_list + cifar10.test_list:  # no other path is unpacked
                    entry = tar.getmember(f"{folder.name}/{file}")
                    member = tar.extractfile(entry) if entry.isreg() else None
                    if member is None or entry.size > LARGEST_BATCH:
                        raise tarfile.ReadError(f"{entry.name} is no regular file or is too large")
                    (unpacked / file).write_bytes(member.read())
        except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
            raise InputError(f"{archive} is not CIFAR-10's archive ({error}): replace it") from None
        try:
            os.replace(unpacked, folder)
        except OSError:
            if not folder.exists():  # if it exists, another run has just unpacked the same files
                raise
