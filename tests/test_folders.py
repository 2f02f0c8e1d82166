"""support/folders.py and support/images.py: layouts of folders, and the one reader of images."""

from support.command import InputError

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cdcgan
from data import load_dataset
from fid import frechet_distance
from support.folders import list_splits
from support.image_sets import folder_images
from support.images import read_image
from tests.conftest import TINY, run
from tests.stand_ins import measured, random_classifier

Capture = pytest.CaptureFixture[str]


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
        ("cat/red/ cat/grey/ dog/", "cat holds only folders"),
        ("00000/img00000000.png 00000/img00000999.png 00001/img00001000.png", "numbered parts"),
        ("00000/00000.png 01000/01000.png 01000/01999.png", "numbered parts"),
    ],
)
def test_doubtful_layouts_are_warned_of(
    folders: str, says: str, tmp_path: Path, capsys: Capture
) -> None:
    training, _ = list_splits(touch(tmp_path, *folders.split()).resolve())
    assert len(training) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("folders", ["cat/ dog/", "0001/00000.png 0002/00000.png", "0/ 1/", "a/"])
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


# ---- all faulty files at once ----


def test_all_broken_files_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i:03}.png" for i in range(60)))
    for i in range(0, 60, 5):
        (tmp_path / f"{i:03}.png").write_text("no image")
    with pytest.raises(InputError) as training:
        load_dataset("folder", tmp_path, 28)
    with pytest.raises(InputError) as metric:
        list(folder_images(tmp_path, 7))
    for error in (training, metric):
        line = str(error.value)
        assert line.startswith("12 files cannot be used: ") and line.endswith("; and 2 more")
        assert [name in line for name in ("000.png", "045.png", "050.png")] == [True, True, False]


def test_all_foreign_files_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/", "b/")
    for name in ("a/one.txt", "a/two.json", "b/three.zip"):
        (tmp_path / name).write_text("")
    for read in (lambda: list_splits(tmp_path), lambda: list(folder_images(tmp_path, 9))):
        with pytest.raises(InputError, match=r"3 files .*one\.txt.*two\.json.*three\.zip"):
            read()


def test_all_images_of_another_size_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    for name in ("b.png", "c.png"):
        Image.new("L", (8, 9)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"2 files .*b\.png is 8 x 9 and a\.png 9 x 9.*c\.png"):
        list(folder_images(tmp_path, 9))


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
    judged = torch.cat(list(folder_images(tmp_path / "train", 7)))
    assert torch.equal(trained, judged)
    network = random_classifier(3, 64)
    gaussians = [measured([x], network)[0].gaussian() for x in (trained, judged)]
    assert abs(frechet_distance(*gaussians)) < 1e-6


def test_the_command_measures_a_transparent_folder_against_itself(tmp_path: Path) -> None:
    """Through the real command line; the classifier is that of CIFAR-10's images."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        transparent_images(tmp_path / split)
    data = ["--data_dir", str(tmp_path), "--features", "classifier", "--dataset", "cifar10"]
    end = run("fid.py", "folder:train", str(tmp_path / "train"), *data, cwd=tmp_path)
    assert end.returncode == 0, end.stderr
    assert end.stdout.split()[:2] in (["fcd", "0.0000"], ["fcd", "-0.0000"])
