"""Evaluate a run every --eval_every epochs: compare samples of the EMA with the test images.

    evaluation = Evaluation(network, ...)       # computes the statistics of the test images
    metrics = evaluation(ema, discriminator)    # {"fcd": 0.31, "classifier_score": 8.9, ...}

Evaluation uses its own random generator and eval mode, so that training is not affected.
"""

from support.command import InputError, say

import argparse
import hashlib
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from data import Dataset, labels_as_in
from fid import Gaussian, Statistics, frechet_distance, load_statistics, save_statistics
from inception_score import inception_score
from support.device import EVALUATION, seeded
from support.features import ClassifierFeatures, FeatureNetwork, extract
from support.files import user_cache
from support.images import to_float
from support.sampling import sample

BATCH = 500  # images per forward pass
HELD_OUT = 2000  # test images, and as many samples, for D; an accuracy's standard error is <= 1.2 %
LossOfBoth = Callable[[Tensor, Tensor], Tensor]
LossOfFake = Callable[[Tensor], Tensor]


class Evaluation:
    """Compute distance, score and class_share of samples, and D's accuracy on held-out images."""

    def __init__(
        self,
        network: FeatureNetwork,
        args: argparse.Namespace,
        dataset: Dataset,
        d_loss: LossOfBoth,
        g_loss: LossOfFake,
        real_sign: int,
        conditional: bool,
    ) -> None:
        self.network, self.dataset = network, dataset
        self.d_loss, self.g_loss, self.real_sign = d_loss, g_loss, real_sign
        self.device = next(network.buffers()).device
        number = args.eval_samples
        generator = seeded(args.seed, EVALUATION)
        self.z = torch.randn(number, args.z_dim, generator=generator)
        # Samples have the class frequencies of the test images, because otherwise the distance
        # could not become 0.
        labels = labels_as_in(dataset.test_labels, number) if conditional else None
        self.labels = None if labels is None else labels.to(self.device)
        known = network.classes if isinstance(network, ClassifierFeatures) else dataset.classes
        if conditional and (unknown := set(dataset.classes) - set(known)):
            raise InputError(f"the {network.name} does not know {', '.join(sorted(unknown))}")
        self.real = real_statistics(network, dataset.test_images)

    @torch.no_grad()
    def __call__(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, float]:
        """Return the metrics by name, with the distance first."""
        images = sample(generator, self.z.to(self.device), self.labels)
        statistics, kept = Statistics(self.network.dim), []
        for features, logits in extract(images.split(BATCH), self.network):
            statistics.update(features)
            kept.append(logits.cpu())
        logits = torch.cat(kept)
        distance = frechet_distance(self.real, statistics.gaussian())
        score, _ = inception_score(logits)
        metrics = {
            self.network.distance.lower(): distance,
            self.network.score.lower().replace(" ", "_"): score,
        }
        if self.labels is not None and isinstance(self.network, ClassifierFeatures):
            names = self.network.classes  # all classes, even if --classes keeps fewer
            number = torch.tensor([names.index(name) for name in self.dataset.classes])
            requested = number[self.labels.cpu()]
            metrics["class_share"] = (logits.argmax(dim=1) == requested).double().mean().item()
        return metrics | self.held_out(images, discriminator)

    def held_out(self, fake: Tensor, discriminator: nn.Module) -> dict[str, float]:
        """Return D's accuracy and both losses on at most HELD_OUT test images and as many samples.

        A critic (real_sign 0) has no accuracy, because scores have no threshold.
        """
        was_training = discriminator.training
        discriminator.eval()

        def logits(images: Tensor, labels: Tensor) -> Tensor:
            parts = []
            for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
                x = to_float(x.to(self.device)).to(memory_format=torch.channels_last)
                condition = () if self.labels is None else (y.to(self.device),)
                parts.append(discriminator(x, *condition))
            return torch.cat(parts) * (self.real_sign or 1)  # positive means real

        real, real_labels = self.dataset.test_images, self.dataset.test_labels
        fake_labels = torch.zeros(len(fake)) if self.labels is None else self.labels
        number = min(HELD_OUT, len(fake), len(real))
        # Take images of all classes in random order. The images of a folder are sorted by class,
        # so without the shuffle a batch, and batch norm, would see a single class.
        test_indices = torch.linspace(0, len(real) - 1, number).long()
        order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
        test_indices = test_indices[order]
        real_logits = logits(real[test_indices], real_labels[test_indices])
        fake_logits = logits(fake[:number], fake_labels[:number])
        discriminator.train(was_training)
        metrics = {
            "test_d_loss": self.d_loss(real_logits, fake_logits).item(),
            "test_g_loss": self.g_loss(fake_logits).item(),
        }
        if self.real_sign:
            metrics["d_accuracy_real"] = (real_logits > 0).float().mean().item()
            metrics["d_accuracy_fake"] = (fake_logits < 0).float().mean().item()
        return metrics


def real_statistics(network: FeatureNetwork, images: Tensor) -> Gaussian:
    """Return the feature statistics of images, uint8 (N, C, H, W), from the user's cache if there.

    The name of the cached file is a hash of the images and of the network's weights.
    """
    key = hashlib.sha256(images.cpu().contiguous().numpy().data)
    for value in network.state_dict().values():
        key.update(value.cpu().contiguous().numpy())
    path = user_cache() / f"statistics-{key.hexdigest()[:32]}.npz"
    if os.path.isfile(path):  # Path.is_file raises if the cache may not be entered
        try:
            return load_statistics(path, network.name)
        except InputError:
            path.unlink(missing_ok=True)  # damaged, so compute the statistics again
    statistics = Statistics(network.dim)
    for features, _ in extract(images.split(BATCH), network):
        statistics.update(features)
    real = statistics.gaussian()
    try:
        save_statistics(real, path, network.name)
    except InputError as error:
        say(f"warning: {error}: the next run computes the statistics again")
    return load_statistics(path, network.name) if os.path.isfile(path) else real
