"""Provide small inputs, flags of a tiny run, and a process for a run, for several tools."""

from support.command import exit_on_input_error

import contextlib
import gzip
import hashlib
import os
import pickle
import tarfile
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST
from tqdm import tqdm

import support.download
import training.classifier
from support.features import build_inception

ROOT = Path(__file__).parent.parent
CPU = ["--device", "cpu"]
TINY = ["--z_dim", "8", "--ngf", "4", "--ndf", "4", "--batch_size", "10", *CPU]
EVALUATED = ["--features", "classifier", "--eval_samples", "30"]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary folder. PyTorch uses one thread, and classifiers train for few steps."""
    torch.set_num_threads(1)
    training.classifier.LEAST_STEPS = 10
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HOME": folder, "XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": "1"}
        yield Path(folder).resolve()


def start(main: Callable[[Sequence[str]], object], argv: Sequence[str], log: Path) -> int:
    """Fork a process that calls a command's `main`, with its output in `log`; return its id."""
    child = os.fork()
    if child:
        return child
    # All forks share the lock of tqdm. If a fork is killed while it holds the lock, others wait.
    tqdm.set_lock(threading.RLock())
    code = 1
    file = log.open("a", buffering=1, errors="backslashreplace")
    try:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        outputs = contextlib.redirect_stdout(file), contextlib.redirect_stderr(file)
        with outputs[0], outputs[1], exit_on_input_error():
            main(argv)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc(file=file)
    finally:
        os._exit(code)


@contextlib.contextmanager
def small_data_sets(folder: Path, address: str) -> Iterator[None]:
    """Write a small MNIST and CIFAR-10, which replace the published ones at `address`."""
    rng = np.random.default_rng(0)
    batches = folder / CIFAR10.base_folder
    batches.mkdir(parents=True)
    listing, digests = [], []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (200, 3072), np.uint8)
        content = pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(200)]}, 4)
        (batches / name).write_bytes(content)
        listing.append([name, hashlib.md5(content).hexdigest()])
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, CIFAR10.base_folder)
    for file in support.download.IDX_FILES:
        count = 40 if "train" in file else 20
        labels = "labels" in file
        shape = (count,) if labels else (count, 28, 28)
        pixels = np.arange(count) % 10 if labels else rng.integers(0, 256, shape)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
        content = header + pixels.astype(np.uint8).tobytes()
        (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        digests.append(hashlib.sha256(content).hexdigest())
    known = {"mnist": tuple(digests), "fashion_mnist": ("",) * len(digests)}
    cifar = {"train_list": listing[:5], "test_list": listing[5:], "url": address + archive.name}
    cifar["tgz_md5"] = hashlib.md5(archive.read_bytes()).hexdigest()
    with (
        patch.multiple(support.download, IDX_SHA256=known, SYSTEM_FOLDERS={}),
        patch.multiple(CIFAR10, **cifar),
        patch.object(MNIST, "mirrors", [address]),
    ):
        yield


def inception_weights() -> dict[str, Tensor]:
    """Return random weights for FID's Inception, at a scale that keeps the signal's size."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in build_inception().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:  # torch's default scale makes all features about 1e-13
            state[name] = noise * (2 / shape[1:].numel()) ** 0.5
        elif name.endswith("tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * noise
        else:
            state[name] = 1 + 0.2 * noise.clamp(-2, 2)
    return state
