"""Compare FCD over training time between a plain recipe and a run of cdcgan.py.

    python cdcgan.py --dataset fashion_mnist --name ours
    python benchmarks/quality.py --minutes 60 --run runs/ours --save_path quality.png

Both must train on the same machine, with the same number of threads. The plain recipe is a common
first conditional DCGAN:

- Both networks have batch norm. G gets z and a one-hot label. D gets the image and one-hot maps.
- The loss is cross-entropy without label smoothing. Adam has betas (0.5, 0.999) and learning rate
  2e-4. The recipe has no EMA.
- Training is in float32, with PIL transforms and a DataLoader.

Minutes count training without evaluation. The points of both curves are also written to a .csv
file beside the plot.
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
    """Return a generator: z and a one-hot class (B, Z + 10, 1, 1) -> images (B, 1, 28, 28)."""
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
    """Return a discriminator: image and ten one-hot class maps (B, 11, 28, 28) -> logits (B,)."""
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
    """Train the plain recipe without end; yield the generator after every step."""
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
            one_hot = F.one_hot(labels, 10).float()[:, :, None, None]
            maps = one_hot.expand(-1, -1, 28, 28)
            fake = generator(torch.cat([torch.randn(BATCH, Z, 1, 1), one_hot], dim=1))
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
    """Yield batches of uint8 images, equally many per class, from a fixed z."""
    own = torch.Generator().manual_seed(1)
    generator.eval()
    for labels in (torch.arange(number) % 10).split(500):
        z = torch.randn(len(labels), Z, 1, 1, generator=own)
        fake = generator(torch.cat([z, F.one_hot(labels, 10).float()[:, :, None, None]], dim=1))
        yield ((fake + 1) * 127.5).round().to(torch.uint8)
    generator.train()


def gaussian(batches: Iterable[Tensor], network: FeatureNetwork) -> Gaussian:
    """Return the feature statistics of batches of images, computed as in fid.py."""
    statistics = Statistics(network.dim)
    for features, _ in extract(batches, network):
        statistics.update(features)
    return statistics.gaussian()


def plain_curve(minutes: float, every: float, seed: int) -> Curve:
    """Train the plain recipe for `minutes`; return the FCD every `every` minutes."""
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
    """Return the minutes of training and the FCD, after each evaluated epoch of a run."""
    with (folder / "timing.csv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fcd"]]
    return [
        (sum(seconds[: round(float(row["epoch"]))]) / 60, float(row["fcd"]))
        for row in rows
        if float(row["epoch"]).is_integer()
    ]


def read_curves(path: Path) -> dict[str, Curve]:
    """Return the curves in a file that this command wrote, by recipe."""
    curves: dict[str, Curve] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["recipe"], []).append((float(row["minutes"]), float(row["fcd"])))
    return curves


def draw(curves: dict[str, Curve]) -> Figure:
    """Draw FCD over minutes of training."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker=".", label=name)
    axes.set(xlabel="minutes of training", ylabel="FCD", yscale="log", title="Fashion-MNIST")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="training time of the plain recipe (default: 60)"
    )
    parser.add_argument(
        "--every",
        type=float,
        default=3,
        help="minutes of training between evaluations of the plain recipe (default: 3)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the plain recipe (default: 0)")
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of cdcgan.py")
    parser.add_argument(
        "--save_path",
        type=Path,
        default=Path("quality.png"),
        help="plot to write (default: quality.png)",
    )
    args = parser.parse_args()
    for name in ("metrics.csv", "timing.csv"):
        if not (args.run / name).is_file():
            parser.error(f"--run {args.run} has no {name}: give the folder of a run of cdcgan.py")
    ours = run_curve(args.run)
    plain = plain_curve(args.minutes, args.every, args.seed)
    curves = {"cdcgan.py": ours, "plain recipe": plain}
    with args.save_path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("recipe", "minutes", "fcd"))
        for name, curve in curves.items():
            writer.writerows((name, f"{minutes:.1f}", f"{fcd:.3f}") for minutes, fcd in curve)
    draw(curves).savefig(args.save_path, dpi=100)

    best_at, best = min(plain, key=lambda point: point[1])
    reached = [minutes for minutes, distance in ours if distance <= best]
    when = f"after {reached[0]:.1f} min" if reached else "not at all"
    print(
        f"the best FCD of the plain recipe is {best:.3f}, after {best_at:.1f} min; "
        f"cdcgan.py reached this FCD {when}"
    )


if __name__ == "__main__":
    main()
