"""training/: the run folder, and that stopping and resuming change nothing."""

import support.command
from support.command import InputError

import argparse
import csv
import io
import itertools
import json
import math
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import cdcgan
import training.classifier
import training.evaluation
import training.plots
import training.record
import training.run
import training.samples
import training.saving
import training.start
import vanilla_gan
import wgan_gp
from data import Batches, Dataset, load_dataset
from support.checkpoints import load_generator, read_checkpoint
from support.drawing import draw_grid
from support.features import ClassifierFeatures
from support.files import UNFINISHED
from support.fonts import font
from support.layers import spectral_norm
from support.sampling import noise, sample
from tests.conftest import CLASSES, ROOT, TINY, assert_same_run, equal, refusal
from tests.stand_ins import classifier_checkpoint
from training.flags import in_range
from training.plots import GIF_SIDE
from training.start import layer_table


@pytest.mark.usefixtures("final_pictures")
def test_stopped_by_max_steps_in_an_epoch_and_resumed(straight: tuple[list[str], Path]) -> None:
    flags, whole = straight
    cdcgan.main([*flags, "--name", "max-steps", "--max_steps", "33"])
    folder = whole.parent / "max-steps"
    assert read_checkpoint(folder / "last.pt")["step"] == 33
    for file in ("config.json", "metrics.csv", "last.pt", "losses.png", "training.gif"):
        assert (folder / file).stat().st_size > 0, file
    cdcgan.main(["--resume", str(folder)])
    assert_same_run(folder, whole)
    points = EventAccumulator(str(folder)).Reload().Scalars("loss/discriminator")
    assert [point.step for point in points] == [10, 20, 30, 40]
    assert "resume" not in json.loads((folder / "config.json").read_text())["args"]


