"""Draw the figures of docs/.

    python tools/make_figures.py                          # all figures, into docs/
    python tools/make_figures.py --only point_masses      # one figure

A figure in FIGURES needs neither a training run nor a data set. A figure in LOSS_FIGURES or
SAMPLE_FIGURES shows runs of tools/record_curves.py and is skipped if one of them was not trained.
The files in PICTURES are grids and an animation of samples. Two of them need a run or a folder, and
are skipped without it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.special import rel_entr
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import exit_on_input_error

import generate
from benchmarks.quality import draw, read_curves
from fid import Gaussian, frechet_distance, neighbour_radii
from support.checkpoints import SCRIPTS, load_generator
from support.drawing import save_gif
from support.features import load_features
from support.fonts import font
from support.sampling import noise, sample
from tools.record_results import recorded
from training.plots import LOSSES, Rows, captioned, plot, read_rows

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs/curves"  # folders of runs, which tools/record_curves.py trains
DEFAULT_RUN = ROOT / "runs/recorded/cdcgan.py-dataset-fashion_mnist/run"
EMOJI = ROOT / "emoji"  # the folder that tools/emoji.py writes
Array = NDArray[np.float64]
WIDTH = 6.4  # inches, 640 pixels
DATA, SAMPLES, OTHER = "#1f77b4", "#d95f02", "#333333"  # colours of real, generated, other things
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LOGITS = torch.linspace(-6, 6, 121, dtype=torch.float64)
X = np.linspace(-5, 5, 1001)
K = 3  # neighbours, as in fid.precision_recall
MODERN_RUNS = {
    "dcgan": ("dcgan.py", "k-"),
    "r3gan": (r"patch, $\gamma$ = 1", "C0-"),
    "r3gan_r1_only": (r"$\gamma$ = 1, no $R_2$", "C0--"),
    "r3gan_gamma_0.2": (r"$\gamma$ = 0.2", "C1-"),
    "r3gan_gamma_0.05": (r"$\gamma$ = 0.05", "C2-"),
    "r3gan_no_penalty": ("no penalties", "C3-"),
}


# ---- the plotted quantities ----


def normal(mean: float, std: float) -> Array:
    """Return the density of N(mean, std^2) at X."""
    return np.exp(-0.5 * ((X - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def optimal_d_curves() -> tuple[Array, Array, Array]:
    """Return a density p of data, a density q of samples, and the optimal D, at X."""
    p, q = normal(-1, 0.8), normal(1, 1.1)
    return p, q, p / (p + q)


def jsd(p: Array, q: Array) -> float:
    """Return the Jensen-Shannon divergence of probabilities p and q, (n,), which each sum to 1."""
    m = (p + q) / 2
    return float(rel_entr(p, m).sum() + rel_entr(q, m).sum()) / 2


def wasserstein(p: Array, q: Array, step: float) -> float:
    """Return the Wasserstein-1 distance of probabilities p and q on a grid with a given step."""
    return float(np.abs(np.cumsum(p - q)).sum() * step)


def distances_of_point_masses() -> tuple[Array, Array, Array]:
    """Return distances t from 0 to 2, and the JSD and W1 of point masses at 0 and at t."""
    t = np.linspace(0, 2, 41)
    masses = np.eye(len(t))  # row i: all probability at t[i]
    both = [(jsd(masses[0], q), wasserstein(masses[0], q, t[1])) for q in masses]
    divergences, w1 = np.array(both).T
    return t, divergences, w1


def losses_and_gradients(logits: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each loss of G at logits (n,), and its gradient with respect to the logit."""
    logits = logits.clone().requires_grad_()
    losses = {
        "saturating: log(1 - D)": F.logsigmoid(-logits),
        "non-saturating: -log D": -F.logsigmoid(logits),
    }
    gradients = {name: torch.autograd.grad(x.sum(), logits)[0] for name, x in losses.items()}
    return {name: (losses[name].detach(), gradients[name]) for name in losses}


def points() -> tuple[Tensor, Tensor]:
    """Return real points in two groups, and generated points that reach one group only."""
    generator = torch.Generator().manual_seed(4)

    def around(x: float, y: float, number: int) -> Tensor:
        spread = 0.75 * torch.randn(number, 2, generator=generator, dtype=torch.float64)
        return spread + torch.tensor([x, y], dtype=torch.float64)

    real = torch.cat([around(-1.8, 0, 9), around(2.8, 0, 6)])
    fake = torch.cat([around(-1.8, 0, 8), around(-4, -2.6, 2)])
    return real, fake


