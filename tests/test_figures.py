"""The figures of docs/: each is drawn, small and linked; the plotted quantities are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fid import frechet_distance, precision_recall
from tests.conftest import ROOT, tool
from vanilla_gan import generator_loss

figures, record_curves = tool("make_figures"), tool("record_curves")
PAGES = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("name", figures.FIGURES)
def test_each_figure_is_drawn_small_and_on_a_page(name: str, tmp_path: Path) -> None:
    figures.main(["--only", name, "--out_dir", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 40_000
    with Image.open(path) as drawn, Image.open(ROOT / "docs" / path.name) as committed:
        assert drawn.size == committed.size and drawn.width == 640
        assert len(drawn.getcolors() or []) > 2  # not an empty page
    assert f"({path.name})" in PAGES


@pytest.mark.parametrize("name", [*figures.LOSS_FIGURES, *figures.SAMPLE_FIGURES])
def test_each_figure_of_runs_is_drawn_and_on_a_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "RUNS", tmp_path / "runs")
    figures.main(["--only", name, "--out_dir", str(tmp_path / "out")])
    command = figures.command_before(name)
    runs = command.split()[1:]
    columns = "epoch,d_loss,g_loss,d_real,d_fake,wasserstein,penalty\n"
    assert f"{name} is skipped: run {command} first" in capsys.readouterr().out
    for run in runs:
        assert run in record_curves.RUNS
        (tmp_path / "runs" / run / "samples").mkdir(parents=True)
        rows = "1,1,2,0.4,0.5,3,0.1\n2,1,2,0.4,0.5,3,0.1\n"
        (tmp_path / "runs" / run / "metrics.csv").write_text(columns + rows)
        (tmp_path / "runs" / run / "training.gif").touch()
        Image.new("RGB", (700, 700)).save(tmp_path / "runs" / run / "samples/epoch_0002.png")
    figures.main(["--only", name, "--out_dir", str(tmp_path / "out")])
    new, old = tmp_path / f"out/{name}.png", ROOT / f"docs/{name}.png"
    with Image.open(new) as drawn, Image.open(old) as committed:
        assert name in figures.LOSS_FIGURES or drawn.size == committed.size
    assert f"({name}.png)" in PAGES


def test_the_emoji_of_the_readme_are_drawn_from_the_shipped_file(tmp_path: Path) -> None:
    figures.main(["--only", "emoji.jpg", "--out_dir", str(tmp_path)])
    drawn, shown = (
        np.asarray(Image.open(path), dtype=int)
        for path in (tmp_path / "emoji.jpg", ROOT / "docs/emoji.jpg")
    )
    assert drawn.shape == shown.shape
    assert abs(drawn - shown).mean() < 1  # the rounding of JPEG


@pytest.mark.parametrize("name", figures.PICTURES)
def test_each_picture_of_samples_is_on_a_page(name: str) -> None:
    assert (ROOT / "docs" / name).is_file() and f"{name})" in PAGES


@pytest.mark.parametrize("name", figures.NEEDED)
def test_a_picture_is_skipped_without_what_it_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command = figures.NEEDED[name]
    monkeypatch.setitem(figures.NEEDED, name, (tmp_path / "absent", command))
    figures.main(["--only", name, "--out_dir", str(tmp_path)])
    assert f"{name} is skipped: run {command} first" in capsys.readouterr().out


def test_the_animation_has_twelve_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").mkdir()
    for epoch in range(30):
        path = tmp_path / f"samples/epoch_{epoch:04}.png"
        Image.new("RGB", (677, 582), (epoch, 0, 0)).save(path)
    monkeypatch.setattr(figures, "DEFAULT_RUN", tmp_path)
    figures.draw_training(tmp_path / "training.gif")
    for path in (tmp_path / "training.gif", ROOT / "docs/training.gif"):
        with Image.open(path) as gif:
            assert (gif.size, getattr(gif, "n_frames", 0)) == ((445, 610), 12)


def test_the_diagram_of_a_step_is_small_and_has_a_white_background() -> None:
    svg = (ROOT / "docs/training_step.svg").read_text()
    assert len(svg) < 10_000 and '<rect width="900" height="430" fill="#fff"/>' in svg


def test_the_losses_of_g_have_the_gradients_of_the_docstring() -> None:
    logits = figures.LOGITS
    d = logits.sigmoid()
    (saturating, non_saturating) = figures.losses_and_gradients(logits).values()
    torch.testing.assert_close(saturating[0], (1 - d).log())
    torch.testing.assert_close(saturating[1], -d)
    torch.testing.assert_close(non_saturating[1], d - 1)
    assert non_saturating[0].mean().item() == pytest.approx(generator_loss(logits).item())
    zero = torch.zeros(1, dtype=torch.float64)
    for _, gradient in figures.losses_and_gradients(zero).values():
        assert gradient.item() == -0.5


def test_point_masses_have_a_jsd_of_log_2_and_a_w1_of_t() -> None:
    t, divergences, w1 = figures.distances_of_point_masses()
    assert divergences[0] == 0 and divergences[1:] == pytest.approx(math.log(2))
    assert w1 == pytest.approx(t) and t[-1] == 2


def test_v_at_the_optimal_d_is_two_jsd_minus_log_4() -> None:
    """As section 1 of the course derives, and no other D has a larger V."""
    step = figures.X[1] - figures.X[0]
    p, q = (density / density.sum() for density in figures.optimal_d_curves()[:2])
    best = figures.optimal_d_curves()[2]

    def value(d: NDArray[np.float64]) -> float:
        return float((p * np.log(d) + q * np.log(1 - d)).sum())

    assert value(p / (p + q)) == pytest.approx(2 * figures.jsd(p, q) - math.log(4))
    assert best == pytest.approx(p / (p + q), abs=1e-3)
    for other in (0.9 * best + 0.05, best**1.1, np.full_like(best, 0.5)):
        assert value(other) < value(best)
    density = figures.normal(0.5, 0.7)
    assert density.sum() * step == pytest.approx(1)
    shifted = figures.normal(1.5, 0.7)  # a shift by 1 has a W1 of 1
    assert figures.wasserstein(density * step, shifted * step, step) == pytest.approx(1)


def test_the_balls_are_those_of_the_metrics() -> None:
    real, fake = figures.points()
    shown = figures.inside(fake, real), figures.inside(real, fake)
    assert tuple(x.double().mean().item() for x in shown) == precision_recall(real, fake)
    right = real[:, 0] > 0.8
    assert figures.inside(real, fake)[right].sum() <= 1 and figures.inside(real, fake)[~right].all()


def test_the_ellipses_have_the_distances_of_the_closed_form() -> None:
    found = [frechet_distance(*pair) for pair in figures.ellipses().values()]
    assert found == pytest.approx([9, (1 - 2) ** 2 + (1 - 0.5) ** 2, 2 * (2 - 0.5) ** 2])
