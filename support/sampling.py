"""Draw z and images from a generator, and interpolate between two z or two classes."""

import torch
from torch import Tensor, nn

from support.device import NOISE, seeded
from support.images import to_uint8

CHUNK = 500  # images drawn at once, to bound memory; the samples do not depend on CHUNK


@torch.no_grad()
def sample(generator: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Draw images uint8 (N, C, H, W) on the CPU for z (N, z_dim) and, if conditional, labels (N,).

    In eval mode batch norm uses the running statistics, so a sample depends only on one z and one
    label. Afterwards the generator returns to the mode in which it was.
    """
    was_training = generator.training
    generator.eval()
    images = []
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        fake = generator(z[part]) if labels is None else generator(z[part], labels[part])
        images.append(to_uint8(fake).cpu())
    generator.train(was_training)
    return torch.cat(images)


def noise(number: int, z_dim: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw z ~ N(0, I), (number, z_dim), on the CPU: a seed gives equal z on all devices."""
    return torch.randn(number, z_dim, generator=seeded(seed, NOISE)).to(device)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Interpolate spherically from a (t = 0) to b (t = 1), row by row of (N, z_dim).

    t: one number, or (N, 1).

    White, 2016 (arXiv:1609.04468), Sec. 2.1: the norm of z ~ N(0, I) is close to sqrt(z_dim). On a
    straight line between two z the norm is smaller, and G was hardly trained on such z.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine).unsqueeze(1).clamp(min=1e-6)
    arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    # Between opposite directions no arc is the shortest, so the path is a straight line.
    return torch.where(cosine.unsqueeze(1) < -0.9999, torch.lerp(a, b, t), arc)


def sample_between(
    generator: nn.Module, z: Tensor, start: Tensor | None, end: Tensor | None, t: Tensor
) -> Tensor:
    """Draw as sample(), for classes between `start` (t = 0) and `end` (t = 1), (N,), with t (N, 1).

    The class embedding is (1 - t) times the embedding of `start`, plus t times the embedding of
    `end`.
    """
    if start is None or end is None:
        return sample(generator, z)
    images = []
    for part in (slice(i, i + CHUNK) for i in range(0, len(z), CHUNK)):
        embed = generator.get_submodule("embed")
        weight = embed.get_parameter("weight")
        mixed = torch.lerp(weight[start[part]], weight[end[part]], t[part])
        hook = embed.register_forward_hook(lambda *_, mixed=mixed: mixed)
        images.append(sample(generator, z[part], start[part]))
        hook.remove()
    return torch.cat(images)
