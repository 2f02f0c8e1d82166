"""Train a classifier of a data set, and choose the feature extractor of a run's metrics.

python -m training.classifier --dataset fashion_mnist --epochs 25   # writes into pretrained/
"""

from support.command import InputError, exit_on_input_error, say

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from data import DATASETS, Batches, Dataset, load_dataset
from support.device import autocast_for, pick_device
from support.download import CLASSES
from support.features import (
    PRETRAINED,
    Classifier,
    ClassifierFeatures,
    FeatureNetwork,
    classifier_path,
    find_classifier,
    load_inception,
)
from support.files import save_tensors
from support.images import IMAGE_SIZES

LEAST_STEPS = 300  # training steps of a folder's classifier


def feature_network(
    args: argparse.Namespace, dataset: Dataset, device: torch.device
) -> FeatureNetwork | None:
    """Return the feature extractor that a run's flags select, or None for --features none.

    A folder's classifier is trained on first use. Raise InputError if the feature extractor cannot
    be loaded or the data set has no classes for a classifier.
    """
    if args.features == "none":
        return None
    has_classes = dataset.name in CLASSES or len(dataset.classes) > 1
    if args.features == "inception" or (args.features is None and not has_classes):
        network = load_inception(args.inception_path).to(device)
        if args.features is None:
            print("without classes, the evaluation uses FID's Inception, which is slow on a CPU")
        return network
    return classifier_for(dataset, args.data_dir, device)


def classifier_for(
    dataset: Dataset, data_dir: str | Path, device: torch.device
) -> ClassifierFeatures:
    """Return the classifier of `dataset`. A folder's classifier is trained on first use.

    A folder's classifier is kept in the user's cache folder. Raise InputError if the folder has no
    classes.
    """
    about = (dataset.name, dataset.train_images, dataset.train_labels, dataset.classes)
    network = find_classifier(*about)
    if network is not None:
        return network.to(device)
    print(f"training a classifier of {data_dir} once, for the metrics")
    # Small folders need more than ten epochs, because an epoch has few steps.
    steps_per_epoch = max(1, len(dataset.train_images) // 128)
    epochs = max(10, math.ceil(LEAST_STEPS / steps_per_epoch))
    checkpoint = pack_classifier(dataset, "folder", train_classifier(dataset, epochs, 0, device))
    try:
        save_tensors(checkpoint, classifier_path(*about))
    except InputError as error:
        say(f"warning: {error}: the next run trains the classifier again")
    return ClassifierFeatures(checkpoint).to(device)


def train_classifier(dataset: Dataset, epochs: int, seed: int, device: torch.device) -> Classifier:
    """Train a classifier by SGD with Nesterov momentum and a one-cycle learning rate.

    All images of a batch are shifted cyclically by the same random offset of up to 2 pixels. Each
    image is also mirrored with probability 1/2, except for MNIST.
    """
    torch.manual_seed(seed)
    network = Classifier(dataset.channels, len(dataset.classes))
    network.to(device).to(memory_format=torch.channels_last)
    mirror = dataset.name != "mnist"  # because most mirrored digits are not digits
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
    """Return the checkpoint that load_classifier reads, with weights rounded to float16.

    The accuracy on the test images is measured with the rounded weights.
    """
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
        "training.classifier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="data set to classify")
    data_dir = "folder of the data set; for --dataset folder, the folder of your images"
    parser.add_argument("--data_dir", default="data", help=f"{data_dir} (default: data)")
    size = "resize images to this many pixels per side (default: 28 or 32; 64 for a folder)"
    parser.add_argument("--image_size", type=int, choices=IMAGE_SIZES, help=size)
    parser.add_argument("--label", help="name of the classifier (default: name of the data set)")
    save_path = "default: pretrained/classifier-DATASET.pt; required for --dataset folder"
    parser.add_argument("--save_path", help=f"file for the classifier ({save_path})")
    parser.add_argument(
        "--epochs", type=int, default=15, help="passes over the training images (default: 15)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random numbers (default: 0)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )
    args = parser.parse_args(argv)
    if not (1 <= args.epochs <= 10_000 and 0 <= args.seed < 2**63):
        raise InputError("--epochs must be 1 to 10,000, and --seed must be 0 to 2^63 - 1")
    if args.dataset == "folder" and args.save_path is None:
        raise InputError("--dataset folder needs --save_path, the file for the classifier")
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
