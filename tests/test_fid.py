"""fid.py: the distance against closed forms and other projects, streaming, and the command."""

from support.command import InputError, shown

import argparse
import dataclasses
import gc
import json
import math
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor, nn

import cdcgan
import data
import fid
import inception_score
import support.features
import support.image_sets
from fid import (
    Gaussian,
    Statistics,
    density_coverage,
    frechet_distance,
    kid,
    load_statistics,
    precision_recall,
    save_statistics,
)
from generate import save_images, save_npz
from support.features import ClassifierFeatures, extract, load_classifier
from support.files import user_cache
from support.sampling import sample
from tests.conftest import TINY, refusal
from tests.stand_ins import (
    Payload,
    classifier_checkpoint,
    counters,
    inception_state,
    inflating,
    measured,
    random_classifier,
    random_generator,
    random_images,
    random_inception,
)

Capture = pytest.CaptureFixture[str]


def correlated(n: int, d: int, seed: int) -> Tensor:
    """Features (n, d), float64, of a random mean and a random covariance with a trace near 2 d."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator).double() / d**0.5 + torch.eye(d)
    x = torch.randn(n, d, generator=generator).double()
    return x @ mix + torch.randn(d, generator=generator).double()


def fitted(x: Tensor) -> Gaussian:
    statistics = Statistics(x.shape[1])
    statistics.update(x)
    return statistics.gaussian()


def distance(x: Tensor, y: Tensor) -> float:
    return frechet_distance(fitted(x), fitted(y))


def gaussian(mean: Tensor, cov: Tensor) -> Gaussian:
    return Gaussian.of(mean.double(), cov.double(), None)


def reference(x: Tensor, y: Tensor) -> float:
    """The same by numpy and scipy's square root of a matrix."""
    (mu1, s1), (mu2, s2) = ((z.mean(0), np.cov(z, rowvar=False)) for z in (x.numpy(), y.numpy()))
    root = sqrtm(s1 @ s2).real
    return float(((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))


# ---- the distance, where it is known ----


@pytest.mark.parametrize(
    ("n", "d"), [(2000, 64), (40, 64), (2, 64), (64, 64), (65, 64), (700, 512)]
)
def test_identical_sets(n: int, d: int) -> None:
    x = 5 * correlated(n, d, seed=1)
    assert abs(distance(x, x)) < 1e-8
    assert abs(distance(x, x.flip(0))) < 1e-8  # their order does not matter


@pytest.mark.parametrize(("n", "d"), [(2000, 64), (40, 64), (700, 512), (500, 48), (2, 3)])
def test_identical_sets_are_at_zero(n: int, d: int) -> None:
    """Not at the rounding error of either sign that the formula leaves."""
    for seed in range(3):
        one = fitted(5 * correlated(n, d, seed))
        found = frechet_distance(one, one)
        assert found == 0 and math.copysign(1, found) == 1


def test_small_distances_are_not_rounded_to_zero() -> None:
    one = fitted(correlated(500, 48, seed=1))
    for length in (1e-3, 1e-5):
        moved = Gaussian(one.mean + length / 48**0.5, one.root, one.n)
        assert frechet_distance(one, moved) == pytest.approx(length**2, rel=1e-2)
    huge = Gaussian(one.mean, one.root * 1e200, one.n)
    assert math.isnan(frechet_distance(huge, huge))  # an overflow is no distance of 0


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (-1.8e-12, "12.4f", "      0.0000"),
        (-0.00004, ".4f", "0.0000"),
        (-0.0, ".4g", "0"),
        (-0.004, "+.2f", "+0.00"),
        (-0.00005001, ".4f", "-0.0001"),
        (-1.8e-12, ".4g", "-1.8e-12"),
        (0.25, ".3f", "0.250"),
        (math.nan, ".3f", "nan"),
    ],
)
def test_no_number_is_shown_as_minus_zero(value: float, spec: str, text: str) -> None:
    assert shown(value, spec) == text


def test_symmetric() -> None:
    for n, m in ((500, 300), (20, 500), (20, 30)):
        x, y = correlated(n, 48, seed=1), correlated(m, 48, seed=2)
        assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
        assert distance(x, y) > 1


class OnMps(Tensor):
    """A stand-in for features on MPS: it cannot become float64 until it is moved to the CPU."""

    device = property(lambda self: torch.device("mps"))  # type: ignore[assignment]

    def to(self, device: str) -> Tensor:  # type: ignore[override]
        assert device == "cpu"
        return self.as_subclass(Tensor)

    def double(self) -> Tensor:
        raise TypeError("MPS has no float64")


@pytest.mark.parametrize("n", [20, 200])
def test_features_on_mps_are_measured_on_the_cpu(n: int) -> None:
    x = correlated(n, 48, seed=1).float()
    one, other = fitted(x), fitted(x.as_subclass(OnMps))
    assert type(other.mean) is Tensor
    assert torch.equal(one.mean, other.mean) and torch.equal(one.root, other.root)


def test_shift_gives_its_squared_length() -> None:
    shift = torch.linspace(-1, 2, 48).double()
    for n in (500, 20):
        x = correlated(n, 48, seed=1)
        assert distance(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=1e-10)


@pytest.mark.parametrize("a", [0.25, 0.9, 2.0, 7.0])
@pytest.mark.parametrize("n", [500, 20])
def test_scale(n: int, a: float) -> None:
    """About its mean, a set is (a - 1)^2 tr S from itself; both sets scaled: a^2 the distance."""
    x, y = correlated(n, 48, seed=1), correlated(n, 48, seed=2)
    trace = x.var(dim=0).sum().item()
    scaled = x.mean(0) + a * (x - x.mean(0))
    assert distance(x, scaled) == pytest.approx((a - 1) ** 2 * trace, rel=1e-9)
    assert distance(a * x, a * y) == pytest.approx(a**2 * distance(x, y), rel=1e-10)


def test_diagonal_gaussians() -> None:
    a, b = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)).double() + 0.01
    mean = torch.zeros(50)
    found = frechet_distance(gaussian(mean, a.diag()), gaussian(mean, b.diag()))
    assert found == pytest.approx((a.sqrt() - b.sqrt()).square().sum().item(), rel=1e-10)


def test_four_times_the_covariance_and_none() -> None:
    mean, cov = torch.zeros(48), correlated(500, 48, seed=1).T.cov()
    trace = cov.trace().item()
    s, four, none = (gaussian(mean, factor * cov) for factor in (1, 4, 0))
    assert frechet_distance(s, four) == pytest.approx(trace, rel=1e-10)
    assert frechet_distance(s, none) == pytest.approx(trace, rel=1e-10)
    assert frechet_distance(none, none) == 0


