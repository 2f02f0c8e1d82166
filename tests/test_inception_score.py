"""inception_score.py: the score where it is known, its splits, and the command."""

from support.command import InputError

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import inception_score as script
import support.features
import support.image_sets
from generate import save_npz
from inception_score import inception_score
from support.sampling import sample
from tests.conftest import refusal
from tests.stand_ins import (
    classifier_checkpoint,
    random_classifier,
    random_generator,
    random_images,
    random_inception,
)

Capture = pytest.CaptureFixture[str]


def one_hot(n: int, classes: int, sharpness: float = 1000.0) -> Tensor:
    """Logits of n images, each surely of one class, each class as often, sorted by class."""
    return torch.eye(classes).repeat_interleave(n // classes, dim=0) * sharpness


def random_logits(n: int, classes: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def reference(logits: Tensor) -> float:
    """exp(mean KL) by loops over plain numbers, of one split."""
    rows = []
    for row in logits.double().tolist():
        powers = [math.exp(value - max(row)) for value in row]
        rows.append([power / sum(powers) for power in powers])
    marginal = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    terms = [p * math.log(p / q) for row in rows for p, q in zip(row, marginal, strict=True) if p]
    return math.exp(sum(terms) / len(rows))


def test_uniform_probabilities_score_one() -> None:
    for logits in (torch.zeros(100, 10), torch.full((100, 1008), 7.0), random_logits(1, 10)):
        splits = min(10, len(logits))
        assert inception_score(logits, splits) == pytest.approx((1, 0), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_balanced_certainty_scores_the_number_of_classes(classes: int) -> None:
    mean, std = inception_score(one_hot(3 * classes, classes), splits=1)
    assert mean == pytest.approx(classes, rel=1e-10) and std == 0
    alike = torch.zeros(50, classes)
    alike[:, 1] = 1000  # certain, but always of the same
    assert inception_score(alike, splits=5) == pytest.approx((1, 0), abs=1e-12)


def test_equal_to_loops() -> None:
    logits = random_logits(57, 10)
    assert inception_score(logits, splits=1)[0] == pytest.approx(reference(logits), rel=1e-10)
    order = torch.randperm(57, generator=torch.Generator().manual_seed(4))
    parts = [reference(logits[order][i * 57 // 5 : (i + 1) * 57 // 5]) for i in range(5)]
    mean, std = inception_score(logits, splits=5, seed=4)
    assert mean == pytest.approx(sum(parts) / 5, rel=1e-10)
    variance = sum((part - mean) ** 2 for part in parts) / 5  # of the population, not of a sample
    assert std == pytest.approx(variance**0.5, rel=1e-8)


def test_extreme_logits_stay_finite() -> None:
    logits = random_logits(200, 10)
    for factor in (2000.0, 1e30):
        mean, std = inception_score(logits * factor)
        assert math.isfinite(mean) and math.isfinite(std) and 1 < mean <= 10
    certain = one_hot(200, 10)[logits.argmax(dim=1) * 20]
    assert inception_score(logits * 2000)[0] == pytest.approx(inception_score(certain)[0], rel=0.01)


def test_sorted_images_are_shuffled_and_always_alike() -> None:
    logits = one_hot(10_000, 10)
    mean, std = inception_score(logits)
    assert mean > 9.9 and std < 0.05  # without the shuffle: 1, as every split has one class
    assert (mean, std) == inception_score(logits) != inception_score(logits, seed=1)
    state = torch.get_rng_state()
    inception_score(logits)
    assert torch.equal(torch.get_rng_state(), state)


def test_precision_is_that_of_float64() -> None:
    logits = random_logits(1000, 1008)
    expected = inception_score(logits.double())
    assert inception_score(logits) == expected
    assert inception_score(logits.double() + 1e4)[0] == pytest.approx(expected[0], rel=1e-10)


@pytest.mark.parametrize("splits", [0, -1, 8])
def test_fewer_images_than_splits(splits: int) -> None:
    assert inception_score(random_logits(7, 10), splits=7) == pytest.approx((1, 0), abs=1e-12)
    with pytest.raises(InputError, match="--splits"):
        inception_score(random_logits(7, 10), splits)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(value: float) -> None:
    logits = random_logits(20, 10)
    logits[3, 4] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        inception_score(logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")
def test_equal_to_torch_fidelity() -> None:
    """Given our order, as it would shuffle by numpy's generator: one split, and ten."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    images = torch.cat([random_images(15, 3, 32), random_images(15, 3, 32, seed=1) // 3])
    through_inception = torch.cat([random_inception()(part)[1] for part in images.split(10)])
    for logits in (random_logits(1003, 10), random_logits(501, 1008), through_inception):
        order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
        for splits in (1, 10):
            theirs = isc_features_to_metric(logits[order], splits=splits, shuffle=False)
            mean, std = inception_score(logits, splits)
            assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
            assert std == pytest.approx(theirs["inception_score_std"], abs=1e-6)


# ---- the command ----


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder with an array of 40 images and a classifier in the place of the committed one."""
    torch.save(classifier_checkpoint(label="stand-in"), tmp_path / "classifier-mnist.pt")
    save_npz(random_images(40, 1, 28), None, tmp_path / "images.npz")
    monkeypatch.setattr(support.features, "PRETRAINED", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command(command: Path, capsys: Capture) -> None:
    mean, std = inception_score(random_classifier()(random_images(40, 1, 28))[1])
    argv = ["images.npz", "--dataset", "mnist", "--device", "cpu"]
    for size in ("100", "7"):
        script.main([*argv, "--json", "--batch_size", size])
        lines = capsys.readouterr().out.splitlines()
        found = json.loads(lines[0])
        assert len(lines) == 1
        assert found.keys() == {"mean", "std", "n", "features", "splits"}
        assert (found["n"], found["splits"]) == (40, 10)
        assert (found["mean"], found["std"]) == pytest.approx((mean, std), rel=1e-4)
    script.main(argv)
    printed = capsys.readouterr().out
    assert f"classifier score {mean:.4f} +- {std:.4f} over 10 splits" in printed
    assert "40 images through stand-in classifier" in printed
    script.main([*argv, "--json", "--splits", "3"])
    found = json.loads(capsys.readouterr().out)
    mean, std = inception_score(random_classifier()(random_images(40, 1, 28))[1], splits=3)
    assert (found["mean"], found["std"]) == pytest.approx((mean, std), rel=1e-4)
    assert found["splits"] == 3


def test_samples_of_a_run(command: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """There is nothing to compare them with: each class is drawn as often."""
    drawn: list[Tensor] = []

    def noted(generator: torch.nn.Module, z: Tensor, labels: Tensor) -> Tensor:
        drawn.append(labels)
        return sample(generator, z, labels)

    generator_args = dict(z_dim=8, ngf=4, channels=1, image_size=28, num_classes=10)
    checkpoint = {
        "script": "cdcgan",
        "dataset": "mnist",
        "classes": [str(i) for i in range(10)],
        "generator_args": generator_args,
        "step": 1,
        "ema": random_generator(**generator_args).state_dict(),
    }
    torch.save(checkpoint, command / "run.pt")
    monkeypatch.setattr(support.image_sets, "sample", noted)
    script.main(["run.pt", "--num_images", "40", "--json", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out)["n"] == 40
    assert torch.cat(drawn).bincount().tolist() == [4] * 10


def test_command_through_inception(command: Path, inception_weights: Path, capsys: Capture) -> None:
    save_npz(random_images(3, 3, 32), None, command / "three.npz")
    weights = ["--inception_path", str(inception_weights)]
    script.main(["three.npz", *weights, "--splits", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    expected = inception_score(random_inception()(random_images(3, 3, 32))[1], splits=1)
    assert found["mean"] == pytest.approx(expected[0], rel=1e-5)
    assert "Inception" in found["features"] and found["n"] == 3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["images.npz", "--splits", "41"], "--splits 41"),
        (["images.npz", "--splits", "0"], "--splits 0"),
        (["nowhere", "--splits", "-1"], "--splits -1"),  # before anything is computed
        (["images.npz", "--splits", "x"], "--splits"),
        (["nowhere"], "nowhere"),
        (["empty"], "holds no images"),
        (["mnist:val"], "which split"),
        (["weights.npz"], "weights.npz"),
        (["images.npz", "--num_images", "0"], "--num_images"),
        (["images.npz", "--features", "inception", "--inception_path", "x.pth"], "x.pth"),
        (["images.npz", "fake.npz"], "unrecognized"),
    ],
)
def test_bad_input(argv: list[str], says: str, command: Path, capsys: Capture) -> None:
    (command / "empty").mkdir()
    assert says in refusal(script.main, ["--dataset", "mnist", "--device", "cpu", *argv], capsys)
