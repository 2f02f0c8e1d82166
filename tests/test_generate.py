"""generate.py: what it draws, and that a checkpoint stays data."""

from support.command import InputError

import re
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageSequence

import cdcgan
import dcgan
import generate
import support.download
import support.sampling
from data import load_dataset
from support.checkpoints import load_generator, read_checkpoint
from support.drawing import GIF_SIDE, check_layout, draw_grid, lay_out, row_font, save_gif
from support.sampling import noise, sample, sample_between, slerp
from tests.conftest import CLASSES, ROOT, folder_flags, refusal
from tests.stand_ins import random_generator
from training.classifier import classifier_for


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    cdcgan.main([*folder_flags(pictures, out), "--name", "run", "--max_steps", "20"])
    return out / "run"


def write_conditional(path: Path, classes: list[str], channels: int = 1) -> Path:
    """Write a checkpoint of an untrained generator of 28 x 28 images with these class names."""
    args = dict(z_dim=8, ngf=4, channels=channels, image_size=28, num_classes=len(classes))
    generator = random_generator(**args)
    content = {"script": "cdcgan", "dataset": "folder", "classes": classes, "step": 0}
    torch.save({**content, "generator_args": args, "ema": generator.state_dict()}, path)
    return path


def draw(trained: Path, *argv: str) -> None:
    generate.main(["--load_path", str(trained), "--device", "cpu", *argv])


