"""support/folders.py and support/images.py: layouts of folders, and the one reader of images."""

from support.command import InputError

import contextlib
import io
import os
import shutil
import struct
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import cdcgan
import fid
import support.image_sets
from data import load_dataset
from support import image_cache
from support.files import user_cache
from support.folders import list_splits
from support.images import read_image
from tests.conftest import TINY
from tests.stand_ins import flat, measured, random_classifier, save
from training.classifier import classifier_for

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("own_cache")


def touch(root: Path, *names: str) -> Path:
    """Make small images under `root`; a name that ends in / is made a folder of three images."""
    for name in names:
        for path in [name] if not name.endswith("/") else [f"{name}{i}.png" for i in range(3)]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), 100).save(root / path)
    return root


# ---- layouts ----


@pytest.mark.parametrize(
    "train", ["Train", "TRAINING", "training_set", "train2017", "Train-Images"]
)
@pytest.mark.parametrize("test", ["Test", "TESTING", "test_set", "val2017", "dev", "Eval", "Valid"])
def test_splits_are_found_by_any_usual_name(train: str, test: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{train}/cat/", f"{train}/dog/", f"{test}/cat/", f"{test}/dog/")
    training, testing = list_splits(tmp_path)
    assert list(training) == ["cat", "dog"] and testing is not None
    assert {path.parent.parent.name for paths in testing.values() for path in paths} == {test}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("cars_train", "cars_test"),
        ("images_train", "images_val"),
        ("train", "test1"),
        ("train_hq", "val_hq"),
        ("DatasetTrain", "DatasetTest"),
        ("TRAIN (1)", "TEST (1)"),
    ],
)
def test_splits_are_found_in_longer_names(
    train: str, test: str, tmp_path: Path, capsys: Capture
) -> None:
    training, testing = list_splits(touch(tmp_path, f"{train}/", f"{test}/"))
    assert testing is not None and capsys.readouterr().err == ""
    assert [split[""][0].parent.name for split in (training, testing)] == [train, test]


def test_test_goes_before_validation(tmp_path: Path) -> None:
    touch(tmp_path, "train/", "Validation/", "testing/")
    _, testing = list_splits(tmp_path)
    assert testing is not None and testing[""][0].parent.name == "testing"


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ("train/a/ test/a/ unlabeled/", "splits train, test and beside them unlabeled"),
        ("test/a/ val/a/", "name one of them train"),
        ("Test/a/", "name one of them train"),
        ("train/a/ Training/a/", "name one of them train"),
        ("trainA/ trainB/ testA/ testB/", "name one of them train"),
        ("train/a/ train/b/ val/", "only in one: a, b, images without a class"),
        ("data/train/a/ data/test/a/ data/preview.png", "--data_dir .*data"),
        ("cats/train/ cats/test/ dogs/train/ dogs/test/", "put the splits above the classes"),
        ("data/train/a/ data/test/a/", "--data_dir .*data"),
        ("data/cat/ data/dog/", "--data_dir .*data"),
        ("train/data/cat/ train/data/dog/", "move them up into .*train"),
    ],
)
def test_unclear_layouts_are_refused(folders: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        list_splits(touch(tmp_path, *folders.split()).resolve())


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ("train/ bus/", "train beside bus: taken as a class"),
        (
            "seg_train/a/ seg_test/a/ seg_pred/",
            "seg_train, seg_test beside seg_pred: taken as a class",
        ),
        ("cat/red/ cat/grey/ dog/", "cat holds only folders"),
        ("00000/img00000000.png 00000/img00000999.png 00001/img00001000.png", "numbered parts"),
        ("00000/00000.png 01000/01000.png 01000/01999.png", "numbered parts"),
    ],
)
def test_doubtful_layouts_are_warned_of(
    folders: str, says: str, tmp_path: Path, capsys: Capture
) -> None:
    training, _ = list_splits(touch(tmp_path, *folders.split()).resolve())
    assert len(training) == len({name.partition("/")[0] for name in folders.split()})
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "folders",
    ["cat/ dog/", "freight_train/ latest/ bus/", "0001/00000.png 0002/00000.png", "0/ 1/", "a/"],
)
def test_plain_layouts_are_not(folders: str, tmp_path: Path, capsys: Capture) -> None:
    list_splits(touch(tmp_path, *folders.split()).resolve())
    assert capsys.readouterr().err == ""


