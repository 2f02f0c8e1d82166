"""Draw the samples of a run, from a fixed z, to compare epochs."""

from support.processes import rank

import torch
from PIL import Image
from torch import Tensor, nn

from data import Dataset
from support.drawing import draw_grid
from support.fonts import drawable
from support.sampling import noise, sample

GRID_ROWS = 10  # rows of a sample grid, and images per row; with labels, one class per row


class Samples:
    """Draw a grid of samples with fixed z and labels, and a grid of real images."""

    def __init__(
        self, dataset: Dataset, conditional: bool, z_dim: int, seed: int, device: torch.device
    ) -> None:
        self.dataset = dataset
        names = list(dataset.classes[:GRID_ROWS]) if conditional else []
        if (
            rank() == 0
        ):  # process 0 draws, and drawable() warns about names that the font cannot write
            names = drawable(names, range(len(names)))
        self.row_names = [names[i % len(names)] for i in range(GRID_ROWS)] if names else []
        labels = torch.arange(GRID_ROWS) % max(1, len(names))
        self.labels = labels.repeat_interleave(GRID_ROWS).to(device) if names else None
        self.z = noise(GRID_ROWS * GRID_ROWS, z_dim, seed, device)

    def draw(self, generator: nn.Module) -> tuple[Image.Image, str]:
        """Return the grid, and a warning ("" if none) if nearly all pixels are black or white.

        Drawing does not affect training.
        """
        images = sample(generator, self.z, self.labels)
        saturated, real_saturated = (saturated_fraction(x) for x in (images, self.real()))
        warning = (
            f"saturated samples: {saturated:.0%} of the pixels are black or white "
            f"(real images: {real_saturated:.0%}); try lower --lr_g and --lr_d"
            if saturated > max(0.98, 1.1 * real_saturated)
            else ""
        )
        return draw_grid(images, GRID_ROWS, self.row_names), warning

    def draw_real(self) -> Image.Image:
        return draw_grid(self.real(), GRID_ROWS, self.row_names)

    def real(self) -> Tensor:
        """Return training images for a grid with the classes of the sample grid."""
        images, labels = self.dataset.train_images, self.dataset.train_labels.cpu()
        if self.labels is None:
            return images[torch.linspace(0, len(images) - 1, GRID_ROWS * GRID_ROWS).long()]
        index, wanted = [], self.labels.tolist()
        for i, label in enumerate(wanted):
            in_class = (labels == label).nonzero().flatten()
            index.append(int(in_class[wanted[:i].count(label) % len(in_class)]))
        return images[index]


def saturated_fraction(images: Tensor) -> float:
    """Return the fraction of uint8 pixels that are 0 or 255."""
    return ((images == 0) | (images == 255)).double().mean().item()