def test_grid_has_a_named_row_a_class(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    draw(trained, "--grid_size", "5", "--seed", "2", "--save_path", str(folder))
    assert capsys.readouterr().out == f"3 x 5 images: {folder / 'grid.png'}\n"
    picture = Image.open(folder / "grid.png")
    cells = (5 * 29 + 1) * 2, (len(CLASSES) * 29 + 1) * 2
    assert picture.size[1] == cells[1]
    margin = picture.size[0] - cells[0]
    assert margin > 0
    names = np.asarray(picture.convert("L"))[:, :margin]
    for row, name in enumerate(CLASSES):
        written = names[row * 58 : row * 58 + 58]
        assert written.min() < 100 and written[:15].min() == written[45:].min() == 255
        alone = Image.new("L", (margin, 58), "white")
        place = (margin - 58 // 6, 2 + 58 // 2)
        ImageDraw.Draw(alone).text(place, name, fill="black", font=row_font(58), anchor="rm")
        assert np.array_equal(written, np.asarray(alone))
    generator, _ = load_generator(trained)
    images = sample(generator, noise(15, 8, 2), torch.arange(3).repeat_interleave(5))
    drawn = pixels(folder / "grid.png", 3, 5).reshape(-1, 1, 28, 28).astype(int)
    assert np.abs(drawn - images.numpy()).max() <= 1


def test_one_class_by_name_or_number(trained: Path, tmp_path: Path) -> None:
    for name, path in (("coat", "a.png"), ("COAT", "b.png"), ("1", "c.png"), ("shoe", "d.png")):
        draw(trained, "--class", name, "--grid_size", "3", "--save_path", str(tmp_path / path))
    a, b, c, d = ((tmp_path / f"{name}.png").read_bytes() for name in "abcd")
    assert a == b == c != d
    assert Image.open(tmp_path / "a.png").size[1] == (3 * 29 + 1) * 2


def test_the_same_seed_draws_the_same_picture(trained: Path, tmp_path: Path) -> None:
    for seed, path in (("1", "a.png"), ("1", "b.png"), ("2", "c.png")):
        draw(trained, "--seed", seed, "--save_path", str(tmp_path / path))
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_gif_walks_and_comes_back(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--grid_size", "2", "--save_path", str(tmp_path / "walk.gif"))
    gif = Image.open(tmp_path / "walk.gif")
    frames = [np.asarray(f.convert("L")).astype(int) for f in ImageSequence.Iterator(gif)]
    assert len(frames) == generate.WALK_STOPS * generate.WALK_FRAMES
    assert {frame.info["duration"] for frame in ImageSequence.Iterator(gif)} == {80}
    steps = [np.abs(a - b).max() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert max(steps) < 3 * np.median(steps) + 10  # no jump, not even where it loops
    assert max(steps) > 0


def pixels(path: Path, row_count: int, columns: int) -> np.ndarray:
    """The cells of a grid of 28 x 28 images: (rows, columns, 28, 28), without names and frames."""
    picture = np.asarray(Image.open(path).convert("L"))[:, -(columns * 29 + 1) * 2 :][::2, ::2]
    cells = picture[1:, 1:].reshape(row_count, 29, columns, 29)
    return cells.transpose(0, 2, 1, 3)[:, :, :28, :28]


def test_interpolation_ends_at_its_two_samples(trained: Path, tmp_path: Path) -> None:
    argv = ["--interpolate", "3", "--grid_size", "5", "--save_path", str(tmp_path / "i.png")]
    draw(trained, *argv, "--seed", "6")
    cells = pixels(tmp_path / "i.png", 3, 5)
    generator, _ = load_generator(trained)
    start, end = (noise(15, 8, seed)[::5] for seed in (6, 7))
    first = sample(generator, start, torch.tensor([0, 1, 2]))[:, 0]
    last = sample(generator, end, torch.tensor([1, 2, 0]))[:, 0]  # the next row's class
    assert np.abs(cells[:, 0].astype(int) - first.numpy()).max() <= 1
    assert np.abs(cells[:, -1].astype(int) - last.numpy()).max() <= 1
    steps = np.abs(np.diff(cells.astype(int), axis=1)).mean(axis=(2, 3))
    assert (steps > 0).all()  # and it moves at every step
    names = ("bag to coat", "coat to shoe", "shoe to bag")
    empty = draw_grid(torch.zeros(15, 1, 28, 28, dtype=torch.uint8), 5, names)
    with Image.open(tmp_path / "i.png") as picture:
        drawn, expected = (np.asarray(x)[:, : -(5 * 29 + 1) * 2] for x in (picture, empty))
    assert np.array_equal(drawn, expected)


def test_interpolation_as_a_loop(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--interpolate", "2", "--gif", "--grid_size", "2", "--save_path", str(tmp_path))
    assert Image.open(tmp_path / "grid.gif").n_frames == 2 * generate.WALK_FRAMES  # type: ignore[attr-defined]
    generator, _ = load_generator(trained)
    labels = torch.tensor([0, 0, 1, 1])
    frames = list(generate.interpolation(generator, noise(4, 8, 0), labels, 2, 0, moving=True))
    middle = generate.WALK_FRAMES
    assert torch.equal(frames[0], sample(generator, noise(4, 8, 0), labels))
    assert torch.equal(frames[middle], sample(generator, noise(4, 8, 1), labels.roll(-2)))
    for i in range(1, middle):  # there and back
        assert torch.equal(frames[middle - i], frames[middle + i])
        assert not torch.equal(frames[i], frames[i - 1])


def test_a_row_goes_on_to_the_class_of_the_next() -> None:
    """Strong embeddings, because the images of a short training hardly depend on the class."""
    torch.manual_seed(0)
    generator = random_generator(z_dim=8, ngf=4, channels=1, image_size=28, num_classes=3)
    torch.nn.init.normal_(generator.embed.weight, std=100.0)
    z, end = noise(6, 8, 0), noise(6, 8, 1)
    labels, of_next, of_last = (
        torch.tensor(row) for row in ([0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 0, 0], [2, 2, 0, 0, 1, 1])
    )
    frames = list(generate.interpolation(generator, z, labels, 2, 0, moving=True))
    last = frames[generate.WALK_FRAMES]
    assert torch.equal(last, sample(generator, end, of_next))
    assert not torch.equal(last, sample(generator, end, of_last))


def test_neighbours_of_a_training_image_begin_with_itself(
    trained: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset("folder", pictures, 28)
    classifier_for(dataset, pictures, torch.device("cpu"))
    real = dataset.train_images
    some = real[[5, 40, 90]]
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def drawn(_: object, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append((z, labels))
        return some

    monkeypatch.setattr(generate, "sample", drawn)
    argv = [
        "--neighbours",
        "4",
        "--data_dir",
        str(pictures),
        "--save_path",
        str(tmp_path / "n.png"),
    ]
    draw(trained, *argv)
    ((z, labels),) = asked  # the first column of the grid
    assert torch.equal(z, noise(24, 8, 0)[::8]) and labels.tolist() == [0, 1, 2]
    cells = pixels(tmp_path / "n.png", 3, 6)
    assert np.array_equal(cells[:, 0], some[:, 0].numpy())
    assert (cells[:, 1] == 255).all()
    assert np.array_equal(cells[:, 2], some[:, 0].numpy())
    assert not np.array_equal(cells[:, 3], cells[:, 2])


def test_z_scale_scales_every_z(trained: Path, tmp_path: Path) -> None:
    argv = ["--grid_size", "3", "--save_path", str(tmp_path / "a.png"), "--z_scale"]
    draw(trained, *argv, "0")
    cells = pixels(tmp_path / "a.png", 3, 3)
    assert (cells == cells[:, :1]).all()  # of one class, all the same: that of z = 0
    draw(trained, *argv, "0.5")
    generator, _ = load_generator(trained)
    labels = torch.arange(3).repeat_interleave(3)
    expected = sample(generator, 0.5 * noise(9, 8, 0), labels).view(3, 3, 28, 28).numpy()
    assert np.abs(pixels(tmp_path / "a.png", 3, 3).astype(int) - expected).max() <= 1


def test_an_exported_generator_draws_the_same(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "small.pt"
    generate.main(["--load_path", str(trained), "--export", str(path)])
    assert capsys.readouterr().err == ""
    content = torch.load(path, weights_only=True)
    assert set(content) >= {"script", "dataset", "classes", "generator_args", "command", "scores"}
    assert content["command"].startswith("python cdcgan.py --z_dim=8 --ngf=4")
    assert not {"--name", "--data_dir", "--out_dir"} & set(re.findall(r"--\w+", content["command"]))
    values = [v for v in content["ema"].values() if v.is_floating_point()]
    assert all(value.dtype == torch.float16 for value in values)
    z, labels = noise(6, 8, seed=0), torch.arange(6) % 3
    whole, small = (sample(load_generator(p)[0], z, labels).int() for p in (trained, path))
    assert (whole - small).abs().max() <= 3  # of 255: float16's digits
    assert "nowhere" in refusal(
        generate.main, ["--load_path", "nowhere", "--export", str(path)], capsys
    )
    last = trained / "last.pt"  # which a resumed run needs whole
    before = last.read_bytes()
    argv = ["--load_path", str(trained), "--export", str(last)]
    assert "own checkpoint" in refusal(generate.main, argv, capsys)
    assert last.read_bytes() == before


def test_an_exported_generator_has_the_scores_of_the_last_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_conditional(tmp_path / "run.pt", ["bag"])
    rows = [{"step": 50 * epoch, "epoch": epoch, "test_d_loss": 1 / epoch} for epoch in (1, 2, 3)]
    del rows[2]["test_d_loss"]  # epoch 3 ended without an evaluation
    progress = {"best": 0.5, "rows": rows, "names": [], "window": torch.zeros(0, 0)}
    about = {"all_classes": ["bag"], "step": 150}
    torch.save(torch.load(path) | progress | about, path)
    generate.main(["--load_path", str(path), "--export", str(tmp_path / "small.pt")])
    small = read_checkpoint(tmp_path / "small.pt")
    assert small["scores"] == rows[1] and small["step"] == 150
    assert "does not name its training command" in capsys.readouterr().err


def test_drawing_starts_without_torchs_compiler(tmp_path: Path) -> None:
    """The import of torch._dynamo would take as long as half of `import torch`."""
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import generate; generate.main(['--save_path', sys.argv[1]])\n"
        "sys.exit('torch._dynamo' in set(sys.modules) - before)"
    )
    python = [sys.executable, "-c", code, str(tmp_path / "grid.png")]
    assert subprocess.run(python, cwd=ROOT, capture_output=True).returncode == 0


def test_npz_of_samples(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--num_images", "7", "--seed", "4", "--save_path", str(tmp_path / "seven.npz"))
    with zipfile.ZipFile(tmp_path / "seven.npz") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    with np.load(tmp_path / "seven.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (7, 28, 28) and arrays["images"].dtype == np.uint8
        assert arrays["labels"].dtype == np.int64
        assert arrays["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]
        images = sample(load_generator(trained)[0], noise(7, 8, 4), torch.arange(7) % 3)
        assert np.array_equal(arrays["images"], images[:, 0].numpy())
    draw(trained, "--num_images", "3", "--format", "npz", "--save_path", str(tmp_path / "dir"))
    assert (tmp_path / "dir" / "samples.npz").exists()


def test_folder_of_samples_holds_the_same_pixels(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--num_images", "7", "--class", "bag", "--save_path", str(tmp_path / "files"))
    draw(trained, "--num_images", "7", "--class", "0", "--save_path", str(tmp_path / "x.npz"))
    files = sorted((tmp_path / "files").iterdir())
    assert [file.name for file in files] == [f"{i:05d}_bag.png" for i in range(7)]
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["labels"].tolist() == [0] * 7
        for file, image in zip(files, arrays["images"], strict=True):
            assert np.array_equal(np.asarray(Image.open(file)), image)


def test_samples_in_colour(tmp_path: Path) -> None:
    path = write_conditional(tmp_path / "a.pt", ["bag", "coat"], channels=3)
    draw(path, "--num_images", "3", "--save_path", str(tmp_path / "files"))
    draw(path, "--num_images", "3", "--save_path", str(tmp_path / "x.npz"))
    images = sample(load_generator(path)[0], noise(3, 8, 0), torch.tensor([0, 1, 0]))
    expected = images.permute(0, 2, 3, 1).numpy()
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["images"], expected)
    names = ["00000_bag.png", "00001_coat.png", "00002_bag.png"]
    for name, image in zip(names, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "files" / name)), image)


def test_samples_without_classes(flags: list[str], tmp_path: Path) -> None:
    dcgan.main([*flags, "--name", "run", "--max_steps", "1"])
    generator, _ = load_generator(tmp_path / "run")
    draw(tmp_path / "run", "--num_images", "2", "--save_path", str(tmp_path / "files"))
    assert sorted(p.name for p in (tmp_path / "files").iterdir()) == ["00000.png", "00001.png"]
    draw(tmp_path / "run", "--num_images", "2", "--save_path", str(tmp_path / "x.npz"))
    with np.load(tmp_path / "x.npz") as arrays:
        assert list(arrays) == ["images"]
    for argv, cells in (["--grid_size", "3"], 9), (["--interpolate", "2", "--grid_size", "3"], 6):
        draw(tmp_path / "run", *argv, "--save_path", str(tmp_path / "grid.png"))
        z = noise(cells, 8, 0)
        with Image.open(tmp_path / "grid.png") as picture:
            assert picture.size == ((3 * 29 + 1) * 2, (cells // 3 * 29 + 1) * 2)  # no names
            first = np.asarray(picture.convert("L"))[2:58:2, 2:58:2]
        assert np.abs(first.astype(int) - sample(generator, z)[0, 0].numpy()).max() <= 1


def test_a_run_of_some_classes_knows_all_numbers_and_its_own_images(
    flags: list[str], tmp_path: Path, pictures: Path
) -> None:
    cdcgan.main([*flags, "--classes", "coat,shoe", "--name", "run", "--max_steps", "1"])
    for name in ("2", "shoe"):  # of the data set's classes, the third
        argv = ["--class", name, "--num_images", "2", "--save_path", str(tmp_path / name)]
        draw(tmp_path / "run", *argv)
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
            "00000_shoe.png",
            "00001_shoe.png",
        ]
    generate.main(["--load_path", str(tmp_path / "run"), "--export", str(tmp_path / "small.pt")])
    for path in (tmp_path / "run", tmp_path / "small.pt"):
        checkpoint = read_checkpoint(path)
        assert (checkpoint["classes"], checkpoint["all_classes"]) == (["coat", "shoe"], [*CLASSES])
    data = load_dataset("folder", pictures, 28, ["coat", "shoe"])
    classifier_for(data, pictures, torch.device("cpu"))
    nearest = generate.Neighbours(checkpoint, str(pictures), torch.device("cpu"))
    assert torch.equal(nearest.images, data.train_images)


def test_classes_that_are_all_published_are_a_part_of_those(tmp_path: Path) -> None:
    """Of a checkpoint that does not say what its data set's classes are."""
    published = support.download.CLASSES["fashion_mnist"]
    for dataset, classes, known in (
        ("fashion_mnist", ["Bag", "Sneaker"], published),
        ("fashion_mnist", ["Bag", "sofa"], ["Bag", "sofa"]),
        ("folder", ["Bag", "Sneaker"], ["Bag", "Sneaker"]),
    ):
        path = write_conditional(tmp_path / "a.pt", classes)
        torch.save({**torch.load(path), "dataset": dataset}, path)
        assert load_generator(path)[1]["all_classes"] == known


def test_no_sample_depends_on_how_many_are_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator = random_generator(z_dim=8, ngf=4, channels=1, image_size=28, num_classes=3)
    torch.nn.init.normal_(generator.embed.weight, std=100.0)
    z, start, end = noise(7, 8, 0), torch.arange(7) % 3, torch.arange(7) // 3
    t = torch.linspace(0, 1, 7).unsqueeze(1)
    whole = sample(generator, z, start), sample_between(generator, z, start, end, t)
    monkeypatch.setattr(support.sampling, "CHUNK", 3)
    parts = sample(generator, z, start), sample_between(generator, z, start, end, t)
    for one, other in zip(whole, parts, strict=True):
        assert one.shape == other.shape and (one.int() - other.int()).abs().max() <= 1
    assert not torch.equal(*whole)


def test_samples_come_from_the_average_in_eval_mode(trained: Path) -> None:
    generator, checkpoint = load_generator(trained / "last.pt")
    assert not generator.training
    for name, value in generator.state_dict().items():
        assert torch.equal(value, checkpoint["ema"][name])
    z, labels = noise(6, 8, seed=0), torch.arange(6) % 3
    generator.train()
    images = sample(generator, z, labels)
    assert generator.training  # left as it came
    assert images.dtype == torch.uint8 and images.shape == (6, 1, 28, 28)
    alone = torch.cat([sample(generator, z[i : i + 1], labels[i : i + 1]) for i in range(6)])
    assert (images.int() - alone.int()).abs().max() <= 1  # float32's last digit may round over


def test_a_run_folder_means_its_last_checkpoint(trained: Path, tmp_path: Path) -> None:
    """The test images choose best.pt, so its distance to them would be too small."""
    content = torch.load(trained / "last.pt", weights_only=True)
    torch.save(content, tmp_path / "last.pt")
    assert read_checkpoint(tmp_path)["step"] == 20
    torch.save({**content, "step": 5}, tmp_path / "best.pt")
    assert read_checkpoint(tmp_path)["step"] == 20


def test_grid_keeps_the_pixels() -> None:
    images = torch.arange(6 * 3 * 64 * 64).remainder(256).to(torch.uint8).view(6, 3, 64, 64)
    picture = np.asarray(draw_grid(images, 3))
    assert picture.shape == (2 * 65 + 1, 3 * 65 + 1, 3)  # large enough: not enlarged
    corner = picture[66:130, 1:65]
    assert np.array_equal(corner, images[3].permute(1, 2, 0).numpy())
    small = np.asarray(draw_grid(images[:, :1, :28, :28], 6))
    assert np.array_equal(small[2:58:2, 2:58:2, 0], images[0, 0, :28, :28].numpy())


def test_slerp_keeps_the_length() -> None:
    a, b = noise(5, 100, seed=1), noise(5, 100, seed=2)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    middle = slerp(a, b, 0.3)
    assert torch.allclose(middle.norm(dim=1), torch.ones(5), atol=1e-5)
    angle = torch.acos((a * b).sum(1))
    assert torch.allclose(torch.acos((a * middle).sum(1)), 0.3 * angle, atol=1e-4)
    assert torch.allclose(slerp(a, a, 0.5), a, atol=1e-5)
    one = torch.ones(1, 1)  # of one number only: opposites, between which no arc leads
    assert slerp(one, -0.5 * one, 0.5).item() == pytest.approx(0.25)


def test_neighbours_in_colour_of_a_grey_sample(
    trained: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset("folder", pictures, 28)
    data.train_images = data.train_images.repeat(1, 3, 1, 1)
    data.train_images[:, 0] = 255  # reddish
    monkeypatch.setattr(generate, "load_dataset", lambda *_, **__: data)
    classifier_for(data, tmp_path, torch.device("cpu"))
    path = tmp_path / "n.png"
    draw(trained, "--neighbours", "3", "--data_dir", str(tmp_path), "--save_path", str(path))
    with Image.open(path) as picture:
        red, green, _ = np.asarray(picture, dtype=int).transpose(2, 0, 1)
    drawn, nearest = (slice(58 * i + 2, 58 * i + 58) for i in (-5, -3))
    assert (red[:, drawn] == green[:, drawn]).all()
    assert (red[2:58, nearest] == 255).all() and (green[2:58, nearest] < 255).any()


def test_more_neighbours_than_images(
    trained: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = load_dataset("folder", pictures, 28)
    few.train_images = few.train_images[:5]
    monkeypatch.setattr(generate, "load_dataset", lambda *_, **__: few)
    classifier_for(few, "few", torch.device("cpu"))
    argv = ["--load_path", str(trained), "--neighbours", "6", "--device", "cpu"]
    assert "6 neighbours of 5" in refusal(generate.main, argv, capsys)


# ---- pictures that are too large ----


@pytest.mark.parametrize("size", [28, 56, 64])
@pytest.mark.parametrize("names", [[], ["a"], ["a", "\u0436" * 40, "c"]])
def test_the_layout_is_what_is_drawn(size: int, names: list[str]) -> None:
    for number in (1, 2, 3, 7):
        for columns in (1, 3, 8):
            images = torch.zeros(number, 1, size, size, dtype=torch.uint8)
            rows = -(-number // columns)
            layout = lay_out(number, columns, size, names[:rows])
            picture = draw_grid(images, columns, names[:rows])
            assert picture.size == (layout.width, layout.height)
            drawn = np.asarray(picture.convert("L"))[:, layout.margin :]
            assert (drawn == 0).sum() == number * (size * layout.scale) ** 2


def test_the_largest_pictures_that_are_drawn() -> None:
    rows = (GIF_SIDE - 2) // 58
    check_layout(lay_out(rows, 1, 28), moving=True)
    check_layout(lay_out(rows + 1, 1, 28), moving=False)  # a PNG has no such limit
    with pytest.raises(InputError, match="60 x 65,542 pixels; a GIF has at most 65,535 per side"):
        check_layout(lay_out(rows + 1, 1, 28), moving=True)
    with pytest.raises(InputError, match="at most 67,108,864 pixels are drawn"):
        check_layout(lay_out(1000 * 100, 100, 28), moving=False)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--gif"], "x 69,602 pixels; a GIF has at most 65,535 per side; make it smaller with"),
        (["--gif", "--grid_size", "1"], "a GIF has at most 65,535 per side"),
        (["--save_path", "walk.gif"], "a GIF has at most 65,535 per side"),
        (["--grid_size", "100"], "x 69,602 pixels; at most 67,108,864 pixels are drawn"),
        (["--neighbours", "30"], "x 69,602 pixels; at most 67,108,864 pixels are drawn"),
    ],
)
def test_too_large_a_picture_is_refused_before_it_is_drawn(
    argv: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_conditional(tmp_path / "many.pt", [f"class {i}" for i in range(1200)])

    def drawn(*_: object) -> None:
        raise AssertionError("something was drawn")

    for function in ("sample", "sample_between", "Neighbours"):
        monkeypatch.setattr(generate, function, drawn)
    argv = ["--load_path", str(path), "--device", "cpu", *argv]
    assert says in refusal(generate.main, argv, capsys)
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_classes_some_rows_still_make_a_gif(tmp_path: Path) -> None:
    path = write_conditional(tmp_path / "many.pt", [f"class {i}" for i in range(1200)])
    for argv in (["--class", "class 1100"], ["--interpolate", "3"]):
        draw(path, *argv, "--grid_size", "2", "--gif", "--save_path", str(tmp_path))
        with Image.open(tmp_path / "grid.gif") as gif:
            assert gif.n_frames > 1 and gif.height <= (3 * 29 + 1) * 2  # type: ignore[attr-defined]


# ---- GIFs ----


def test_a_gif_holds_the_frames_and_their_times(tmp_path: Path) -> None:
    """The pixels of Pillow's own writer, with an unchanged frame shown for longer."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)) for _ in range(3)]
    small = [frame.convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for frame in frames]
    save_gif([frames[0], frames[1], frames[1], frames[2]], tmp_path / "a.gif", 0.08, hold=2)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0 and gif.size == (30, 40)
        found = [(f.convert("RGB"), f.info["duration"]) for f in ImageSequence.Iterator(gif)]
    assert [duration for _, duration in found] == [80, 160, 2080]
    for (frame, _), expected in zip(found, small, strict=True):
        assert ImageChops.difference(frame, expected.convert("RGB")).getbbox() is None
    save_gif([frames[0]] * 5, tmp_path / "b.gif", 0.08)
    with Image.open(tmp_path / "b.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (1, 400)  # type: ignore[attr-defined]


def test_a_gif_is_written_frame_by_frame(tmp_path: Path) -> None:
    """When a frame is asked for, all but the two before it are on the disk."""
    rng = np.random.default_rng(0)
    sizes = []

    def frames() -> Iterator[Image.Image]:
        for _ in range(8):
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8))

    save_gif(frames(), tmp_path / "a.gif", 0.1)
    growth = np.diff(sizes)
    assert (growth[2:] > 20_000).all()  # noise of 64 colours: 30,000 bytes per frame
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


# ---- names outside ASCII ----


def named(*names: str) -> np.ndarray:
    """Return the margin of a grid with these row names."""
    images = torch.zeros(len(names), 1, 28, 28, dtype=torch.uint8)
    return np.asarray(draw_grid(images, 1, names).convert("L"))[:, :-60]


def test_names_that_the_font_has(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a glyph of its own, where missing ones would all be the same box."""
    letters = "eu\u00e9\u00fc\u00f1\u0142\u0416\u0436\u03a9\u03c9\u2192"
    assert len({named(letter).tobytes() for letter in letters}) == len(letters)
    decomposed = unicodedata.normalize("NFD", "\u00e9")  # as a Mac names its files
    assert np.array_equal(named("\u00e9"), named(decomposed))
    assert np.array_equal(named("a\u3000b\nc"), named("a b c"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name",
    [
        "\u65e5\u672c",
        "a\u65e5",
        "\uac00",
        "\U0001f45f",
        "\u0e01",
        "\u05d0",
        "\u0627",
        "a\x07b",
        "\udcff",
    ],
)
def test_names_that_the_font_lacks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Chinese, Korean, emoji, Thai, right-to-left, control characters: the number is drawn."""
    assert np.array_equal(named("b", name), named("b", "1"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith(f"{name!r} is drawn as 1")


@pytest.mark.parametrize("argv", [[], ["--gif", "--grid_size", "1"], ["--interpolate", "4"]])
def test_class_names_that_the_font_lacks(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of the class is drawn. One line lists such classes, for a GIF, too."""
    torch.manual_seed(0)
    names = ["bag", "\u65e5\u672c", "caf\u00e9", "\u978b"]
    path = write_conditional(tmp_path / "a.pt", names)
    torch.manual_seed(0)
    plain = write_conditional(tmp_path / "b.pt", ["bag", "1", "caf\u00e9", "3"])
    draw(plain, *argv, "--save_path", str(tmp_path / "plain"))
    assert capsys.readouterr().err == ""
    draw(path, *argv, "--save_path", str(tmp_path / "named"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "'\u65e5\u672c' is drawn as 1, '\u978b' is drawn as 3" in line
    (first,), (second,) = ((tmp_path / f).iterdir() for f in ("plain", "named"))
    assert first.read_bytes() == second.read_bytes()
    draw(path, *argv, "--class", "bag", "--save_path", str(tmp_path / "bag"))
    assert capsys.readouterr().err == ""


def test_long_class_names_fit_into_file_names(tmp_path: Path) -> None:
    path = write_conditional(tmp_path / "a.pt", ["a" * 255, "\U0001f45f" * 255])
    draw(path, "--num_images", "2", "--save_path", str(tmp_path / "files"))
    assert len(list((tmp_path / "files").iterdir())) == 2


# ---- new samples beside older images ----


@pytest.mark.parametrize(
    ("older", "says"),
    [
        (["00000_bag.png"], "holds 1 image already"),
        (["a.png", "b.JPG", "deep/er/c.webp", "grid.gif"], "holds 4 images already"),
    ],
)
def test_samples_do_not_mix_with_older_images(
    older: list[str],
    says: str,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in older:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"older")
    before = sorted(tmp_path.rglob("*"))
    argv = ["--load_path", str(trained), "--num_images", "3", "--save_path", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(generate, "load_generator", None)  # the refusal comes before any work
        line = refusal(generate.main, argv, capsys)
        assert says in line and "a new or empty folder as --save_path" in line
    assert sorted(tmp_path.rglob("*")) == before
    generate.main([*argv, "--format", "npz"])  # one file mixes with nothing
    generate.main([*argv, "--save_path", str(tmp_path / "new")])
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_what_is_no_image_does_not_stand_in_the_way(trained: Path, tmp_path: Path) -> None:
    for name in (".hidden.png", "notes.txt", "samples.npz"):
        (tmp_path / name).write_bytes(b"")
    draw(trained, "--num_images", "3", "--save_path", str(tmp_path))
    assert len(list(tmp_path.glob("0000*.png"))) == 3


def test_the_default_folder_never_mixes(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(trained)
    argv = ["--load_path", str(trained), "--num_images", "3", "--device", "cpu"]
    assert "samples holds 1 image already" in refusal(generate.main, argv, capsys)
    draw(trained)  # a grid replaces a grid
    draw(trained, "--num_images", "3", "--format", "npz")
    assert sorted(p.name for p in Path("samples").iterdir()) == ["grid.png", "samples.npz"]


def test_a_grid_beside_samples_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "grid.gif")  # an older grid's
    for number, warned in ((0, False), (0, False), (2, True)):
        if number:
            Image.new("L", (8, 8)).save(tmp_path / "00000.png")
        generate.main(["--save_path", str(tmp_path), "--grid_size", "1", "--device", "cpu"])
        assert ("will read the grid" in capsys.readouterr().err) == warned
