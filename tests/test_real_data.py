"""On the real Fashion-MNIST: that it is fetched, that training learns from it, from the command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

import support.download
from data import load_dataset
from tests.conftest import run

pytestmark = pytest.mark.data


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt-get, Debian's or Ubuntu's")
def test_package_is_fetched_where_there_is_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy on the system and no mirror: the package's, and the second time the one it left."""
    monkeypatch.setattr(support.download, "SYSTEM_FOLDERS", {})
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    dataset = load_dataset("fashion_mnist", tmp_path / "data")
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    left = sorted(path.name for path in (tmp_path / "data" / "fashion_mnist").iterdir())
    assert left == sorted(f"{name}.gz" for name in support.download.IDX_FILES)
    monkeypatch.setattr(support.download.shutil, "which", lambda command: None)
    again = load_dataset("fashion_mnist", tmp_path / "data")
    assert torch.equal(again.test_images, dataset.test_images)


def spread(images: torch.Tensor) -> float:
    """Mean Euclidean distance between two images of (N, 1, 28, 28)."""
    return torch.pdist(images.flatten(1).float()).mean().item()


def test_an_epoch_gives_pictures_of_the_class_asked_for(tmp_path: Path) -> None:
    """By the class whose mean image is nearest, which is right for 68 % of real test images."""
    end = run(
        "cdcgan.py",
        *("--dataset", "fashion_mnist", "--epochs", "1", "--name", "short"),
        cwd=tmp_path,
    )
    assert end.returncode == 0, end.stderr
    assert "--load_path runs/short" in end.stdout
    names = {path.name.split(".")[0] for path in (tmp_path / "runs" / "short").iterdir()}
    assert names >= {"config", "metrics", "timing", "last", "losses", "training", "samples"}

    end = run(
        "generate.py",
        *("--load_path", "runs/short", "--num_images", "1000", "--save_path", "a.npz"),
        cwd=tmp_path,
    )
    assert end.returncode == 0, end.stderr
    with np.load(tmp_path / "a.npz") as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    dataset = load_dataset("fashion_mnist")
    real, real_labels = dataset.test_images, dataset.test_labels
    means = torch.stack([real[real_labels == i].float().mean(0).flatten() for i in range(10)])
    nearest = torch.cdist(images.flatten(1).float(), means).argmin(1)
    assert (nearest == labels).float().mean() > 0.6
    for label in range(10):  # a collapsed class has hardly any spread
        ratio = spread(images[labels == label]) / spread(real[real_labels == label][:100])
        assert ratio > 0.4, dataset.classes[label]


def test_real_fashion_mnist(tmp_path: Path) -> None:
    dataset = load_dataset("fashion_mnist", tmp_path)
    assert dataset.train_images.shape == (60000, 1, 28, 28)
    assert dataset.test_images.shape == (10000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [6000] * 10
    assert dataset.test_labels.bincount().tolist() == [1000] * 10
    assert abs(dataset.train_images.float().mean() / 255 - 0.2860) < 1e-4
    assert dataset.classes[dataset.train_labels[0]] == "Ankle boot"
