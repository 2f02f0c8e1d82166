"""One run and its folder: logs, pictures, checkpoints, resuming.

A script builds its networks and hands them to a Run, which then counts the steps:

    run = Run("cdcgan", args, dataset, len(batches), generator_args, generator=generator, ...)
    for step in run.steps():
        ...                                         # the script's own two updates
        run.log(d_loss=d_loss, g_loss=g_loss)

Between two steps the run logs, draws and saves. What it leaves in runs/<name>/:

    config.json    the command line's arguments, versions, device; --config reads it back
    metrics.csv    losses and the like: what repeats to the bit (on a CPU: see Run)
    timing.csv     seconds and images/s an epoch: what does not
    events.*       the same for TensorBoard, with pictures and hyperparameters
    samples/       epoch_0001.png, ...: the same z, after every epoch or, in long runs, every few
    last.pt        the last checkpoint: networks, optimisers, random state
    best.pt        the checkpoint with the smallest distance to the test images
    losses.png, metrics.png, training.gif           at the end
"""

from support.command import InputError, exit_on_input_error, mute, progress, say, shown

import argparse
import csv
import datetime
import json
import math
import platform
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

import support.processes
from data import Dataset
from support.checkpoints import check_progress, fitting, load_part, read_checkpoint
from support.device import PROCESSES, random_state, restore_random_state, seeded
from support.drawing import draw_grid, save_gif, save_picture
from support.files import UNFINISHED, locked, save_tensors, writing
from support.fonts import drawable, font
from support.images import LARGE_PIXELS, opened
from support.processes import any_process, average, first_only, from_first, processes, rank
from support.sampling import noise, sample
from training.evaluation import Evaluation
from training.events import EventsFile
from training.flags import MAY_DIFFER
from training.plots import LOG_EVERY, LOSSES, METRICS, Rows, plot, read_rows, run_names

WON, WON_STEPS = 0.995, 500  # D has won: right about more than this share, for so long
PICTURES = 100  # sample pictures of a long run, or up to twice as many; a short one's are fewer
GIF_FRAMES, GIF_SIDE = 30, 1000  # the most frames of training.gif, and pixels a side of them
LISTED_CLASSES = 20  # that a run prints at its start
ROWS = 10  # rows of a sample picture: the first ten classes, or ten rows of anything
NO_HYPERPARAMETERS = MAY_DIFFER | {"out_dir", "name", "config"}
# TensorBoard's names for what a script logs; whatever is not listed keeps its own.
TAGS = {
    "d_loss": "loss/discriminator",
    "g_loss": "loss/generator",
    "d_real": "discriminator/D(x)",
    "d_fake": "discriminator/D(G(z)) before its update",
    "d_fake_after": "discriminator/D(G(z)) after its update",
    "d_right_real": "discriminator/share of real it is right about",
    "d_right_fake": "discriminator/share of generated it is right about",
    "wasserstein": "critic/Wasserstein estimate",
    "penalty": "critic/gradient penalty",
    "fcd": "metrics/FCD",
    "fid": "metrics/FID",
    "classifier_score": "metrics/classifier score",
    "is": "metrics/Inception Score",
    "class_share": "metrics/share in the class asked for",
    "d_accuracy_real": "held out/D's accuracy on real",
    "d_accuracy_fake": "held out/D's accuracy on generated",
    "test_d_loss": "held out/discriminator loss",
    "test_g_loss": "held out/generator loss",
}
LossOfBoth = Callable[[Tensor, Tensor], Tensor]
LossOfFake = Callable[[Tensor], Tensor]


