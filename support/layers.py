"""Build the layers that the convolutional scripts share."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def spectral_norm(layer: nn.Module) -> nn.Module:
    """Apply torch's spectral norm to `layer`, in float32 even under autocast; return the layer."""

    def forward(self: nn.Module, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return type(self).forward(self, weight)

    parametrizations.spectral_norm(layer)
    norm: Any = layer.get_submodule("parametrizations.weight.0")
    norm.forward = MethodType(forward, norm)
    return layer


def conv_with_norm(conv: nn.Conv2d, norm: str) -> list[nn.Module]:
    """Return a convolution and the normalisation that --norm names, as a list of layers."""
    channels = conv.out_channels
    layers: dict[str, Callable[[], list[nn.Module]]] = {
        "spectral": lambda: [spectral_norm(conv)],
        # Use batch statistics in eval mode as well. D sees real and generated batches separately,
        # so running averages would fit neither.
        "batch": lambda: [conv, nn.BatchNorm2d(channels, track_running_stats=False)],
        "instance": lambda: [conv, nn.InstanceNorm2d(channels, affine=True)],
        "layer": lambda: [conv, nn.GroupNorm(1, channels)],
        "none": lambda: [conv],
    }
    return layers[norm]()
