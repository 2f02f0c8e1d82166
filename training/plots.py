"""Plot the losses and metrics of one or more runs, and animate the samples of a run.

python -m training.plots runs/ONE runs/OTHER        # losses.png and metrics.png
"""

from support.command import InputError, exit_on_input_error

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from support.drawing import save_gif
from support.files import run_folder, writing
from support.fonts import drawable, font
from support.images import LARGE_PIXELS, opened

LOG_EVERY = 50  # steps per row of metrics.csv, which contains means over the steps
GIF_FRAMES, GIF_SIDE = 30, 1000  # limits of training.gif: frames, and pixels per side of samples
# The panels of losses.png and metrics.png: title -> column of metrics.csv -> label.
LOSSES = {
    "loss": {"d_loss": "D", "g_loss": "G"},
    "probability of real": {"d_real": "D(x)", "d_fake": "D(G(z))"},
    "Wasserstein estimate": {"wasserstein": "E f(x) - E f(G(z))"},
    "gradient penalty": {"penalty": "penalty"},
}
METRICS = {
    "FCD (lower is better)": {"fcd": "FCD"},
    "FID (lower is better)": {"fid": "FID"},
    "classifier score": {"classifier_score": "score"},
    "Inception Score": {"is": "IS"},
    "fraction in the requested class": {"class_share": "fraction"},
    "D's accuracy on held-out images": {"d_accuracy_real": "real", "d_accuracy_fake": "generated"},
    "loss on held-out images": {"test_d_loss": "D", "test_g_loss": "G"},
}
Rows = Sequence[dict[str, float]]


def read_rows(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv. Raise InputError if the file is empty or damaged."""
    path = run_folder(folder) / "metrics.csv"
    try:
        with path.open(newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a run folder") from None
    except (ValueError, TypeError, csv.Error):
        raise InputError(f"{path} is damaged: it is not a table of numbers") from None
    # matplotlib cannot place ticks for NaN or for numbers near the largest float.
    if not all("epoch" in row and all(abs(x) < 1e30 for x in row.values()) for row in rows):
        raise InputError(f"{path} is damaged: a row has no epoch, or a number is NaN or too large")
    if not rows:
        when = f"one is written every {LOG_EVERY} steps and after every epoch"
        raise InputError(f"{path} has no rows: {when}, and the run has made fewer steps")
    return rows


def run_names(runs: Sequence[str]) -> list[str]:
    """Return the names of runs for a legend. A name that the font cannot write becomes "run N"."""
    if len(runs) < 2:  # one run has no legend
        return list(runs)
    return drawable(runs, [f"run {i}" for i in range(1, len(runs) + 1)])


def plot(runs: dict[str, Rows], panels: dict[str, dict[str, str]], path: Path) -> None:
    """Draw the curves of `panels` (title: {column: label}) over the epochs into one PNG.

    `runs` are rows by name. Several runs share the panels. Then each run has a colour, and each
    curve a line style. Panels without data are skipped. If all panels are skipped, no file is
    written, and an existing file is removed.
    """
    from matplotlib.figure import Figure  # here, because this import is slow

    names = run_names(list(runs))
    # A backslash keeps matplotlib from reading a dollar sign as the start of a formula.
    runs = {name.replace("$", r"\$"): rows for name, rows in zip(names, runs.values(), strict=True)}
    columns = {name for rows in runs.values() for row in rows for name in row}
    shown = {title: curves for title, curves in panels.items() if columns & curves.keys()}
    if not shown:
        with suppress(OSError):
            path.unlink()  # because an existing plot shows other rows
        return
    across = min(3, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(5 * across, 3.6 * down), layout="constrained")
    for place, (title, curves) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(down, across, place)
        for r, (run, rows) in enumerate(runs.items()):
            for c, (name, label) in enumerate(curves.items()):
                points = [(row["epoch"], row[name]) for row in rows if name in row]
                if points:
                    x, y = np.array(points).T
                    style: Any = {"color": f"C{c}"}
                    if len(runs) > 1:
                        style = {"color": f"C{r}", "linestyle": ("-", "--", ":")[c]}
                        label = run if len(curves) == 1 else f"{run}: {label}"
                    marker = "o" if len(points) == 1 else ""
                    axes.plot(x, y, marker=marker, linewidth=1, label=label, **style)
        axes.set(xlabel="epoch", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        spans = np.array(
            [np.percentile(np.asarray(line.get_ydata()), (5, 95)) for line in axes.lines]
        )
        low, high = spans[:, 0].min(), spans[:, 1].max()
        if axes.dataLim.y1 > high + 2 * (
            high - low
        ):  # cut off a spike, so that the other values stay visible
            axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        if len(runs) > 1:  # below the panel, because a legend would hide the curves
            corner: Any = {"loc": "upper left", "bbox_to_anchor": (0, -0.18), "ncols": 2}
            axes.legend(frameon=False, fontsize="small", **corner)
        elif len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize="small")
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def draw_results(folder: Path, rows: Rows, warn: Callable[[str], None]) -> None:
    """Draw losses.png, metrics.png and training.gif of the run in `folder`."""
    for file, panels in (("losses.png", LOSSES), ("metrics.png", METRICS)):
        plot({folder.name: rows}, panels, folder / file)
    drawn = (folder / "samples").glob("epoch_*.png")
    paths = sorted((p for p in drawn if p.stem[6:].isdecimal()), key=lambda p: int(p.stem[6:]))
    few = np.linspace(0, len(paths) - 1, min(len(paths), GIF_FRAMES)).round().astype(int)
    frames = []
    for i in few:
        try:
            frames.append(captioned(paths[i]))
        except InputError as error:  # one damaged file must not prevent the other frames
            warn(f"training.gif lacks a frame: {error}")
    if frames:
        save_gif(frames, folder / "training.gif", seconds=0.2, hold=2)


def captioned(path: Path) -> Image.Image:
    """Return the image in `path` below a line with the epoch, which the file name contains.

    A large image is reduced by a whole factor.
    """
    epoch = int(path.stem.split("_")[1])
    with opened(path, LARGE_PIXELS) as full:
        image = full.reduce(math.ceil(max(full.size) / GIF_SIDE))
    frame = Image.new("RGB", (image.width, image.height + 28), "white")
    frame.paste(image, (0, 28))
    ImageDraw.Draw(frame).text((8, 3), f"epoch {epoch}", fill="black", font=font(18))
    return frame


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "training.plots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", help="folders of the runs to plot")
    parser.add_argument(
        "--save_path",
        help="folder for the plots (default: the run folder if there is only one, else .)",
    )
    args = parser.parse_args(argv)
    folders = [Path(run) for run in args.runs]
    names = run_names([str(folder) for folder in folders])
    runs: dict[str, Rows] = dict(zip(names, map(read_rows, folders), strict=True))
    out = Path(args.save_path or (folders[0] if len(folders) == 1 else "."))
    for file, panels in (("losses.png", LOSSES), ("metrics.png", METRICS)):
        plot(runs, panels, out / file)
    print(f"losses.png and, if a run was evaluated, metrics.png are in {out}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