def describe(network: nn.Module, *inputs: Tensor) -> str:
    """A table of `network`'s layers for an example input: name, kind, output shape, parameters."""
    rows = []
    hooks = [
        module.register_forward_hook(
            lambda module, _, out, name=name: rows.append(
                f"  {name:<16}{module._get_name().removeprefix('Parametrized'):<18}"
                f"{tuple(out.shape)!s:<22}{count_parameters(module):>10,}"
            )
        )
        for name, module in network.named_modules()
        if name and "parametrizations" not in name and own_layer(module)
    ]
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(*inputs)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    title = f"{network._get_name()}: {count_parameters(network):,} parameters"
    return "\n".join([title, *rows])


def own_layer(module: nn.Module) -> bool:
    """Whether a module is a layer, and not a container of layers."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Run:
    """A run's folder, and where the training in it stands.

    `args`: of parse_args. `generator_args`: what Generator() was called with, which is all that
    load_generator() needs to rebuild it. `state`: every network and optimiser that training
    changes, by name: `generator`, its average `ema` (which draws the pictures), `discriminator` or
    `critic`, and the optimisers. All of it goes into each checkpoint and comes back with --resume.

    A run that was stopped and resumed equals one that was not, to the bit: on a CPU, with as many
    threads and processes. A GPU adds in an order that changes (convolutions' and embeddings'
    gradients), so there only the random numbers repeat.
    """

    def __init__(
        self,
        script: str,
        args: argparse.Namespace,
        dataset: Dataset,
        steps_per_epoch: int,
        generator_args: dict[str, int],
        **state: Any,
    ) -> None:
        self.script, self.args, self.dataset = script, args, dataset
        self.generator_args, self.state = generator_args, state
        self.device = next(state["generator"].parameters()).device
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = args.epochs * steps_per_epoch
        self.sample_every = args.sample_every or max(1, args.epochs // PICTURES)
        d_steps = getattr(args, "n_critic", getattr(args, "d_steps", 1))  # to one of G's
        self.images_per_step = d_steps * args.batch_size
        self.step = 0  # generator updates done
        self.rows: list[dict[str, float]] = []  # of metrics.csv
        self.names: list[str] = []  # of what log() is given
        self.window: list[Tensor] = []  # its values since the last row
        self.warned: set[str] = set()
        self.stopping = False
        self.best = math.inf  # the smallest distance so far
        self.evaluation: Evaluation | None = None
        names = list(dataset.classes[:ROWS]) if "num_classes" in generator_args else []
        if rank() == 0:  # which draws, and warns of names that it cannot draw
            names = drawable(names, range(len(names)))
        self.row_names = [names[i % len(names)] for i in range(ROWS)] if names else []
        labels = torch.arange(ROWS) % max(1, len(names))
        self.fixed_labels = labels.repeat_interleave(ROWS).to(self.device) if names else None
        self.fixed_z = noise(ROWS * ROWS, args.z_dim, args.seed, self.device)
        self.folder = Path(args.resume) if args.resume else from_first(self.new_folder)
        self.lock()
        if args.resume:
            self.load()
        support.processes.go_on = f"; to go on from its last checkpoint: {self.resume_command()}"
        self.begin()

    @first_only
    def lock(self) -> None:
        self.held = locked(self.folder)

    @first_only
    def begin(self) -> None:
        """Put into the folder what it has before the first step."""
        for unfinished in self.folder.rglob(f".*{UNFINISHED}"):  # of a process that was killed
            with suppress(OSError):
                unfinished.unlink()
        self.write_config()
        self.writer = EventsFile(self.folder, purge_step=self.step + 1)
        self.save()  # from here on the run can be resumed
        self.introduce()
        if self.step == 0:
            self.draw_samples()  # epoch 0: what an untrained generator draws

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    def new_folder(self) -> Path:
        """Make the run's folder. One that is there already is never written into."""
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = self.args.name or f"{self.script}-{self.args.dataset}-{now}"
        # Runs that start in one second get a number, unless they were given one name.
        more = () if self.args.name else (f"{name}-{number}" for number in range(2, 1000))
        out, folder = Path(self.args.out_dir), Path(self.args.out_dir, name)
        try:
            out.mkdir(parents=True, exist_ok=True)
            for free in (name, *more):
                with suppress(FileExistsError):
                    (out / free).mkdir()  # fails for the second of two runs that start at once
                    return out / free
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror})") from None
        hint = "choose another --name"
        if (folder / "config.json").is_file():
            locked(folder).close()  # InputError if another process trains in it
            hint = f"go on with it (--resume {folder}) or {hint}"
        raise InputError(f"{folder} is there already: {hint}")

    def write_config(self) -> None:
        here = Path(__file__).parent
        git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        try:
            commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        except OSError:  # no git on this machine
            commit = ""
        not_saved = ("resume", "config")
        config = {
            "script": self.script,
            "args": {name: v for name, v in vars(self.args).items() if name not in not_saved},
            "device": str(self.device),
            "processes": processes(),
            "commit": commit,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }
        with writing(self.folder / "config.json") as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")

    def introduce(self) -> None:
        """Print both networks and where everything goes; tell TensorBoard the hyperparameters."""
        data = self.dataset
        label = () if self.fixed_labels is None else (self.fixed_labels[:1],)
        image = torch.zeros(1, *data.train_images.shape[1:], device=self.device)
        critic = self.state["discriminator" if "discriminator" in self.state else "critic"]
        print(describe(self.state["generator"], self.fixed_z[:1], *label))
        print(describe(critic, image, *label))
        print(
            f"{data.name}: {len(data.train_images):,} training and {len(data.test_images):,} test "
            f"images of {data.channels} x {data.image_size} x {data.image_size}, "
            f"{len(data.classes) or 'no'} classes; {self.steps_per_epoch:,} steps an epoch"
        )
        if data.classes:
            print(f"classes (training images): {self.class_counts()}")
        stands = (
            f"going on at step {self.step:,} of {self.total_steps:,}" if self.step else "new run"
        )
        print(f"{stands} on {self.device}, in {self.folder}")
        print(
            f"to watch it: tensorboard --logdir {shlex.quote(str(self.folder.parent))}", flush=True
        )
        if self.device.type != "cpu":
            print(f"on {self.device.type} a run does not repeat to the bit: only on a CPU")
        if self.step == 0:
            picture = np.asarray(draw_grid(self.real_examples(), ROWS, self.row_names))
            self.writer.add_image("images/real", picture, 0)
            values = {
                name: value
                for name, value in vars(self.args).items()
                if isinstance(value, str | int | float) and name not in NO_HYPERPARAMETERS
            }
            metrics = [tag for tag in TAGS.values() if tag.startswith("metrics/")]
            for summary in hparams(values, dict.fromkeys(metrics, 0.0)):
                self.writer.add_summary(summary)

    def class_counts(self) -> str:
        """Return each class with its number of training images; of many classes, the first."""
        counts = self.dataset.train_labels.bincount(minlength=len(self.dataset.classes)).tolist()
        listed = [f"{name} {n:,}" for name, n in zip(self.dataset.classes, counts, strict=True)]
        more = f" and {len(listed) - LISTED_CLASSES:,} more" if len(listed) > LISTED_CLASSES else ""
        return ", ".join(listed[:LISTED_CLASSES]) + more

    def real_examples(self) -> Tensor:
        """Training images to lay beside the samples, of the same classes row by row."""
        images, labels = self.dataset.train_images, self.dataset.train_labels.cpu()
        if self.fixed_labels is None:
            return images[torch.linspace(0, len(images) - 1, ROWS * ROWS).long()]
        index, drawn = [], self.fixed_labels.tolist()
        for i, label in enumerate(drawn):
            of_class = (labels == label).nonzero().flatten()
            index.append(int(of_class[drawn[:i].count(label) % len(of_class)]))
        return images[index]

    def steps(self) -> Iterator[int]:
        """Number the generator updates that are left; between them log, draw and save.

        Ctrl-C and SIGTERM let the step finish, save, and end with exit code 130 (128 + SIGINT).
        InputError where a loss or a weight is no longer finite; last.pt then stays as it was.
        """
        last = min(self.args.max_steps or self.total_steps, self.total_steps)
        # Only the main thread may set handlers: a run in another thread has none.
        main_thread = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main_thread else ()
        handlers = {s: signal.signal(s, self.interrupt) for s in signals}
        try:
            while self.step < last:
                began, start, ends, stop = self.step, time.perf_counter(), False, False
                with self.progress_bar() as bar:
                    while self.step < last and not (ends or stop):
                        if rank() > 0:  # random numbers that are not the first's, but repeat
                            own = seeded(self.args.seed, PROCESSES, rank(), self.step)
                            torch.manual_seed(own.initial_seed())
                        yield self.step
                        self.step += 1
                        stop = any_process(self.stopping)
                        ends = self.step % self.steps_per_epoch == 0
                        if ends or self.step % LOG_EVERY == 0:
                            self.end_window()
                            bar.set_postfix_str(self.summary(), refresh=False)
                        bar.update()
                if ends:
                    self.end_epoch(self.step - began, time.perf_counter() - start)
                if any_process(self.stopping):
                    self.save()
                    self.print(f"stopped at step {self.step:,}; to go on: {self.resume_command()}")
                    any_process(True)  # wait: torchrun ends the others as soon as one has ended
                    raise SystemExit(130)
            self.save()
            self.finish()
        finally:
            for which, handler in handlers.items():
                signal.signal(which, handler)
            self.end()

    @first_only
    def end(self) -> None:
        self.writer.close()
        self.held.close()

    def interrupt(self, which: int, frame: object) -> None:
        """The signal handler: the first asks for an orderly end, the second ends at once.

        Of torchrun's processes, Ctrl-C may reach each twice: there it is torchrun that ends the
        slow, after 30 seconds.
        """
        if self.stopping and processes() == 1:
            raise KeyboardInterrupt
        self.stopping = True

    def print(self, text: str) -> None:
        """Print to standard output. Ctrl-C may have ended its reader as well, as in `| tee log`."""
        try:
            print(text, flush=True)
        except OSError:
            if not self.stopping:
                raise
            mute()
            say(text)

    def resume_command(self) -> str:
        several = f"torchrun --standalone --nproc_per_node={processes()}"
        python = several if processes() > 1 else "python"
        return f"{python} {self.script}.py --resume {shlex.quote(str(self.folder))}"

    def progress_bar(self) -> tqdm:
        return progress(
            desc=f"epoch {self.epoch + 1}/{self.args.epochs}",
            total=self.steps_per_epoch,
            initial=self.step % self.steps_per_epoch,
            unit="img",
            unit_scale=self.images_per_step,
            leave=False,
        )

    def log(self, *answers: Tensor, **values: Tensor) -> None:
        """Note this step's losses (0-d tensors) and D's answers, without waiting for them.

        answers: D's logits (B,) of real images, and of generated ones before and after D's update.
        Of them, the mean probabilities D(x) and D(G(z)) are noted, and the shares that D is right
        about before its update.
        """
        if answers:
            real, fake, fake_after = (self.real_sign * logits for logits in answers)
            values["d_real"], values["d_fake"] = real.sigmoid().mean(), fake.sigmoid().mean()
            values["d_fake_after"] = fake_after.sigmoid().mean()
            values["d_right_real"] = (real > 0).float().mean()
            values["d_right_fake"] = (fake < 0).float().mean()
        self.names = list(values)
        means = average(torch.stack([value.detach().float() for value in values.values()]))
        if rank() == 0:
            self.window.append(means)

    @first_only
    def end_window(self) -> None:
        """Turn the window into a row of metrics.csv and points in TensorBoard."""
        row = self.window_row()
        self.rows.append(row)
        self.window = []
        for name in self.names:
            self.writer.add_scalar(TAGS.get(name, name), row[name], self.step)
        recent = [row for row in self.rows if row["step"] > self.step - WON_STEPS]
        sure = [min(row.get("d_right_real", 0), row.get("d_right_fake", 0)) > WON for row in recent]
        if self.step >= WON_STEPS and all(sure):
            self.warn(
                f"D has won: for {WON_STEPS} steps it was right about more than {WON:.1%} of real "
                "and of generated images, and G learns little from it; try a lower --lr_d, "
                "--dropout or --label_noise in D, or fewer of its steps"
            )

    def warn(self, what: str) -> None:
        """Say it on standard error; what begins alike up to its colon is said once."""
        kind = what.partition(":")[0]
        if kind not in self.warned:
            self.warned.add(kind)
            say(f"warning: {what}")

    def window_row(self) -> dict[str, float]:
        """The means over the window, as a row of metrics.csv."""
        means = self.finite_window().double().mean(dim=0).tolist()
        row = {"step": self.step, "epoch": self.step / self.steps_per_epoch}
        return row | dict(zip(self.names, means, strict=True))

    def finite_window(self) -> Tensor:
        """The window, float32 (steps, names), on the CPU. InputError if a value is not finite."""
        values = torch.stack(self.window).cpu() if self.window else torch.zeros(0, len(self.names))
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            at, which = wrong[0].tolist()
            step = self.step - len(values) + at + 1
            self.diverged(f"{self.names[which]} became {values[at, which]:.0f} at step {step:,}")
        return values

    def diverged(self, what: str) -> None:
        kept = f"{self.folder / 'last.pt'} is whole, from before"
        again = f"{self.script}.py --config {shlex.quote(str(self.folder / 'config.json'))}"
        raise InputError(
            f"{what}; {kept}; start anew with smaller steps or in float32: "
            f"python {again} --lr_g ... --lr_d ... or --precision fp32"
        )

    def summary(self) -> str:
        """The last row, for people."""
        row = self.rows[-1] if self.rows else {}
        short = {"d_real": "D(x)", "d_fake": "D(G(z))"}
        return "  ".join(
            f"{short.get(name, name)} {shown(row[name], '.3f')}"
            for name in self.names
            if name in row and not name.endswith(("_after", "_right_real", "_right_fake"))
        )

    @first_only
    def end_epoch(self, steps: int, seconds: float) -> None:
        """After an epoch's last step: time, picture, evaluation, checkpoint; then print.

        Printing comes last because it fails where the reader of the output has gone.
        """
        rate = steps * self.images_per_step / seconds
        line = f"epoch {self.epoch:>3}/{self.args.epochs}  {seconds:6.1f} s  {rate:6,.0f} images/s"
        lines = [f"{line}  {self.summary()}"]
        self.check_weights()
        better = False
        try:
            self.writer.add_scalar("speed/images per second", rate, self.step)
            self.append_timing(f"{self.epoch},{steps},{seconds:.3f},{rate:.1f}\n")
            if self.epoch % self.sample_every == 0:
                self.draw_samples()
            if self.evaluation and self.epoch % self.args.eval_every == 0:
                metrics = self.evaluate(self.evaluation)
                lines.append(
                    "  ".join(f"{name} {shown(value, '.4g')}" for name, value in metrics.items())
                )
                distance = next(iter(metrics.values()))
                better, self.best = distance < self.best, min(distance, self.best)
        except (InputError, OSError):  # one of these cannot be written: the weights perhaps can
            self.save()
            raise
        self.save(*(["best.pt"] if better else []), "last.pt")
        self.print("\n      ".join(lines))

    def evaluate_with(self, d_loss: LossOfBoth, g_loss: LossOfFake, real_sign: int = 1) -> None:
        """Have every --eval_every epochs measured: with these losses, of clean labels.

        `d_loss` of real and fake logits, `g_loss` of fake logits, G's but for --feature_matching;
        `real_sign`: the sign of the logits with which D calls an image real, 0 for a critic, whose
        scores have no threshold.
        """
        self.real_sign = real_sign
        if rank() > 0:  # the first process evaluates alone, but all of them log
            return
        conditional = self.fixed_labels is not None
        before = random_state(self.device)  # making a network draws its first weights
        self.evaluation = Evaluation.for_run(
            self.args, self.dataset, self.device, d_loss, g_loss, real_sign, conditional
        )
        restore_random_state(before, self.device)

    def evaluate(self, evaluation: Evaluation) -> dict[str, float]:
        """Add what an evaluation finds, the distance first, to the last row, and return it."""
        critic = self.state["discriminator" if "discriminator" in self.state else "critic"]
        metrics = evaluation(self.state["ema"], critic)
        self.rows[-1] |= metrics
        for name, value in metrics.items():
            self.writer.add_scalar(TAGS.get(name, name), value, self.step)
        return metrics

    def append_timing(self, line: str) -> None:
        """A line an epoch; an epoch that a kill made the run repeat has two."""
        path = self.folder / "timing.csv"
        header = "epoch,steps,seconds,images_per_second\n"
        with writing(path) as temporary:
            before = path.read_bytes() if path.exists() else header.encode()
            temporary.write_bytes(before + line.encode())

    def check_weights(self) -> None:
        """InputError where a network holds a number that is not finite."""
        for name, part in self.state.items():
            if isinstance(part, nn.Module):
                for weights in part.state_dict().values():
                    if not weights.isfinite().all():
                        self.diverged(f"the {name} is not finite at step {self.step:,}")

    def draw_samples(self) -> None:
        """Draw the fixed z with the averaged generator. Changes no state of the training."""
        images = sample(self.state["ema"], self.fixed_z, self.fixed_labels)
        saturated, of_real = (extremes(x) for x in (images, self.real_examples()))
        if saturated > max(0.98, 1.1 * of_real):
            self.warn(
                f"saturated samples: {saturated:.0%} of their pixels are black or white "
                f"({of_real:.0%} of the real ones'); try lower --lr_g and --lr_d"
            )
        picture = draw_grid(images, ROWS, self.row_names)
        save_picture(picture, self.folder / "samples" / f"epoch_{self.epoch:04d}.png")
        self.writer.add_image("images/generated", np.asarray(picture), self.step)

    @first_only
    def save(self, *files: str) -> None:
        """Write metrics.csv and the checkpoints (last.pt if not said otherwise) as of this step."""
        window = self.finite_window()
        self.check_weights()
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with writing(self.folder / "metrics.csv") as temporary, temporary.open("w") as file:
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        checkpoint = {
            "script": self.script,
            "dataset": self.args.dataset,
            "classes": list(self.dataset.classes),
            "all_classes": list(self.dataset.all_classes),
            "generator_args": self.generator_args,
            "steps_per_epoch": self.steps_per_epoch,
            "images": fingerprint(self.dataset.train_images),
            "step": self.step,
            "best": self.best,
            "rows": self.rows,
            "names": self.names,
            "window": window,
            "random_state": random_state(self.device),
            **{name: part.state_dict() for name, part in self.state.items()},
        }
        for name in files or ("last.pt",):
            save_tensors(checkpoint, self.folder / name)
        self.writer.flush()

    def load(self) -> None:
        """Take everything back from last.pt. InputError if it does not fit this run."""
        path = self.folder / "last.pt"
        checkpoint = read_checkpoint(path)
        if checkpoint["script"] != self.script:
            raise InputError(f"{path} is of {checkpoint['script']}.py: resume it with that script")
        mine = {
            "classes": list(self.dataset.classes),
            "generator_args": self.generator_args,
            "steps_per_epoch": self.steps_per_epoch,
            "images": fingerprint(self.dataset.train_images),
        }
        with fitting(path, "this run"):
            for name, value in mine.items():
                if checkpoint.get(name) != value:
                    was = f"{name} {checkpoint.get(name)} there, {value} here"
                    raise InputError(f"{path} was trained on other data: {was}")
            check_progress(checkpoint)
            for name, part in self.state.items():
                load_part(part, checkpoint[name], checkpoint["step"])
            self.step, self.best = checkpoint["step"], checkpoint["best"]
            self.names = checkpoint["names"]
            self.rows, self.window = checkpoint["rows"], list(checkpoint["window"].to(self.device))
            restore_random_state(checkpoint["random_state"], self.device)

    @first_only
    def finish(self) -> None:
        """The pictures of the whole run: losses.png, metrics.png and training.gif."""
        # A run that --max_steps ended early shows what it has since the last row, too.
        rows = [*self.rows, self.window_row()] if self.window else self.rows
        for file, panels in (("losses.png", LOSSES), ("metrics.png", METRICS)):
            plot({self.folder.name: rows}, panels, self.folder / file)
        drawn = (self.folder / "samples").glob("epoch_*.png")
        pictures = sorted(
            (p for p in drawn if p.stem[6:].isdecimal()), key=lambda p: int(p.stem[6:])
        )
        few = np.linspace(0, len(pictures) - 1, min(len(pictures), GIF_FRAMES)).round().astype(int)
        frames = []
        for i in few:
            try:
                frames.append(captioned(pictures[i]))
            except InputError as error:  # damaged since: no reason to end without the rest
                self.warn(f"training.gif lacks a picture: {error}")
        if frames:
            save_gif(frames, self.folder / "training.gif", seconds=0.2, hold=2)
        print(f"{self.step:,} steps done; everything is in {self.folder}")
        path = shlex.quote(str(self.folder))
        print(f"to sample it: python generate.py --load_path {path} --grid_size 8")