def test_stopped_by_ctrl_c_at_the_end_of_an_epoch_and_resumed(
    straight: tuple[list[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags, whole = straight
    folder = whole.parent / "ctrl-c"
    get, flushed = Batches.__getitem__, []

    def get_and_interrupt(self: Batches, index: int) -> tuple[Tensor, Tensor]:
        if index == 19:
            events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
            flushed.extend(events.Images("images/generated"))
            signal.raise_signal(signal.SIGINT)
        return get(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__getitem__", get_and_interrupt)
        with pytest.raises(SystemExit) as end:
            cdcgan.main([*flags, "--name", "ctrl-c"])
    assert [event.step for event in flushed] == [0, 10]  # what a kill would have left
    assert end.value.code == 130
    assert f"python cdcgan.py --resume {folder}" in capsys.readouterr().out
    assert read_checkpoint(folder / "last.pt")["step"] == 20  # the step it fell into was finished
    cdcgan.main(["--resume", str(folder)])
    assert_same_run(folder, whole)


def test_a_finished_run_can_be_prolonged(flags: list[str], tmp_path: Path) -> None:
    constant = [*flags, "--lr_decay", "0", "--epochs"]
    cdcgan.main([*constant, "2", "--name", "constant"])
    cdcgan.main([*constant, "1", "--name", "prolonged"])
    folder = tmp_path / "prolonged"
    cdcgan.main(["--resume", str(folder), "--epochs", "2"])
    assert_same_run(folder, tmp_path / "constant")
    assert json.loads((folder / "config.json").read_text())["args"]["epochs"] == 2


def test_rates_rise_again_in_a_prolonged_run(flags: list[str], tmp_path: Path) -> None:
    """Each step's is that of a run that was as long from the start."""
    cdcgan.main([*flags, "--name", "raised", "--epochs", "1"])
    factors = []
    for steps in ("11", "20"):
        cdcgan.main(["--resume", str(tmp_path / "raised"), "--epochs", "2", "--max_steps", steps])
        rate = read_checkpoint(tmp_path / "raised")["opt_g"]["param_groups"][0]["lr"]
        factors.append(rate / cdcgan.parse_args([]).lr_g)
    assert factors == pytest.approx([1.0, 0.1])  # steps 10 and 19 of 20


def test_config_brings_the_arguments_back(straight: tuple[list[str], Path], tmp_path: Path) -> None:
    flags, whole = straight
    config = json.loads((whole / "config.json").read_text())
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    assert config["script"] == "cdcgan" and head in config["commit"]
    assert (config["device"], config["processes"]) == ("cpu", 1)
    config["args"]["max_steps"] = 7  # where that run ended: not where the next one does
    (tmp_path / "config.json").write_text(json.dumps(config))
    args = cdcgan.parse_args(["--config", str(tmp_path / "config.json")])
    assert vars(args) == vars(cdcgan.parse_args(flags)) | {"config": args.config}


def test_config_is_overruled_by_the_command_line(straight: tuple[list[str], Path]) -> None:
    config = ["--config", str(straight[1] / "config.json")]
    args = cdcgan.parse_args([*config, "--dropout", "0.5", "--no-hflip"])
    assert (args.dropout, args.hflip, args.label_noise) == (0.5, False, 0.1)
    assert args.name is None  # a new run, with a folder of its own


def test_a_run_from_before_a_flag_is_not_resumed(
    straight: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flag's default it would go on as another run than it was."""
    config = json.loads((straight[1] / "config.json").read_text())
    del config["args"]["lr_decay"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = refusal(cdcgan.main, ["--resume", str(tmp_path)], capsys)
    assert f"{tmp_path} was started by a version without --lr_decay: resume the run" in line


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), 1, "0.1"])
def test_a_rate_that_is_not_the_runs_is_refused(
    rate: Any, straight: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight[1], folder)
    checkpoint = read_checkpoint(folder / "last.pt")
    assert 0 < checkpoint["opt_g"]["param_groups"][0]["lr"] < 8e-4  # it has fallen
    checkpoint["opt_g"]["param_groups"][0]["lr"] = rate
    torch.save(checkpoint, folder / "last.pt")
    assert "last.pt" in refusal(cdcgan.main, ["--resume", str(folder)], capsys)


# ---- what a run leaves behind ----


def test_metrics_have_a_row_a_window_and_epoch(straight: tuple[list[str], Path]) -> None:
    with (straight[1] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert 0 < float(row["d_real"]) < 1 and 0 < float(row["d_fake"]) < 1
        assert 0 < float(row["d_loss"]) < 10 and 0 < float(row["g_loss"]) < 10


def test_rows_are_means_over_their_window(flags: list[str], tmp_path: Path) -> None:
    cdcgan.main([*flags, "--name", "run", "--max_steps", "9"])
    checkpoint = read_checkpoint(tmp_path / "run")
    window, seen = checkpoint["window"], []
    assert window.shape == (9, len(checkpoint["names"]))
    assert (window.std(dim=0) > 0).all()  # the mean is none of its values
    end_window = training.run.Run.end_window

    def end_and_keep(run: training.run.Run) -> None:
        seen.append(torch.stack(run.record.window))
        end_window(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.run.Run, "end_window", end_and_keep)
        cdcgan.main(["--resume", str(tmp_path / "run"), "--max_steps", "10"])
    assert torch.equal(seen[0][:9], window)
    (row,) = read_checkpoint(tmp_path / "run")["rows"]
    means = [row[name] for name in checkpoint["names"]]
    assert means == pytest.approx(seen[0].double().mean(0).tolist(), rel=1e-12)


def test_evaluation_is_in_the_rows_it_belongs_to(straight: tuple[list[str], Path]) -> None:
    rows = read_checkpoint(straight[1] / "last.pt")["rows"]
    names = {"fcd", "classifier_score", "class_share", "d_accuracy_real", "d_accuracy_fake"}
    names |= {"test_d_loss", "test_g_loss"}
    assert [names <= row.keys() for row in rows] == [False, True, False, True]
    for row in rows[1::2]:
        assert row["fcd"] > 0 and 1 <= row["classifier_score"] <= 3
        assert all(0 <= row[name] <= 1 for name in names if "acc" in name or "share" in name)
    best = read_checkpoint(straight[1] / "best.pt")
    assert best["best"] == min(row["fcd"] for row in rows[1::2])
    assert best["rows"][-1]["fcd"] == best["best"]
    assert (straight[1] / "metrics.png").stat().st_size > 0


def test_the_average_is_drawn_and_measured(
    pictures: Path, straight: tuple[list[str], Path]
) -> None:
    """With the run's seed: the last picture and the last row are those of the last checkpoint."""
    flags, whole = straight
    args, data = cdcgan.parse_args(flags), load_dataset("folder", pictures, 28)
    ema, checkpoint = load_generator(whole / "last.pt")
    image_args = dict(channels=1, image_size=28, num_classes=len(CLASSES))
    discriminator = cdcgan.Discriminator(args.ndf, **image_args, norm=args.norm, dropout=0.2)
    discriminator.load_state_dict(checkpoint["discriminator"])
    evaluation = training.evaluation.Evaluation(
        training.classifier.classifier_for(data, pictures, torch.device("cpu")),
        args,
        data,
        lambda real, fake: cdcgan.discriminator_loss(real, fake, 0.0, 0.0, flip=False),
        lambda fake: cdcgan.generator_loss(fake, flip=False),
        1,
        conditional=True,
    )
    found = evaluation(ema, discriminator)
    assert {name: checkpoint["rows"][-1][name] for name in found} == pytest.approx(found, rel=1e-4)

    labels = torch.arange(len(CLASSES)).repeat_interleave(3)  # three a row
    images = sample(ema, noise(9, args.z_dim, args.seed), labels)
    with Image.open(whole / "samples" / "epoch_0004.png") as picture:
        assert ImageChops.difference(picture, draw_grid(images, 3, CLASSES)).getbbox() is None
    of_class = [data.train_images[data.train_labels == label][:3] for label in range(3)]
    (real,) = EventAccumulator(str(whole)).Reload().Images("images/real")
    with Image.open(io.BytesIO(real.encoded_image_string)) as picture:
        expected = draw_grid(torch.cat(of_class), 3, CLASSES)
        assert ImageChops.difference(picture, expected).getbbox() is None


@pytest.mark.parametrize("conditional", [True, False])
def test_real_images_are_drawn_beside_samples(
    conditional: bool, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the classes in turn, where there are fewer than rows; else from all the data."""
    monkeypatch.setattr(training.samples, "GRID_ROWS", 4)
    data = load_dataset("folder", pictures, 28)
    samples = training.samples.Samples(data, conditional, 8, 0, torch.device("cpu"))
    if conditional:
        assert samples.row_names == ["bag", "coat", "shoe", "bag"] and samples.labels is not None
        assert samples.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4
        index = [*range(4), *range(35, 39), *range(70, 74), *range(4, 8)]  # 35 images a class
    else:
        assert samples.row_names == [] and samples.labels is None
        index = [104 * i // 15 for i in range(16)]
    assert torch.equal(samples.real(), data.train_images[index])


def test_best_is_the_smallest_distance_of_the_whole_run(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whenever the run was stopped and resumed; the first of equals stays."""
    distances = iter([3.0, 1.0, 2.0, 1.0, 0.5])
    monkeypatch.setattr(training.run, "feature_network", lambda *_: nn.Identity())
    monkeypatch.setattr(training.run, "Evaluation", lambda *_: lambda *_: {"fcd": next(distances)})
    vanilla_gan.main([*flags, "--batch_size", "50", "--name", "run", "--epochs", "3"])
    folder, found = tmp_path / "run", []
    for epochs, every in (("4", "--sample_every"), ("8", "--eval_every")):  # which may change
        vanilla_gan.main(["--resume", str(folder), "--epochs", epochs, every, "4"])
        best, last = (read_checkpoint(folder / name) for name in ("best.pt", "last.pt"))
        found.append((best["step"], best["best"], last["step"], last["best"]))
    assert found == [(4, 1.0, 8, 1.0), (16, 0.5, 16, 0.5)]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("      fcd")]
    assert said == [f"      fcd {distance}" for distance in ("3", "1", "2", "1", "0.5")]


def test_a_run_in_parts_counts_and_says_where_it_stands(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows within an epoch, its parts' times, bars, what is printed and drawn at each end."""
    bars: list[Any] = []
    drawn: list[Any] = []

    def progress(**options: Any) -> Any:
        bars.append((options, support.command.progress(**options)))
        return bars[-1][1]

    ticks = itertools.count(step=2.5)
    monkeypatch.setattr(training.run, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(training.run, "progress", progress)
    monkeypatch.setattr(training.run, "LOG_EVERY", 4)
    monkeypatch.setattr(training.start, "LISTED_CLASSES", 2)
    monkeypatch.setattr(training.run, "draw_results", lambda *given: drawn.append(given))
    folder, said = tmp_path / "run", []
    vanilla_gan.main(
        [*flags, "--name", "run", "--epochs", "3", "--d_steps", "2", "--max_steps", "7"]
    )
    said.append(capsys.readouterr().out)
    vanilla_gan.main(["--resume", str(folder), "--max_steps", "100"])
    said.append(capsys.readouterr().out)

    rows = read_checkpoint(folder)["rows"]
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12, 15]
    assert [row["epoch"] for row in rows] == pytest.approx([0.8, 1, 1.6, 2, 2.4, 3])
    assert [folder] * 2 == [given[0] for given in drawn]
    assert [row["epoch"] for row in drawn[0][1]] == pytest.approx([0.8, 1, 1.4])
    assert drawn[1][1] == rows
    with (folder / "timing.csv").open() as file:
        assert file.read().splitlines()[1:] == [
            "1,5,2.500,40.0",
            "2,3,2.500,24.0",
            "3,5,2.500,40.0",
        ]
    begun = [(options["desc"], options["initial"], options["total"]) for options, _ in bars]
    assert begun == [
        ("epoch 1/3", 0, 5),
        ("epoch 2/3", 0, 5),
        ("epoch 2/3", 2, 5),
        ("epoch 3/3", 0, 5),
    ]

    for part, stands in zip(said, ("new run", "resuming at step 7 of 15"), strict=True):
        assert "Generator: " in part and "Discriminator: " in part
        assert (
            "folder: 105 training and 12 test images of 1 x 28 x 28, 3 classes; 5 steps per epoch\n"
            "classes (training images): bag 35, coat 35 and 1 more\n"
            f"{stands} on cpu, in {folder}\nto watch the run: tensorboard --logdir {tmp_path}\n"
        ) in part
    for part, steps in zip(said, (7, 15), strict=True):
        assert part.endswith(
            f"{steps} steps done; the results are in {folder}\n"
            f"to draw samples: python generate.py --load_path {folder} --grid_size 8\n"
        )


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_logits_are_logged_by_the_sign_that_real_has(
    sign: int, process: int, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every process, although the first evaluates alone."""
    runs = []

    class Watched(cdcgan.Run):
        def log(self, *answers: Tensor, **values: Tensor) -> None:
            monkeypatch.setattr(training.run, "rank", lambda: process)
            self.evaluate_with(max, max, real_sign=sign)
            monkeypatch.undo()
            logits = [sign * torch.tensor([3.0, 3.0, -1.0, 3.0]) for _ in answers]
            super().log(*logits, **values)
            runs.append(self)

    monkeypatch.setattr(cdcgan, "Run", Watched)
    cdcgan.main([*flags, "--max_steps", "1", "--name", "run"])
    (run,) = runs
    row = run.record.window_row(1, 0.1)
    assert (row["d_right_real"], row["d_right_fake"]) == (0.75, 0.25)
    mean = (3 * torch.tensor(3.0).sigmoid() + torch.tensor(-1.0).sigmoid()).item() / 4
    assert row["d_real"] == row["d_fake"] == row["d_fake_after"] == pytest.approx(mean, rel=1e-6)


def test_evaluation_has_the_classes_of_the_test_images(pictures: Path, tmp_path: Path) -> None:
    few = shutil.copytree(pictures, tmp_path / "few", ignore=shutil.ignore_patterns(".cache"))
    for i in range(1, 4):
        (few / "test" / "bag" / f"{i:03d}.png").unlink()
    data = load_dataset("folder", few, 28)
    state = classifier_checkpoint(classes=3) | {"classes": list(data.classes)}
    network = ClassifierFeatures(state)
    args = argparse.Namespace(eval_samples=18, seed=0, z_dim=4)
    both = training.evaluation.Evaluation(network, args, data, max, max, 1, conditional=True)
    assert both.labels is not None
    share = data.test_labels.bincount() / len(data.test_labels)
    assert sorted(share.tolist()) == pytest.approx([1 / 9, 4 / 9, 4 / 9])
    assert both.labels.bincount().tolist() == [round(18 * part) for part in share.tolist()]


def test_evaluation_and_pictures_change_nothing(straight: tuple[list[str], Path]) -> None:
    flags, whole = straight
    cdcgan.main([*flags, "--name", "plain", "--features", "none", "--sample_every", "3"])
    folder = whole.parent / "plain"
    one, other = (read_checkpoint(path / "last.pt") for path in (whole, folder))
    for name in ("generator", "discriminator", "ema", "opt_g", "opt_d", "random_state", "step"):
        assert equal(one[name], other[name]), name
    drawn = sorted(path.name for path in (folder / "samples").iterdir())
    assert drawn == ["epoch_0000.png", "epoch_0003.png"]


def test_tensorboard_holds_curves_pictures_and_flags(straight: tuple[list[str], Path]) -> None:
    events = EventAccumulator(str(straight[1]), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert abs(events.FirstEventTimestamp() - time.time()) < 86400
    for tag in ("loss/discriminator", "loss/generator", "discriminator/D(x)"):
        assert [event.step for event in events.Scalars(tag)] == [10, 20, 30, 40]
    assert set(tags["images"]) == {"images/real", "images/generated"}
    assert [event.step for event in events.Images("images/generated")] == [0, 10, 20, 30, 40]
    metadata = events.SummaryMetadata("_hparams_/session_start_info")
    assert b"label_noise" in metadata.plugin_data.content
    assert b"data_dir" not in metadata.plugin_data.content  # which is no hyperparameter

    rows = read_checkpoint(straight[1] / "last.pt")["rows"]
    names = training.record.TAGS
    speed = "speed/images per second"
    assert set(tags["scalars"]) == {speed} | {names[name] for name in rows[-1].keys() & names}
    for name in rows[-1].keys() - {"step", "epoch"}:
        points = {event.step: event.value for event in events.Scalars(names[name])}
        assert points == pytest.approx({row["step"]: row[name] for row in rows if name in row})
    with (straight[1] / "timing.csv").open() as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    assert [event.value for event in events.Scalars(speed)] == pytest.approx(speeds, rel=1e-3)


def test_tensorboard_hides_only_the_steps_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    for start, steps in ((0, (10, 20, 30)), (20, (30, 40))):  # killed after 30, saved at 20
        record = training.record.Record(tmp_path, "cdcgan")
        record.open(start)
        for step in steps:
            record.scalars({"d_loss": float(start)}, step)
        record.events.close()
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/discriminator")
    assert [(point.step, point.value) for point in points] == [(10, 0), (20, 0), (30, 20), (40, 20)]


def test_gif_shows_every_epoch_at_the_same_size(straight: tuple[list[str], Path]) -> None:
    gif = Image.open(straight[1] / "training.gif")
    assert gif.n_frames == 5  # type: ignore[attr-defined]
    assert gif.info["loop"] == 0
    durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert durations == [200] * 4 + [2200]
    picture = Image.open(straight[1] / "samples" / "epoch_0004.png")
    assert gif.size[0] == picture.size[0]


def test_classes_that_were_swapped_are_other_data(
    pictures: Path,
    straight: tuple[list[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for split in ("train", "test"):
        for name, other in zip(CLASSES, reversed(CLASSES), strict=True):
            shutil.copytree(pictures / split / name, tmp_path / split / other)
    line = refusal(cdcgan.main, ["--resume", str(straight[1]), "--data_dir", str(tmp_path)], capsys)
    assert "last.pt was trained on other data: images [105, " in line
    images = load_dataset("folder", pictures, 28).train_images
    assert training.saving.fingerprint(images) == training.saving.fingerprint(images.clone())
    assert training.saving.fingerprint(images) != training.saving.fingerprint(images.flip(0))


def test_long_runs_draw_fewer_pictures(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.run, "SAMPLE_FILES", 2)
    for every, expected in ([], [0, 3, 6]), (["--sample_every", "5"], [0, 5]):
        name = "-".join(["run", *every])
        cdcgan.main([*flags, "--batch_size", "50", "--epochs", "7", "--name", name, *every])
        drawn = sorted(path.name for path in (tmp_path / name / "samples").iterdir())
        assert drawn == [f"epoch_{epoch:04d}.png" for epoch in expected]


def test_large_pictures_make_smaller_gifs(tmp_path: Path) -> None:
    path = tmp_path / "epoch_0007.png"
    for side, expected in (GIF_SIDE, GIF_SIDE), (GIF_SIDE + 2, GIF_SIDE // 2 + 1):
        Image.new("RGB", (side, 60), "red").save(path)
        frame = training.plots.captioned(path)
        assert frame.width == expected and frame.getpixel((expected - 1, 29)) == (255, 0, 0)
    caption = Image.new("RGB", (expected, 28), "white")
    ImageDraw.Draw(caption).text((8, 3), "epoch 7", fill="black", font=font(18))
    assert ImageChops.difference(frame.crop((0, 0, expected, 28)), caption).getbbox() is None


def test_long_runs_make_short_gifs(straight: tuple[list[str], Path], tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for i in range(150):  # in the order of their numbers, which is not that of their names
        picture = Image.new("L", (40, 40), i)
        picture.save(tmp_path / "samples" / f"epoch_{9900 + i:04d}.png")
    training.plots.draw_results(tmp_path, [], lambda warning: None)
    gif = Image.open(tmp_path / "training.gif")
    frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(gif)]
    assert len(frames) == training.plots.GIF_FRAMES
    shown = [int(frame[-1, -1]) for frame in frames]  # the grey is the picture's number
    assert shown[0] == 0 and shown[-1] == 149  # evenly from the first to the last
    assert {b - a for a, b in zip(shown, shown[1:], strict=False)} == {5, 6}


def test_describe_lists_layers_shapes_and_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    spectral_norm(network)  # does not change the names of the layers
    lines = layer_table(network, torch.zeros(1, 1, 8, 8)).splitlines()
    assert lines[0] == "Sequential: 330 parameters"
    assert [line.split()[1] for line in lines[1:]] == ["Conv2d", "ReLU", "Flatten", "Linear"]
    assert "(1, 4, 6, 6)" in lines[1] and lines[1].split()[-1] == "40"
    assert network.training


def test_plot_of_one_run_and_of_several(
    straight: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(straight[1]), str(straight[1])]
    training.plots.main([runs[0], "--save_path", str(tmp_path / "one")])
    training.plots.main([*runs, "--save_path", str(tmp_path / "two")])
    for name in ("losses.png", "metrics.png"):
        assert Image.open(tmp_path / "one" / name).size[1] > 300
        assert (tmp_path / "two" / name).stat().st_size > 0
    for bad in ("step,epoch\n1,x\n", "step,d_loss\n1,2\n", "step,epoch,d_loss\n1,1,nan\n"):
        (tmp_path / "metrics.csv").write_text(bad)
        assert "damaged" in refusal(training.plots.main, [str(tmp_path)], capsys)
    assert "absent" in refusal(training.plots.main, [str(tmp_path / "absent")], capsys)


def test_curves_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of one run, in two colours; of two, a colour a run and a line style a curve."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        path.touch()
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    a = write_rows(tmp_path / "a", ",fcd")
    b = write_rows(tmp_path / "b")
    spike = "".join(f"{2 * i},{i},{99 if i == 1 else i / 40},1,\n" for i in range(1, 41))
    (tmp_path / "b" / "metrics.csv").write_text(
        f"step,epoch,d_loss,g_loss,fcd\n{spike}82,41,1,1,7\n"
    )
    training.plots.main([a])
    assert sorted(path.name for path in (tmp_path / "a").glob("*.png")) == [
        "losses.png",
        "metrics.png",
    ]
    training.plots.main([a, b, "--save_path", str(tmp_path)])

    def drawn(axes: Any) -> list[tuple[Any, ...]]:
        return [
            (
                line.get_label(),
                line.get_color(),
                line.get_linestyle(),
                line.get_ydata()[:3].tolist(),
            )
            for line in axes.lines
        ]

    one, metrics, two, both = (figure.axes[0] for figure in figures)
    legend: Any = one.get_legend()
    assert drawn(one) == [("D", "C0", "-", [1, 1, 1]), ("G", "C1", "-", [1, 2, 3])]
    assert [text.get_text() for text in legend.get_texts()] == ["D", "G"]
    assert (metrics.get_title(), metrics.get_legend()) == ("FCD (lower is better)", None)
    assert np.array_equal(one.lines[1].get_xdata(), [1, 2, 3])
    assert drawn(two) == [
        (f"{a}: D", "C0", "-", [1, 1, 1]),
        (f"{a}: G", "C0", "--", [1, 2, 3]),
        (f"{b}: D", "C1", "-", [99, 2 / 40, 3 / 40]),
        (f"{b}: G", "C1", "--", [1, 1, 1]),
    ]
    assert np.array_equal(two.lines[2].get_xdata(), range(1, 42))  # epochs, not steps
    low, high = two.get_ylim()
    assert low < 2 / 40 and 3 < high < 5  # without the spike
    assert [(line.get_label(), line.get_marker()) for line in both.lines] == [(a, ""), (b, "o")]


def write_rows(folder: Path, metrics: str = "") -> str:
    """Write the curves of a run whose columns are the losses and, if given, one of `metrics`."""
    folder.mkdir()
    rows = "".join(f"{10 * i},{i},1,{i}{',1' if metrics else ''}\n" for i in range(1, 4))
    (folder / "metrics.csv").write_text(f"step,epoch,d_loss,g_loss{metrics}\n{rows}")
    return str(folder)


@pytest.mark.filterwarnings("error::UserWarning")  # as of matplotlib for a missing glyph
def test_plot_of_runs_that_the_font_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "caf\u00e9", "\u65e5\u672c"):
        write_rows(Path(name), ",fcd")
    training.plots.main(["a", "caf\u00e9", "--save_path", "two"])
    training.plots.main(["\u65e5\u672c"])  # without a legend
    assert capsys.readouterr().err == ""
    training.plots.main(["\u65e5\u672c", "a", "--save_path", "two"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith("'\u65e5\u672c' is drawn as run 1")


def test_plot_leaves_no_older_plot_beside_its_own(tmp_path: Path) -> None:
    with_metrics, without = write_rows(tmp_path / "a", ",fcd"), write_rows(tmp_path / "b")
    training.plots.main([with_metrics, "--save_path", str(tmp_path / "out")])
    assert (tmp_path / "out" / "metrics.png").exists()
    training.plots.main([without, "--save_path", str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["losses.png"]


def test_a_run_warns_once_of_classes_that_it_cannot_name(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        for name, shown in zip(CLASSES, ("bag", "\u65e5", "\u00fc"), strict=True):
            shutil.copytree(pictures / split / name, tmp_path / "data" / split / shown)
    data = ["--dataset", "folder", "--data_dir", str(tmp_path / "data"), "--image_size", "28"]
    cdcgan.main([*TINY, *data, "--out_dir", str(tmp_path), "--epochs", "2", "--device", "cpu"])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "font" in x]
    assert line.endswith("every name: '\u65e5' is drawn as 2")  # after U+00FC


# ---- what must not go on ----


@pytest.mark.parametrize("kind", ["loss", "generator", "ema"])
def test_non_finite_numbers_stop_the_run(
    kind: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Batches.__getitem__
    at = 14 if kind == "loss" else 19  # the last step's loss is finite, the weights after it not

    def get_broken(self: Batches, index: int) -> tuple[Tensor, Tensor]:
        images, labels = get(self, index)
        return (images * (math.nan if kind == "loss" and index == at else 1)), labels

    def update_and_break(pairs: list[tuple[Tensor, Tensor]], decay: float) -> None:
        calls.append(None)
        if kind != "loss" and len(calls) == at + 1:
            pairs[0][("ema", "generator").index(kind)].data[0] = math.inf

    calls: list[None] = []
    monkeypatch.setattr(Batches, "__getitem__", get_broken)
    monkeypatch.setattr(cdcgan, "update_ema", update_and_break)
    expected = "d_loss became nan at step 15" if kind == "loss" else f"the {kind} is not finite"
    with pytest.raises(InputError, match=expected) as error:
        cdcgan.main([*flags, "--name", "broken"])
    assert f"python cdcgan.py --config {tmp_path / 'broken' / 'config.json'}" in str(error.value)
    checkpoint = read_checkpoint(tmp_path / "broken")
    assert checkpoint["step"] == 10
    assert all(value.isfinite().all() for value in checkpoint["generator"].values())


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.999], [1, -0.1, math.nan]),
        ("(0, 1]", [1e-9, 1], [0, 1.01, math.inf]),
        ("[1, 1e9]", [1, 1_000_000_000], [0, -3, 1_000_000_001]),
    ],
)
def test_a_range_is_an_interval(interval: str, inside: list[float], outside: list[float]) -> None:
    assert all(in_range(value, interval) for value in inside)
    assert not any(in_range(value, interval) for value in outside)


def test_a_d_that_has_won_is_told_once(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training.record, "D_WON_STEPS", 10)
    slow, fast = "1e-8", "1e-2"
    for name, lr_d, warnings in (("won", fast, 1), ("even", slow, 0)):
        argv = [*flags, "--name", name, "--epochs", "4", "--lr_d", lr_d, "--lr_g", slow]
        vanilla_gan.main([*argv, "--dropout", "0"])
        assert capsys.readouterr().err.count("warning: D has won") == warnings


def test_saturated_samples_are_told_once(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lr_g, warnings in (("wild", "1", 1), ("tame", "1e-4", 0)):
        vanilla_gan.main([*flags, "--name", name, "--epochs", "1", "--lr_g", lr_g, "--ema", "0"])
        assert capsys.readouterr().err.count("warning: saturated samples") == warnings
    images = 255 * torch.randint(0, 2, (30, 1, 28, 28)).byte()  # black and white by themselves
    data = Dataset("folder", images, torch.zeros(30).long(), images, torch.zeros(30).long(), ())
    samples = training.samples.Samples(data, False, 8, 0, torch.device("cpu"))
    generator = vanilla_gan.Generator(8, 4, channels=1, image_size=28)
    nn.init.constant_(list(generator.parameters())[-1], 99.0)
    assert samples.draw(generator)[1] == ""
    record = training.record.Record(Path("run"), "dcgan")
    for what in ("cold: 3 degrees", "cold: 2 degrees", "wind: north"):
        record.warn(what)
    assert capsys.readouterr().err == "warning: cold: 3 degrees\nwarning: wind: north\n"


def test_throughput_counts_what_the_critic_saw(flags: list[str], tmp_path: Path) -> None:
    """Of 10 batches of 10 images, 2 updates of G with four of the critic each."""
    wgan_gp.main([*flags, "--name", "run", "--epochs", "1", "--n_critic", "4"])
    with (tmp_path / "run" / "timing.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["steps"] == "2"
    images = float(row["images_per_second"]) * float(row["seconds"])
    assert images == pytest.approx(80, rel=0.05)  # both are rounded


def test_resuming_removes_half_written_files(flags: list[str], tmp_path: Path) -> None:
    cdcgan.main([*flags, "--name", "run", "--epochs", "1"])
    left = tmp_path / "run" / "samples" / f".epoch_0002.png.123{UNFINISHED}"
    left.write_bytes(b"half")
    cdcgan.main(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    assert not left.exists()


def test_what_a_resumed_run_may_find_elsewhere(flags: list[str], tmp_path: Path) -> None:
    """Places change from machine to machine; a file that an editor spoilt stops no training."""
    cdcgan.main([*flags, "--name", "run", "--epochs", "1"])
    with (tmp_path / "run" / "timing.csv").open("ab") as file:
        file.write(b"\xff\n")
    elsewhere = ["--inception_path", str(tmp_path / "weights.pth")]
    cdcgan.main(["--resume", str(tmp_path / "run"), "--epochs", "2", *elsewhere])
    lines = (tmp_path / "run" / "timing.csv").read_bytes().splitlines()
    assert len(lines) == 4 and lines[-1].startswith(b"2,")


def test_a_classifier_of_other_classes_is_a_line(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = ClassifierFeatures(classifier_checkpoint(classes=3))
    monkeypatch.setattr(training.classifier, "classifier_for", lambda *_: other)
    argv = [*flags, "--name", "run", "--features", "classifier"]
    assert "does not know bag, coat, shoe" in refusal(cdcgan.main, argv, capsys)
