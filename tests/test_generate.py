"""generate.py: what it draws, and that a checkpoint stays data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import cdcgan
import experiment
import generate
from checkpoints import load_generator, read_checkpoint
from data import load_dataset
from generate import draw_grid, noise, sample, slerp
from tests.conftest import CLASSES, TINY, refusal


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    end = ["--out_dir", str(out), "--name", "run", "--max_steps", "20", "--device", "cpu"]
    cdcgan.main([*data, *TINY, *end])
    return out / "run"


def draw(trained: Path, *argv: str) -> None:
    generate.main(["--load_path", str(trained), "--device", "cpu", *argv])


def test_grid_has_a_named_row_a_class(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--grid_size", "5", "--save_path", str(tmp_path / "new" / "folder"))
    picture = Image.open(tmp_path / "new" / "folder" / "grid.png")
    cells = (5 * 29 + 1) * 2, (len(CLASSES) * 29 + 1) * 2
    assert picture.size[1] == cells[1]
    margin = picture.size[0] - cells[0]
    assert margin > 0
    names = np.asarray(picture.convert("L"))[:, :margin]
    for row in range(len(CLASSES)):
        assert names[row * 58 : row * 58 + 58].min() < 100  # something is written there


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
    draw(trained, *argv)
    cells = pixels(tmp_path / "i.png", 3, 5)
    generator, _ = load_generator(trained)
    start, end = (noise(15, 8, seed)[::5] for seed in (0, 1))
    first = sample(generator, start, torch.tensor([0, 1, 2]))[:, 0]
    last = sample(generator, end, torch.tensor([1, 2, 0]))[:, 0]  # the next row's class
    assert np.abs(cells[:, 0].astype(int) - first.numpy()).max() <= 1
    assert np.abs(cells[:, -1].astype(int) - last.numpy()).max() <= 1
    steps = np.abs(np.diff(cells.astype(int), axis=1)).mean(axis=(2, 3))
    assert (steps > 0).all()  # and it moves at every step


def test_interpolation_as_a_loop(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--interpolate", "2", "--gif", "--grid_size", "2", "--save_path", str(tmp_path))
    assert Image.open(tmp_path / "grid.gif").n_frames == 2 * generate.WALK_FRAMES  # type: ignore[attr-defined]
    generator, _ = load_generator(trained)
    labels = torch.tensor([0, 0, 1, 1])
    frames = generate.interpolation(generator, noise(4, 8, 0), labels, 2, 0, moving=True)
    middle = generate.WALK_FRAMES
    assert torch.equal(frames[0], sample(generator, noise(4, 8, 0), labels))
    assert torch.equal(frames[middle], sample(generator, noise(4, 8, 1), labels.roll(-2)))
    for i in range(1, middle):  # there and back
        assert torch.equal(frames[middle - i], frames[middle + i])
        assert not torch.equal(frames[i], frames[i - 1])


def test_neighbours_of_a_training_image_begin_with_itself(
    trained: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = load_dataset("folder", pictures, 28).train_images
    some = real[[5, 40, 90]]
    monkeypatch.setattr(generate, "sample", lambda *_: some)
    argv = [
        "--neighbours",
        "4",
        "--data_dir",
        str(pictures),
        "--save_path",
        str(tmp_path / "n.png"),
    ]
    draw(trained, *argv)
    cells = pixels(tmp_path / "n.png", 3, 6)
    assert np.array_equal(cells[:, 0], some[:, 0].numpy())
    assert (cells[:, 1] == 255).all()
    assert np.array_equal(cells[:, 2], some[:, 0].numpy())
    assert not np.array_equal(cells[:, 3], cells[:, 2])


def test_truncation_scales_every_z(trained: Path, tmp_path: Path) -> None:
    argv = ["--grid_size", "3", "--save_path", str(tmp_path / "a.png"), "--truncation"]
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
    experiment.main(["export", str(trained), str(path)])
    content = torch.load(path, weights_only=True)
    assert set(content) >= {"script", "dataset", "classes", "generator_args", "command", "scores"}
    assert content["command"].startswith("python cdcgan.py --z_dim=8 --ngf=4")
    assert str(tmp_path) not in content["command"] and "--data_dir" not in content["command"]
    values = [v for v in content["ema"].values() if v.is_floating_point()]
    assert all(value.dtype == torch.float16 for value in values)
    z, labels = noise(6, 8, seed=0), torch.arange(6) % 3
    whole, small = (sample(load_generator(p)[0], z, labels).int() for p in (trained, path))
    assert (whole - small).abs().max() <= 3  # of 255: float16's digits
    assert "nowhere" in refusal(experiment.main, ["export", "nowhere", str(path)], capsys)


def test_npz_of_samples(trained: Path, tmp_path: Path) -> None:
    draw(trained, "--num_images", "7", "--save_path", str(tmp_path / "seven.npz"))
    with np.load(tmp_path / "seven.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (7, 28, 28) and arrays["images"].dtype == np.uint8
        assert arrays["labels"].dtype == np.int64
        assert arrays["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]
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


def test_best_is_preferred_to_last(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "last.pt", weights_only=True)
    torch.save(content, tmp_path / "last.pt")
    assert read_checkpoint(tmp_path)["step"] == 20
    torch.save({**content, "step": 5}, tmp_path / "best.pt")
    assert read_checkpoint(tmp_path)["step"] == 5


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
    argv = ["--load_path", str(trained), "--neighbours", "6", "--device", "cpu"]
    assert "6 neighbours of 5" in refusal(generate.main, argv, capsys)