def inside(queries: Tensor, centres: Tensor) -> Tensor:
    """Return for each query (n, 2) whether it lies in the ball of at least one centre (m, 2)."""
    return (torch.cdist(queries, centres) < neighbour_radii(centres, K)).any(dim=1)


def ellipses() -> dict[str, tuple[Gaussian, Gaussian]]:
    """Return pairs of Gaussians in two dimensions, each with a name."""

    def gaussian(mean: Sequence[float], variances: Sequence[float]) -> Gaussian:
        cov = torch.tensor(variances, dtype=torch.float64).diag()
        return Gaussian.of(torch.tensor(mean, dtype=torch.float64), cov, None)

    circle = gaussian((0, 0), (1, 1))
    return {
        "the means differ": (circle, gaussian((3, 0), (1, 1))),
        "the spreads differ": (circle, gaussian((0, 0), (4, 0.25))),
        "the directions differ": (gaussian((0, 0), (0.25, 4)), gaussian((0, 0), (4, 0.25))),
    }


# ---- the figures ----


def optimal_d() -> Figure:
    """Draw the densities of data and samples, and the optimal D."""
    p, q, best = optimal_d_curves()
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(X, p, color=DATA, label="p, the data")
    left.plot(X, q, color=SAMPLES, label="q, samples of G")
    left.set(xlabel="x", title="two densities", ylim=(0, 0.68))
    left.legend(frameon=False, loc="upper right")
    right.plot(X, best, color=OTHER)
    right.axhline(0.5, color="0.7", linewidth=0.8, linestyle="--")
    right.set(xlabel="x", title="the optimal D(x) = p(x) / (p(x) + q(x))", ylim=(-0.03, 1.03))
    return figure


def generator_losses() -> Figure:
    """Draw both losses of G and their gradients over the logit."""
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = (SAMPLES, DATA)
    for colour, (name, curves) in zip(colours, losses_and_gradients(LOGITS).items(), strict=True):
        for axes, values in zip((left, right), curves, strict=True):
            axes.plot(LOGITS, values, color=colour, label=name)
    left.set(title="loss of G", xlabel="logit of G(z)")
    right.set(title="gradient with respect to the logit", xlabel="logit of G(z)", ylim=(-1.3, 0.1))
    left.legend(frameon=False)
    right.annotate("D is sure that\nG(z) is generated", (-5.9, -1.27), color="0.4")
    for axes in (left, right):
        axes.axvspan(-6, -3, color="0.93", zorder=0)
        axes.set_xlim(-6, 6)
    return figure


def point_masses() -> Figure:
    """Draw the JSD and the Wasserstein-1 distance of two point masses over their distance."""
    t, divergences, w1 = distances_of_point_masses()
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for x, colour, name in ((0, DATA, "data"), (1.4, SAMPLES, "samples")):
        left.plot([x, x], [0, 1], color=colour, linewidth=3)
        left.text(x, 1.04, name, ha="center", color=colour)
    left.annotate("", (1.4, 0.45), (0, 0.45), arrowprops={"arrowstyle": "<->", "color": OTHER})
    left.text(0.7, 0.5, "t", ha="center")
    left.set(xlim=(-0.5, 2), ylim=(0, 1.25), xlabel="x", ylabel="probability", yticks=[0, 1])
    left.set_title("two point masses")
    right.plot(t, w1, color=OTHER, label="W1 = t")
    right.plot(t[1:], divergences[1:], color="#7b3294", label="JSD = log 2, but 0 at t = 0")
    right.plot(t[:1], divergences[:1], "o", color="#7b3294", markersize=4, clip_on=False)
    right.set(xlabel="t", title="distance of data and samples", xlim=(0, 2), ylim=(0, 2))
    right.legend(frameon=False)
    return figure


def box(axes: Axes, x: float, y: float, text: str, colour: str = "white") -> None:
    """Write text in a box around (x, y)."""
    style = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": OTHER}
    axes.text(x, y, text, ha="center", va="center", bbox=style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow from start to end."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": OTHER})


