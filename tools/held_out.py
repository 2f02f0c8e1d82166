"""Split the training images of a data set, to tune hyperparameters without its test images.

    python tools/held_out.py runs/held_out --dataset fashion_mnist
    python cdcgan.py --dataset folder --data_dir runs/held_out --image_size 28 --features none
    python fid.py runs/held_out/test runs/RUN --dataset fashion_mnist --prdc

The new folder has train/ and test/ with one subfolder per class. test/ has 10,000 training images
that --seed draws; train/ has the others. The test images of the data set are not written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import InputError, exit_on_input_error

from data import DATASETS, Dataset, load_dataset
from support.files import new_folder


def write_split(dataset: Dataset, number: int, seed: int, path: Path) -> None:
    """Write `number` training images into path/test and the others into path/train, as PNG.

    The folder `path` is complete or absent. Raise InputError if it exists or cannot be written.
    """
    images, labels = dataset.train_images, dataset.train_labels
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed} is not between 0 and 4294967295")
    if not 1 <= number < len(images):
        raise InputError(f"--number {number} does not fit {len(images):,} training images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out = set(order[:number].tolist())
    names = [name.replace("/", "-") for name in dataset.classes] or [""]
    with new_folder(path) as folder:
        for split in ("train", "test"):
            for name in names:
                (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            split = "test" if i in held_out else "train"
            array = image.permute(1, 2, 0).squeeze(2).numpy()
            Image.fromarray(array).save(folder / split / names[label] / f"{i:05d}.png")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        default="fashion_mnist",
        help="data set to split (default: fashion_mnist)",
    )
    parser.add_argument("--data_dir", default="data", help="folder of the data set (default: data)")
    size = "resize images to this many pixels per side (default: 28 or 32; 64 for a folder)"
    parser.add_argument("--image_size", type=int, help=size)
    parser.add_argument(
        "--number", type=int, default=10_000, help="held-out images (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    args = parser.parse_args(argv)
    dataset = load_dataset(args.dataset, args.data_dir, args.image_size)
    write_split(dataset, args.number, args.seed, args.out)
    rest = len(dataset.train_images) - args.number
    print(f"{args.out}: {rest:,} training images, {args.number:,} held-out images")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
