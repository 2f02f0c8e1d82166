"""The sample pictures of a run: the same z, drawn after every epoch."""

from support.processes import rank

import torch
from PIL import Image
from torch import Tensor, nn

from data import Dataset
from support.drawing import draw_grid
from support.fonts import drawable
from support.sampling import noise, sample

GRID_ROWS = 10  # rows of a sample picture: the first ten classes, or ten rows of anything


class Samples:
    """The z and labels that a run draws, and real images to lay beside them."""

    def __init__(
        self, dataset: Dataset, conditional: bool, z_dim: int, seed: int, device: torch.device
    ) -> None:
        self.dataset = dataset
        names = list(dataset.classes[:GRID_ROWS]) if conditional else []
        if rank() == 0:  # which draws, and warns of names that it cannot draw
            names = drawable(names, range(len(names)))
        self.row_names = [names[i % len(names)] for i in range(GRID_ROWS)] if names else []
        labels = torch.arange(GRID_ROWS) % max(1, len(names))
        self.labels = labels.repeat_interleave(GRID_ROWS).to(device) if names else None
        self.z = noise(GRID_ROWS * GRID_ROWS, z_dim, seed, device)

    def draw(self, generator: nn.Module) -> tuple[Image.Image, str]:
        """Return the picture and, if nearly all its pixels are black or white, a warning.

        It changes no state of the training.
        """
        images = sample(generator, self.z, self.labels)
        saturated, of_real = (saturated_fraction(x) for x in (images, self.real()))
        warning = (
            f"saturated samples: {saturated:.0%} of their pixels are black or white "
            f"({of_real:.0%} of the real ones'); try lower --lr_g and --lr_d"
            if saturated > max(0.98, 1.1 * of_real)
            else ""
        )
        return draw_grid(images, GRID_ROWS, self.row_names), warning

    def draw_real(self) -> Image.Image:
        return draw_grid(self.real(), GRID_ROWS, self.row_names)

    def real(self) -> Tensor:
        """Return training images, of the same classes row by row."""
        images, labels = self.dataset.train_images, self.dataset.train_labels.cpu()
        if self.labels is None:
            return images[torch.linspace(0, len(images) - 1, GRID_ROWS * GRID_ROWS).long()]
        index, drawn = [], self.labels.tolist()
        for i, label in enumerate(drawn):
            of_class = (labels == label).nonzero().flatten()
            index.append(int(of_class[drawn[:i].count(label) % len(of_class)]))
        return images[index]


def saturated_fraction(images: Tensor) -> float:
    """Return the fraction of uint8 pixels that are 0 or 255."""
    return ((images == 0) | (images == 255)).double().mean().item()
