"""Stand-ins for what a test must not download: feature networks with random weights, pictures."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fid import Statistics
from support.features import (
    Classifier,
    ClassifierFeatures,
    FeatureNetwork,
    InceptionFeatures,
    build_inception,
    extract,
)


def random_state(names_and_shapes: dict[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Weights that do something everywhere: no batch norm is the identity, no bias is 0.

    Kaiming's scale keeps the signal's size through all the layers. With torch's default it dies on
    the way through Inception, and whatever is compared at its end are numbers of 1e-13.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in names_and_shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            gain = 2.0 if len(shape) == 4 else 1.0  # a ReLU follows a convolution
            state[name] = values * (gain / shape[1:].numel()) ** 0.5
        elif "bias" in name or "running_mean" in name:
            state[name] = 0.1 * values
        else:  # a batch norm's weight, or its running variance
            state[name] = torch.rand(shape, generator=generator) * 0.4 + 0.8
    return state


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    """Of all that `network` holds but the batch norms' counters."""
    items = network.state_dict().items()
    return {name: value.shape for name, value in items if not name.endswith("tracked")}


@functools.cache
def inception_state() -> dict[str, Tensor]:
    """What FID's weights file holds, random, without counters."""
    with torch.device("meta"):
        network = build_inception()
    return random_state(shapes(network), seed=0)


def counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch norms' counters that go with `state`."""
    names = [name for name in state if name.endswith("running_mean")]
    return {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in names}


@functools.cache
def random_inception() -> InceptionFeatures:
    state = inception_state()
    return InceptionFeatures({**state, **counters(state)})


def classifier_checkpoint(
    channels: int = 1, image_size: int = 28, classes: int = 10, label: str = "random"
) -> dict[str, Any]:
    """What save_classifier writes, of a classifier with random weights."""
    state = random_state(shapes(Classifier(channels, classes)), seed=1)
    return {
        "label": label,
        "classes": [str(i) for i in range(classes)],
        "channels": channels,
        "image_size": image_size,
        "accuracy": 0.1,
        "state": {name: value.half() for name, value in (state | counters(state)).items()},
    }


def random_classifier(channels: int = 1, image_size: int = 28) -> ClassifierFeatures:
    return ClassifierFeatures(classifier_checkpoint(channels, image_size))


def random_images(number: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Smooth pictures, each another: uint8 (number, channels, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, channels, 4, 4, generator=generator)
    images = F.interpolate(coarse, (size, size), mode="bilinear") * 255
    noise = torch.randn(images.shape, generator=generator) * 10
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


class Payload:
    """Unpickled by the book, it makes the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def measured(
    batches: Iterable[Tensor], network: FeatureNetwork
) -> tuple[Statistics, Tensor, Tensor]:
    """Return the statistics, the features and the logits of batches of images."""
    statistics, kept = Statistics(network.dim), []
    for features, logits in extract(batches, network):
        statistics.update(features)
        kept.append((features, logits))
    features, logits = map(torch.cat, zip(*kept, strict=True))
    return statistics, features, logits