def test_what_macos_packs_beside_the_data_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "cat/", "dog/")
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    assert list(list_splits(tmp_path)[0]) == ["cat", "dog"]


def test_advice_for_a_stray_file_can_be_followed(tmp_path: Path) -> None:
    touch(tmp_path, "cat/", "dog/")
    for name in ("labels.csv", "README.md"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="2 files.*README.md.*remove it, or move it out of"):
        list_splits(tmp_path)


def test_a_run_prints_its_classes(tmp_path: Path, capsys: Capture) -> None:
    touch(tmp_path / "data", "cat/", "dog/", "dog/more/")
    data = ["--dataset", "folder", "--data_dir", str(tmp_path / "data"), "--image_size", "28"]
    tiny = [*TINY[:-4], "--batch_size", "2", "--features", "none", "--device", "cpu"]
    cdcgan.main([*data, *tiny, "--max_steps", "1", "--out_dir", str(tmp_path)])
    assert "classes (training images): cat 2, dog 5" in capsys.readouterr().out


def test_classes_of_one_image_each(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i:02}/a.png" for i in range(30)))
    with pytest.raises(InputError, match="30 classes of one image each"):
        load_dataset("folder", tmp_path, 28)


# ---- data sets of folders ----


@pytest.mark.parametrize("size", [28, 32, 64, 128, None])
def test_flat_folder_at_every_size(tmp_path: Path, size: int | None) -> None:
    dataset = load_dataset("folder", flat(tmp_path), size)
    assert dataset.train_images.shape == (18, 1, size or 64, size or 64)
    assert dataset.test_images.shape == (2, 1, size or 64, size or 64)
    assert dataset.train_images.unique().tolist() == [100]
    assert dataset.classes == () and dataset.train_labels.tolist() == [0] * 18


def test_one_colour_image_makes_three_channels(tmp_path: Path) -> None:
    flat(tmp_path, 3)
    assert load_dataset("folder", tmp_path, 28).channels == 1
    save(tmp_path / "z.png", (255, 0, 0), "RGB")
    dataset = load_dataset("folder", tmp_path, 28)
    images = torch.cat([dataset.train_images, dataset.test_images])
    pixels = sorted(image[:, 0, 0].tolist() for image in images)
    assert pixels == [[100] * 3] * 3 + [[255, 0, 0]]


def test_grey_images_of_every_mode_make_one_channel(tmp_path: Path) -> None:
    for mode in ("1", "L", "LA"):
        save(tmp_path / f"{mode}.PNG", mode=mode, colour=(255, 255) if mode == "LA" else 255)
    dataset = load_dataset("folder", tmp_path, 28)
    assert dataset.channels == 1 and len(dataset.train_images) == 2
    assert dataset.train_images.unique().tolist() == [255]