def class_in_d() -> Figure:
    """Draw two ways to give D the class y: concatenation and projection."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, title in ((left, "concatenation"), (right, "projection")):
        axes.set(xlim=(0, 10), ylim=(0, 10), title=title)
        axes.set_axis_off()
    image, label, network = "#deebf7", "#fee6ce", "#eeeeee"
    box(left, 2.4, 9, "image x\n1 x 28 x 28", image)
    box(left, 7.4, 9, "class y as maps\n10 x 28 x 28", label)
    box(left, 5, 6.4, "together: 11 x 28 x 28")
    box(left, 5, 3.8, "layers of D", network)
    box(left, 5, 1.2, "logit")
    arrow(left, (2.4, 8.1), (4.2, 7.1))
    arrow(left, (7.4, 8.1), (5.8, 7.1))
    arrow(left, (5, 5.7), (5, 4.5))
    arrow(left, (5, 3.1), (5, 1.9))
    box(right, 2.6, 9, "image x\n1 x 28 x 28", image)
    box(right, 2.6, 6.4, "layers of D", network)
    box(right, 2.6, 3.8, "features f(x)")
    box(right, 7.8, 6.4, "class y\none number", label)
    box(right, 7.8, 3.8, "vector e(y)\nas long as f(x)", label)
    box(right, 5, 1.2, "logit = w·f(x) + b + e(y)·f(x)")
    for start, end in (((2.6, 8.1), (2.6, 7.1)), ((2.6, 5.7), (2.6, 4.5))):
        arrow(right, start, end)
    arrow(right, (7.8, 5.5), (7.8, 4.7))
    arrow(right, (2.6, 3.1), (3.8, 1.9))
    arrow(right, (7.8, 2.9), (6.6, 1.9))
    return figure


def precision_recall() -> Figure:
    """Draw the balls of precision (around real points) and of recall (around generated points)."""
    real, fake = points()
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    kinds = {"real": (real, DATA), "generated": (fake, SAMPLES)}
    for axes, metric, of, among in zip(
        panels, ("precision", "recall"), ("real", "generated"), ("generated", "real"), strict=True
    ):
        (centres, colour), (queries, other) = kinds[of], kinds[among]
        for centre, radius in zip(centres.tolist(), neighbour_radii(centres, K), strict=True):
            axes.add_patch(Circle((centre[0], centre[1]), float(radius), color=colour, alpha=0.12))
        axes.plot(*centres.T, ".", color=colour, label=of)
        hit = inside(queries, centres)
        axes.plot(*queries[hit].T, "o", color=other, label=f"{among}, in a ball")
        style = {"markerfacecolor": "white", "color": other}
        axes.plot(*queries[~hit].T, "o", label=f"{among}, outside", **style)
        axes.set(title=f"{metric}: {int(hit.sum())} of {len(hit)} {among} points", aspect="equal")
        axes.set(xticks=[], yticks=[], xlim=(-6.5, 5.5), ylim=(-5.4, 4.6))
        axes.legend(frameon=False, loc="upper left", fontsize=8, handletextpad=0.1)
    return figure


def frechet() -> Figure:
    """Draw pairs of Gaussians as ellipses, each with its Frechet distance."""
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, pair) in zip(panels, ellipses().items(), strict=True):
        for gaussian, colour in zip(pair, (DATA, SAMPLES), strict=True):
            x, y = gaussian.mean.tolist()
            width, height = (2 * gaussian.cov.diag().sqrt()).tolist()
            shape = Ellipse((x, y), width, height, facecolor="none", edgecolor=colour)
            axes.add_patch(shape)
            axes.plot(x, y, "+", color=colour)
        d2 = frechet_distance(*pair)
        axes.set(title=f"{name}\n$d^2$ = {d2:.2f}", aspect="equal", xlim=(-2.5, 4.5))
        axes.set(ylim=(-2.5, 2.5))
    return figure


def show(axes: Axes, images: Tensor, across: int, title: str) -> None:
    """Draw images (N, 1, H, W) in a grid with `across` images per row."""
    number, _, height, width = images.shape
    rows = images.view(number // across, across, height, width)
    grid = rows.transpose(1, 2).reshape(-1, across * width)
    axes.imshow(grid.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


def four() -> Figure:
    """Draw samples of the pretrained generators of the four scripts."""
    figure = Figure(figsize=(WIDTH, 1.6), layout="constrained")
    for axes, script in zip(figure.subplots(1, len(SCRIPTS)), SCRIPTS, strict=True):
        generator, checkpoint = load_generator(ROOT / f"pretrained/{script}-fashion_mnist.pt")
        args = checkpoint["generator_args"]
        labels = torch.arange(20) % 10 if "num_classes" in args else None
        show(axes, sample(generator, noise(20, args["z_dim"], seed=0), labels), 5, f"{script}.py")
    return figure


def unsure() -> Figure:
    """Draw samples of the pretrained dcgan.py to which the classifier gives two classes."""
    generator, checkpoint = load_generator(ROOT / "pretrained/dcgan-fashion_mnist.pt")
    network = load_features("classifier", "fashion_mnist")
    images = sample(generator, noise(1000, checkpoint["generator_args"]["z_dim"], seed=0))
    probabilities = network(images)[1].softmax(dim=1)
    second = probabilities.topk(2).values[:, 1]
    chosen = second.argsort(descending=True)[:6]
    figure = Figure(figsize=(WIDTH, 1.7), layout="constrained")
    for axes, i in zip(figure.subplots(1, len(chosen)), chosen, strict=True):
        top = probabilities[i].topk(2)
        pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        lines = (f"{checkpoint['classes'][c] or c} {p:.0%}" for p, c in pairs)
        show(axes, images[i : i + 1], 1, "\n".join(lines))
    return figure


def two_sets() -> Figure:
    """Draw a set of clean samples without variety, and a varied set of noisy samples."""
    generator, checkpoint = load_generator(ROOT / "pretrained/cdcgan-fashion_mnist.pt")
    z_dim, labels = checkpoint["generator_args"]["z_dim"], torch.arange(5).repeat_interleave(5) * 2
    z = noise(25, z_dim, seed=2)
    varied = sample(generator, z, labels)
    same = sample(generator, z[:1].expand(25, z_dim), labels)
    grain = 45 * torch.randn(varied.shape, generator=torch.Generator().manual_seed(0))
    noisy = (varied + grain).clamp(0, 255).to(torch.uint8)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    show(left, same, 5, "clean images, one per class")
    show(right, noisy, 5, "varied images with noise")
    return figure


def modern_baseline() -> Figure:
    """Draw the recorded FCD of dcgan.py and of the patch r3gan over their runs (exercise 11)."""
    records = {run["name"]: run for run in recorded(ROOT / "docs/curves.jsonl")}
    for run in recorded():
        if run["command"] == "python dcgan.py --dataset fashion_mnist --epochs 30":
            records["dcgan"] = run
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    for name, (label, style) in MODERN_RUNS.items():
        values = records[name]["fcd_per_epoch"]
        parts = np.arange(1, len(values) + 1) / len(values)
        axes.plot(parts, values, style, label=label, linewidth=1.2)
    axes.set(xlabel="part of the run", ylabel="FCD", xlim=(0, 1), ylim=(0, 3.2))
    axes.set_title("Fashion-MNIST, seed 0")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def quality() -> Figure:
    """Draw FCD of cdcgan.py and of the plain recipe over the minutes of training."""
    return draw(read_curves(ROOT / "docs/quality.csv"))


FIGURES: dict[str, Callable[[], Figure]] = {
    "optimal_d": optimal_d,
    "generator_losses": generator_losses,
    "four": four,
    "unsure": unsure,
    "class_in_d": class_in_d,
    "point_masses": point_masses,
    "two_sets": two_sets,
    "frechet": frechet,
    "precision_recall": precision_recall,
    "modern_baseline": modern_baseline,
    "quality": quality,
}


# Curves of the losses of runs: figure -> name in the figure -> run.
LOSS_FIGURES = {
    "failures": {"healthy": "healthy", "D wins": "d_wins", "G too fast": "g_too_fast"},
    "oscillation": {"beta1 0.5": "no_ema", "beta1 0.9": "momentum"},
    "smoothing": {
        "healthy": "healthy",
        "no smoothing": "no_smoothing",
        "5 % label noise": "little_label_noise",
        "30 % label noise": "label_noise",
    },
    "wasserstein": {"n_critic 5": "five_critic_steps"},
}
# The last samples of runs: figure -> pixels (width, height) -> name in the figure -> run.
SAMPLE_FIGURES = {
    "failed_samples": (
        (234, 234),
        {
            "healthy": "healthy",
            "D wins": "d_wins",
            "G too fast": "g_too_fast",
            "both rates too high": "rates_too_high",
            "beta1 0.9": "momentum",
        },
    ),
    "saturating": ((234, 118), {"-log D(G(z))": "strong_d", "log(1 - D(G(z)))": "saturating"}),
    "batchnorm": ((292, 176), {"two calls of D": "separate_batches", "one call": "mixed_batch"}),
}


def draw_samples(size: tuple[int, int], runs: dict[str, str], path: Path) -> None:
    """Draw the top left corner of the last samples of `runs` (name: run) beside each other."""
    gap, title, (width, height) = 14, 26, size
    across = len(runs) * (width + gap) + gap
    canvas = Image.new("RGB", (across, height + title + 2 * gap), "white")
    for i, (name, run) in enumerate(runs.items()):
        left = gap + i * (width + gap)
        ImageDraw.Draw(canvas).text((left, gap), name, fill="black", font=font(16))
        *_, last = sorted((RUNS / run / "samples").glob("epoch_*.png"))
        with Image.open(last) as samples:
            canvas.paste(samples.crop((0, 0, width, height)), (left, gap + title))
    canvas.save(path, optimize=True)


def draw_training(path: Path) -> None:
    """Draw twelve frames of the default run's samples, six per class, as an animation."""
    paths = sorted((DEFAULT_RUN / "samples").glob("epoch_*.png"))
    chosen = np.linspace(0, len(paths) - 1, 12).round().astype(int)
    frames = (captioned(paths[i]) for i in chosen)
    save_gif((f.crop((0, 0, 445, f.height)) for f in frames), path, seconds=0.4, hold=2)


