"""Build the layers that the convolutional scripts share."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

MOST_DEPTH = 8  # upper limit of --depth; a checkpoint from elsewhere could name any depth


def spectral_norm(network: nn.Module) -> None:
    """Apply torch's spectral norm to all convolutions, linear layers and embeddings of `network`.

    Call this function after the initialisation, because torch estimates the largest singular values
    at once. The computation is in float32 even under autocast.
    """

    def forward(self: nn.Module, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return type(self).forward(self, weight)

    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            parametrizations.spectral_norm(layer)
            norm: Any = layer.get_submodule("parametrizations.weight.0")
            norm.forward = MethodType(forward, norm)


def conv_block(conv: nn.Conv2d, norm: str) -> list[nn.Module]:
    """Return a convolution of D, the normalisation that --norm names, and leaky ReLU."""
    channels = conv.out_channels
    norms: dict[str, Callable[[], list[nn.Module]]] = {
        # Use batch statistics in eval mode as well. D sees real and generated batches separately,
        # so running averages would fit neither.
        "batch": lambda: [nn.BatchNorm2d(channels, track_running_stats=False)],
        "instance": lambda: [nn.InstanceNorm2d(channels, affine=True)],
        "layer": lambda: [nn.GroupNorm(1, channels)],
        "spectral": lambda: [],  # spectral_norm() follows after the initialisation
        "none": lambda: [],
    }
    return [conv, *norms[norm](), nn.LeakyReLU(0.2, inplace=True)]


def convs_3x3(width: int, number: int) -> list[nn.Module]:
    """Return `number` convolutions of stride 1 with batch norm and ReLU, for a generator."""
    layers: list[nn.Module] = []
    for _ in range(number):
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return layers