def test_images_are_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever the system lists, or a thread decodes, first; in both parts of a split folder."""
    for i in range(40):
        save(tmp_path / f"{i:02}.png", 5 * i)
    scandir, decode = os.scandir, image_cache._decode

    def shuffled(path: Path) -> contextlib.nullcontext[list[os.DirEntry[str]]]:
        entries = sorted(scandir(path), key=lambda entry: entry.name[::-1])
        return contextlib.nullcontext(entries)

    def slow_at_first(path: Path, channels: int, size: int) -> np.ndarray:
        time.sleep(0.01 if path.name < "08" else 0)
        return decode(path, channels, size)

    monkeypatch.setattr(os, "scandir", shuffled)
    monkeypatch.setattr(image_cache, "_decode", slow_at_first)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    dataset = load_dataset("folder", tmp_path, 28)
    parts = [x[:, 0, 0, 0].tolist() for x in (dataset.train_images, dataset.test_images)]
    assert [len(part) for part in parts] == [36, 4]
    assert sorted(parts[0] + parts[1]) == list(range(0, 200, 5))
    assert parts == [sorted(part) for part in parts]


def test_class_folders(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "dog" / f"{i}.png", 10)
        save(tmp_path / "cat" / "deeper" / f"{i}.jpg", 20)
        save(tmp_path / "ant" / f"{i}.bmp", 30)
    dataset = load_dataset("folder", tmp_path, 32)
    assert dataset.classes == ("ant", "cat", "dog")
    assert len(dataset.train_images) == 27 and len(dataset.test_images) == 3
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert torch.equal(30 - 10 * labels, images[:, 0, 0, 0].long())
    some = load_dataset("folder", tmp_path, 32, classes="dog,0")
    assert (some.classes, some.all_classes) == (("ant", "dog"), ("ant", "cat", "dog"))
    assert len(some.train_images) + len(some.test_images) == 20
    assert torch.equal(30 - 20 * some.train_labels, some.train_images[:, 0, 0, 0].long())
    with pytest.raises(InputError, match="'cow'.*0 ant, 1 cat, 2 dog"):
        load_dataset("folder", tmp_path, classes="cow")


def test_each_class_is_on_both_sides(tmp_path: Path) -> None:
    """A tenth of each is held out, of a small one an image, and of a single image nothing."""
    for name, number in (("a", 30), ("b", 2), ("c", 1)):
        flat(tmp_path / name, number)
    dataset = load_dataset("folder", tmp_path, 28)
    assert dataset.train_labels.bincount().tolist() == [27, 1, 1]
    assert dataset.test_labels.bincount(minlength=3).tolist() == [3, 1, 0]


def test_a_class_is_parted_alike_whatever_others_there_are(tmp_path: Path) -> None:
    for name, colour in (("a", 0), ("b", 100)):
        for i in range(20):
            save(tmp_path / name / f"{i:02}.png", colour + i)
    both, one = (load_dataset("folder", tmp_path, 28, classes=c) for c in (None, "b"))
    alike = both.test_images[both.test_labels == 1]
    assert len(alike) == 2 and torch.equal(alike, one.test_images)


def test_class_names_with_commas_and_blanks(tmp_path: Path) -> None:
    """They cannot be told apart in --classes; a checkpoint's list of them can."""
    names = (" c", "cats, dogs")
    for name in (*names, "other"):
        flat(tmp_path / name, 2)
    assert load_dataset("folder", tmp_path, 28, classes=names).classes == names


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", os.fsdecode(b"\xff")])
def test_class_names_are_text(tmp_path: Path, name: str) -> None:
    """They are printed, drawn and sent to browsers."""
    flat(tmp_path / "plain", 2)
    flat(tmp_path / name, 2)
    with pytest.raises(InputError, match="give it a name of plain text"):
        load_dataset("folder", tmp_path, 28)


def test_class_names_of_any_language(tmp_path: Path) -> None:
    names = ("a b", "x" * 255, "\u5168\u3000\u89d2")  # the last with a full-width space
    for name in names:
        flat(tmp_path / name, 2)
    dataset = load_dataset("folder", tmp_path, 28, classes=f"{names[2]},{names[0]}")
    assert dataset.classes == (names[0], names[2])


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    flat(tmp_path / "all" / "cat", 3)
    flat(tmp_path / "all" / "dog", 3)
    (tmp_path / "all" / "cat" / "more").symlink_to(tmp_path / "all" / "dog")
    dataset = load_dataset("folder", tmp_path / "all", 28)
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    assert labels.bincount().tolist() == [6, 3]


