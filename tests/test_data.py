"""data.py: a data set as one uint8 tensor, its classes and sizes, and shuffled batches."""

from support.command import InputError

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import data
from data import Batches, class_index, labels_as_in, load_dataset
from support.files import UNFINISHED
from support.images import to_float, to_uint8
from tests.stand_ins import write_cifar, write_idx

pytestmark = pytest.mark.usefixtures("offline")


def test_classes_are_kept_and_relabelled_in_order(tmp_path: Path) -> None:
    write_idx(tmp_path, "fashion_mnist")
    dataset = load_dataset("fashion_mnist", tmp_path, classes="bag, TROUSER,8,3")
    assert dataset.classes == ("Trouser", "Dress", "Bag")
    assert dataset.all_classes[3] == "Dress" and len(dataset.all_classes) == 10
    assert dataset.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    whole = load_dataset("fashion_mnist", tmp_path)
    assert torch.equal(dataset.test_images, whole.test_images[[1, 3, 8, 11, 13, 18]])
    with pytest.raises(InputError, match="'sofa'.*9 Ankle boot"):
        load_dataset("fashion_mnist", tmp_path, classes="bag,sofa")


def test_image_size_resizes_and_keeps_the_mean(tmp_path: Path) -> None:
    write_idx(tmp_path)
    native, large = load_dataset("mnist", tmp_path), load_dataset("mnist", tmp_path, 64)
    assert large.train_images.shape == (40, 1, 64, 64) and large.train_images.dtype == torch.uint8
    assert large.image_size == 64
    floats = F.interpolate(native.train_images.float(), (64, 64), mode="bilinear", antialias=True)
    assert torch.equal(large.train_images, floats.round().to(torch.uint8))
    assert abs(large.train_images.float().mean() - native.train_images.float().mean()) < 1
    with pytest.raises(InputError, match="--image_size 30.*28, 32, 64, 128"):
        load_dataset("mnist", tmp_path, 30)


def test_shrunk_images_are_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = np.zeros((5, 3, 32, 32), np.uint8)
    batch[..., ::2] = 200
    content = {"data": batch.reshape(5, 3072), "labels": [0] * 5}
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch, content)
    images = load_dataset("cifar10", tmp_path, 28).train_images[:5]
    expected = F.interpolate(torch.from_numpy(batch).float(), 28, mode="bilinear", antialias=True)
    assert torch.equal(images, expected.round().to(torch.uint8)) and images.shape[2:] == (28, 28)


def test_what_a_killed_download_left_is_removed(tmp_path: Path) -> None:
    """In the set's own folder as well."""
    for folder in (tmp_path, tmp_path / "mnist"):
        write_idx(folder)
        (folder / f".x{UNFINISHED}").touch()
        os.utime(folder / f".x{UNFINISHED}", (1e9, 1e9))
    load_dataset("mnist", tmp_path)
    assert list(tmp_path.rglob(f"*{UNFINISHED}")) == []


def test_unknown_data_set_lists_the_known() -> None:
    with pytest.raises(InputError, match="mnist, fashion_mnist, cifar10, folder"):
        load_dataset("imagenet")


def test_class_index() -> None:
    assert class_index(("b", "a"), "A") == 1
    assert class_index(("b", "a"), 0) == 0
    assert class_index(("1", "0"), "0") == 1, "a name goes before a number"
    assert class_index(("a", "A"), "A") == 1, "the exact spelling goes first"
    assert class_index((" b", "b"), " b") == 0, "blanks may belong to it"
    for wrong in ("c", "2", "-1", "", "1.0", "9" * 5000):
        with pytest.raises(InputError, match="0 b, 1 a"):
            class_index(("b", "a"), wrong)
    with pytest.raises(InputError, match="no classes"):
        class_index((), "0")
    # Of a part of the classes: numbers are those of the whole data set.
    assert class_index(("b", "c"), 2, all_classes=("a", "b", "c")) == 1
    with pytest.raises(InputError, match="1 b, 2 c"):
        class_index(("b", "c"), 0, all_classes=("a", "b", "c"))


# ---- batches ----


