"""cdcgan.py: networks, losses and the two steps."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cdcgan
from cdcgan import (
    Discriminator,
    Generator,
    decay_lr,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    targets,
    update_ema,
)
from tests.stand_ins import random_generator

LAYERS_OF_D = 6
NORMS = ("spectral", "batch", "instance", "layer", "none")


# ---- networks ----


@pytest.mark.parametrize("norm", NORMS)
def test_features_are_the_dense_and_the_summed_ones(norm: str) -> None:
    for image_size in (28, 128):
        network = Discriminator(4, 3, image_size, 5, norm, dropout=0.0)
        dense, local = 8 * 4, cdcgan.channel_widths(image_size, 4)[1][-1]
        features = network.features(torch.randn(3, 3, image_size, image_size))
        assert features.shape == (3, dense + local)


def test_discriminator_sees_what_is_where_and_what_is_anywhere() -> None:
    """Its dense features change when a thing moves; those summed over the image do not."""
    discriminator = Discriminator(4, 1, 28, 5, "none", dropout=0.0)
    for layer in (*discriminator.layers, *discriminator.local):
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=0.2)
            nn.init.zeros_(layer.bias)  # or the image's edges would be seen, too
    image = torch.zeros(1, 1, 28, 28)
    image[:, :, 8:12, 8:12] = 1  # a layer of stride 4 in all: moved by 8, its maps move by 2
    here, there = discriminator.features(torch.cat([image, image.roll(8, dims=3)]))
    assert (here - there)[:32].norm() > 0.1 * here[:32].norm()
    assert here[32:].abs().max() > 0.01
    torch.testing.assert_close(here[32:], there[32:])


def test_widths_follow_dcgan() -> None:
    """Figure 1 of Radford et al.: 4 x 4 x 1024 down to 3 channels at 64 pixels, with ngf = 128."""
    assert cdcgan.channel_widths(64, 128) == (4, [128, 256, 512, 1024])
    assert cdcgan.channel_widths(28, 64) == (7, [64, 128])
    assert cdcgan.channel_widths(128, 64)[1][-1] == 512  # no wider than 8 times


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("batch", nn.BatchNorm2d), ("instance", nn.InstanceNorm2d), ("layer", nn.GroupNorm)],
)
def test_norm_is_where_dcgan_has_it(norm: str, kind: type[nn.Module]) -> None:
    layers = list(Discriminator(4, 1, 64, 5, norm, dropout=0.0).layers)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    assert [isinstance(layers[i + 1], kind) for i in convolutions] == [False] + [True] * 3


def test_batch_norm_in_d_is_the_same_in_evaluations() -> None:
    """Running statistics would be of real and generated images together, which D sees apart."""
    discriminator = Discriminator(4, 1, 28, 5, "batch", dropout=0.0)
    labels = torch.arange(20) % 5
    real, fake = torch.randn(20, 1, 28, 28), torch.randn(20, 1, 28, 28) + 3
    trained = [discriminator(images, labels) for images in (real, fake)]
    discriminator.eval()
    for images, answers in zip((real, fake), trained, strict=True):
        assert torch.equal(discriminator(images, labels), answers)


def largest_singular_values(discriminator: nn.Module) -> list[float]:
    """Return the largest singular value of each weight after spectral norm."""
    weights: list[Tensor] = [
        getattr(module, "weight")  # noqa: B009 (computed by spectral norm: no parameter)
        for module in discriminator.modules()
        if hasattr(module, "parametrizations")
    ]
    return [torch.linalg.svdvals(weight.detach().flatten(1))[0].item() for weight in weights]


def test_spectral_norm_bounds_every_layer() -> None:
    discriminator = Discriminator(4, 1, 28, 5, "spectral", dropout=0.0)
    for _ in range(500):  # a power iteration each: many, where two singular values are close
        discriminator(torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    found = largest_singular_values(discriminator)
    assert found == pytest.approx([1] * LAYERS_OF_D, abs=1e-3)


def test_spectral_norm_follows_the_initialisation() -> None:
    """Otherwise, the first steps would divide by the singular value of torch's initial weights."""
    torch.manual_seed(0)
    discriminator = Discriminator(32, 1, 28, 10, "spectral", dropout=0.0)
    found = largest_singular_values(discriminator.eval())  # eval: no further iteration
    assert found == pytest.approx([1] * LAYERS_OF_D, abs=0.1)


