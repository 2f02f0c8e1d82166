"""Write the measurements of a run to metrics.csv, timing.csv and TensorBoard's file."""

from support.command import InputError, say, shown

import csv
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from support.files import writing
from training.events import EventsFile

# Warn if D classifies more than 99.5 % of real and of generated images correctly for 500 steps.
D_WON_FRACTION, D_WON_STEPS = 0.995, 500
# Name of a logged value -> tag in TensorBoard. A value without a tag here keeps the name.
TAGS = {
    "d_loss": "loss/discriminator",
    "g_loss": "loss/generator",
    "d_real": "discriminator/D(x)",
    "d_fake": "discriminator/D(G(z)) before D's update",
    "d_fake_after": "discriminator/D(G(z)) after D's update",
    "d_right_real": "discriminator/accuracy on real images",
    "d_right_fake": "discriminator/accuracy on generated images",
    "wasserstein": "critic/Wasserstein estimate",
    "penalty": "critic/gradient penalty",
    "fcd": "metrics/FCD",
    "fid": "metrics/FID",
    "classifier_score": "metrics/classifier score",
    "is": "metrics/Inception Score",
    "class_share": "metrics/fraction in the requested class",
    "d_accuracy_real": "held out/D's accuracy on real images",
    "d_accuracy_fake": "held out/D's accuracy on generated images",
    "test_d_loss": "held out/discriminator loss",
    "test_g_loss": "held out/generator loss",
}


class Record:
    """Collect the measurements of a run, and write them to metrics.csv and TensorBoard's file.

    `window` holds the values of the steps since the last row, one tensor (names,) float32 per step,
    on the device. The values are read when a row is made, so that no step waits for the device.
    `rows` holds the means over each window.
    """

    def __init__(self, folder: Path, script: str) -> None:
        self.folder, self.script = folder, script
        self.rows: list[dict[str, float]] = []
        self.names: list[str] = []
        self.window: list[Tensor] = []
        self.warned: set[str] = set()

    def open(self, step: int) -> None:
        """Open TensorBoard's file, which hides records of later steps in older files."""
        self.events = EventsFile(self.folder, purge_step=step + 1)

    def end_window(self, step: int, epoch: float) -> None:
        """Turn the window into a row of metrics.csv and points in TensorBoard."""
        row = self.window_row(step, epoch)
        self.rows.append(row)
        self.window = []
        self.scalars({name: row[name] for name in self.names}, step)
        recent = [row for row in self.rows if row["step"] > step - D_WON_STEPS]
        accuracy = [min(row.get("d_right_real", 0), row.get("d_right_fake", 0)) for row in recent]
        if step >= D_WON_STEPS and min(accuracy) > D_WON_FRACTION:
            self.warn(
                f"D has won: for {D_WON_STEPS} steps, D classified more than {D_WON_FRACTION:.1%} "
                "of real and of generated images correctly, so G learns little; try a lower "
                "--lr_d, --dropout or --label_noise, or fewer updates of D per update of G"
            )

    def window_row(self, step: int, epoch: float) -> dict[str, float]:
        """Return the means over the window as a row of metrics.csv."""
        means = self.finite_window(step).double().mean(dim=0).tolist()
        return {"step": step, "epoch": epoch} | dict(zip(self.names, means, strict=True))

    def finite_window(self, step: int) -> Tensor:
        """Return the window, float32 (steps, names), on the CPU.

        Raise InputError if a value is not finite.
        """
        values = torch.stack(self.window).cpu() if self.window else torch.zeros(0, len(self.names))
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            at, which = wrong[0].tolist()
            first = step - len(values) + at + 1
            self.diverged(f"{self.names[which]} became {values[at, which]:.0f} at step {first:,}")
        return values

    def diverged(self, what: str) -> None:
        """Raise InputError with `what` is not finite and the command that starts again."""
        kept = f"{self.folder / 'last.pt'} is intact, from an earlier step"
        again = f"{self.script}.py --config {shlex.quote(str(self.folder / 'config.json'))}"
        raise InputError(
            f"{what}; {kept}; start again with lower learning rates or in float32: "
            f"python {again} --lr_g ... --lr_d ... or --precision fp32"
        )

    def measured(self, metrics: dict[str, float], step: int) -> None:
        """Add the metrics of an evaluation to the last row."""
        self.rows[-1] |= metrics
        self.scalars(metrics, step)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.events.add_scalar(TAGS.get(name, name), value, step)

    def image(self, tag: str, grid: Image.Image, step: int) -> None:
        self.events.add_image(tag, np.asarray(grid), step)

    def hyperparameters(self, values: dict[str, Any]) -> None:
        """Write the run's hyperparameters for TensorBoard's HPARAMS table."""
        values = {name: v for name, v in values.items() if isinstance(v, str | int | float)}
        metrics = [tag for tag in TAGS.values() if tag.startswith("metrics/")]
        for summary in hparams(values, dict.fromkeys(metrics, 0.0)):
            self.events.add_summary(summary)

    def timing(self, epoch: int, steps: int, seconds: float, rate: float, step: int) -> None:
        """Add a line to timing.csv. An epoch that a resumed run repeats has two lines."""
        self.events.add_scalar("speed/images per second", rate, step)
        path = self.folder / "timing.csv"
        header = "epoch,steps,seconds,images_per_second\n"
        with writing(path) as temporary:
            content = path.read_bytes() if path.exists() else header.encode()
            line = f"{epoch},{steps},{seconds:.3f},{rate:.1f}\n"
            temporary.write_bytes(content + line.encode())

    def save(self) -> None:
        """Write metrics.csv."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with writing(self.folder / "metrics.csv") as temporary, temporary.open("w") as file:
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)

    def summary(self) -> str:
        """Return the losses and probabilities of the last row as text."""
        row = self.rows[-1] if self.rows else {}
        short = {"d_real": "D(x)", "d_fake": "D(G(z))"}
        return "  ".join(
            f"{short.get(name, name)} {shown(row[name], '.3f')}"
            for name in self.names
            if name in row and not name.endswith(("_after", "_right_real", "_right_fake"))
        )

    def warn(self, what: str) -> None:
        """Print a warning, once for each kind (the text before the colon)."""
        kind = what.partition(":")[0]
        if kind not in self.warned:
            self.warned.add(kind)
            say(f"warning: {what}")


def discriminator_statistics(real: Tensor, fake: Tensor, fake_after: Tensor) -> dict[str, Tensor]:
    """Return mean D(x), mean D(G(z)) before and after D's update, and D's accuracy before it.

    real, fake, fake_after: logits (B,). A positive logit means real.
    """
    return {
        "d_real": real.sigmoid().mean(),
        "d_fake": fake.sigmoid().mean(),
        "d_fake_after": fake_after.sigmoid().mean(),
        "d_right_real": (real > 0).float().mean(),
        "d_right_fake": (fake < 0).float().mean(),
    }
