"""The values that a run shows, where they are known: stand-ins for networks, losses and clocks."""

import support.processes

import argparse
import csv
import itertools
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import cdcgan
import dcgan
import training.evaluation
import training.run
import vanilla_gan
import wgan_gp
from data import Batches, Dataset
from fid import frechet_distance
from inception_score import inception_score
from support.checkpoints import read_checkpoint
from support.features import ClassifierFeatures
from tests.stand_ins import classifier_checkpoint, measured, random_images
from training.evaluation import Evaluation, real_statistics
from training.record import Record

CLASSES = ("bag", "coat", "shoe")  # the data set's
KNOWN = ("shoe", "hat", "bag", "coat")  # the classifier's: one more, in another order
DRAWN = torch.tensor([3, 3, 0])  # by label, the classifier's class: a bag looks like a coat


class ByBrightness(ClassifierFeatures):
    """A classifier that is sure of one class: the mean brightness over 50 is its number."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = super().forward(images)
        number = (images.float().mean(dim=(1, 2, 3)) / 50).round().long().clamp(max=3)
        return features, 20.0 * F.one_hot(number, len(KNOWN))


class ByLabel(nn.Module):
    """A generator whose images have the brightness of the class in DRAWN."""

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        brightness = 50.0 * DRAWN[labels].view(-1, 1, 1, 1) + z.mean(dim=1).view(-1, 1, 1, 1)
        return brightness.expand(-1, 1, 28, 28) / 127.5 - 1


class Answers(nn.Module):
    """A discriminator that gives dark images the logit 2 and bright ones the logit -1."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[tuple[bool, int]]] = []  # dark or not, and the label
        self.modes: list[bool] = []

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        dark = images.mean(dim=(1, 2, 3)) < 0
        self.seen.append(list(zip(dark.tolist(), labels.tolist(), strict=True)))
        self.modes.append(self.training)
        return torch.where(dark, 2.0, -1.0)