def test_rotation_changes_nothing() -> None:
    rotation, _ = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64))
    for n in (500, 20):
        x, y = correlated(n, 48, seed=1), correlated(n, 48, seed=2)
        assert distance(x @ rotation, y @ rotation) == pytest.approx(distance(x, y), rel=1e-10)


def test_equal_to_scipy() -> None:
    for d, n, m in ((2, 10, 10), (16, 100, 300), (64, 1000, 500)):
        x, y = correlated(n, d, seed=1), correlated(m, d, seed=2)
        assert distance(x, y) == pytest.approx(reference(x, y), rel=1e-9)


def test_fewer_images_than_dimensions() -> None:
    """Finite, the nuclear norm of A1 A2', and what the singular covariances give."""
    for n, m in ((30, 20), (2, 2), (64, 64), (63, 65), (30, 500)):
        x, y = correlated(n, 64, seed=1), correlated(m, 64, seed=2)
        found = distance(x, y)
        assert math.isfinite(found) and found > 0
        a, b = ((z - z.mean(0)).numpy() / (len(z) - 1) ** 0.5 for z in (x, y))
        nuclear = np.linalg.norm(a @ b.T, "nuc")
        shift = (x.mean(0) - y.mean(0)).square().sum().item()
        expected = shift + (a**2).sum() + (b**2).sum() - 2 * nuclear
        assert found == pytest.approx(expected, rel=1e-10)
        covariances = [gaussian(z.mean(0), z.T.cov()) for z in (x, y)]
        assert found == pytest.approx(frechet_distance(*covariances), rel=1e-6)


def test_cholesky_and_eigenvectors_agree() -> None:
    x, y = correlated(500, 48, seed=1), correlated(400, 48, seed=2)
    by_cholesky, by_eigh = [], []
    for z in (x, y):
        one = gaussian(z.mean(0), z.T.cov())
        assert torch.equal(one.root, one.root.tril())
        by_cholesky.append(one)
        values, vectors = torch.linalg.eigh(z.T.cov())
        by_eigh.append(Gaussian(one.mean, vectors * values.sqrt(), None))
    expected = frechet_distance(*by_cholesky)
    assert frechet_distance(*by_eigh) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(by_cholesky[0], by_eigh[1]) == pytest.approx(expected, rel=1e-12)


