"""Make faulty copies of real Fashion-MNIST images, and print all metrics for each fault.

    python tools/what_metrics_see.py

10,000 images with each fault are compared with the 10,000 test images. The features are those of
the classifier in pretrained/.
"""

import argparse
import sys
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as transform
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import shown

from data import load_dataset
from fid import Statistics, density_coverage, frechet_distance, kid, precision_recall
from inception_score import inception_score
from support.features import FeatureNetwork, extract, load_features

N = 10_000


def faults(images: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return name -> (images, requested labels), N of each, made from N training images."""
    generator = torch.Generator().manual_seed(0)
    noise = 25 * torch.randn(images.shape, generator=generator)
    of_class = [(labels == label).nonzero().flatten() for label in range(10)]

    def repeated(index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at `index`, repeated until there are N."""
        cycled = index[torch.arange(N) % len(index)]
        return images[cycled], labels[cycled]

    return {
        "none: training images": (images, labels),
        "1,000 images, ten times each": repeated(torch.arange(1000)),
        "collapse: 10 images per class": repeated(torch.cat([index[:10] for index in of_class])),
        "collapse: 1 image per class": repeated(torch.cat([index[:1] for index in of_class])),
        "half of the classes missing": repeated(torch.cat(of_class[:5])),
        "blur: Gaussian, 1 pixel": (transform.gaussian_blur(images, [7, 7], [1.0, 1.0]), labels),
        "noise: Gaussian, 25 of 255": ((images + noise).clamp(0, 255).to(torch.uint8), labels),
        "labels shuffled": (images, labels[torch.randperm(N, generator=generator)]),
    }


def measured(images: Tensor, network: FeatureNetwork) -> tuple[Statistics, Tensor, Tensor]:
    """Return the feature statistics, the features (N, d) and the logits (N, K) of images."""
    features, logits = map(torch.cat, zip(*extract(images.split(500), network), strict=True))
    statistics = Statistics(network.dim)
    statistics.update(features)
    return statistics, features, logits


def main(only: tuple[str, ...] = ("",)) -> None:
    """Print a table of the faults whose names begin with one of `only`."""
    dataset = load_dataset("fashion_mnist")
    network = load_features("classifier", "fashion_mnist")
    statistics, real, _ = measured(dataset.test_images, network)
    names = ("FCD", "score", "in class", "KID x 1000", "precision", "recall", "density", "coverage")
    print("| fault | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    kinds = faults(dataset.train_images[:N], dataset.train_labels[:N])
    for name, (images, labels) in kinds.items():
        if not name.startswith(only):
            continue
        found, fake, logits = measured(images, network)
        row = [
            f"{frechet_distance(statistics.gaussian(), found.gaussian()):.3f}",
            f"{inception_score(logits)[0]:.2f}",
            f"{100 * (logits.argmax(1) == labels).double().mean():.1f} %",
            shown(1000 * kid(real, fake), ".2f"),
            *(f"{value:.3f}" for value in precision_recall(real, fake)),
            *(f"{value:.3f}" for value in density_coverage(real, fake)),
        ]
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
