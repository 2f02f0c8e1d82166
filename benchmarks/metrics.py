"""Compare the speed of fid.py with pytorch-fid and scipy, and bfloat16 with float32.

    python benchmarks/metrics.py                  # about 4 minutes on two cores
    python benchmarks/metrics.py --rounds 5 --images 200

The implementations take turns in one process, with the same random weights, images and number of
threads. The network of pytorch-fid gets float images in [0, 1] in batches of 50, as in the command
pytorch-fid. Speed does not depend on the weights, so the published weights are not needed. The
rounding error of bfloat16 depends on the weights, so Fashion-MNIST's classifier is also measured.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import InputError, shown

from data import load_dataset
from fid import Gaussian, Statistics, frechet_distance
from support.features import FeatureNetwork, InceptionFeatures, extract, load_features
from tools.samples import inception_weights

Implementations = dict[str, Callable[[], object]]


def turns(implementations: Implementations, rounds: int) -> dict[str, list[float]]:
    """Call every implementation once per round; return the seconds of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for number in range(rounds + 1):  # the first round warms up
        for name, call in implementations.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds: dict[str, list[float]], images: int | None = None) -> None:
    """Print the median of each implementation, and the speed relative to the first one."""
    first = next(iter(seconds))
    for name, values in seconds.items():
        median = statistics.median(values)
        line = f"{name:<32}{median:8.3f} s"
        if images is not None:
            line += f"  {images / median:7.1f} images/s"
        if name != first:
            ratios = [a / b for a, b in zip(seconds[first], values, strict=True)]
            low, high = min(ratios), max(ratios)
            line += f"  {statistics.median(ratios):6.2f} times as fast ({low:.2f} to {high:.2f})"
        print(line, flush=True)


def pytorch_fid_features(images: Tensor) -> Callable[[], np.ndarray]:
    """Return a function that extracts features with pytorch-fid and random weights."""
    from pytorch_fid import inception  # here, because only this function needs pytorch-fid

    inception.load_state_dict_from_url = lambda *args, **kwargs: inception_weights()
    network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()

    def run() -> np.ndarray:
        found = []
        for batch in images.split(50):
            with torch.no_grad():
                features = network(batch.expand(-1, 3, -1, -1).float() / 255)[0]
            found.append(features.squeeze(3).squeeze(2).numpy())
        return np.concatenate(found)

    return run


def measured(images: Tensor, network: FeatureNetwork, precision: str) -> Statistics:
    """Return the feature statistics of images, computed as in fid.py."""
    statistics = Statistics(network.dim)
    for features, _ in extract(images.split(100), network, precision):
        statistics.update(features)
    return statistics


def compare_features(images: Tensor, rounds: int) -> None:
    """Print the times that pytorch-fid and fid.py need for the features of images."""
    network = InceptionFeatures(inception_weights())
    implementations: Implementations = {
        "pytorch-fid": pytorch_fid_features(images),
        "fid.py, float32": lambda: measured(images, network, "fp32"),
        "fid.py, bfloat16": lambda: measured(images, network, "bf16"),
    }
    print(f"\nfeatures of {len(images)} images of {tuple(images.shape[1:])}, {rounds} rounds")
    report(turns(implementations, rounds), len(images))


def by_scipy(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """Return the Fréchet distance, computed as in pytorch-fid."""
    root = sqrtm(cov1.dot(cov2))
    shift = mean1 - mean2
    return float(shift.dot(shift) + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(root).real)


def compare_distances(n: int, rounds: int) -> None:
    """Print times for the distance of two sets of features (n, 2048).

    If n > 2048, the covariances have full rank and are computed outside of the timed calls.
    """
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(2048, 2048, generator=generator).double() / 2048**0.5
    sets = [torch.randn(n, 2048, generator=generator).double() @ mix + i for i in range(2)]
    moments = [(x.mean(0), x.T.cov()) for x in sets]
    found: dict[str, float] = {}

    def theirs() -> None:
        if n > 2048:
            arrays = [(mean.numpy(), cov.numpy()) for mean, cov in moments]
        else:
            arrays = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (s.numpy() for s in sets)]
        found["theirs"] = by_scipy(*arrays[0], *arrays[1])

    def ours() -> None:
        if n > 2048:
            pair = [Gaussian.of(mean, cov, n) for mean, cov in moments]
        else:
            pair = []
            for x in sets:
                gathered = Statistics(2048)
                gathered.update(x)
                pair.append(gathered.gaussian())
        found["ours"] = frechet_distance(*pair)

    start = "the covariances" if n > 2048 else "the features"
    print(f"\nthe distance from {start} of {n} samples per side, {rounds} rounds")
    report(turns({"scipy's sqrtm": theirs, "fid.py": ours}, rounds))
    print(f"distances: {found['theirs']:.8f} and {found['ours']:.8f}", flush=True)


def compare_precisions(title: str, network: Any, real: Tensor, fakes: dict[str, Tensor]) -> None:
    """Print the distance between `real` and each set of `fakes`, in float32 and in bfloat16."""
    print(f"\n{title}, {len(real):,} images per side")
    for name, fake in fakes.items():
        values = []
        for precision in ("fp32", "bf16"):
            pair = [measured(x, network, precision).gaussian() for x in (real, fake)]
            values.append(frechet_distance(*pair))
        exact, rounded = values
        change = 100 * (rounded - exact) / exact
        both = f"float32 {exact:10.4f}  bfloat16 {rounded:10.4f}"
        print(f"{name:<24}{both}  {shown(change, '+.2f')} %")


def worsened(images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Return a noisy and a blurred copy of images, uint8 (N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    floats = images.float()
    noise = 25 * torch.randn(images.shape, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(floats, 3, stride=1, padding=1)
    made = {"with noise": floats + noise, "blurred": blurred}
    return {name: x.round().clamp(0, 255).to(torch.uint8) for name, x in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns per contender (default: 3)")
    parser.add_argument(
        "--images", type=int, default=100, help="images for Inception per turn (default: 100)"
    )
    args = parser.parse_args()
    dataset = load_dataset("fashion_mnist")
    number = args.images
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    compare_features(dataset.test_images[:number], args.rounds)
    compare_distances(4096, args.rounds)
    compare_distances(1000, args.rounds)
    real, other = dataset.test_images[:number], dataset.train_images[:number]
    fakes = {"training images": other, **worsened(other)}
    compare_precisions(
        "Inception with random weights", InceptionFeatures(inception_weights()), real, fakes
    )
    try:
        network = load_features("classifier", "fashion_mnist")
    except InputError as error:
        print(error)
        return
    other = dataset.train_images[:10_000]
    fakes = {"training images": other, **worsened(other)}
    compare_precisions(network.name, network, dataset.test_images, fakes)


if __name__ == "__main__":
    main()