def fingerprint(images: Tensor) -> list[int]:
    """The number of images and the sum of a thousand, each times its place, in no time.

    It tells a data set from another, and from itself in another order: folders' classes swapped.
    """
    few = images[:: max(1, len(images) // 1000)].flatten(1).sum(dim=1, dtype=torch.int64)
    return [len(images), int((few * torch.arange(1, len(few) + 1)).sum())]


def extremes(images: Tensor) -> float:
    """The share of uint8 pixels that are 0 or 255."""
    return ((images == 0) | (images == 255)).double().mean().item()


def captioned(path: Path) -> Image.Image:
    """A sample picture, shrunk if it is large, under its epoch, which is in its file's name."""
    epoch = int(path.stem.split("_")[1])
    with opened(path, LARGE_PIXELS) as full:
        picture = full.reduce(math.ceil(max(full.size) / GIF_SIDE))
    frame = Image.new("RGB", (picture.width, picture.height + 28), "white")
    frame.paste(picture, (0, 28))
    ImageDraw.Draw(frame).text((8, 3), f"epoch {epoch}", fill="black", font=font(18))
    return frame


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the curves of runs, over each other."""
    parser = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, dest="command")
    plotting = commands.add_parser("plot", help="losses.png and metrics.png of one or more runs")
    plotting.add_argument("runs", nargs="+", help="run folders")
    plotting.add_argument("--save_path", help="a folder; if not given: that of the only run, or .")
    args = parser.parse_args(argv)
    folders = [Path(run) for run in args.runs]
    names = run_names([str(folder) for folder in folders])
    runs: dict[str, Rows] = dict(zip(names, map(read_rows, folders), strict=True))
    out = Path(args.save_path or (folders[0] if len(folders) == 1 else "."))
    for file, panels in (("losses.png", LOSSES), ("metrics.png", METRICS)):
        plot(runs, panels, out / file)
    print(f"losses.png and, where there were evaluations, metrics.png: {out}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
