"""docs/toy.py: losses and counts at closed forms, flags, files, and the recorded results."""

import csv
import importlib.util
import math
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.conftest import ROOT


def load_toy() -> Any:
    """Load docs/toy.py by path, because docs/ is not a package."""
    spec = importlib.util.spec_from_file_location("toy", ROOT / "docs/toy.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = load_toy()


class Plane(nn.Module):
    """A critic whose gradient is (scale, 0) everywhere."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, points: Tensor) -> Tensor:
        return self.scale * points[:, :1]


def recorded() -> list[dict[str, str]]:
    with open(ROOT / "docs/toy.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("modes", [1, 2, 8, 25])
def test_the_means_lie_on_the_ring(modes: int) -> None:
    means = toy.ring(modes)
    assert means.shape == (modes, 2)
    assert means.norm(dim=1).tolist() == pytest.approx([toy.RADIUS] * modes)
    gap = (means - means.roll(1, dims=0)).norm(dim=1).tolist()
    assert gap == pytest.approx([2 * toy.RADIUS * math.sin(math.pi / modes)] * modes, abs=1e-5)


def test_real_points_have_the_standard_deviation_and_use_all_modes() -> None:
    means = toy.ring(8)
    distance, nearest = torch.cdist(toy.draw_real(20_000, means), means).min(dim=1)
    assert distance.square().mean().item() == pytest.approx(2 * toy.STD**2, rel=0.03)
    assert nearest.bincount().tolist() == pytest.approx([2500] * 8, rel=0.1)


def test_the_counts_of_real_points() -> None:
    """In two dimensions, a fraction exp(-k^2 / 2) lies beyond k standard deviations."""
    means = toy.ring(8)
    modes, quality = toy.count_modes(toy.draw_real(20_000, means), means)
    assert modes == 8
    assert quality == pytest.approx(1 - math.exp(-4.5), abs=0.003)


def test_the_counts_of_known_points() -> None:
    means = toy.ring(8)
    inside, outside = torch.tensor([[2.99, 0.0], [3.01, 0.0]]) * toy.STD
    samples = torch.stack([means[0], means[0] + inside, means[3] + outside, torch.zeros(2)])
    assert toy.count_modes(samples, means) == (1, 0.5)
    assert toy.count_modes(means[:5], means) == (5, 1.0)
    assert toy.count_modes(torch.full((4, 2), math.nan), means) == (0, 0.0)


@pytest.mark.parametrize("loss", ["saturating", "non-saturating"])
def test_the_losses_are_cross_entropies(loss: str) -> None:
    real, fake = torch.randn(2, 50, 2).unbind()
    p_real, p_fake = torch.sigmoid(1.5 * real[:, 0]), torch.sigmoid(1.5 * fake[:, 0])
    expected = -(p_real.log() + (1 - p_fake).log()).mean().item()
    found = toy.discriminator_loss(loss, Plane(1.5), real, fake)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    g_loss = (1 - p_fake).log().mean() if loss == "saturating" else -p_fake.log().mean()
    found = toy.generator_loss(loss, 1.5 * fake[:, 0])
    assert found.item() == pytest.approx(g_loss.item(), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 4.0])
def test_the_wasserstein_loss_of_a_plane(scale: float) -> None:
    real, fake = torch.randn(2, 50, 2).unbind()
    critic = Plane(scale)
    difference = scale * (fake[:, 0].mean() - real[:, 0].mean()).item()
    d_loss = toy.discriminator_loss("wasserstein", critic, real, fake)
    assert d_loss.item() == pytest.approx(difference + toy.LAMBDA_GP * (scale - 1) ** 2, abs=1e-5)
    d_loss.backward()
    assert critic.scale.grad is not None and critic.scale.grad.isfinite()
    g_loss = toy.generator_loss("wasserstein", critic(fake)).item()
    assert g_loss == pytest.approx(-scale * fake[:, 0].mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        "--modes 0",
        "--modes 2.5",
        "--steps 0",
        "--d_steps 101",
        "--seed -1",
        "--lr_d nan",
        "--lr_g 0.2",
        "--lr 0.1",
        "--loss hinge",
        "--save_path toy.jpg",
        "--save_path missing/toy.gif",
        "--save_path folder.gif",
    ],
)
def test_a_bad_flag_gives_one_line(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(SystemExit, match="^2$"):
        toy.main(flags.split())
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: .*--\w+.*\n", printed.err) and not printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["folder.gif"]


@pytest.mark.parametrize("loss", toy.LOSSES)
def test_two_steps_write_an_animation(
    loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.gif"
    toy.main(["--loss", loss, "--modes", "5", "--steps", "2", "--save_path", str(path)])
    first, last, name = capsys.readouterr().out.splitlines()
    line = r"step {}: modes \d of 5, high quality \d+\.\d%"
    assert re.fullmatch(line.format(0), first) and re.fullmatch(line.format(2), last)
    assert Path(name) == path and list(tmp_path.iterdir()) == [path]
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2


def test_two_steps_write_a_row_of_frames(tmp_path: Path) -> None:
    toy.main(["--steps", "2", "--save_path", str(tmp_path / "toy.png")])
    with Image.open(tmp_path / "toy.png") as image:
        assert image.width == 400  # two frames


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_disk(figure: object, path: Path, **kwargs: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toy.Figure, "savefig", fill_disk)
    (tmp_path / "toy.png").write_text("old")
    with pytest.raises(SystemExit, match="^2$"):
        toy.main(["--steps", "1", "--save_path", str(tmp_path / "toy.png")])
    assert re.fullmatch(r"error: .*No space left on device\)\n", capsys.readouterr().err)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_run_depends_on_the_seed_only() -> None:
    first, again, other = (
        toy.train(toy.parse_args(["--steps", "3", "--seed", seed]))[-1][1] for seed in "001"
    )
    assert first.equal(again) and not first.equal(other)


def test_the_recorded_results_show_collapse_and_cure() -> None:
    """They also support the result in the docstring."""
    modes: dict[str, list[int]] = {}
    for row in recorded():
        modes.setdefault(row["flags"], []).append(int(row["modes"]))
        toy.parse_args(row["flags"].split())
    assert all(len(values) == 3 for values in modes.values())
    runs, result = toy.__doc__.partition("Run:")[2].split("Result:")
    collapse, *cures = re.findall(r"python docs/toy.py ?(.*?) *\(", runs)
    found = re.findall(r"(\d) (?:to (\d) )?of 8", result)
    assert [(str(min(modes[collapse])), str(max(modes[collapse])))] == found[:1]
    assert cures and all(modes[flags] == [8, 8, 8] for flags in cures) and found[1:] == [("8", "")]


def test_the_table_in_the_course_is_what_was_recorded() -> None:
    course = (ROOT / "docs/course.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `python docs/toy.py ?(.*?)` \| (.*?) \|$", course, re.MULTILINE)
    assert {flags for flags, _ in rows} == {row["flags"] for row in recorded()}
    for flags, cells in rows:
        runs = [row for row in recorded() if row["flags"] == flags]
        modes = [int(row["modes"]) for row in runs]
        quality = [float(row["quality"]) for row in runs]
        shown = f"{mean(modes):.1f} ({min(modes)} to {max(modes)})"
        shown += f" | {mean(quality):.0f} % ({min(quality):.0f} to {max(quality):.0f})"
        assert cells == shown, flags


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--lr_d 1e-4", ""], ids=["collapse", "cure"])
def test_a_recorded_run_is_reproduced(
    flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A processor that rounds in another way gives other samples, so the test has a tolerance."""
    (row,) = [row for row in recorded() if (row["flags"], row["seed"]) == (flags, "0")]
    toy.main([*flags.split(), "--save_path", str(tmp_path / "toy.png")])
    *_, last, _ = capsys.readouterr().out.splitlines()
    modes, quality = re.findall(r"modes (\d) of 8, high quality (.*)%", last)[0]
    assert int(modes) == pytest.approx(int(row["modes"]), abs=0 if modes == "8" else 1)
    if flags == "":  # in a collapse, the quality depends on where the single cluster is
        assert float(quality) == pytest.approx(float(row["quality"]), abs=8)
