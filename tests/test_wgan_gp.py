"""wgan_gp.py: the penalty, the estimate, clipping, and what goes with what."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wgan_gp
from support.checkpoints import read_checkpoint
from tests.conftest import refusal
from wgan_gp import Critic, critic_loss, gradient_penalty


class Linear(nn.Module):
    """The critic w.x, whose slope is w everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).flatten(1).sum(dim=1)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 4.0])
def test_penalty_of_a_linear_critic(scale: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 8, 8)
    weight *= scale / weight.norm()
    real, fake = torch.randn(2, 5, 3, 8, 8).unbind()
    penalty = gradient_penalty(Linear(weight), real, fake)
    assert penalty.item() == pytest.approx((scale - 1) ** 2, rel=1e-6, abs=1e-6)
    penalty.backward()


def test_a_zero_slope_gives_no_nan() -> None:
    critic = Linear(torch.zeros(1, 4, 4))
    gradient_penalty(critic, torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)).backward()
    assert critic.weight.grad is not None and critic.weight.grad.isfinite().all()


def test_penalty_is_per_image() -> None:
    """A slope of 2 on one image and 0 on the other: a mean of 1 and 1, not the norm over both."""

    class TwoSlopes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, 0] * torch.tensor([2.0, 0.0])

    images = torch.randn(2, 1, 4, 4)
    penalty = gradient_penalty(TwoSlopes(), images, images)
    assert penalty.item() == pytest.approx(1, abs=1e-6)


def test_points_lie_between_the_pairs() -> None:
    seen: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach())
            return images.flatten(1).sum(dim=1)

    real, fake = torch.zeros(64, 1, 4, 4), torch.ones(64, 1, 4, 4)
    gradient_penalty(Look(), real, fake)
    (x_hat,) = seen
    alpha = x_hat.flatten(1)
    assert (alpha == alpha[:, :1]).all()  # one alpha for a whole image
    assert alpha.min() >= 0 and alpha.max() <= 1 and alpha[:, 0].unique().numel() == 64


def test_second_order_gradient_matches_finite_differences() -> None:
    torch.manual_seed(0)
    critic = Critic(2, channels=1, image_size=28, norm="layer", dropout=0.0).double()
    real, fake = torch.randn(2, 3, 1, 28, 28, dtype=torch.float64).unbind()

    def penalty() -> Tensor:
        torch.manual_seed(1)  # the same points
        return gradient_penalty(critic_in_double, real, fake)

    class InDouble(nn.Module):  # forward() ends in float32, which would round the differences
        def forward(self, images: Tensor) -> Tensor:
            maps = critic.layers(images).permute(0, 2, 3, 1)
            return critic.linear(critic.hidden(maps.flatten(1))).squeeze(1)

    critic_in_double = InDouble()
    penalty().backward()
    checked = 0
    for parameter in critic.parameters():
        if parameter.grad is None or parameter.grad.abs().max() < 1e-6:
            continue
        index = int(parameter.grad.abs().argmax())
        flat = parameter.data.view(-1)
        expected = parameter.grad.view(-1)[index].item()
        step = 1e-6
        flat[index] += step
        above = penalty().item()
        flat[index] -= 2 * step
        below = penalty().item()
        flat[index] += step
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-4, abs=1e-8)
        checked += 1
    assert checked >= 4


def test_the_critic_loss_is_minus_the_estimate() -> None:
    assert critic_loss(torch.tensor([3.0, 1.0]), torch.tensor([0.0, -2.0])).item() == -3


def test_clipping_holds_after_every_step(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    largest: list[float] = []
    log = wgan_gp.Run.log

    def log_and_look(run: wgan_gp.Run, **values: Tensor) -> None:
        largest.append(max(p.abs().max().item() for p in run.state["critic"].parameters()))
        log(run, **values)

    monkeypatch.setattr(wgan_gp.Run, "log", log_and_look)
    wgan_gp.main([*flags, "--name", "run", "--weight_clip", "0.02", "--max_steps", "3"])
    assert len(largest) == 3 and all(value <= 0.02 for value in largest)
    names = read_checkpoint(tmp_path / "run")["names"]
    window = read_checkpoint(tmp_path / "run")["window"]
    assert (window[:, names.index("penalty")] == 0).all()


def test_each_step_of_the_critic_takes_the_next_batch(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    get = wgan_gp.Batches.__getitem__

    def get_and_note(batches: wgan_gp.Batches, number: int) -> tuple[Tensor, Tensor]:
        taken.append(number)
        return get(batches, number)

    monkeypatch.setattr(wgan_gp.Batches, "__getitem__", get_and_note)
    wgan_gp.main([*flags, "--name", "run", "--n_critic", "3", "--max_steps", "2"])
    assert taken == [0, 1, 2, 3, 4, 5]


def test_batch_norm_needs_clipping(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(wgan_gp.main, [*flags, "--norm", "batch"], capsys)
    assert "--norm batch needs --weight_clip" in line