def test_one_class_folder_is_one_class(tmp_path: Path) -> None:
    flat(tmp_path / "train" / "cat", 3)  # "train" alone is a split, so its folder is the class
    assert load_dataset("folder", tmp_path).classes == ("cat",)
    flat(tmp_path / "bus", 3)  # beside another name, "train" is a class
    assert load_dataset("folder", tmp_path).classes == ("bus", "train")


def test_classes_of_a_flat_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no classes"):
        load_dataset("folder", flat(tmp_path, 3), classes="0")


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_train_and_test_folders_are_the_splits(held_out: str, tmp_path: Path) -> None:
    for name, colour in (("a", 10), ("b", 20)):
        for i in range(3):
            save(tmp_path / "train" / name / f"{i}.png", colour)
        save(tmp_path / held_out / name / "0.png", colour + 100)
    dataset = load_dataset("folder", tmp_path, 28)
    assert dataset.train_images[:, 0, 0, 0].tolist() == [10] * 3 + [20] * 3
    assert dataset.train_labels.tolist() == [0] * 3 + [1] * 3
    assert dataset.test_images[:, 0, 0, 0].tolist() == [110, 120]
    save(tmp_path / held_out / "c" / "0.png")
    with pytest.raises(InputError, match="different classes.*c"):
        load_dataset("folder", tmp_path, 28)