def test_singular_covariance_falls_back_on_eigenvectors() -> None:
    cov = correlated(20, 48, seed=1).T.cov()
    assert torch.linalg.cholesky_ex(cov - 1e-9 * torch.eye(48)).info > 0
    one = gaussian(torch.zeros(48), cov - 1e-9 * torch.eye(48))
    assert not torch.equal(one.root, one.root.tril())
    assert torch.allclose(one.cov, cov, atol=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")
def test_equal_to_torchmetrics() -> None:
    """Through an identity feature module: its statistics and its square root, on our features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(nn.Module):
        num_features = 64

        def forward(self, x: Tensor) -> Tensor:
            return x

    metric = FrechetInceptionDistance(feature=Identity())
    x, y = correlated(1000, 64, seed=1), correlated(700, 64, seed=2)
    for part in x.split(300):
        metric.update(part, real=True)
    metric.update(y, real=False)
    assert distance(x, y) == pytest.approx(metric.compute().item(), rel=1e-6)


@pytest.mark.slow
def test_equal_to_pytorch_fid() -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance

    for d, n, m in ((64, 1000, 700), (512, 1000, 2000)):
        x, y = (z.numpy() for z in (correlated(n, d, seed=1), correlated(m, d, seed=2)))
        gaussians = [(z.mean(axis=0), np.cov(z, rowvar=False)) for z in (x, y)]
        expected = calculate_frechet_distance(*gaussians[0], *gaussians[1])
        found = distance(torch.from_numpy(x), torch.from_numpy(y))
        assert found == pytest.approx(expected, rel=1e-8)


# ---- statistics, batch by batch ----


@pytest.mark.parametrize("n", [2, 47, 48, 49, 50, 300])
@pytest.mark.parametrize("size", [1, 7, 48, 300])
def test_statistics_are_numpys_whatever_the_batches(n: int, size: int) -> None:
    x = correlated(n, 48, seed=1)
    statistics = Statistics(48)
    for part in x.split(size):
        statistics.update(part)
    found = statistics.gaussian()
    assert found.n == statistics.n == n
    assert np.allclose(found.mean, x.numpy().mean(axis=0), rtol=0, atol=1e-12)
    assert np.allclose(found.cov, np.cov(x.numpy(), rowvar=False), rtol=0, atol=1e-12)
    assert np.allclose(statistics.gaussian().cov, found.cov)  # asking changes nothing


def test_statistics_keep_their_digits_far_from_zero() -> None:
    """Sums of squares of numbers near 1e6 would leave four digits of a variance of one."""
    x = correlated(500, 16, seed=1)
    statistics = Statistics(16)
    for part in (x + 1e6).split(50):
        statistics.update(part)
    assert np.allclose(statistics.gaussian().cov, np.cov(x.numpy(), rowvar=False), atol=1e-8)
    single = fitted(correlated(500, 16, seed=1).float())  # float32 in, float64 inside
    assert single.mean.dtype == single.root.dtype == torch.float64


def test_too_few_features() -> None:
    statistics = Statistics(16)
    with pytest.raises(InputError, match="0 image"):
        statistics.gaussian()
    statistics.update(torch.rand(1, 16))
    with pytest.raises(InputError, match="at least 2"):
        statistics.gaussian()
    statistics.update(torch.rand(1, 16))
    assert statistics.gaussian().n == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0, 30])
def test_features_that_are_not_finite(value: float, before: int) -> None:
    statistics = Statistics(16)
    statistics.update(torch.rand(before, 16))
    broken = torch.rand(3, 16)
    broken[1, 5] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        statistics.update(broken)


def bytes_held(statistics: Statistics) -> int:
    """The memory behind every tensor that the object can reach."""
    storages = {}
    for value in vars(statistics).values():
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_memory_does_not_grow_with_the_images() -> None:
    d, held = 64, []
    statistics = Statistics(d)
    for number in range(300):
        statistics.update(correlated(20, d, seed=number % 7))
        held.append(bytes_held(statistics))
    assert statistics.n == 6000
    assert len(set(held[10:])) == 1
    assert max(held) <= (2 * d * d + 20 * d + 4 * d) * 8


def test_extraction_holds_a_batch_at_a_time() -> None:
    """Of 60 batches from a generator, no more than a few are in memory at once."""
    network, alive, most = random_classifier(), 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def batches() -> Iterator[Tensor]:
        nonlocal alive, most
        for number in range(60):
            images = random_images(5, 1, 28, seed=number)
            alive += 1
            most = max(most, alive)
            weakref.finalize(images, gone)
            yield images

    statistics = Statistics(network.dim)
    for features, _ in extract(batches(), network):
        statistics.update(features)
    gc.collect()
    assert statistics.n == 300
    assert most <= 3
    assert bytes_held(statistics) <= 3 * 128 * 128 * 8


@pytest.mark.parametrize("size", [1, 4, 10, 23, 100])
def test_the_last_partial_batch_counts_and_batch_size_does_not(size: int) -> None:
    network, images = random_classifier(), random_images(23, 1, 28)
    whole, logits = network(images)
    statistics, kept, kept_logits = measured(images.split(size), network)
    assert statistics.n == len(kept) == len(kept_logits) == 23
    assert torch.allclose(kept, whole, rtol=1e-4, atol=1e-5)
    assert torch.allclose(kept_logits, logits, rtol=1e-4, atol=1e-4)
    assert abs(frechet_distance(statistics.gaussian(), fitted(whole))) < 1e-6
    assert not any(module.training for module in network.modules())
    assert torch.equal(kept, measured(images.split(size), network)[1])


# ---- KID, precision, recall, density, coverage ----


def kernel(x: Tensor, y: Tensor) -> float:
    return (float((x * y).sum()) / len(x) + 1) ** 3


def test_kid_by_loops() -> None:
    """Where a subset is the whole set, the mean over subsets is the unbiased estimate itself."""
    x, y = correlated(9, 5, seed=1), correlated(9, 5, seed=2)
    pairs = [(i, j) for i in range(9) for j in range(9)]
    expected = sum(kernel(a[i], a[j]) for a in (x, y) for i, j in pairs if i != j) / (9 * 8)
    expected -= 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 81
    assert kid(x, y, subsets=3) == pytest.approx(expected, rel=1e-10)
    assert kid(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_kid_of_equal_distributions_is_about_zero() -> None:
    """Its mean over many sets is 0, so it falls on either side; that of a biased one could not."""
    found = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 200, 8, generator=generator)
        found.append(kid(x, y, subsets=1))
    assert min(found) < 0 < max(found)
    mean, error = np.mean(found), np.std(found) / 20**0.5
    assert abs(mean) < 3 * error
    assert kid(x, y + 1) > 20 * max(found)
    few = kid(x, y + 1, subsets=50, size=60)
    assert few == pytest.approx(kid(x, y + 1), rel=0.1)
    assert few == kid(x, y + 1, subsets=50, size=60) != kid(x, y + 1, subsets=50, size=60, seed=1)
    # Each subset is another one: their mean is not what the first of them says.
    assert few != pytest.approx(kid(x, y + 1, subsets=1, size=60), rel=1e-6)
    with pytest.raises(InputError, match="at least 2"):
        kid(x, y[:1])


def balls(centres: Tensor, points: Tensor, k: int) -> list[list[bool]]:
    """[i][j]: is point j nearer to centre i than that one's k-th nearest other centre?"""
    table = []
    for i, centre in enumerate(centres):
        others = [math.dist(centre, other) for j, other in enumerate(centres) if j != i]
        table.append([math.dist(centre, point) < sorted(others)[k - 1] for point in points])
    return table


@pytest.mark.parametrize(("n", "m"), [(20, 20), (60, 40), (40, 70)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_by_loops(n: int, m: int, k: int) -> None:
    x = correlated(n, 4, seed=1)
    y = correlated(m, 4, seed=2) - correlated(m, 4, seed=2).mean(0) + x.mean(0)
    around_real, around_fake = balls(x, y, k), balls(y, x, k)
    precision = np.any(around_real, axis=0).mean()
    recall = np.any(around_fake, axis=0).mean()
    density, coverage = np.sum(around_real) / (k * m), np.any(around_real, axis=1).mean()
    assert min(precision, recall, density, coverage) > 0
    assert precision_recall(x, y, k) == pytest.approx((precision, recall), abs=1e-12)
    assert density_coverage(x, y, k) == pytest.approx((density, coverage), abs=1e-12)


def test_precision_recall_density_coverage_at_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(60, 8, seed=1)
    assert precision_recall(x, x) == (1, 1)
    assert density_coverage(x, x) == (1, 1)
    assert precision_recall(x, x + 1000) == (0, 0)
    assert density_coverage(x, x + 1000) == (0, 0)
    collapsed = x[:1].repeat(60, 1) + 1e-3 * x  # real enough, all alike
    precision, recall = precision_recall(x, collapsed)
    assert precision == 1 and recall < 0.1
    y = correlated(50, 8, seed=2)
    expected = *precision_recall(x, y), *density_coverage(x, y)
    monkeypatch.setattr(fid, "CHUNK", 7)  # how many at a time does not matter
    assert (*precision_recall(x, y), *density_coverage(x, y)) == expected
    for few in (x[:3], x[:1]):
        with pytest.raises(InputError, match="neighbours"):
            precision_recall(x, few)
        with pytest.raises(InputError, match="neighbours"):
            density_coverage(few, x)


@pytest.mark.slow
def test_targets_of_the_prdc_project() -> None:
    """Its README's example: N(0, I) in 1,000 dimensions, 10,000 of each, k = 5 for all four.

    There as here it is one draw. Over four seeds precision and recall had a standard deviation of
    0.01, coverage of 0.008 and density, whose expectation is 1, one of 0.08.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(10_000, 1000, generator=generator) for _ in range(2))
    density, coverage = density_coverage(x, y, k=5)
    found = *precision_recall(x, y, k=5), coverage
    assert found == pytest.approx((0.4772, 0.4705, 0.9735), abs=0.01)
    assert density == pytest.approx(1.0555, abs=0.1)


# ---- saved statistics ----


def test_statistics_are_saved_as_pytorch_fid_reads_them(tmp_path: Path) -> None:
    x = correlated(300, 48, seed=1)
    save_statistics(fitted(x), tmp_path / "new" / "s.npz", "test")
    with np.load(tmp_path / "new" / "s.npz") as arrays:
        mu, sigma = arrays["mu"][:], arrays["sigma"][:]  # the line of pytorch-fid
    assert mu.dtype == sigma.dtype == np.float64
    assert np.allclose(mu, x.numpy().mean(axis=0)) and mu.shape == (48,)
    assert np.allclose(sigma, np.cov(x.numpy(), rowvar=False)) and sigma.shape == (48, 48)
    loaded = load_statistics(tmp_path / "new" / "s.npz", "test")
    assert loaded.n == 300
    assert abs(frechet_distance(loaded, fitted(x))) < 1e-8


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_statistics_that_pytorch_fid_saved(dtype: type, tmp_path: Path) -> None:
    x, y = correlated(300, 48, seed=1), correlated(200, 48, seed=2)
    mu = x.numpy().mean(axis=0).astype(dtype)
    sigma: np.ndarray = np.cov(x.numpy(), rowvar=False).astype(dtype)
    np.savez_compressed(tmp_path / "s.npz", mu=mu, sigma=sigma)  # the line of pytorch-fid
    loaded = load_statistics(tmp_path / "s.npz", "test")
    assert loaded.n is None
    assert frechet_distance(loaded, fitted(y)) == pytest.approx(distance(x, y), rel=1e-5)
    save_statistics(loaded, tmp_path / "again.npz", "test")
    assert load_statistics(tmp_path / "again.npz", "test").n is None


def test_statistics_of_few_images_survive_saving(tmp_path: Path) -> None:
    x, y = correlated(20, 48, seed=1), correlated(200, 48, seed=2)
    save_statistics(fitted(x), tmp_path / "s.npz", "test")
    loaded = load_statistics(tmp_path / "s.npz", "test")
    assert frechet_distance(loaded, fitted(y)) == pytest.approx(distance(x, y), rel=1e-6)


@pytest.mark.slow
def test_pytorch_fid_itself_reads_them(tmp_path: Path) -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path

    x, y = correlated(300, 48, seed=1), correlated(200, 48, seed=2)
    theirs = []
    for name, z in (("x.npz", x), ("y.npz", y)):
        save_statistics(fitted(z), tmp_path / name, "test")
        theirs.append(compute_statistics_of_path(str(tmp_path / name), None, 50, 48, "cpu"))
    expected = calculate_frechet_distance(*theirs[0], *theirs[1])
    assert distance(x, y) == pytest.approx(expected, rel=1e-8)


def write_bad_statistics(kind: str, path: Path) -> None:
    mu, sigma = np.zeros(128), np.eye(128)
    if kind == "cut":
        np.savez(path, mu=mu, sigma=sigma)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "text":
        path.write_text("mu and sigma")
    elif kind == "flipped":
        np.savez(path, mu=mu, sigma=sigma)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, sigma)
    elif kind == "nameless":
        np.savez(path, mean=mu, cov=sigma)
    elif kind == "lacking":
        np.savez(path, mu=mu)
    elif kind == "shapes":
        np.savez(path, mu=mu, sigma=np.eye(127))
    elif kind == "flat":
        np.savez(path, mu=mu, sigma=mu)
    elif kind == "nan":
        np.savez(path, mu=mu, sigma=np.where(sigma > 0, np.nan, 0))
    elif kind == "inf":
        np.savez(path, mu=mu + np.inf, sigma=sigma)
    elif kind == "negative":
        np.savez(path, mu=mu, sigma=sigma - 0.5)
    elif kind == "another network":
        np.savez(path, mu=mu, sigma=sigma, features="mnist classifier")
    elif kind == "words":
        np.savez(path, mu=np.array(["a"] * 128), sigma=sigma)
    elif kind == "inception":
        np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    elif kind == "payload":
        objects = np.empty(128, dtype=object)
        objects[:] = [Payload(path.with_name("ran"))] * 128
        np.savez(path, mu=objects, sigma=sigma)


BAD_STATISTICS = (
    *"cut text flipped array nameless lacking shapes flat nan inf negative words".split(),
    *("another network", "inception", "payload"),
)


# ---- the command ----

STAND_IN = ClassifierFeatures(classifier_checkpoint(label="stand-in")).name


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user may have: two folders of images, arrays of images, and a checkpoint."""
    folder = tmp_path_factory.mktemp("material")
    torch.save(classifier_checkpoint(label="stand-in"), folder / "classifier-fashion_mnist.pt")
    for number, name in enumerate(("real", "fake")):
        images = random_images(25 - 2 * number, 1, 28, seed=number)
        save_images(images, None, (), folder / name)
        save_npz(images, None, folder / f"{name}.npz")
    save_npz(random_images(25, 3, 28), None, folder / "colour.npz")
    generator_args = dict(z_dim=8, ngf=4, channels=1, image_size=28, num_classes=10)
    torch.manual_seed(0)
    checkpoint = {
        "script": "cdcgan",
        "dataset": "fashion_mnist",
        "classes": [str(i) for i in range(10)],
        "generator_args": generator_args,
        "step": 1,
        "ema": random_generator(**generator_args).state_dict(),
    }
    (folder / "run").mkdir()
    torch.save(checkpoint, folder / "run" / "last.pt")
    (folder / "run" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def command(material: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the folder of `material`, whose classifier is the committed one."""
    monkeypatch.setattr(support.features, "PRETRAINED", material)
    monkeypatch.chdir(material)
    return material


def answer(argv: list[str], capsys: Capture) -> dict:
    """What fid.py prints with --json: one line."""
    capsys.readouterr()
    fid.main([*argv, "--json", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_sources_of_one_content_agree(command: Path, capsys: Capture) -> None:
    """A folder, an array, saved statistics: of the same images, the same number."""
    data = ["--dataset", "fashion_mnist"]
    found = answer(["real", "fake", *data], capsys)
    assert found.keys() == {"fcd", "n_a", "n_b", "features", "dim"}
    assert (found["n_a"], found["n_b"], found["dim"]) == (25, 23, 128)
    assert found["features"] == STAND_IN
    network = random_classifier()
    (x, _), (y, _) = (network(random_images(25 - 2 * seed, 1, 28, seed)) for seed in (0, 1))
    assert found["fcd"] == pytest.approx(distance(x, y), rel=1e-4)
    fid.main(["real.npz", *data, "--save_stats", "stats/real.npz", "--device", "cpu"])
    assert f"25 images through {STAND_IN}" in capsys.readouterr().out
    for a in ("real", "real.npz", "stats/real.npz"):
        for b in ("fake", "fake.npz"):
            for size in ("100", "7"):
                again = answer([a, b, *data, "--batch_size", size], capsys)
                assert again["fcd"] == pytest.approx(found["fcd"], rel=1e-4), (a, b)
                assert (again["n_a"], again["n_b"]) == (25, 23)
    assert abs(answer(["real", "real.npz", *data], capsys)["fcd"]) < 1e-5


def test_samples_of_a_run(command: Path, capsys: Capture) -> None:
    """A checkpoint or its folder; whose classifier is meant, it says itself."""
    size = ["--num_images", "33", "--batch_size", "10"]
    found = answer(["real", "run", *size], capsys)
    assert (found["n_a"], found["n_b"], found["features"]) == (25, 33, STAND_IN)
    assert answer(["real", "run/last.pt", *size], capsys) == found
    whole = answer(["real", "run", *size[:2]], capsys)  # in one batch
    assert whole["fcd"] == pytest.approx(found["fcd"], rel=1e-4)
    assert answer(["real", "run", *size, "--seed", "1"], capsys)["fcd"] != found["fcd"]


def test_samples_have_the_classes_of_what_they_are_compared_with(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A perfect generator's, each class equally often, would be far from data that are not so."""
    drawn: list[Tensor] = []

    def noted(generator: torch.nn.Module, z: Tensor, labels: Tensor) -> Tensor:
        drawn.append(labels)
        return sample(generator, z, labels)

    labels, images = torch.tensor([0] * 30 + [4] * 10), random_images(40, 1, 28)
    classes = tuple(str(i) for i in range(10))
    dataset = data.Dataset("fashion_mnist", images, labels.flip(0), images, labels, classes)
    monkeypatch.setattr(support.image_sets, "load_dataset", lambda *args: dataset)
    monkeypatch.setattr(support.image_sets, "sample", noted)
    size = ["--num_images", "20"]
    for sources in (["fashion_mnist:test", "run"], ["run", "fashion_mnist:train"]):
        answer([*sources, *size], capsys)
        assert drawn.pop().bincount().tolist() == [15, 0, 0, 0, 5]
    answer(["fashion_mnist:test", "run", *size, "--batch_size", "7"], capsys)
    assert [len(part) for part in drawn] == [7, 7, 6]
    assert torch.cat(drawn).tolist() == data.labels_as_in(labels, 20).tolist()
    drawn.clear()
    dataset = dataclasses.replace(dataset, classes=("other", *classes[1:]))
    for other in ("real", "fashion_mnist:test"):  # nothing to go by
        answer([other, "run", *size], capsys)
        assert drawn.pop().bincount().tolist() == [2] * 10


def test_a_run_on_a_folder_is_measured_through_the_folders_classifier(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Of its size and classes, as in training; where there is none yet, that is said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    data = ["--dataset", "folder", "--data_dir", str(folder), "--image_size", "28"]
    tiny = [*TINY[:-2], *data, "--classes", "bag,shoe", "--epochs", "1", "--eval_samples", "30"]
    ask = ["folder:test", str(tmp_path / "run"), "--data_dir", str(folder), "--num_images", "30"]
    ask += ["--features", "classifier"]
    unmeasured = [*tiny, "--features", "none", "--device", "cpu"]
    cdcgan.main([*unmeasured, "--out_dir", str(tmp_path), "--name", "run"])
    assert "no classifier of 2 classes at 28 pixels yet" in refusal(fid.main, ask, capsys)
    cdcgan.main([*tiny, "--device", "cpu", "--out_dir", str(tmp_path), "--name", "measured"])
    (file,) = user_cache().glob("classifier-*.pt")
    found = answer(ask, capsys)
    assert found["features"] == load_classifier(file).name
    assert (found["n_a"], found["n_b"]) == (8, 30)
    assert "folder:train or folder:test" in refusal(fid.main, ["folder:x", *ask[1:]], capsys)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    content = torch.load(tmp_path / "other" / "last.pt", weights_only=True)
    torch.save(content | {"dataset": "mnist"}, tmp_path / "other" / "last.pt")
    # A run of another data set says nothing of the folder; --dataset alone means its classifier.
    ask[1:2], ask[-2:] = [str(tmp_path / "other")], ["--dataset", "folder"]
    assert "of 3 classes at 64 pixels" in refusal(fid.main, ask, capsys)


def test_the_flag_goes_before_what_a_run_says(
    command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Of two runs the first says whose classifier it is."""
    asked: list[tuple[Any, ...]] = []

    def noted(*args: Any) -> ClassifierFeatures:
        asked.append(args)
        return random_classifier()

    monkeypatch.setattr(support.image_sets, "load_features", noted)
    other = str(tmp_path / "other.pt")
    content = torch.load("run/last.pt", weights_only=True)
    torch.save(content | {"dataset": "mnist"}, other)
    size = ["--num_images", "3", "--inception_path", "weights"]
    for argv, expected in (
        ([other, "run"], ("classifier", "mnist")),
        (["run", other], ("classifier", "fashion_mnist")),
        (["run", other, "--dataset", "cifar10"], ("classifier", "cifar10")),
        (["real", "real"], ("inception", None)),
        (["run", "real", "--features", "inception"], ("inception", "fashion_mnist")),
    ):
        answer([*argv, *size], capsys)
        assert asked.pop() == (*expected, torch.device("cpu"), "weights")
    torch.save(content | {"dataset": "folder"}, other)
    for sources, says in (["run", other], ("fashion_mnist", None)), ([other], ("folder", 28)):
        args = argparse.Namespace(image_size=None, classes=None)
        found = support.image_sets.infer_dataset(sources, args)
        assert (found, args.image_size) == says


def test_large_images_go_a_few_at_a_time(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = argparse.Namespace(batch_size=10)
    for most, count in ((10**9, 10), (4 * 784, 4), (783, 1)):
        monkeypatch.setattr(support.image_sets, "LARGE_PIXELS", most)
        for source in ("real.npz", "colour.npz", "real"):
            if source == "real" and most < 784:
                continue  # a file of so many pixels is refused
            batches = list(support.image_sets.image_batches(source, args))
            assert [len(x) for x in batches[:-1]] == [count] * (24 // count), source
            assert sum(map(len, batches)) == 25


def test_float32_is_not_tf32() -> None:
    seen = []

    class Network(nn.Module):
        dim = 3

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("anything", torch.zeros(1))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(torch.backends.cudnn.allow_tf32)
            return images.flatten(1).float(), images.flatten(1).float()

    before = torch.backends.cudnn.allow_tf32
    list(extract([torch.zeros(2, 3, 1, 1, dtype=torch.uint8)], cast(Any, Network())))
    assert seen == [False] and torch.backends.cudnn.allow_tf32 == before


def test_what_else_is_asked_for(command: Path, capsys: Capture) -> None:
    argv = ["real", "fake", "--dataset", "fashion_mnist"]
    found = answer([*argv, "--kid", "--prdc", "--seed", "3"], capsys)
    extra = {"kid", "precision", "recall", "density", "coverage"}
    assert found.keys() == {"fcd", "n_a", "n_b", "features", "dim"} | extra
    network = random_classifier()
    (x, _), (y, _) = (network(random_images(25 - 2 * seed, 1, 28, seed)) for seed in (0, 1))
    expected = {"kid": kid(x, y, seed=3)}
    expected["precision"], expected["recall"] = precision_recall(x, y)
    expected["density"], expected["coverage"] = density_coverage(x, y)
    assert {name: found[name] for name in extra} == pytest.approx(expected, rel=1e-4)
    assert len(set(expected.values()) - {1}) == 3  # precision and coverage are 1, and alone so
    found = answer([*argv, "--kid", "--prdc"], capsys)
    only = answer([*argv, "--kid"], capsys)
    assert only["kid"] == found["kid"] and only.keys() == {*found} - extra | {"kid"}
    assert answer([*argv, "--prdc"], capsys).keys() == {*found} - {"kid"}
    fid.main([*argv, "--kid", "--prdc", "--device", "cpu"])
    printed = capsys.readouterr().out
    for name in ("fcd", *extra):
        assert f"{name} " in printed and f"{found[name]:.4f}" in printed
    assert f"25 and 23 images through {STAND_IN}, 128 features" in printed
    bfloat16 = answer([*argv, "--precision", "bf16"], capsys)["fcd"]
    assert bfloat16 == pytest.approx(found["fcd"], rel=0.1) and bfloat16 != found["fcd"]


def test_warnings(command: Path, capsys: Capture) -> None:
    data = ["--dataset", "fashion_mnist", "--device", "cpu"]
    fid.main(["real", "fake", *data])
    lines = capsys.readouterr().err
    assert "25 against 23 images" in lines and "fewer images than the 128 dimensions" in lines
    for name, n in (("a", 1000), ("b", 1000), ("c", 128), ("d", 127)):
        np.savez(command / f"{name}.npz", mu=np.zeros(128), sigma=np.eye(128), n=n)
    np.savez(command / "theirs.npz", mu=np.ones(128), sigma=np.eye(128))
    fid.main(["a.npz", "b.npz", *data])
    out, err = capsys.readouterr()
    assert err == "" and "1000 and 1000 images" in out
    for name, warned in (("c", False), ("d", True)):
        fid.main([f"{name}.npz", f"{name}.npz", *data])
        assert ("fewer images" in capsys.readouterr().err) == warned
    fid.main(["a.npz", "theirs.npz", *data])  # pytorch-fid does not say of how many
    out, err = capsys.readouterr()
    assert "128.0000" in out and "unknown number" in out and "None" not in out + err
    fid.main(["theirs.npz", "--save_stats", "copy.npz", *data])
    assert load_statistics(command / "copy.npz", STAND_IN).n is None


def test_inception_from_the_command(
    command: Path, inception_weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    save_npz(random_images(3, 1, 28), None, tmp_path / "a.npz")
    save_npz(random_images(2, 3, 32, seed=1), None, tmp_path / "b.npz")
    argv = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--inception_path"]
    found = answer(
        [*argv, str(inception_weights)], capsys
    )  # no data set is known, so it is Inception
    assert found.keys() == {"fid", "n_a", "n_b", "features", "dim"}
    assert (found["n_a"], found["n_b"], found["dim"]) == (3, 2, 2048)
    assert "Inception" in found["features"]
    network = random_inception()
    (x, _), (y, _) = network(random_images(3, 1, 28)), network(random_images(2, 3, 32, seed=1))
    assert found["fid"] == pytest.approx(distance(x, y), rel=1e-4)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["real"], "two sets"),
        (["real", "fake", "real"], "two sets"),
        (["real", "fake", "--save_stats", "s.npz"], "two sets"),
        (["real", "--save_stats", "stats"], "ends in .npz"),
        (["real", "nowhere"], "nowhere does not exist"),
        (["real", "nowhere.npz"], "nowhere.npz"),
        (["real", "nowhere.pt"], "nowhere.pt"),
        (["real", "fashion_mnist:val"], "which split"),
        (["real", "fashion_mnist"], "which split"),
        (["real", "fake", "--num_images", "0"], "--num_images"),
        (["real", "fake", "--num_images", "ten"], "--num_images"),
        (["real", "fake", "--batch_size", "0"], "--batch_size"),
        (["real", "run", "--num_images", "5", "--seed", "-1"], "--seed"),
        (["real", "fake", "--device", "toaster"], "--device toaster"),
        (["real", "fake", "--features", "lenet"], "--features"),
        (["real", "fake", "--dataset", "imagenet"], "--dataset"),
        (["real", "fake", "--precision", "fp8"], "--precision"),
        (["real", "fake", "--batch", "8"], "unrecognized"),
        (["real", "fake", "--features", "inception", "--inception_path", "nowhere.pth"], "nowhere"),
        (["real", "fake", "--features", "inception", "--inception_path", "run/last.pt"], "last.pt"),
        (["real", "fake", "--dataset", "mnist"], "classifier-mnist.pt"),
    ],
)
def test_bad_flags(argv: list[str], says: str, command: Path, capsys: Capture) -> None:
    assert says in refusal(
        fid.main, ["--dataset", "fashion_mnist", "--device", "cpu", *argv], capsys
    )


def test_no_data_set_to_take_the_classifier_of(command: Path, capsys: Capture) -> None:
    assert "--dataset" in refusal(fid.main, ["real", "fake", "--features", "classifier"], capsys)


def write_bad_images(kind: str, path: Path) -> str:
    """Something that holds no usable images, at path or path.npz; returns its name."""
    images = random_images(4, 3, 28).permute(0, 2, 3, 1).numpy()
    archive = path.with_suffix(".npz")
    if kind in ("empty", "one", "sizes", "text", "cut", "float file"):
        path.mkdir()
        if kind != "empty":
            Image.fromarray(images[0]).save(path / "a.png")
        if kind == "sizes":
            Image.fromarray(images[1][:20]).save(path / "b.png")
        elif kind == "text":
            (path / "b.txt").write_text("no image")
        elif kind == "cut":
            (path / "b.png").write_bytes((path / "a.png").read_bytes()[:200])
        elif kind == "float file":
            Image.fromarray(np.float32(images[1, :, :, 0]) / 255).save(path / "b.tiff")
        return path.name
    if kind == "archive cut":
        np.savez(archive, images=images)
        archive.write_bytes(archive.read_bytes()[:3000])
    elif kind == "archive text":
        archive.write_text("no images")
    elif kind == "archive payload":
        objects = np.empty(4, dtype=object)
        objects[:] = [Payload(path.with_name("ran"))] * 4
        np.savez(archive, images=objects)
    else:
        arrays = {
            "archive floats": images / 255,
            "archive numbers": images.astype(np.int64),
            "archive of none": images[:0],
            "archive of one": images[:1],
            "archive of no pixels": images[:, :0],
            "archive flat": images[0, 0],
            "archive channels": images[..., :2],
        }
        np.savez(archive, images=arrays[kind])
    return archive.name


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "holds no images"),
        ("one", "at least 2"),
        ("sizes", "b.png is 28 x 20 and a.png 28 x 28"),
        ("text", "b.txt is not an image"),
        ("cut", "b.png cannot be decoded"),
        ("float file", "b.tiff cannot be decoded"),
        ("archive floats", "float64"),
        ("archive numbers", "int64"),
        ("archive of none", "uint8 (0, 28, 28, 3); expected uint8 (N, H, W)"),
        ("archive of one", "at least 2"),
        ("archive of no pixels", "uint8 (4, 0, 28, 3); expected uint8 (N, H, W)"),
        ("archive flat", "uint8 (28, 3); expected uint8 (N, H, W)"),
        ("archive channels", "no axis holds 1 or 3 channels"),
        ("archive cut", "bad.npz"),
        ("archive text", "bad.npz"),
        ("archive payload", "bad.npz"),
    ],
)
def test_bad_images(kind: str, says: str, command: Path, tmp_path: Path, capsys: Capture) -> None:
    name = write_bad_images(kind, tmp_path / "bad")
    argv = ["real", str(tmp_path / name), "--dataset", "fashion_mnist", "--device", "cpu"]
    for size in ("100", "1"):
        message = refusal(fid.main, [*argv, "--batch_size", size], capsys)
        assert says in message and "bad" in message
    assert not (tmp_path / "ran").exists()


COLOUR = random_images(25, 3, 28).permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
MU, SIGMA = np.zeros(128), np.eye(128)


def test_arrays_of_one_content_agree(command: Path, tmp_path: Path, capsys: Capture) -> None:
    """Whatever the array's name, its axes and the labels beside it."""
    grey, chw, labels = COLOUR[..., :1], COLOUR.transpose(0, 3, 1, 2), np.arange(25)
    np.savez(tmp_path / "a.npz", images=COLOUR)
    np.savez(tmp_path / "b.npz", images=grey[..., 0])
    alike: dict[str, tuple[dict[str, np.ndarray], str]] = {
        "no name, as guided-diffusion saves": ({"arr_0": COLOUR}, "a"),
        "labels beside it": ({"arr_0": COLOUR, "arr_1": labels}, "a"),
        "labels before it": ({"arr_0": labels, "arr_1": COLOUR}, "a"),
        "channels first": ({"images": chw, "labels": labels}, "a"),
        "channels first, no name": ({"arr_0": chw}, "a"),
        "Fortran's order": ({"images": np.asfortranarray(COLOUR)}, "a"),
        "grey with an axis": ({"images": grey}, "b"),
        "grey with an axis, first": ({"arr_0": grey.transpose(0, 3, 1, 2)}, "b"),
    }
    for kind, (arrays, same) in alike.items():
        np.savez(tmp_path / "other.npz", **arrays)  # type: ignore[arg-type]
        argv = ["--dataset", "fashion_mnist"]
        both = answer([str(tmp_path / "other.npz"), str(tmp_path / f"{same}.npz"), *argv], capsys)
        assert (both["fcd"], both["n_a"]) == (0, 25), kind
        real = answer(["real", str(tmp_path / "other.npz"), *argv], capsys)["fcd"]
        assert real == answer(["real", str(tmp_path / f"{same}.npz"), *argv], capsys)["fcd"] > 0


@pytest.mark.parametrize("shape", [(25, 2, 2, 3), (25, 5, 40, 3), (25, 3, 40, 5), (25, 40, 6)])
def test_small_and_oblong_images_are_measured(
    shape: tuple[int, ...], command: Path, tmp_path: Path, capsys: Capture
) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=rng.integers(0, 256, shape, dtype=np.uint8))
    found = answer(["real", str(tmp_path / "a.npz"), "--dataset", "fashion_mnist"], capsys)
    assert found["fcd"] > 0 and found["n_b"] == 25


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": COLOUR[0]}, "images uint8 (28, 28, 3); ... one image (H, W, C)"),
        ({"arr_0": COLOUR[0, :, :, :1]}, "arr_0 uint8 (28, 28, 1); ... one image (H, W, C)"),
        ({"images": COLOUR[..., [0, 1, 2, 2]]}, "(25, 28, 28, 4); ... 4 channels: ... on white"),
        ({"images": COLOUR[:, :3]}, "(25, 3, 28, 3); ... could both be the channels"),
        ({"images": COLOUR[None]}, "(1, 25, 28, 28, 3); ... 5 axes"),
        ({"images": COLOUR[:0]}, "(0, 28, 28, 3); ... empty"),
        ({"images": COLOUR / 255}, "images float64 (25, 28, 28, 3); ... 255 * x if x"),
        ({"arr_0": COLOUR / 127.5 - 1}, "arr_0 float64 ... (x + 1) * 127.5 if x is in [-1, 1]"),
        ({"images": COLOUR.astype(np.int64)}, "images int64 ... save it as np.uint8"),
        ({"images": COLOUR > 99}, "images bool ... save it as np.uint8"),
        ({"images": np.array([None, "x"])}, "images object (2,); ... not numbers"),
        ({"labels": np.arange(25)}, "labels int64 (25,); expected uint8 (N, H, W) ... mu (d,)"),
        ({"arr_0": np.arange(25)}, "arr_0 int64 (25,); expected uint8 (N, H, W) ... mu (d,)"),
        ({}, "no arrays; expected uint8 (N, H, W) ... mu (d,)"),
        ({f"x{i}": MU for i in range(12)}, "x9 float64 (128,), 2 more; expected"),
        (
            {"images": COLOUR, "mu": MU, "sigma": SIGMA},
            "images uint8 (25, 28, 28, 3), mu float64 ... sigma ... keep",
        ),
        ({"arr_0": COLOUR, "mu": MU}, "arr_0 ... mu ... keep images or statistics"),
        ({"arr_0": COLOUR, "arr_1": COLOUR}, "arr_0 ... arr_1 ... keep images or statistics"),
        ({"images": COLOUR, "arr_0": COLOUR}, "images ... arr_0 ... keep images or statistics"),
        ({"mu": MU}, "mu float64 (128,); expected statistics mu (d,) and sigma (d, d)"),
        ({"mu": MU, "sigma": SIGMA[1:]}, "mu float64 (128,), sigma float64 (127, 128); expected"),
        ({"mu": MU, "sigma": SIGMA * 1j}, "sigma complex128 (128, 128); expected statistics"),
    ],
)
def test_arrays_that_are_refused(
    arrays: dict[str, np.ndarray], says: str, command: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The line names the file, what was found in it and what was expected, before any work."""
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    line = refusal(fid.main, ["real", str(path)], capsys)  # and fetches no Inception first
    assert f"{path} holds " in line
    for part in says.split(" ... "):
        assert part in line
    assert refusal(inception_score.main, [str(path)], capsys) == line


def test_every_bad_array_is_named_at_once(tmp_path: Path, capsys: Capture) -> None:
    text, array, images, absent = (str(tmp_path / n) for n in ("t.npz", "a.npy", "i.npz", "x.npz"))
    Path(text).write_text("no archive")
    np.save(array, COLOUR)
    np.savez(images, images=COLOUR)
    line = refusal(fid.main, [text, array, "--kid"], capsys)
    assert f"{text} is not an .npz of arrays, or is damaged" in line
    assert f"{array} is one array without a name, uint8 (25, 28, 28, 3)" in line
    assert f"{absent} cannot be read (No such file" in refusal(fid.main, [images, absent], capsys)
    np.savez(tmp_path / "s.npz", mu=MU, sigma=SIGMA)
    line = refusal(
        inception_score.main, [str(tmp_path / "s.npz"), "--dataset", "fashion_mnist"], capsys
    )
    assert "s.npz holds statistics (mu and sigma); images are needed here" in line
    with pytest.raises(InputError, match="holds images"):
        load_statistics(Path(images), "test")


def test_statistics_with_others_arrays_beside_them(tmp_path: Path) -> None:
    """Any type of number and byte order; what `n` and `features` mean elsewhere counts not."""
    mu, sigma = MU.astype(">f8"), SIGMA.astype(">f4")
    sigma[0, 1] = 2e-3  # which by rounding need not be symmetric
    np.savez(tmp_path / "s.npz", mu=mu, sigma=sigma, n=-3, features=COLOUR, labels=np.arange(25))
    loaded = load_statistics(tmp_path / "s.npz", "test")
    expected = torch.eye(128).double()
    expected[0, 1] = expected[1, 0] = 1e-3
    assert loaded.n is None and torch.allclose(loaded.cov, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", BAD_STATISTICS)
def test_bad_statistics(kind: str, command: Path, tmp_path: Path, capsys: Capture) -> None:
    write_bad_statistics(kind, tmp_path / "bad.npz")
    data = ["--dataset", "fashion_mnist", "--device", "cpu"]
    assert "bad.npz" in refusal(fid.main, [str(tmp_path / "bad.npz"), "real", *data], capsys)
    if kind != "inception":
        with pytest.raises(InputError, match="bad.npz"):
            load_statistics(tmp_path / "bad.npz", "test")
    assert not (tmp_path / "ran").exists()


def test_archives_that_inflate(command: Path, tmp_path: Path, capsys: Capture) -> None:
    inflating(tmp_path / "bad.npz", "images.npy", size=600 << 20)
    argv = [str(tmp_path / "bad.npz"), "real", "--dataset", "fashion_mnist"]
    assert "bad.npz" in refusal(fid.main, argv, capsys)
    with pytest.raises(InputError, match="bad.npz would unpack to 629,145,600"):
        load_statistics(tmp_path / "bad.npz", "test")


def test_statistics_have_no_single_images(command: Path, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(128), sigma=np.eye(128))
    for flag in ("--kid", "--prdc"):
        argv = ["real", str(tmp_path / "s.npz"), "--dataset", "fashion_mnist", flag]
        assert "not saved statistics" in refusal(fid.main, argv, capsys)


def test_bad_checkpoints(command: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = (command / "run" / "last.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"script": Payload(tmp_path / "ran")}, tmp_path / "payload.pt")
    torch.save(classifier_checkpoint(), tmp_path / "classifier.pt")
    for name in ("half.pt", "payload.pt", "classifier.pt"):
        argv = ["real", str(tmp_path / name), "--dataset", "fashion_mnist", "--device", "cpu"]
        assert name in refusal(fid.main, argv, capsys)
    assert not (tmp_path / "ran").exists()


# ---- against pytorch-fid from images to number; the committed classifier ----


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_fid_is_that_of_pytorch_fid(
    channels: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Both commands' own code on the same folders of PNG files and the same random weights."""
    from pytorch_fid import fid_score
    from pytorch_fid import inception as theirs

    state = {**inception_state(), **counters(inception_state())}
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: state)
    torch.save(state, tmp_path / "weights.pth")
    folders = []
    for seed, name in enumerate(("a", "b")):
        images = random_images(30, channels, size, seed)
        save_images(images if seed else images // 2, None, (), tmp_path / name)
        folders.append(str(tmp_path / name))
    expected = fid_score.calculate_fid_given_paths(folders, 20, "cpu", 2048, num_workers=0)
    found = answer([*folders, "--inception_path", str(tmp_path / "weights.pth")], capsys)
    assert found["fid"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.data
def test_fashion_mnist_is_close_to_itself(capsys: Capture) -> None:
    found = answer(["fashion_mnist:train", "fashion_mnist:test", "--batch_size", "500"], capsys)
    assert (found["n_a"], found["n_b"], found["dim"]) == (60_000, 10_000, 128)
    assert 0 <= found["fcd"] < 1


def test_a_folder_that_may_not_be_read_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(support.image_sets, "list_images", forbidden)
    with pytest.raises(InputError, match="cannot be read .Permission denied"):
        next(support.image_sets.folder_images(tmp_path, 2))
