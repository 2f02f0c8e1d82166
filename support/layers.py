"""What the convolutional scripts have in common and that is not the point of any of them."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def pyramid(image_size: int, width: int) -> tuple[int, list[int]]:
    """The smallest map's side (4, or 7 for 28 pixels) and the channels from the image's side down.

    Every halving doubles the channels, up to 8 * width (DCGAN Fig. 1).
    """
    halvings = {28: 2, 32: 3, 64: 4, 128: 5}[image_size]
    return image_size >> halvings, [width * min(2**i, 8) for i in range(halvings)]


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


def decay_rates(done: float, decay: float, *optimisers: torch.optim.Optimizer) -> None:
    """Leave the rates as given until the last share `decay` of a run; over it, let them fall
    linearly to 0 (Zhu et al., 2017, Sec. 4). `done` is the share of the run that is over."""
    factor = min(1.0, (1 - done) / decay) if decay else 1.0
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * optimiser.defaults["lr"]


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * network, batch norm's running statistics included."""
    pairs = zip(ema.state_dict().values(), network.state_dict().values(), strict=True)
    floats = [(average, value) for average, value in pairs if value.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], 1 - decay)
