"""Quality over time: the plain recipe against a run of cdcgan.py on the same machine.

    python cdcgan.py --dataset fashion_mnist --epochs 50 --name ours
    python benchmarks/quality.py --minutes 60 --run runs/ours --save_path quality.png

Plain is what a first conditional DCGAN does: batch norm in both networks, one-hot labels beside z
and as maps beside the image, cross-entropy without smoothing, Adam (0.5, 0.999) at 2e-4, no average
of G, float32, images through PIL transforms and a DataLoader. Minutes are of training alone, for
both. Beside the picture goes a .csv with the plain recipe's points, which --plain takes another
time instead of training it again.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.speed import PlainDataset
from data import Dataset, load_dataset
from fid import Gaussian, Statistics, frechet_distance
from support.features import FeatureNetwork, extract, load_features

BATCH, Z = 128, 100
Curve = list[tuple[float, float]]  # minutes, FCD


def plain_generator() -> nn.Sequential:
    """z and a one-hot class (B, Z + 10, 1, 1) -> images (B, 1, 28, 28) in [-1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(Z + 10, 128, 7, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, 2, 1),
        nn.Tanh(),
    )


def plain_discriminator() -> nn.Sequential:
    """An image and ten maps of its one-hot class (B, 11, 28, 28) -> logits (B,)."""
    return nn.Sequential(
        nn.Conv2d(11, 64, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 4, 2, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 1, 7),
        nn.Flatten(0),
    )


def train_plainly(data: Dataset, seed: int) -> Iterator[nn.Sequential]:
    """Train for ever; the generator after every step."""
    torch.manual_seed(seed)
    generator, discriminator = plain_generator(), plain_discriminator()
    for network in (generator, discriminator):
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0.0, 0.02)
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))
        for network in (generator, discriminator)
    )
    images = PlainDataset(data.train_images, data.train_labels)
    bce, ones, zeros = F.binary_cross_entropy_with_logits, torch.ones(BATCH), torch.zeros(BATCH)
    while True:
        for real, labels in DataLoader(images, BATCH, shuffle=True, drop_last=True):
            given = F.one_hot(labels, 10).float()[:, :, None, None]
            maps = given.expand(-1, -1, 28, 28)
            fake = generator(torch.cat([torch.randn(BATCH, Z, 1, 1), given], dim=1))
            opt_d.zero_grad()
            bce(discriminator(torch.cat([real, maps], dim=1)), ones).backward()
            bce(discriminator(torch.cat([fake.detach(), maps], dim=1)), zeros).backward()
            opt_d.step()
            opt_g.zero_grad()
            bce(discriminator(torch.cat([fake, maps], dim=1)), ones).backward()
            opt_g.step()
            yield generator


@torch.no_grad()
def samples(generator: nn.Sequential, number: int = 10_000) -> Iterator[Tensor]:
    """Batches of uint8 images, each class as often, from z of their own."""
    own = torch.Generator().manual_seed(1)
    generator.eval()
    for labels in (torch.arange(number) % 10).split(500):
        z = torch.randn(len(labels), Z, 1, 1, generator=own)
        fake = generator(torch.cat([z, F.one_hot(labels, 10).float()[:, :, None, None]], dim=1))
        yield ((fake + 1) * 127.5).round().to(torch.uint8)
    generator.train()


def gaussian(batches: Iterable[Tensor], network: FeatureNetwork) -> Gaussian:
    """Return the statistics of batches of images, as fid.py computes them."""
    statistics = Statistics(network.dim)
    for features, _ in extract(batches, network):
        statistics.update(features)
    return statistics.gaussian()


def plain_curve(minutes: float, every: float, seed: int) -> Curve:
    data = load_dataset("fashion_mnist")
    network = load_features("classifier", "fashion_mnist")
    real = gaussian(data.test_images.split(500), network)
    curve: Curve = []
    trained, began = 0.0, time.perf_counter()
    for generator in train_plainly(data, seed):
        trained += time.perf_counter() - began
        if trained >= 60 * min(minutes, every * (len(curve) + 1)):
            distance = frechet_distance(real, gaussian(samples(generator), network))
            curve.append((trained / 60, distance))
            print(f"{trained / 60:6.1f} min  FCD {distance:.3f}", flush=True)
            if trained >= 60 * minutes:
                break
        began = time.perf_counter()
    return curve


def run_curve(folder: Path) -> Curve:
    """Of a run of ours: FCD over the minutes of its epochs, evaluation left out."""
    with (folder / "timing.csv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fcd"]]
    return [
        (sum(seconds[: round(float(row["epoch"]))]) / 60, float(row["fcd"]))
        for row in rows
        if float(row["epoch"]).is_integer()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="to train the plain recipe")
    parser.add_argument("--every", type=float, default=3, help="minutes between its evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", type=Path, help="its points, of an earlier time on this machine")
    parser.add_argument("--run", type=Path, required=True, help="a run of cdcgan.py to compare")
    parser.add_argument("--save_path", type=Path, default=Path("quality.png"))
    args = parser.parse_args()
    ours = run_curve(args.run)
    if args.plain:
        with args.plain.open() as file:
            plain = [(float(row["minutes"]), float(row["fcd"])) for row in csv.DictReader(file)]
    else:
        plain = plain_curve(args.minutes, args.every, args.seed)
    with args.save_path.with_suffix(".csv").open("w", newline="") as file:
        rows = [(f"{minutes:.1f}", f"{distance:.3f}") for minutes, distance in plain]
        csv.writer(file).writerows([("minutes", "fcd"), *rows])

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in (("cdcgan.py", ours), ("plain recipe", plain)):
        axes.plot(*zip(*curve, strict=True), marker=".", label=name)
    axes.set(xlabel="minutes of training", ylabel="FCD", yscale="log", title="Fashion-MNIST")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(args.save_path, dpi=120)

    best_at, best = min(plain, key=lambda point: point[1])
    reached = [minutes for minutes, distance in ours if distance <= best]
    sooner = f"after {reached[0]:.1f} min" if reached else "not at all"
    print(
        f"the plain recipe's best is {best:.3f}, after {best_at:.1f} min; cdcgan.py had it {sooner}"
    )


if __name__ == "__main__":
    main()