def draw_samples_of(argv: Sequence[str], path: Path) -> None:
    """Draw what generate.py draws with `argv`, as PNG or JPEG."""
    drawn = path.with_suffix(".png")
    generate.main([*argv, "--save_path", str(drawn)])
    if path != drawn:
        Image.open(drawn).save(path, quality=85)
        drawn.unlink()


EMOJI_GENERATOR = ["--load_path", str(ROOT / "pretrained/cdcgan-emoji.pt")]
EMOJI_NEIGHBOURS = [*EMOJI_GENERATOR, "--neighbours", "6", "--data_dir", str(EMOJI)]
# Pictures of samples, and what some of them need: a folder, and the command that makes it.
PICTURES: dict[str, Callable[[Path], None]] = {
    "fashion_mnist.png": partial(draw_samples_of, []),
    "emoji.jpg": partial(draw_samples_of, [*EMOJI_GENERATOR, "--grid_size", "10"]),
    "emoji_neighbours.jpg": partial(draw_samples_of, EMOJI_NEIGHBOURS),
    "training.gif": draw_training,
}
NEEDED = {
    "emoji_neighbours.jpg": (EMOJI, "tools/emoji.py PACKAGE emoji"),
    "training.gif": (DEFAULT_RUN, "tools/record_results.py cdcgan.py --dataset fashion_mnist"),
}


