"""Read and write array files (.npz): sets of images, or the statistics of a set (mu and sigma)."""

from support.command import InputError

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from support.files import assembling, check_npz

ArrayType = tuple[np.dtype, tuple[int, ...]]  # an array's type and shape
IMAGES = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, called images or arr_0"
STATISTICS = "statistics mu (d,) and sigma (d, d)"


def is_npz(source: str | Path) -> bool:
    """Return whether a source is named like an array file.

    .npy files count too. npz_arrays() refuses an .npy file with advice.
    """
    return Path(source).suffix.lower() in (".npz", ".npy")


def array_type(file: IO[bytes]) -> ArrayType:
    """Read the type and shape from the header of an .npy file."""
    version, _ = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, _, dtype = header[version > 1](file)
    return dtype, shape


def npz_arrays(path: Path) -> dict[str, ArrayType]:
    """Return the type and shape of every array in an .npz by array name. No array is loaded.

    Raise InputError if the file is not an .npz, or if an array claims more bytes than the file has
    for the array.
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

    Raise InputError unless the file holds exactly one of the two, with a supported type and shape.
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
        raise InputError(f"{found}; keep images or statistics, one set per file")
    if not meant:
        raise InputError(f"{found}; expected {IMAGES}; or {STATISTICS}")
    if meant == ["mu"]:
        (mean_type, mean), (cov_type, cov) = (
            arrays.get(name, (np.dtype(object), ())) for name in ("mu", "sigma")
        )
        if not (mean_type.kind in "fiu" and cov_type.kind in "fiu" and mean and cov == mean * 2):
            raise InputError(f"{found}; expected {STATISTICS}, both of a numeric type")
    elif problem := images_problem(*arrays[meant[0]]):
        raise InputError(f"{found}; expected {IMAGES}: {problem}")
    return meant[0]


def images_problem(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """Return why an array is no set of images, and what to do; "" if the array is one.

    If there are 4 axes, either the second or the last has length 1 or 3, but not both. Otherwise
    the channel axis is not certain.
    """
    if dtype.kind not in "fiub":
        return "its entries are not numbers: resize all images to one size and save one array"
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
    """Load arrays from an .npz by name. Raise InputError if an array is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except MemoryError:
        raise
    except Exception:  # zipfile and numpy raise many kinds on a damaged file
        raise InputError(f"{path} is damaged: its arrays cannot be read") from None


def npz_images(path: Path) -> Tensor:
    """Load the images of an .npz as uint8 (N, C, H, W). Raise InputError for other content."""
    name = npz_meant(path)
    if name == "mu":
        raise InputError(f"{path} holds statistics (mu and sigma); images are needed here")
    images = torch.from_numpy(npz_load(path, [name])[name])
    if images.ndim == 3:
        return images[:, None]
    return images if images.shape[1] in (1, 3) else images.permute(0, 3, 1, 2)


def npz_statistics(path: Path, features: str) -> tuple[Tensor, Tensor, int | None]:
    """Load mu and sigma (float64) and the number of images n from an .npz; n is None if not saved.

    Raise InputError for other content, for numbers that are not finite, and for statistics that
    were computed with another feature extractor than `features`.
    """
    if npz_meant(path) != "mu":
        raise InputError(f"{path} holds images; statistics (mu and sigma) are needed here")
    kinds = {name: dtype.kind for name, (dtype, shape) in npz_arrays(path).items() if shape == ()}
    # Other projects may save other things as n or features. An entry of another type is ignored.
    own = [name for name, kind in (("n", "iu"), ("features", "U")) if kinds.get(name, "-") in kind]
    arrays = npz_load(path, ["mu", "sigma", *own])
    mean, cov = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
    if not (mean.isfinite().all() and cov.isfinite().all()):
        raise InputError(f"{path}: mu or sigma holds a number that is not finite")
    if (made_by := str(arrays.get("features", features))) != features:
        raise InputError(
            f"{path} was computed with {made_by} and cannot be compared with features of {features}"
        )
    n = int(arrays.get("n", 0))
    return mean, cov, n if n > 0 else None


def write_npz(path: Path, compress: bool = False, **arrays: Any) -> None:
    """Write arrays, numbers and text to an .npz by name."""
    with assembling(path) as buffer:
        (np.savez_compressed if compress else np.savez)(buffer, **arrays)


def check_arrays(sources: Sequence[str]) -> list[str]:
    """Return the sources that are saved statistics.

    Raise one InputError that names every .npz among the sources that cannot be used.
    """
    statistics, problems = [], []
    for source in filter(is_npz, dict.fromkeys(sources)):
        try:
            if npz_meant(Path(source)) == "mu":
                statistics.append(source)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return statistics
