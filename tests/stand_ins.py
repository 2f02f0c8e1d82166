"""Build networks, images, data sets and harmful files, so that tests download nothing."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10

import cdcgan
import support.download
from data import Dataset
from fid import Statistics
from support.features import (
    Classifier,
    ClassifierFeatures,
    FeatureNetwork,
    InceptionFeatures,
    build_inception,
    classifier_path,
    extract,
)

# ---- networks and images ----


def random_state(names_and_shapes: dict[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Return random weights. No batch norm is the identity, and no bias is 0.

    Kaiming's scale keeps the features of order 1 through all layers. With torch's default scale,
    the features of Inception would be numbers of 1e-13, and comparisons would prove nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in names_and_shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            gain = 2.0 if len(shape) == 4 else 1.0  # a ReLU follows a convolution
            state[name] = values * (gain / shape[1:].numel()) ** 0.5
        elif "bias" in name or "running_mean" in name:
            state[name] = 0.1 * values
        else:  # a batch norm's weight, or its running variance
            state[name] = torch.rand(shape, generator=generator) * 0.4 + 0.8
    return state


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of all weights of `network` except the counters of batch norms."""
    items = network.state_dict().items()
    return {name: value.shape for name, value in items if not name.endswith("tracked")}


def random_generator(**args: int) -> cdcgan.Generator:
    """Return a Generator of cdcgan.py with other weights. Initial weights draw only grey."""
    generator = cdcgan.Generator(**args)
    generator.load_state_dict(random_state(shapes(generator), 0), strict=False)
    return generator.eval()


@functools.cache
def inception_state() -> dict[str, Tensor]:
    """Return random weights with the names of FID's weights file, without counters."""
    with torch.device("meta"):
        network = build_inception()
    return random_state(shapes(network), seed=0)


def counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a counter for each batch norm in `state`."""
    names = [name for name in state if name.endswith("running_mean")]
    return {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in names}


@functools.cache
def random_inception() -> InceptionFeatures:
    state = inception_state()
    return InceptionFeatures({**state, **counters(state)})


def classifier_checkpoint(
    channels: int = 1, image_size: int = 28, classes: int = 10, label: str = "random"
) -> dict[str, Any]:
    """Return a checkpoint of a classifier with random weights, as save_classifier() writes it."""
    state = random_state(shapes(Classifier(channels, classes)), seed=1)
    return {
        "label": label,
        "classes": [str(i) for i in range(classes)],
        "channels": channels,
        "image_size": image_size,
        "accuracy": 0.1,
        "state": {name: value.half() for name, value in (state | counters(state)).items()},
    }


def random_classifier(channels: int = 1, image_size: int = 28) -> ClassifierFeatures:
    return ClassifierFeatures(classifier_checkpoint(channels, image_size))


def random_images(number: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Return smooth images, all different: uint8 (number, channels, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, channels, 4, 4, generator=generator)
    images = F.interpolate(coarse, (size, size), mode="bilinear") * 255
    noise = torch.randn(images.shape, generator=generator) * 10
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def save(path: Path, colour: object = 100, mode: str = "L", size: tuple = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]
    return path


def flat(folder: Path, count: int = 20, kind: str = "png", **options: object) -> Path:
    for i in range(count):
        save(folder / f"{i:02}.{kind}", **options)  # type: ignore[arg-type]
    return folder


# ---- data sets ----


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def idx_files(seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (40, 20):
        arrays.append(rng.integers(0, 256, (n, 28, 28), np.uint8))
        arrays.append((np.arange(n) % 10).astype(np.uint8))
    arrays[1][0] = seed  # the label files of two sets differ, as the real ones do
    return dict(zip(support.download.IDX_FILES, map(idx, arrays), strict=True))


FILES = {"mnist": idx_files(1), "fashion_mnist": idx_files(2)}


def digests_of(sets: dict[str, dict[str, bytes]]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(hashlib.sha256(content).hexdigest() for content in contents.values())
        for name, contents in sets.items()
    }


def write_idx(folder: Path, name: str = "mnist", gz: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in FILES[name].items():
        if gz:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)
    return folder


def expected_images(name: str) -> torch.Tensor:
    content = bytearray(FILES[name]["train-images-idx3-ubyte"][16:])
    return torch.frombuffer(content, dtype=torch.uint8).view(-1, 1, 28, 28)


def build_package(folder: Path) -> Path:
    """Build Debian's package with the small Fashion-MNIST, and return the path."""
    tree = folder / "tree"
    write_idx(tree / "usr/share/datasets/fashion-mnist", "fashion_mnist")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Test <test@example.org>\nDescription: test\n"
    )
    built = folder / "dataset-fashion-mnist_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, built], check=True, capture_output=True)
    return built


def write_apt(folder: Path, script: str) -> Path:
    """Write a stand-in for the command apt-get, alone in a new folder."""
    command = folder / "bin" / "apt-get"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n" + script)
    command.chmod(0o755)
    return command


class Python2Pickler(pickle._Pickler):
    """Write bytes as Python 2 wrote str, because Python 2 wrote the files of CIFAR-10."""

    def save_bytes(self, obj: bytes) -> None:
        self.write(pickle.BINSTRING + len(obj).to_bytes(4, "little") + obj)  # type: ignore

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}  # type: ignore


def python2_pickle(batch: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(batch)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, first: object = None) -> np.ndarray:
    """Write six batches of 5 images, make their checksums valid, and return the first images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 3072), np.uint8)
    listing = []
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {"data": images[i], "labels": [i] * 5}
        content = python2_pickle(first if first is not None and i == 0 else batch)
        (folder / name).write_bytes(content)
        listing.append([name, hashlib.md5(content).hexdigest()])
    monkeypatch.setattr(CIFAR10, "train_list", listing[:5])
    monkeypatch.setattr(CIFAR10, "test_list", listing[5:])
    return images[0].reshape(5, 3, 32, 32)


# ---- harmful files ----


def path_of_classifier(dataset: Dataset) -> Path:
    """Return where the classifier of a data set is kept."""
    images, labels = dataset.train_images, dataset.train_labels
    return classifier_path(dataset.name, images, labels, dataset.classes)


def measured(
    batches: Iterable[Tensor], network: FeatureNetwork
) -> tuple[Statistics, Tensor, Tensor]:
    """Return the statistics, the features and the logits of batches of images."""
    statistics, kept = Statistics(network.dim), []
    for features, logits in extract(batches, network):
        statistics.update(features)
        kept.append((features, logits))
    features, logits = map(torch.cat, zip(*kept, strict=True))
    return statistics, features, logits


class Payload:
    """Create the folder `path` when a plain unpickler loads this object."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def inflating(path: Path, bomb: str, size: int = 1 << 26) -> None:
    """Write an archive of a few KB whose only member, `bomb`, unpacks to `size` zeros."""
    chunk = bytes(1 << 20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(bomb, "w") as file,
    ):
        for _ in range(size // len(chunk)):
            file.write(chunk)
