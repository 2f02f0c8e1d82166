"""Drawing from a generator: z, images, and what lies between two z or two classes."""

import torch
from torch import Tensor, nn

from support.device import NOISE, seeded
from support.images import to_uint8

CHUNK = 500  # images drawn at a time: bounds memory, and no sample depends on it


@torch.no_grad()
def sample(generator: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images uint8 (N, C, H, W) on the CPU for z (N, z_dim) and, if conditional, labels (N,).

    Always in eval mode, where batch norm uses its running statistics: a sample then depends on
    its own z alone. The generator is left in the mode in which it came.
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
    """z ~ N(0, I), (number, z_dim): drawn on the CPU, so that a seed means the same z anywhere."""
    return torch.randn(number, z_dim, generator=seeded(seed, NOISE)).to(device)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Spherical interpolation from a (t = 0) to b (t = 1), row by row of (N, z_dim).

    t: one number, or (N, 1).

    White, 2016 (arXiv:1609.04468), Sec. 2.1: z ~ N(0, I) has its length close to sqrt(z_dim), and
    a straight line would cut through short z, which the generator has hardly seen.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine).unsqueeze(1).clamp(min=1e-6)
    arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    # Between opposites no arc is the shortest: through the middle, then.
    return torch.where(cosine.unsqueeze(1) < -0.9999, torch.lerp(a, b, t), arc)


def sample_between(
    generator: nn.Module, z: Tensor, start: Tensor | None, end: Tensor | None, t: Tensor
) -> Tensor:
    """As sample(), of classes between `start` (t = 0) and `end` (t = 1), (N,), with t (N, 1).

    What lies between two classes is the mean of their embeddings, in shares of t.
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