def numbered(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose first row tells their number and whose columns tell left from right."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 4, 4)
    images[:, :, 1:, 0] = 255
    return images, torch.arange(count)


def test_an_epoch_shows_every_image_once() -> None:
    batches = Batches(*numbered(50), 10, seed=0, device="cpu")
    assert len(batches) == 5 and len(Batches(*numbered(50), 12, 0, "cpu")) == 4
    for epoch in range(2):
        labels = torch.cat([batches[epoch * 5 + i][1] for i in range(5)])
        assert sorted(labels.tolist()) == list(range(50))


def test_images_and_labels_stay_together() -> None:
    images, labels = Batches(*numbered(), 16, 0, "cpu")[7]
    assert images.shape == (16, 3, 4, 4) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (16,) and labels.dtype == torch.int64
    assert torch.equal(to_uint8(images)[:, 2, 0, 3].long(), labels)


@pytest.mark.parametrize("hflip", [False, True])
def test_a_batch_is_a_function_of_seed_and_number(hflip: bool) -> None:
    def make(seed: int = 3) -> Batches:
        return Batches(*numbered(), 10, seed, "cpu", hflip)

    batches = make()
    forward = [batches[i] for i in range(15)]
    batches = make()
    for i in (14, 2, 7, 3, 0, 14):
        images, labels = batches[i]
        assert torch.equal(images, forward[i][0]) and torch.equal(labels, forward[i][1])
    orders = [tuple(forward[i][1].tolist()) for i in (0, 5, 10)]
    orders += [tuple(make(seed)[0][1].tolist()) for seed in (4, 2**32 + 3, 2**40)]
    assert len(set(orders)) == len(orders), "every epoch and every seed has its own order"
    with pytest.raises(IndexError):
        make()[-1]


def test_global_random_state_is_untouched() -> None:
    state = torch.get_rng_state()
    Batches(*numbered(), 10, 0, "cpu", hflip=True)[3]
    assert torch.equal(torch.get_rng_state(), state)


def test_hflip_mirrors_about_half() -> None:
    images, labels = numbered(2)
    images, labels = images.repeat(500, 1, 1, 1), labels.repeat(500)
    flipped, flipped_labels = Batches(images, labels, 1000, 0, "cpu", hflip=True)[0]
    plain, plain_labels = Batches(images, labels, 1000, 0, "cpu")[0]
    mirrored = flipped[:, 0, 1, 3] == 1
    assert 420 < int(mirrored.sum()) < 580  # 5 standard deviations
    assert torch.equal(flipped[mirrored], plain[mirrored].flip(3))
    assert torch.equal(flipped[~mirrored], plain[~mirrored])
    assert torch.equal(flipped_labels, plain_labels), "the order does not depend on hflip"


@pytest.mark.parametrize(("most", "place"), [(10**9, "meta"), (100, "cpu")])
def test_only_a_small_set_lies_on_the_device(
    most: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "KEEP_ON_DEVICE", most)
    batches = Batches(*numbered(), 10, 0, "meta")  # a device that every machine has
    assert batches.images.device.type == batches.labels.device.type == place
    assert batches.device.type == "meta"


@pytest.mark.parametrize("batch_size", [51, 0, -1])
def test_batch_size_must_fit(batch_size: int) -> None:
    with pytest.raises(InputError, match=f"--batch_size {batch_size} .*50"):
        Batches(*numbered(50), batch_size, 0, "cpu")


def test_scaling_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    scaled = to_float(every)
    assert scaled.dtype == torch.float32
    assert (scaled.min(), scaled.max()) == (-1, 1)
    torch.testing.assert_close(scaled.double(), every.double() / 127.5 - 1, atol=1e-7, rtol=0)
    assert torch.equal(to_uint8(scaled), every)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_labels_in_proportion() -> None:
    equal = torch.arange(30) % 10
    assert torch.equal(labels_as_in(equal.sort().values, 25), torch.arange(25) % 10)
    uneven = torch.tensor([0] * 60 + [2] * 20 + [3] * 20)  # none of 1
    assert labels_as_in(uneven, 5).tolist() == [0, 0, 2, 3, 0]
    assert labels_as_in(uneven, 10_000).bincount().tolist() == [6000, 0, 2000, 2000]
    for number in range(1, 100):  # never more than one from where it should be
        found = labels_as_in(uneven, number).bincount(minlength=4)
        assert (found - number * torch.tensor([0.6, 0, 0.2, 0.2])).abs().max() < 1