def write(name: str, folder: Path) -> Path:
    """Draw the figure `name` into `folder`. A PNG of a plot has a palette of 64 colours."""
    if name in PICTURES:
        PICTURES[name](folder / name)
        return folder / name
    path = folder / f"{name}.png"
    if name in LOSS_FIGURES:
        rows: dict[str, Rows] = {
            title: read_rows(RUNS / run) for title, run in LOSS_FIGURES[name].items()
        }
        plot(rows, LOSSES, path)
    elif name in SAMPLE_FIGURES:
        draw_samples(*SAMPLE_FIGURES[name], path)
    else:
        with matplotlib.rc_context(STYLE):
            FIGURES[name]().savefig(path, format="png", dpi=100)
    image = Image.open(path).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def command_before(name: str) -> str:
    """Return the command that makes what the figure `name` needs, or "" if nothing is missing."""
    folder, command = NEEDED.get(name, (ROOT, ""))
    if not folder.is_dir():
        return command
    runs = LOSS_FIGURES.get(name, {})
    if name in SAMPLE_FIGURES:
        _, runs = SAMPLE_FIGURES[name]
    # A run writes training.gif at its end.
    absent = [run for run in runs.values() if not (RUNS / run / "training.gif").is_file()]
    return " ".join(["tools/record_curves.py", *absent]) if absent else ""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*FIGURES, *LOSS_FIGURES, *SAMPLE_FIGURES, *PICTURES]
    one = f"draw one figure: {', '.join(names)}"
    parser.add_argument("--only", choices=names, metavar="NAME", help=one)
    parser.add_argument(
        "--out_dir", type=Path, default=ROOT / "docs", help="folder for the files (default: docs/)"
    )
    args = parser.parse_args(argv)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else names:
        if command := command_before(name):
            print(f"{name} is skipped: run {command} first")
            continue
        path = write(name, args.out_dir)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
