"""What FID and Inception Score look through: FID's Inception network, or a data set's classifier.

    network = load_features("classifier", dataset="fashion_mnist")
    features, logits = network(images)     # uint8 (N, C, H, W) -> float32 (N, 128), (N, 10)

FID is defined by one particular Inception v3 (Heusel et al., 2017, arXiv:1706.08500), whose weights
are a download of 96 MB and which takes minutes on a CPU. 28 x 28 grey images are far from what it
was trained on, so for small data sets there is a small classifier of the same data, in pretrained/.
What is measured through that is comparable with nothing but itself, and never called FID or IS.

    python features.py --dataset fashion_mnist --epochs 25     # trains the one in pretrained/ anew
"""

from support.command import InputError, exit_on_input_error, say

import argparse
import copy
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import Inception3, inception

from data import IMAGE_SIZES, Batches, Dataset, load_dataset
from support.device import autocast_for, pick_device
from support.download import download
from support.files import load_tensors, save_tensors, user_cache
from support.images import to_float

FEATURES = ("classifier", "inception")
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
LEAST_STEPS = 300  # of a folder's classifier
PRETRAINED = Path(__file__).parent.parent / "pretrained"


# ---- FID's Inception ----


class LastBlock(inception.InceptionE):
    """Inception's last block, which takes the maximum where the others take means."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        return [*super()._forward(x)[:-1], self.branch_pool(pooled)]


def leave_padding_out(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """A hook before a pooling branch's convolution: means over 3 x 3 pixels lose the padding.

    torchvision's means count the zeros beyond the image's border as pixels; over the share of
    pixels that are none, they are the means of those that are.
    """
    (means,) = inputs
    share = F.avg_pool2d(means.new_ones(1, 1, *means.shape[2:]), 3, stride=1, padding=1)
    return means / share


def build_inception() -> Inception3:
    """FID's Inception v3, untrained: torchvision's but for how it pools, and with 1008 logits.

    The published weights are a port of TensorFlow's network of 2015-12-05, which leaves the padding
    out of its means and, in its very last block, takes the maximum.
    """
    network = Inception3(1008, aux_logits=False, init_weights=False)
    network.Mixed_7c = LastBlock(2048)
    for name, block in network.named_children():
        if hasattr(block, "branch_pool") and name != "Mixed_7c":
            block.branch_pool.register_forward_pre_hook(leave_padding_out)
    return network


class InceptionFeatures(nn.Module):
    """uint8 (N, C, H, W) -> pool features (N, 2048) and logits (N, 1008), float32.

    One path for all images: grey becomes RGB, bilinear to 299 x 299 (without antialiasing, as
    pytorch-fid does), [0, 255] to [-1, 1]. The logits have no bias (Salimans et al.'s code).
    """

    name, dim, score, distance = "FID-Inception (2015-12-05)", 2048, "IS", "FID"
    class_weights: Tensor

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        network = build_inception()
        network.load_state_dict(state)
        network.eval()
        self.register_buffer("class_weights", network.fc.weight.detach().clone())
        network.fc = nn.Identity()
        for module in network.modules():
            if isinstance(module, inception.BasicConv2d):
                # In eval mode a batch norm is a factor and a shift: fold them into the convolution.
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)
        self.cast: dict[torch.dtype, nn.Module] = {}

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        kind = images.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        # On a CPU eight at a time, a quarter faster: what one layer leaves for the next fits its
        # cache. A GPU wants many.
        parts = checked(images).split(8 if kind == "cpu" else max(1, len(images)))
        with torch.autocast(kind, enabled=False):
            network = self.in_dtype(dtype)
            features = torch.cat([network(self.prepared(x).to(dtype)).float() for x in parts])
            return features, features @ self.class_weights.T

    def prepared(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 (N, 3, 299, 299) in [-1, 1]; grey is resized only once."""
        x = images.to(memory_format=torch.channels_last).float() / 255
        x = 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1
        return rgb(x).contiguous(memory_format=torch.channels_last)

    def in_dtype(self, dtype: torch.dtype) -> nn.Module:
        """The network in `dtype`, cast once: autocast casts frozen weights at every call."""
        if dtype == torch.float32:
            return self.network
        if dtype not in self.cast:
            self.cast[dtype] = copy.deepcopy(self.network).to(dtype)
        return self.cast[dtype]


def checked(images: Tensor) -> Tensor:
    """`images`, if they are uint8 (N, C, H, W) with C 1 or 3; InputError otherwise."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"images of shape {tuple(images.shape)} and {images.dtype}: features are defined for "
            "uint8 (N, C, H, W) in [0, 255] with 1 or 3 channels (support/images.py has to_uint8)"
        )
    return images


def rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def load_inception(path: str | Path | None = None) -> InceptionFeatures:
    """FID's Inception with the published weights: those in `path`, or downloaded once.

    A download is verified by its SHA-256; a file given by hand by its keys and shapes. The weights
    may or may not bring batch norm's counters, but nothing else may be missing or left over.
    """
    if path is None:
        path = user_cache() / INCEPTION_URL.rsplit("/", 1)[1]
        if not os.path.isfile(path):  # Path.is_file raises where the cache may not be entered
            fetch_inception(path)
    try:
        state = load_tensors(path)
    except OSError as error:
        raise InputError(f"--inception_path {path} cannot be read ({error.strerror})") from None
    except Exception:  # a damaged file makes torch raise anything, and advise to trust it
        refused = "it is damaged, or holds more than tensors"
        raise InputError(f"{path} is refused as FID's Inception weights: {refused}") from None
    try:
        counters = {
            k: v for k, v in build_inception().state_dict().items() if k.endswith("tracked")
        }
        return InceptionFeatures({**counters, **state})
    except Exception as error:  # of another network
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} does not hold FID's Inception weights: {reason}") from None


def fetch_inception(path: Path) -> None:
    def verify(unfinished: Path) -> None:
        if hashlib.sha256(unfinished.read_bytes()).hexdigest() != INCEPTION_SHA256:
            raise InputError("wrong checksum")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(INCEPTION_URL, path, verify)
    except Exception as error:  # no network, no such page, no room
        raise InputError(
            f"FID's Inception weights cannot be fetched from {INCEPTION_URL} ({error}): "
            "give the file as --inception_path, or use --features classifier (of data with classes)"
        ) from None


# ---- a data set's own classifier ----


class Classifier(nn.Module):
    """Images (N, channels, H, W) in [-1, 1] -> features (N, 128), logits (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()

        def block(before: int, width: int) -> list[nn.Module]:
            conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
            return [conv, nn.BatchNorm2d(width), nn.ReLU(True)]

        self.layers = nn.Sequential(
            *block(channels, 32),
            nn.MaxPool2d(2),
            *block(32, 64),
            *block(64, 64),
            nn.MaxPool2d(2),
            *block(64, 128),
            *block(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.linear = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(x)
        return features, self.linear(features)


class ClassifierFeatures(nn.Module):
    """uint8 (N, C, H, W) -> features (N, 128) and class logits of a data set's own classifier.

    Images are made to fit: another size by bilinear interpolation (antialiased when shrinking),
    grey by repeating it, colour by the mean of its channels.
    """

    dim, score, distance = 128, "classifier score", "FCD"

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        super().__init__()
        self.classes = tuple(checkpoint["classes"])
        if not all(isinstance(name, str) for name in self.classes):
            raise ValueError("a class whose name is no text")
        self.channels, self.image_size = checkpoint["channels"], checkpoint["image_size"]
        if self.channels not in (1, 3) or self.image_size not in IMAGE_SIZES:
            raise ValueError(f"{self.channels} channels, {self.image_size} pixels")
        self.accuracy = checkpoint["accuracy"]
        self.classifier = Classifier(self.channels, len(self.classes))
        state = {name: value.float() for name, value in checkpoint["state"].items()}
        self.classifier.load_state_dict(state)
        # Other weights of the same label measure something else: the name tells them apart.
        digest = hashlib.sha256()
        for value in self.classifier.state_dict().values():
            digest.update(value.contiguous().numpy())
        self.name = f"{checkpoint['label']} classifier {digest.hexdigest()[:8]}"
        self.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = to_float(checked(images))
        if self.channels == 3:
            x = rgb(x)
        elif x.shape[1] == 3:
            x = x.mean(dim=1, keepdim=True)
        if x.shape[-1] != self.image_size or x.shape[-2] != self.image_size:
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        features, logits = self.classifier(x.to(memory_format=torch.channels_last))
        return features.float(), logits.float()


FeatureNetwork = InceptionFeatures | ClassifierFeatures


@torch.no_grad()
def extract(
    batches: Iterable[Tensor], network: FeatureNetwork, precision: str = "fp32"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features (B, d) and logits (B, K), float32 on the CPU, of batches of uint8 images."""
    device = next(network.buffers()).device
    autocast = autocast_for(device, precision)
    for images in batches:
        # A GPU's convolutions would keep 10 of float32's 23 bits (TF32).
        with autocast(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features, logits = network(images.to(device))
        yield features.cpu(), logits.cpu()


def load_classifier(path: Path) -> ClassifierFeatures:
    """A classifier's checkpoint. InputError if it is not there or is something else."""
    if not os.path.isfile(path):
        raise InputError(f"there is no classifier {path}: use --features inception")
    try:
        return ClassifierFeatures(load_tensors(path))
    except Exception:  # damaged, or not a classifier's
        raise InputError(f"{path} is not a classifier's checkpoint, or is damaged") from None


def load_features(
    kind: str,
    dataset: str | None = None,
    device: torch.device | str = "cpu",
    inception_path: str | Path | None = None,
) -> FeatureNetwork:
    """The feature network `kind`: "inception", or the "classifier" of the data set named."""
    if kind == "inception":
        return load_inception(inception_path).to(device)
    if dataset is None:
        raise InputError("which classifier? name its data set with --dataset")
    return load_classifier(PRETRAINED / f"classifier-{dataset}.pt").to(device)


def classifier_path(dataset: Dataset) -> Path:
    """Return where the classifier of `dataset` is; a folder's has a name made of its images."""
    if dataset.name != "folder":
        return PRETRAINED / f"classifier-{dataset.name}.pt"
    key = hashlib.sha256(repr((dataset.train_images.shape, dataset.classes)).encode())
    for whole in (dataset.train_images, dataset.train_labels):
        for part in whole.split(256):  # a folder may be larger than the memory
            key.update(part.contiguous().numpy().data)
    return user_cache() / f"classifier-{key.hexdigest()[:16]}.pt"


def classifier_for(
    dataset: Dataset, data_dir: str | Path, device: torch.device, train: bool = True
) -> ClassifierFeatures:
    """Return the classifier of `dataset`; a folder's is trained on first use, if `train`.

    A folder's classifier is kept in the user's cache folder. InputError where the folder has no
    classes, or no classifier and none is to be trained.
    """
    path = classifier_path(dataset)
    if len(dataset.classes) < 2:
        raise InputError(f"{data_dir} has no classes to train a classifier on")
    if dataset.name != "folder" or os.path.isfile(path):  # Path.is_file may raise, for a cache
        return load_classifier(path).to(device)
    if not train:
        what = f"{len(dataset.classes)} classes at {dataset.image_size} pixels"
        raise InputError(
            f"{data_dir} has no classifier of {what} yet: a run that evaluates trains one"
        )
    print(f"training a classifier of {data_dir} for the metrics, once")
    # Ten epochs, or what a small folder needs to come to enough steps.
    steps_an_epoch = max(1, len(dataset.train_images) // 128)
    epochs = max(10, math.ceil(LEAST_STEPS / steps_an_epoch))
    network = train_classifier(dataset, epochs, 0, device)
    checkpoint = pack_classifier(dataset, "folder", network)
    try:
        save_tensors(checkpoint, path)
    except InputError as error:
        say(f"warning: {error}: the next run trains the classifier again")
    return ClassifierFeatures(checkpoint).to(device)


def train_classifier(dataset: Dataset, epochs: int, seed: int, device: torch.device) -> Classifier:
    """SGD with one cycle of the learning rate, images shifted by up to 2 pixels (and mirrored)."""
    torch.manual_seed(seed)
    network = Classifier(dataset.channels, len(dataset.classes))
    network.to(device).to(memory_format=torch.channels_last)
    mirror = dataset.name != "mnist"  # a mirrored digit is none
    size = min(128, len(dataset.train_images))
    batches = Batches(dataset.train_images, dataset.train_labels, size, seed, device, mirror)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    autocast = autocast_for(device, "auto")
    for step in range(steps):
        images, labels = batches[step]
        shift = torch.randint(-2, 3, (2,)).tolist()
        with autocast():
            _, logits = network(torch.roll(images, shift, (2, 3)))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % len(batches) == 0:
            print(f"epoch {(step + 1) // len(batches)}/{epochs}  loss {loss:.3f}", flush=True)
    return network.eval()


def pack_classifier(dataset: Dataset, label: str, network: Classifier) -> dict[str, Any]:
    """Return what load_classifier reads: float16 weights, names, and the accuracy they have so."""
    checkpoint = {
        "label": label,
        "classes": list(dataset.classes),
        "channels": dataset.channels,
        "image_size": dataset.image_size,
        "accuracy": 0.0,
        "state": {
            name: value.cpu().half() if value.is_floating_point() else value.cpu()
            for name, value in network.state_dict().items()
        },
    }
    features = ClassifierFeatures(checkpoint).to(next(network.parameters()).device)
    right = 0
    for images, labels in zip(
        dataset.test_images.split(500), dataset.test_labels.split(500), strict=True
    ):
        device = features.classifier.linear.weight.device
        _, logits = features(images.to(device))
        right += int((logits.argmax(1).cpu() == labels.cpu()).sum())
    checkpoint["accuracy"] = right / len(dataset.test_labels)
    print(f"accuracy on {len(dataset.test_labels):,} test images: {checkpoint['accuracy']:.4f}")
    return checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=("mnist", "fashion_mnist", "cifar10", "folder"))
    add("--data_dir", default="data")
    add("--image_size", type=int, choices=IMAGE_SIZES, help="of a folder")
    add("--label", help="what the classifier is called (default: the data set's name)")
    add("--save_path", help="default: pretrained/classifier-DATASET.pt; of a folder, say where")
    add("--epochs", type=int, default=15)
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    args = parser.parse_args(argv)
    if not (1 <= args.epochs <= 10_000 and 0 <= args.seed < 2**63):
        raise InputError("--epochs: give 1 to 10,000; --seed: a number from 0 to 2^63 - 1")
    if args.dataset == "folder" and args.save_path is None:
        raise InputError("--dataset folder: say where its classifier goes, with --save_path")
    path = Path(args.save_path or PRETRAINED / f"classifier-{args.dataset}.pt")
    device = pick_device(args.device)
    dataset = load_dataset(args.dataset, args.data_dir, args.image_size)
    if len(dataset.classes) < 2:
        raise InputError(f"{args.data_dir} has no classes to train a classifier on")
    network = train_classifier(dataset, args.epochs, args.seed, device)
    save_tensors(pack_classifier(dataset, args.label or args.dataset, network), path)
    print(f"written to {path}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