def test_images_are_upright_on_white_and_cropped_to_the_centre(tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    picture = Image.new("RGB", (60, 40))  # stored sideways: its left half, red, belongs on top
    picture.paste((255, 0, 0), (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    train.mkdir()
    picture.save(train / "0-exif.png", exif=exif)
    save(train / "1-clear.png", (0, 0, 0, 0), "RGBA")
    wide = Image.new("RGB", (300, 100), (0, 0, 255))
    wide.paste((0, 255, 0), (100, 0, 200, 100))
    wide.save(train / "2-wide.png")
    Image.fromarray(np.full((9, 9), 0x8000, np.uint16)).save(train / "3-deep.png")
    save(train / "4-palette.gif", 3, "P")
    save(test / "0.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8))
    noise.save(train / "5-noise.png")
    images = load_dataset("folder", tmp_path, 28).train_images
    # clockwise by 90 degrees, the left half comes to lie on top
    assert images[0, 0, 3, 14] > 250 and images[0, 0, 25, 14] < 5
    assert images[1].unique().tolist() == [255]
    assert images[2, :, 14, 5].tolist() == images[2, :, 14, 22].tolist() == [0, 255, 0]
    assert images[3].unique().tolist() == [128]
    shrunk = np.asarray(noise.resize((28, 28), Image.Resampling.LANCZOS))
    assert np.array_equal(images[5].permute(1, 2, 0), shrunk)
    assert len(images) == 6


def test_large_jpeg_is_close_to_its_full_decoding(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 800).astype(np.uint8), (800, 1))
    for name in ("a.jpg", "b.png"):
        Image.fromarray(ramp).save(tmp_path / name)
    dataset = load_dataset("folder", tmp_path, 28)
    difference = dataset.train_images.float() - dataset.test_images.float()
    assert difference.abs().max() <= 3


def test_a_jpeg_that_will_be_shrunk_keeps_twice_the_pixels_needed(tmp_path: Path) -> None:
    """So that each pixel of the result is a mean of several."""
    for side, decoded in (100, 100), (112, 56), (223, 112), (224, 56), (447, 112), (448, 56):
        Image.new("L", (side, side), 100).save(tmp_path / "a.jpg")
        assert read_image(tmp_path / "a.jpg", side=28).size == (decoded, decoded)
    assert read_image(tmp_path / "a.jpg").size == (448, 448)


def test_cache_is_used_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = image_cache._decode

    def counting(path: Path, channels: int, size: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, channels, size)

    monkeypatch.setattr(image_cache, "_decode", counting)
    images, cache = flat(tmp_path / "images", 5), user_cache()
    first = load_dataset("folder", images, 28)
    assert len(decoded) == 5 and len(list(cache.iterdir())) == 1
    again = load_dataset("folder", images, 28)
    assert len(decoded) == 5, "read from the cache"
    assert torch.equal(first.train_images, again.train_images)
    again.train_images.zero_()  # a private map: the file does not change
    assert torch.equal(first.train_images, load_dataset("folder", images, 28).train_images)
    load_dataset("folder", images, 32)
    assert len(decoded) == 10 and len(list(cache.iterdir())) == 2, "another size"
    os.utime(images / "03.png", ns=(1, 1))
    load_dataset("folder", images, 28)
    assert len(decoded) == 15, "a file's time changed"
    save(images / "new.png", 7)
    assert len(load_dataset("folder", images, 28).train_images) == 5
    assert len(decoded) == 21, "a file more"
    assert len(list(cache.iterdir())) == 2, "caches of files that have changed are removed"
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    load_dataset("folder", images, 28)
    assert len(decoded) == 27, "a cache file that is cut is made again"
    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "CACHE_VERSION", 10**6)
        load_dataset("folder", images, 28)
    assert len(decoded) == 33, "another version decodes in another way"
    whole = load_dataset("folder", images, 28).train_images.clone()
    for array in (np.zeros((6, 1, 28, 27), np.uint8), np.zeros((5, 1, 28, 28), np.uint8)):
        (file,) = cache.glob(f"images-{image_cache._digest(str(images), 28)}-*")
        np.save(file, array)
        assert torch.equal(load_dataset("folder", images, 28).train_images, whole)
    assert sorted(path.suffix for path in images.rglob("*")) == [".png"] * 6


def repack(folder: Path, colour: int) -> None:
    """Overwrite the images of a folder from an archive that keeps names, sizes and times."""
    archive = folder.parent / f"{colour}.tar"
    flat(folder.parent / str(colour), 10, colour=colour, kind="bmp")
    with tarfile.open(archive, "w") as tar:
        for path in sorted((folder.parent / str(colour)).iterdir()):
            os.utime(path, (1e9, 1e9))
            tar.add(path, path.name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def test_files_that_keep_their_sizes_and_times_are_decoded_again(tmp_path: Path) -> None:
    """By an archive that is unpacked over them, by rsync -a, or by a change of names."""
    folder = tmp_path / "images"
    repack(folder, 0)
    assert load_dataset("folder", folder, 28).train_images.unique().tolist() == [0]
    repack(folder, 255)
    assert load_dataset("folder", folder, 28).train_images.unique().tolist() == [255]
    path = folder / "04.bmp"
    before, state = path.read_bytes(), path.stat()
    path.write_bytes(before[:-600] + bytes(600))  # in place, and its time set back
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    dataset = load_dataset("folder", folder, 28)
    assert min(int(x.min()) for x in (dataset.train_images, dataset.test_images)) < 255

    classes = tmp_path / "classes"
    for name, colour in (("dark", 10), ("light", 200)):
        flat(classes / name, 4, colour=(colour,) * 3, kind="ppm", mode="RGB")
        for path in (classes / name).iterdir():
            os.utime(path, (1e9, 1e9))
    for dark in (10, 200):  # the second time, the two have changed places
        dataset = load_dataset("folder", classes, 28)
        seen = dataset.train_images[dataset.train_labels == 0].unique().tolist()
        assert seen == [dark]
        for old, new in (("dark", "x"), ("light", "dark"), ("x", "light")):
            (classes / old).rename(classes / new)


def test_folders_of_equal_names_sizes_and_times_do_not_meet(tmp_path: Path) -> None:
    for colour in (7, 9):
        folder = flat(tmp_path / str(colour) / "images", 3, colour=colour, kind="bmp")
        for path in folder.iterdir():
            os.utime(path, (1e9, 1e9))
    for colour in (7, 9, 7):
        dataset = load_dataset("folder", tmp_path / str(colour) / "images", 28)
        assert dataset.train_images.unique().tolist() == [colour]


def test_what_other_versions_cached_in_the_folder_leaves_it(tmp_path: Path) -> None:
    images, old = flat(tmp_path / "images", 3), tmp_path / "images" / ".cache"
    old.mkdir()
    for name in (f"{'0' * 64}.npy", f"classifier-{'a' * 16}.pt", "mine.txt"):
        (old / name).write_text("")
    load_dataset("folder", images, 28)
    assert [path.name for path in old.iterdir()] == ["mine.txt"]
    assert (user_cache() / f"classifier-{'a' * 16}.pt").exists()
    (old / "mine.txt").unlink()
    load_dataset("folder", images, 32)
    assert not old.exists()


def test_nothing_is_written_into_the_users_folder(tmp_path: Path) -> None:
    """torchvision's ImageFolder, which takes every folder for a class, reads it as before."""
    for name in "ab":
        flat(tmp_path / "images" / name, 6)
    before = sorted((tmp_path / "images").rglob("*"))
    dataset = load_dataset("folder", tmp_path / "images", 28)
    classifier_for(dataset, tmp_path / "images", torch.device("cpu"))
    assert sorted((tmp_path / "images").rglob("*")) == before
    assert len(ImageFolder(tmp_path / "images")) == 12


def test_without_a_cache_folder_images_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    images = flat(tmp_path / "images", 3)
    assert load_dataset("folder", images, 28).train_images.unique().tolist() == [100]
    assert "the next run will decode" in capsys.readouterr().err
    monkeypatch.setattr(image_cache, "IN_MEMORY", 1000)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        load_dataset("folder", images, 28)


def test_hidden_and_system_files_are_ignored(tmp_path: Path) -> None:
    flat(tmp_path, 3)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_text("no image")
    (tmp_path / ".hidden").mkdir()
    assert len(load_dataset("folder", tmp_path, 28).train_images) == 2


def damaged_text(folder: Path) -> None:
    (folder / "culprit.txt").write_text("a text")


def damaged_image(folder: Path) -> None:
    (folder / "culprit.png").write_text("a text")


def damaged_cut(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "culprit.png")
    content = (folder / "culprit.png").read_bytes()
    (folder / "culprit.png").write_bytes(content[: len(content) // 2])


def damaged_link(folder: Path) -> None:
    (folder / "culprit.png").symlink_to(save(folder.parent / "outside" / "a.png"))


def damaged_link_to_folder(folder: Path) -> None:
    (folder / "culprit").symlink_to(flat(folder.parent / "outside"))


def damaged_links_that_lead_to_each_other(folder: Path) -> None:
    for name, other in (("culprit", "second"), ("second", "culprit")):
        flat(folder / name)
        (folder / name / "deeper").symlink_to(folder / other)
    for file in folder.glob("*.png"):
        file.unlink()


def damaged_dangling(folder: Path) -> None:
    (folder / "culprit.png").symlink_to("nowhere.png")


def damaged_floats(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(folder / "culprit.tif")


def damaged_whole_numbers(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(folder / "culprit.tif")


def damaged_mixed(folder: Path) -> None:
    flat(folder / "class")
    (folder / "01.png").rename(folder / "00culprit.png")
    (folder / "00.png").unlink()


def damaged_empty_class(folder: Path) -> None:
    shutil.rmtree(folder)
    flat(folder / "class")
    (folder / "culprit").mkdir()


@pytest.mark.parametrize("damage", [f for n, f in list(globals().items()) if "damaged_" in n])
def test_bad_folders_name_the_culprit(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = flat(tmp_path / "pictures", 3)
    damage(folder)
    with pytest.raises(InputError, match="culprit"):
        load_dataset("folder", folder, 28)
    assert not list(user_cache().rglob("*.*")), "nothing half done stays"


@pytest.mark.parametrize("size", [(8193, 8192), (30_000, 30_000)])
def test_decompression_bomb_is_an_error(tmp_path: Path, size: tuple[int, int]) -> None:
    flat(tmp_path, 3, mode="RGB")
    content = bytearray((tmp_path / "00.png").read_bytes())  # its header says another size
    content[16:24] = b"".join(side.to_bytes(4, "big") for side in size)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "culprit.png").write_bytes(content)
    with pytest.raises(InputError, match="culprit.*(pixels, more than 67,108,864|bomb)"):
        load_dataset("folder", tmp_path, 28)


def test_large_pictures_are_decoded_as_well(tmp_path: Path) -> None:
    """As their smaller copies are, but by the metrics, which would keep all their pixels."""
    for name, side in (("train", 4100), ("test", 410)):
        ramp = np.tile(np.linspace(0, 255, side).astype(np.uint8), (side, 1))
        (tmp_path / name).mkdir()
        Image.fromarray(ramp).save(tmp_path / name / "ramp.png", compress_level=1)
    dataset = load_dataset("folder", tmp_path, 28)
    difference = dataset.train_images.float() - dataset.test_images.float()
    assert dataset.train_images.shape == (1, 1, 28, 28) and difference.abs().max() <= 2
    with pytest.raises(InputError, match=r"ramp.png is too large \(4100 x 4100 pixels, more than"):
        next(support.image_sets.folder_images(tmp_path / "train", 2))


def test_missing_empty_and_single(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        load_dataset("folder", tmp_path / "none")
    with pytest.raises(InputError, match="holds no images"):
        load_dataset("folder", tmp_path)
    with pytest.raises(InputError, match="a single image, which leaves none for testing"):
        load_dataset("folder", flat(tmp_path, 1))
    assert len(load_dataset("folder", flat(tmp_path, 2)).test_images) == 1


# ---- all faulty files at once ----


def test_all_broken_files_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i:03}.png" for i in range(60)))
    for i in range(0, 60, 5):
        (tmp_path / f"{i:03}.png").write_text("no image")
    with pytest.raises(InputError) as training:
        load_dataset("folder", tmp_path, 28)
    with pytest.raises(InputError) as metric:
        list(support.image_sets.folder_images(tmp_path, 7))
    for error in (training, metric):
        line = str(error.value)
        assert line.startswith("12 files cannot be used: ") and line.endswith("; and 2 more")
        assert [name in line for name in ("000.png", "045.png", "050.png")] == [True, True, False]


def test_all_foreign_files_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/", "b/")
    for name in ("a/one.txt", "a/two.json", "b/three.zip"):
        (tmp_path / name).write_text("")
    for read in (
        lambda: list_splits(tmp_path),
        lambda: list(support.image_sets.folder_images(tmp_path, 9)),
    ):
        with pytest.raises(InputError, match=r"3 files .*one\.txt.*two\.json.*three\.zip"):
            read()


def test_all_images_of_another_size_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    for name in ("b.png", "c.png"):
        Image.new("L", (8, 9)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"2 files .*b\.png is 8 x 9 and a\.png 9 x 9.*c\.png"):
        list(support.image_sets.folder_images(tmp_path, 9))


# ---- one reader ----


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(bits: int, colour: int, row: bytes, width: int, transparent: bytes) -> io.BytesIO:
    """Return a PNG file of one row. Pillow writes neither 2 and 4 bits nor 16 bits of colour."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row))]
    chunks = b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_only_the_transparent_grey_value_turns_white(bits: int, which: int, tmp_path: Path) -> None:
    most = 2**bits - 1
    values = sorted({0, 1, most // 3, most})
    values += [0] * (8 - len(values))
    number = 0
    for value in values:
        number = number << bits | value
    file = png(bits, 0, number.to_bytes(bits, "big"), 8, struct.pack(">H", values[which]))
    (tmp_path / "a.png").write_bytes(file.getvalue())
    image = read_image(tmp_path / "a.png")
    expected = [
        255 if value == values[which] else value * 255 // most if bits < 16 else value // 256
        for value in values
    ]
    assert np.asarray(image.convert("L"))[0].tolist() == expected


def test_only_the_transparent_colour_turns_white(tmp_path: Path) -> None:
    colours = [(0, 0, 0xFF00), (0x3000, 0x1800, 0xCF00), (0x1234, 0, 0), (0xFFFF, 0xFFFF, 0)]
    row = b"".join(struct.pack(">HHH", *colour) for colour in colours)
    file = png(16, 2, row, 4, struct.pack(">HHH", *colours[1]))
    (tmp_path / "a.png").write_bytes(file.getvalue())
    expected = [[part >> 8 for part in colour] for colour in colours]
    expected[1] = [255] * 3
    assert np.asarray(read_image(tmp_path / "a.png"))[0].tolist() == expected


def test_a_deep_ramp_keeps_its_mean_whatever_its_format(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "plain.png")
    Image.fromarray(ramp).save(tmp_path / "clear.png", transparency=0)
    Image.fromarray(ramp).save(tmp_path / "plain.tif")
    header = b"P5 64 64 65535\n"
    (tmp_path / "plain.pgm").write_bytes(header + ramp.astype(">u2").tobytes())
    means = {path.name: np.asarray(read_image(path)).mean() for path in sorted(tmp_path.iterdir())}
    plain = (ramp // 256).mean()
    assert means == pytest.approx(
        {"plain.png": plain, "plain.tif": plain, "plain.pgm": plain, "clear.png": plain}, abs=0.1
    )
    for name in ("plain.png", "plain.pgm"):  # grey stays grey in training
        (tmp_path / name).rename(tmp_path / "0.x")
        (tmp_path / "0.x").rename(tmp_path / name)
    assert load_dataset("folder", tmp_path, 64).channels == 1


def transparent_images(folder: Path) -> None:
    """Write images of one content in several modes with transparency, 64 x 64."""
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = np.zeros((64, 64, 4), np.uint8)
        pixels[10 : 40 + i, 10:50] = (200, 30 * i, 90, 255)
        pixels[0:5] = (*rng.integers(0, 255, 3), 128)
        image = Image.fromarray(pixels)
        image.save(folder / f"{i}-rgba.png")
        image.convert("LA").save(folder / f"{i}-la.png")
        image.quantize(8).save(folder / f"{i}-palette.png")
        image.quantize(8).save(folder / f"{i}.gif", transparency=0)
        image.save(folder / f"{i}.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
    picture.save(folder / "turned.jpg", exif=exif)
    picture.convert("CMYK").save(folder / "cmyk.tif")
    picture.convert("1").save(folder / "bits.png")
    Image.fromarray(rng.integers(0, 65535, (64, 64), np.uint16)).save(folder / "deep.png")


def test_training_and_metrics_read_the_same_pixels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        transparent_images(tmp_path / split)
    trained = load_dataset("folder", tmp_path, 64).train_images
    read = torch.cat(list(support.image_sets.folder_images(tmp_path / "train", 7)))
    assert torch.equal(trained, read)
    network = random_classifier(3, 64)
    gaussians = [measured([x], network)[0].gaussian() for x in (trained, read)]
    assert abs(fid.frechet_distance(*gaussians)) < 1e-6


def test_the_command_measures_a_transparent_folder_against_itself(
    tmp_path: Path, capsys: Capture
) -> None:
    """The classifier is that of CIFAR-10's images."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        transparent_images(tmp_path / split)
    data = ["--data_dir", str(tmp_path), "--features", "classifier", "--dataset", "cifar10"]
    fid.main(["folder:train", str(tmp_path / "train"), *data, "--device", "cpu"])
    assert capsys.readouterr().out.split()[:2] in (["fcd", "0.0000"], ["fcd", "-0.0000"])
