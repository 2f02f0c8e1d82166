"""Load a feature extractor for the metrics: FID's Inception network or a data set's classifier.

    network = load_features("classifier", dataset="fashion_mnist")
    features, logits = network(images)     # uint8 (N, C, H, W) -> float32 (N, 128), (N, 10)

FID is defined with one particular Inception v3 (Heusel et al., 2017, arXiv:1706.08500). The weights
are a download of 96 MB, and the network takes minutes on a CPU. Inception was trained on large
photographs, which differ much from images of 28 x 28 or 32 x 32 pixels. Therefore each published
data set has a small classifier in pretrained/, trained on the data set. A value measured with a
classifier is comparable only with values of the same classifier, and is never called FID or IS.

training/classifier.py trains these classifiers.
"""

from support.command import InputError

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from support.device import autocast_for
from support.download import download
from support.files import load_tensors, user_cache
from support.images import IMAGE_SIZES, to_float

FEATURES = ("classifier", "inception")
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PRETRAINED = Path(__file__).parent.parent / "pretrained"


# ---- FID's Inception ----


def last_block(block: Any, x: Tensor) -> list[Tensor]:
    """Compute Inception's last block, in which max pooling replaces average pooling."""
    branches = type(block)._forward(block, x)
    return [*branches[:-1], block.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


def leave_padding_out(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Correct the averages over 3 x 3 pixels before a pooling branch's convolution, as a hook.

    torchvision's averages count the padding zeros as pixels. The hook divides each average by the
    fraction of real pixels in the window. The result is the average over the real pixels.
    """
    (means,) = inputs
    fraction = F.avg_pool2d(means.new_ones(1, 1, *means.shape[2:]), 3, stride=1, padding=1)
    return means / fraction


def build_inception() -> Any:
    """Build FID's Inception v3, untrained: torchvision's, with other pooling and 1008 logits.

    The published weights are a port of TensorFlow's network of 2015-12-05. Average pooling in that
    network leaves the padding out, and the last block uses max pooling.
    """
    from torchvision.models import Inception3  # here, because the import is slow

    network: Any = Inception3(1008, aux_logits=False, init_weights=False)
    network.Mixed_7c._forward = MethodType(last_block, network.Mixed_7c)
    for name, block in network.named_children():
        if hasattr(block, "branch_pool") and name != "Mixed_7c":
            block.branch_pool.register_forward_pre_hook(leave_padding_out)
    return network


class InceptionFeatures(nn.Module):
    """Map images uint8 (N, C, H, W) to float32 pool features (N, 2048) and logits (N, 1008).

    All images are resized to 299 x 299 (bilinear without antialiasing, as in pytorch-fid), scaled
    to [-1, 1] and expanded to RGB. The logits have no bias (as in Salimans et al.'s code).
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
            if isinstance(getattr(module, "bn", None), nn.BatchNorm2d):
                # In eval mode, batch norm is a factor and a shift. Fold both into the convolution.
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)
        self.cast: dict[torch.dtype, nn.Module] = {}

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        kind = images.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        # On a CPU, parts of eight images are a quarter faster, because the output of a layer fits
        # into the cache. A GPU computes the whole batch at once.
        parts = checked(images).split(8 if kind == "cpu" else max(1, len(images)))
        with torch.autocast(kind, enabled=False):
            network = self.in_dtype(dtype)
            features = torch.cat([network(self.prepared(x).to(dtype)).float() for x in parts])
            return features, features @ self.class_weights.T

    def prepared(self, images: Tensor) -> Tensor:
        """Convert uint8 (N, C, H, W) to float32 (N, 3, 299, 299) in [-1, 1].

        A grey image is resized before the expansion to three channels, so only once.
        """
        x = images.to(memory_format=torch.channels_last).float() / 255
        x = 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1
        return rgb(x).contiguous(memory_format=torch.channels_last)

    def in_dtype(self, dtype: torch.dtype) -> nn.Module:
        """Return the network in `dtype`, cast once. autocast would cast frozen weights per call."""
        if dtype == torch.float32:
            return self.network
        if dtype not in self.cast:
            self.cast[dtype] = copy.deepcopy(self.network).to(dtype)
        return self.cast[dtype]


def checked(images: Tensor) -> Tensor:
    """Return `images`. Raise InputError unless they are uint8 (N, C, H, W) with C = 1 or 3."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"images of shape {tuple(images.shape)} and {images.dtype}: features are defined for "
            "uint8 (N, C, H, W) in [0, 255] with 1 or 3 channels (support/images.py has to_uint8)"
        )
    return images


def rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def load_inception(path: str | Path | None = None) -> InceptionFeatures:
    """Load FID's Inception with the published weights, from `path` or downloaded once.

    A download is verified by the SHA-256, a file `path` by the names and shapes of the tensors.
    Batch norm's counters may be missing. No other tensor may be missing or superfluous.
    """
    if path is None:
        path = user_cache() / INCEPTION_URL.rsplit("/", 1)[1]
        if not os.path.isfile(path):  # Path.is_file() raises if the cache may not be entered
            fetch_inception(path)
    try:
        state = load_tensors(path)
    except OSError as error:
        raise InputError(f"--inception_path {path} cannot be read ({error.strerror})") from None
    except Exception:  # a damaged file makes torch raise any error, and advise weights_only=False
        refused = "it is damaged, or holds more than tensors"
        raise InputError(f"{path} is refused as FID's Inception weights: {refused}") from None
    try:
        counters = {
            k: v for k, v in build_inception().state_dict().items() if k.endswith("tracked")
        }
        return InceptionFeatures({**counters, **state})
    except Exception as error:  # the weights are of another network
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} does not hold FID's Inception weights: {reason}") from None


def fetch_inception(path: Path) -> None:
    def verify(unfinished: Path) -> None:
        if hashlib.sha256(unfinished.read_bytes()).hexdigest() != INCEPTION_SHA256:
            raise InputError("wrong checksum")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(INCEPTION_URL, path, verify)
    except Exception as error:  # no network, no such page, a full disk
        raise InputError(
            f"FID's Inception weights cannot be fetched from {INCEPTION_URL} ({error}): "
            "give the file as --inception_path, or use --features classifier for data with classes"
        ) from None


# ---- a data set's own classifier ----


class Classifier(nn.Module):
    """Map images (N, channels, H, W) in [-1, 1] to features (N, 128), logits (N, num_classes)."""

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
    """Map uint8 (N, C, H, W) to features (N, 128) and class logits of a data set's classifier.

    Images of another size are resized (bilinear, antialiased when shrinking). If the classifier
    expects colour, a grey channel is repeated. If it expects grey, colour channels are averaged.
    """

    dim, score, distance = 128, "classifier score", "FCD"

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        super().__init__()
        self.classes = tuple(checkpoint["classes"])
        if not all(isinstance(name, str) for name in self.classes):
            raise ValueError("the name of a class is not text")
        self.channels, self.image_size = checkpoint["channels"], checkpoint["image_size"]
        if self.channels not in (1, 3) or self.image_size not in IMAGE_SIZES:
            raise ValueError(f"{self.channels} channels, {self.image_size} pixels")
        self.accuracy = checkpoint["accuracy"]
        self.classifier = Classifier(self.channels, len(self.classes))
        state = {name: value.float() for name, value in checkpoint["state"].items()}
        self.classifier.load_state_dict(state)
        # Values of two classifiers with the same label are not comparable. The hash of the weights
        # in the name distinguishes the classifiers.
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
    """Yield features (B, d) and logits (B, K), float32 on the device of the network.

    Each pair belongs to one batch of uint8 images.
    """
    device = next(network.buffers()).device
    autocast = autocast_for(device, precision)
    for images in batches:
        # With TF32, a GPU's convolutions would use only 10 of the 23 mantissa bits of float32.
        with autocast(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features, logits = network(images.to(device))
        yield features, logits


def load_classifier(path: Path) -> ClassifierFeatures:
    """Load a classifier's checkpoint. Raise InputError if the file is missing or something else."""
    if not os.path.isfile(path):
        raise InputError(f"there is no classifier {path}: use --features inception")
    try:
        return ClassifierFeatures(load_tensors(path))
    except Exception:  # a damaged file can raise any error
        raise InputError(f"{path} is not a classifier's checkpoint, or is damaged") from None


def load_features(
    kind: str,
    dataset: str | None = None,
    device: torch.device | str = "cpu",
    inception_path: str | Path | None = None,
) -> FeatureNetwork:
    """Return the feature extractor `kind`: "inception", or the "classifier" of `dataset`."""
    if kind == "inception":
        return load_inception(inception_path).to(device)
    if dataset is None:
        raise InputError("which classifier? name the data set with --dataset")
    return load_classifier(PRETRAINED / f"classifier-{dataset}.pt").to(device)


def classifier_path(name: str, images: Tensor, labels: Tensor, classes: Sequence[str]) -> Path:
    """Return the path of a data set's classifier.

    For a folder, the file name contains a hash of the training set and of the class names.
    """
    if name != "folder":
        return PRETRAINED / f"classifier-{name}.pt"
    key = hashlib.sha256(repr((images.shape, tuple(classes))).encode())
    for whole in (images, labels):
        for part in whole.split(256):  # in parts, because the images may not fit into memory
            key.update(part.contiguous().numpy().data)
    return user_cache() / f"classifier-{key.hexdigest()[:16]}.pt"


def find_classifier(
    name: str, images: Tensor, labels: Tensor, classes: Sequence[str]
) -> ClassifierFeatures | None:
    """Return a data set's classifier, or None for a folder whose classifier is not trained yet.

    Raise InputError for a folder without classes.
    """
    if name == "folder" and len(classes) < 2:
        raise InputError("a folder without classes has no classifier: use --features inception")
    path = classifier_path(name, images, labels, classes)
    if name == "folder" and not os.path.isfile(path):  # Path.is_file() may raise for the cache
        return None
    return load_classifier(path)


def require_classifier(
    name: str, images: Tensor, labels: Tensor, classes: Sequence[str], data_dir: str | Path
) -> ClassifierFeatures:
    """Return a data set's classifier. Raise InputError if a folder's classifier is missing."""
    network = find_classifier(name, images, labels, classes)
    if network is None:
        what = f"{len(classes)} classes at {images.shape[-1]} pixels"
        raise InputError(
            f"{data_dir} has no classifier of {what} yet: a training run with evaluation trains one"
        )
    return network