@pytest.mark.parametrize(
    ("real_sign", "accuracies"), [(1, (0.375, 0.75)), (-1, (0.625, 0.25)), (0, ())]
)
def test_an_evaluation_of_known_answers(
    real_sign: int, accuracies: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(8, 1, 28) // 8 + torch.tensor([200] * 5 + [0] * 3).view(8, 1, 1, 1)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])  # half are bags, a quarter each of the others
    train, of_train = random_images(8, 1, 28, seed=1), labels.flip(0) // 2
    dataset = Dataset("folder", train, of_train, images.to(torch.uint8), labels, CLASSES)
    network = ByBrightness(classifier_checkpoint(classes=len(KNOWN)) | {"classes": list(KNOWN)})
    args = argparse.Namespace(eval_samples=40, seed=0, z_dim=4)

    def d_loss(real: Tensor, fake: Tensor) -> Tensor:
        return 10 * real.mean() + fake.mean()

    def g_loss(fake: Tensor) -> Tensor:
        return 3 * fake.mean()

    evaluation = Evaluation(network, args, dataset, d_loss, g_loss, real_sign, conditional=True)
    discriminator = Answers()
    found = evaluation(ByLabel(), discriminator)
    assert discriminator.training and next(iter(found)) == "fcd"
    assert discriminator.modes == [False, False]

    # Coats and shoes are a quarter each and look so. Bags never do.
    assert found["class_share"] == 0.5
    # Of eight test images three are dark, and two of the first eight samples: the shoes.
    sign = real_sign or 1  # the losses get logits of which the positive ones mean real
    assert found["test_d_loss"] == pytest.approx(sign * (10 * (3 * 2 - 5) + (2 * 2 - 6)) / 8)
    assert found["test_g_loss"] == pytest.approx(sign * 3 * (2 * 2 - 6) / 8)
    names = ["d_accuracy_real", "d_accuracy_fake"] if real_sign else []
    assert [name for name in found if "accuracy" in name] == names
    assert tuple(found[name] for name in names) == accuracies

    # D is given each image with its own label.
    assert evaluation.labels is not None
    asked = evaluation.labels[:8]
    of_images = zip([False] * 5 + [True] * 3, labels.tolist(), strict=True)
    of_samples = zip((DRAWN[asked] == 0).tolist(), asked.tolist(), strict=True)
    real, samples = discriminator.seen
    in_order = list(of_images)
    assert sorted(real) == sorted(in_order) and samples == list(of_samples)
    assert real != in_order  # a folder's images, sorted by class, are mixed
    with monkeypatch.context() as patch:  # a few: of the whole set, in any mode
        patch.setattr(training.evaluation, "HELD_OUT", 4)
        evaluation(ByLabel(), discriminator.eval())
    assert not discriminator.training
    few, few_samples = discriminator.seen[2:]
    assert sorted(few) == sorted(in_order[i] for i in (0, 2, 4, 7)) and few_samples == samples[:4]

    drawn = (50.0 * DRAWN[evaluation.labels] + evaluation.z.mean(dim=1)).round().clamp(min=0)
    fake = drawn.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    of_test, of_fake = (measured([x], network)[0].gaussian() for x in (dataset.test_images, fake))
    assert found["fcd"] == pytest.approx(frechet_distance(of_test, of_fake), rel=1e-4) != 0
    logits = 20.0 * F.one_hot(DRAWN[evaluation.labels], len(KNOWN))
    assert found["classifier_score"] == pytest.approx(inception_score(logits)[0], rel=1e-6)
    assert found["classifier_score"] > 1.2

    def z_of(seed: int) -> Tensor:
        given = argparse.Namespace(eval_samples=40, seed=seed, z_dim=4)
        return Evaluation(network, given, dataset, d_loss, g_loss, real_sign, True).z

    assert torch.equal(z_of(0), evaluation.z) and not torch.equal(z_of(1), evaluation.z)


@pytest.mark.usefixtures("own_cache")
def test_real_statistics_are_kept_for_the_same_images_and_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, other = random_images(9, 1, 28), random_images(9, 1, 28, seed=1)
    network, changed = (ClassifierFeatures(classifier_checkpoint()) for _ in range(2))
    next(changed.parameters()).mul_(2)
    asked = [(images, network), (other, network), (images, changed)]
    expected = [measured([x], through)[0].gaussian().mean for x, through in asked]
    for (x, through), mean in zip(asked, expected, strict=True):
        assert torch.equal(real_statistics(through, x).mean, mean)
    monkeypatch.setattr(training.evaluation, "extract", None)  # a second time would fail
    for (x, through), mean in zip(asked, expected, strict=True):
        assert torch.equal(real_statistics(through, x).mean, mean)


def test_rows_of_known_answers() -> None:
    """Step and epoch, each mean and each share in its own column, and the line for people."""
    run = object.__new__(training.run.Run)
    run.real_sign, run.record = 1, Record(Path("run"), "dcgan")
    run.step, run.steps_per_epoch = 30, 20
    real, fake, after = torch.tensor([2.0, -1.0]), torch.tensor([-3.0, -0.5]), torch.zeros(2)
    run.log(real, fake, after, d_loss=torch.tensor(1.0), g_loss=torch.tensor(0.00001))
    run.log(real + 1, fake + 0.5, after, d_loss=torch.tensor(4.0), g_loss=torch.tensor(-0.0002))
    row = run.record.window_row(run.step, run.step / run.steps_per_epoch)
    expected = {
        "step": 30,
        "epoch": 1.5,
        "d_loss": 2.5,
        "g_loss": -0.000095,
        "d_real": torch.cat([real, real + 1]).sigmoid().mean().item(),
        "d_fake": torch.cat([fake, fake + 0.5]).sigmoid().mean().item(),
        "d_fake_after": 0.5,
        "d_right_real": 0.5,  # the logit 0 is right about neither
        "d_right_fake": 0.75,
    }
    assert row == pytest.approx(expected, rel=1e-5)
    run.record.rows = [row]
    assert run.record.summary() == "d_loss 2.500  g_loss 0.000  D(x) 0.651  D(G(z)) 0.250"


@pytest.mark.parametrize("script", [vanilla_gan, dcgan, cdcgan], ids=lambda s: s.__name__)
def test_scripts_log_their_own_losses_and_answers(
    script: ModuleType, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def noted(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            given[name] = args, function(*args, **options)
            return given[name][1]

        return call

    def judge(network: nn.Module, images: Tensor, *labels: Tensor) -> Tensor:
        logits = forward(network, images, *labels)
        answers.append((images, logits))
        return logits

    answers: list[tuple[Tensor, Tensor]] = []
    forward = script.Discriminator.forward
    for name in ("discriminator_loss", "generator_loss"):
        monkeypatch.setattr(script, name, noted(name, getattr(script, name)))
    monkeypatch.setattr(script.Discriminator, "forward", judge)
    monkeypatch.setattr(Batches, "__getitem__", noted("batch", Batches.__getitem__))
    monkeypatch.setattr(training.run.Run, "log", noted("log", training.run.Run.log))
    script.main([*flags, "--name", "run", "--max_steps", "1"])
    real_images = given["batch"][1][0]
    described, real, fake = answers[:3]  # the first is of the table of layers
    assert len(described[0]) == 1 and real[0] is real_images and fake[0] is not real_images
    (d_args, d_loss), (g_args, g_loss) = given["discriminator_loss"], given["generator_loss"]
    assert d_args[0] is real[1] and d_args[1] is fake[1] and g_args[0] is not fake[1]
    checkpoint = read_checkpoint(tmp_path / "run")
    (window,) = checkpoint["window"]
    row = dict(zip(checkpoint["names"], window.tolist(), strict=True))
    logits = {"d_real": real[1], "d_fake": fake[1], "d_fake_after": g_args[0]}
    expected = {name: value.sigmoid().mean().item() for name, value in logits.items()}
    expected |= {"d_loss": d_loss.item(), "g_loss": g_loss.item()}
    expected |= {
        "d_right_real": (real[1] > 0).float().mean().item(),
        "d_right_fake": (fake[1] < 0).float().mean().item(),
    }
    assert row == pytest.approx(expected, rel=1e-6)
    assert len(set(expected.values())) >= 5  # what is exchanged would be seen


def test_wgan_logs_its_own_losses(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[Tensor] = []
    penalties: list[Tensor] = []
    forward, penalty_of = wgan_gp.Critic.forward, wgan_gp.gradient_penalty

    def score(critic: wgan_gp.Critic, images: Tensor, labels: Tensor | None = None) -> Tensor:
        scores.append(forward(critic, images, labels))
        return scores[-1]

    def penalty(*args: Any) -> Tensor:
        penalties.append(penalty_of(*args))
        return penalties[-1]

    monkeypatch.setattr(wgan_gp.Critic, "forward", score)
    monkeypatch.setattr(wgan_gp, "gradient_penalty", penalty)
    few = ["--max_steps", "1", "--n_critic", "1", "--lambda_gp", "7", "--dropout", "0"]
    wgan_gp.main([*flags, "--name", "run", *few])
    _, real, fake, _, of_generator = scores  # the first is of the table of layers
    checkpoint = read_checkpoint(tmp_path / "run")
    (window,) = checkpoint["window"]
    row = dict(zip(checkpoint["names"], window.tolist(), strict=True))
    estimate = (real.mean() - fake.mean()).item()
    expected = {
        "d_loss": -estimate + 7 * penalties[0].item(),
        "g_loss": -of_generator.mean().item(),
        "wasserstein": estimate,
        "penalty": penalties[0].item(),
    }
    assert row == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_timing_of_a_known_clock(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An epoch of 2 steps, of four batches of 10 images each, takes this clock 2.5 seconds."""
    ticks = itertools.count(step=2.5)
    monkeypatch.setattr(training.run, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    wgan_gp.main([*flags, "--name", "run", "--epochs", "2", "--n_critic", "4"])
    with (tmp_path / "run" / "timing.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["epoch", "steps", "seconds", "images_per_second"]
    assert rows[1:] == [["1", "2", "2.500", "32.0"], ["2", "2", "2.500", "32.0"]]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  d_loss")[0] for line in lines] == [
        f"epoch   {epoch}/2     2.5 s      32 images/s" for epoch in (1, 2)
    ]


def test_means_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, this one and another whose numbers are larger by 4."""
    monkeypatch.setattr(support.processes, "started", lambda: True)
    monkeypatch.setattr(support.processes, "processes", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.mul_(2).add_(4))
    assert support.processes.average(torch.tensor([1.0, -3.0])).tolist() == [3, -1]
    network = nn.Linear(2, 1)
    network.weight.grad, network.bias.grad = torch.tensor([[5.0, 6.0]]), torch.tensor([7.0])
    unused = nn.Parameter(torch.zeros(3))  # without a gradient
    support.processes.average_gradients(torch.optim.SGD([unused, *network.parameters()]))
    assert network.weight.grad.tolist() == [[7, 8]] and network.bias.grad.tolist() == [9]