def test_spectral_norm_is_left_alone_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU autocast would make its products bfloat16; a copy of D iterates by itself."""
    discriminator = Discriminator(4, 1, 28, 5, "spectral", dropout=0.0)
    norm: Any = discriminator.linear.get_submodule("parametrizations.weight.0")
    compute, seen = type(norm).forward, []

    def watch(self: nn.Module, weight: Tensor) -> Tensor:
        seen.append((self, torch.is_autocast_enabled("cpu")))
        return compute(self, weight)

    monkeypatch.setattr(type(norm), "forward", watch)
    copied = copy.deepcopy(discriminator)
    before = norm._u.clone()
    with torch.autocast("cpu", torch.bfloat16):
        copied(torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    assert len(seen) == LAYERS_OF_D and not any(autocast for _, autocast in seen)
    assert {module for module, _ in seen} <= set(copied.modules())
    assert torch.equal(norm._u, before)


def test_initial_weights_are_dcgans() -> None:
    generator = Generator(100, 64, 1, 28, 10)
    discriminator = Discriminator(64, 1, 28, 10, "spectral", 0.0)
    for network in (generator, discriminator):
        for weight in network.parameters():
            if weight.numel() >= 1000:
                assert weight.mean().item() == pytest.approx(0, abs=0.002)
                assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_both_networks_see_the_class() -> None:
    torch.manual_seed(0)
    generator = random_generator(z_dim=8, ngf=4, channels=1, image_size=28, num_classes=5)
    z = torch.randn(1, 8)
    one, two = (generator(z, torch.tensor([label])) for label in (0, 1))
    assert not torch.allclose(one, two)
    discriminator = Discriminator(4, 1, 28, 5, "none", 0.0)
    assert discriminator(one, torch.tensor([0])) != discriminator(one, torch.tensor([1]))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    generator = Generator(16, 8, 1, 28, 10)
    z, labels = torch.randn(64, 16), torch.arange(64) % 10
    for _ in range(3):
        generator(z, labels)  # batch norm's running statistics move off their start
    generator.eval()
    together = generator(z, labels)
    alone = torch.cat([generator(z[i : i + 1], labels[i : i + 1]) for i in range(64)])
    assert (together - alone).abs().max() < 1e-5


# ---- losses ----


def test_losses_at_known_logits() -> None:
    zero = torch.zeros(4)
    assert discriminator_loss(zero, zero, 0.0, 0.0, False).item() == pytest.approx(math.log(4))
    assert generator_loss(zero, False).item() == pytest.approx(math.log(2))
    # -log sigmoid(2) - log(1 - sigmoid(-1)), and with the roles mirrored the same
    expected = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))
    real, fake = torch.full((4,), 2.0), torch.full((4,), -1.0)
    assert discriminator_loss(real, fake, 0.0, 0.0, False).item() == pytest.approx(expected)
    assert discriminator_loss(-real, -fake, 0.0, 0.0, True).item() == pytest.approx(expected)


def test_loss_stays_finite_where_a_sigmoid_would_round() -> None:
    sure = torch.full((4,), 200.0)
    assert discriminator_loss(-sure, sure, 0.0, 0.0, False).item() == pytest.approx(400)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_smoothing_acts_on_real_labels_only(smoothing: float) -> None:
    logits = torch.randn(50)
    assert torch.equal(
        targets(logits, True, smoothing, 0.0, False), torch.full((50,), 1 - smoothing)
    )
    assert torch.equal(targets(logits, False, smoothing, 0.0, False), torch.zeros(50))
    flipped = targets(logits, True, smoothing, 0.0, True)
    assert torch.allclose(flipped, torch.full((50,), smoothing))
    assert torch.equal(targets(logits, False, smoothing, 0.0, True), torch.ones(50))


def test_noise_swaps_its_share_of_both_kinds() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(20_000)
    real, fake = (targets(logits, kind, 0.1, 0.2, False) for kind in (True, False))
    assert set(real.unique().tolist()) == set(fake.unique().tolist()) == {0.0, real.max().item()}
    assert (real == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (fake > 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(targets(logits, True, 0.0, 1.0, False), torch.zeros(20_000))


def test_generator_is_given_clean_labels() -> None:
    """Its target is 1 (0 where labels are flipped), whatever D is told."""
    logits = torch.tensor([0.3, -1.2])
    softplus = nn.functional.softplus  # softplus(-x) = -log sigmoid(x)
    assert torch.allclose(generator_loss(logits, False), softplus(-logits).mean())
    assert torch.allclose(generator_loss(logits, True), softplus(logits).mean())


def test_feature_matching_compares_means_and_teaches_g_only() -> None:
    real = torch.randn(6, 5, requires_grad=True)
    shuffled = real.detach()[torch.randperm(6)].requires_grad_()
    assert feature_matching_loss(real, shuffled).item() == pytest.approx(0, abs=1e-12)
    shifted = (real.detach() + torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])).requires_grad_()
    loss = feature_matching_loss(real, shifted)
    assert loss.item() == pytest.approx(25, rel=1e-5)
    loss.backward()
    assert real.grad is None and shifted.grad is not None


# ---- the rates and the average ----


def test_rates_fall_to_zero_over_the_last_share() -> None:
    pairs = (nn.Linear(1, 1), 0.4), (nn.Linear(1, 1), 0.8)
    optimisers = [torch.optim.Adam(layer.parameters(), rate) for layer, rate in pairs]
    for done, factor in ((0.0, 1.0), (0.75, 1.0), (0.8, 0.8), (0.9, 0.4), (1.0, 0.0), (0.5, 1.0)):
        decay_lr(done, 0.25, *optimisers)
        rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
        assert rates == pytest.approx([0.4 * factor, 0.8 * factor])
    decay_lr(1.0, 0.0, *optimisers)
    assert [optimiser.param_groups[0]["lr"] for optimiser in optimisers] == [0.4, 0.8]


def test_ema_follows_its_formula() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = copy.deepcopy(network)
    expected = copy.deepcopy(network.state_dict())
    states = average.state_dict(), network.state_dict()
    pairs = list(zip(*(state.values() for state in states), strict=True))[:-1]  # not the counter
    for decay in (0.9, 0.5, 0.0):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(8, 3))
        update_ema(pairs, decay)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
                assert torch.allclose(average.state_dict()[name], expected[name], atol=1e-6)
    mean, copied = (part.get_buffer("1.running_mean") for part in (average, network))
    assert torch.allclose(mean, copied)  # after a decay of 0


# ---- options ----


def test_dropout_is_the_discriminators_alone() -> None:
    rates = [
        m.p for m in Discriminator(4, 1, 28, 5, "none", 0.3).modules() if isinstance(m, nn.Dropout)
    ]
    assert rates == [0.3]
    assert not any(isinstance(m, nn.Dropout) for m in Generator(8, 4, 1, 28, 5).modules())
