"""What the convolutional scripts have in common and that is not the point of any of them."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def spectral_norm(layer: nn.Module) -> nn.Module:
    """torch's, outside of autocast, which on a GPU would round its products to bfloat16."""

    def forward(self: nn.Module, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return type(self).forward(self, weight)

    parametrizations.spectral_norm(layer)
    norm: Any = layer.get_submodule("parametrizations.weight.0")
    norm.forward = MethodType(forward, norm)
    return layer


def normalised(conv: nn.Conv2d, norm: str) -> list[nn.Module]:
    """A convolution and the normalisation that --norm names."""
    channels = conv.out_channels
    layers: dict[str, Callable[[], list[nn.Module]]] = {
        "spectral": lambda: [spectral_norm(conv)],
        # Each batch's own statistics, in eval mode, too: an average over real and generated ones,
        # which D sees apart, would be neither's.
        "batch": lambda: [conv, nn.BatchNorm2d(channels, track_running_stats=False)],
        "instance": lambda: [conv, nn.InstanceNorm2d(channels, affine=True)],
        "layer": lambda: [conv, nn.GroupNorm(1, channels)],
        "none": lambda: [conv],
    }
    return layers[norm]()
