"""Count the steps of a training run, and log, draw samples, evaluate and save between the steps.

A script builds its networks and hands them to a Run:

    run = Run("cdcgan", args, dataset, len(batches), generator_args, generator=generator, ...)
    for step in run.steps():
        ...                                         # the script's own two updates
        run.log(d_loss=d_loss, g_loss=g_loss)

A run writes these files into runs/<name>/:

    config.json    arguments, versions and device; --config and --resume read this file
    metrics.csv    losses and metrics; on a CPU, a repeated run writes a bit-identical file
    timing.csv     seconds and images/s per epoch
    events.*       losses, metrics, speed, samples and hyperparameters, for TensorBoard
    samples/       epoch_0000.png, ...: samples of a fixed z, after every epoch or every few epochs
    last.pt        the last checkpoint: networks, optimisers, random state
    best.pt        the checkpoint with the smallest distance to the test images
    losses.png, metrics.png, training.gif           plots and an animation, at the end
"""

import support.processes
from support.command import InputError, OrderlyEnd, progress, say, shown
from support.processes import (
    any_rank,
    average,
    from_rank_zero,
    processes,
    rank,
    rank_zero_only,
    train_together,
)

import argparse
import math
import shlex
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import Dataset
from support.device import random_state, restore_random_state, seed_process
from support.drawing import save_picture
from support.files import locked
from training.classifier import feature_network
from training.evaluation import Evaluation, LossOfBoth, LossOfFake
from training.flags import as_command, hyperparameters
from training.plots import LOG_EVERY, draw_results
from training.record import Record, discriminator_statistics
from training.samples import Samples
from training.saving import Saving
from training.start import (
    new_folder,
    print_summary,
    print_where,
    remove_unfinished,
    resume_command,
    write_config,
)

SAMPLE_FILES = 100  # a run of 200 epochs or more saves 100 to 150; a shorter run, one per epoch


class Run:
    """Manage a run's folder and the progress of the training.

    `args`: the result of parse_args(). `generator_args`: the arguments of Generator(), with which
    load_generator() rebuilds the generator. `state`: every network and optimiser that training
    changes, by name: `generator`, `ema` (which draws the samples), `discriminator` or `critic`, and
    the optimisers. Each checkpoint contains the state, and --resume restores the state.

    A Run counts the steps, and lets the optimisers average gradients over processes. Record writes,
    Samples draws and Evaluation evaluates; none of the three affects training. On a CPU, a run that
    was stopped and resumed is bit-identical to an uninterrupted run with the same numbers of
    threads and processes. On a GPU only the random numbers repeat, because the order of summation
    varies in the gradients of convolutions and embeddings.
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
        self.script, self.args, self.dataset, self.state = script, args, dataset, state
        self.critic = state["discriminator" if "discriminator" in state else "critic"]
        self.device = next(state["generator"].parameters()).device
        # All batches have one shape, so cuDNN tries its algorithms once and keeps the fastest.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = args.epochs * steps_per_epoch
        self.sample_every = args.sample_every or max(1, args.epochs // SAMPLE_FILES)
        d_steps = getattr(
            args, "n_critic", getattr(args, "d_steps", 1)
        )  # updates of D per update of G
        self.images_per_step = d_steps * args.batch_size
        self.step = 0  # completed generator updates
        self.orderly_end = OrderlyEnd(insist=processes() == 1)
        self.best = math.inf  # smallest distance to the test images
        self.reported = 0  # the last epoch after which report() ran
        self.evaluation: Evaluation | None = None
        self.conditional = "num_classes" in generator_args
        self.samples = Samples(dataset, self.conditional, args.z_dim, args.seed, self.device)
        new = partial(new_folder, script, args)
        self.folder = Path(args.resume) if args.resume else from_rank_zero(new)
        self.record = Record(self.folder, script)
        self.saving = Saving(
            script,
            as_command(script, args),
            dataset,
            generator_args,
            steps_per_epoch,
            state,
            self.device,
        )
        self.lock()
        if args.resume:
            self.load()
        train_together(state.values())
        command = resume_command(script, self.folder)
        support.processes.go_on = f"; to resume from the last checkpoint: {command}"
        self.begin()

    @rank_zero_only
    def lock(self) -> None:
        self.lock_file = locked(self.folder)

    @rank_zero_only
    def begin(self) -> None:
        """Write the files of a run that precede the first step, and print a summary."""
        remove_unfinished(self.folder)
        write_config(self.folder, self.script, self.args, self.device)
        self.record.open(self.step)
        self.save()  # after this, the run can be resumed
        generator, samples = self.state["generator"], self.samples
        print_summary(
            self.dataset, self.steps_per_epoch, generator, self.critic, samples.z, samples.labels
        )
        print_where(self.folder, self.device, self.step, self.total_steps)
        if self.step == 0:
            self.record.image("images/real", samples.draw_real(), 0)
            self.record.hyperparameters(hyperparameters(self.args))
            self.draw_samples()  # epoch 0: samples of the untrained generator

    @property
    def epoch(self) -> int:  # completed epochs
        return self.step // self.steps_per_epoch

    def steps(self) -> Iterator[int]:
        """Yield the number of each remaining generator update; log, report and save in between.

        After Ctrl-C or SIGTERM, the current step finishes, the run is saved, and the program ends
        with exit code 130 (128 + SIGINT). Raise InputError if a loss or a weight is not finite;
        last.pt then keeps an earlier step.
        """
        last = min(self.args.max_steps or self.total_steps, self.total_steps)
        try:
            with self.orderly_end:
                if self.reported < self.epoch:  # the run stopped before the report
                    self.report(f"epoch {self.epoch:>3}/{self.args.epochs}")
                while self.step < last:
                    began, start, ends, stop = self.step, time.perf_counter(), False, False
                    with self.progress_bar() as bar:
                        while self.step < last and not (ends or stop):
                            seed_process(self.args.seed, self.step)
                            yield self.step
                            self.step += 1
                            stop = any_rank(self.orderly_end.asked)
                            ends = self.step % self.steps_per_epoch == 0
                            if ends or self.step % LOG_EVERY == 0:
                                self.end_window()
                                bar.set_postfix_str(self.record.summary(), refresh=False)
                            bar.update()
                    if ends:
                        self.end_epoch(self.step - began, time.perf_counter() - start)
                    if any_rank(self.orderly_end.asked):
                        self.stop()
                self.save()
                self.finish()
        finally:
            self.end()

    def stop(self) -> None:
        """Save and end after Ctrl-C or SIGTERM."""
        self.save()
        command = resume_command(self.script, self.folder)
        self.orderly_end.print(f"stopped at step {self.step:,}; to resume: {command}")
        any_rank(True)  # wait, because torchrun ends all processes when one has ended
        raise SystemExit(130)

    @rank_zero_only
    def end(self) -> None:
        self.record.events.close()
        self.lock_file.close()

    def progress_bar(self) -> Any:
        return progress(
            desc=f"epoch {self.epoch + 1}/{self.args.epochs}",
            total=self.steps_per_epoch,
            initial=self.step % self.steps_per_epoch,
            unit="img",
            unit_scale=self.images_per_step,
            leave=False,
        )

    def log(self, *logits: Tensor, **values: Tensor) -> None:
        """Record this step's losses (0-d tensors) and D's logits, without waiting for the device.

        logits: three tensors (B,): D's logits of real images, and of generated images before and
        after D's update. The mean probabilities D(x) and D(G(z)) and D's accuracy are recorded.
        """
        if logits:
            values |= discriminator_statistics(*(self.real_sign * x for x in logits))
        self.record.names = list(values)
        means = average(torch.stack([value.detach().float() for value in values.values()]))
        if rank() == 0:
            self.record.window.append(means)

    @rank_zero_only
    def end_window(self) -> None:
        self.record.end_window(self.step, self.step / self.steps_per_epoch)

    @rank_zero_only
    def end_epoch(self, steps: int, seconds: float) -> None:
        """Record the speed of the epoch that has ended, and report."""
        rate = steps * self.images_per_step / seconds
        line = f"epoch {self.epoch:>3}/{self.args.epochs}  {seconds:6.1f} s  {rate:6,.0f} images/s"
        self.check_weights()
        try:
            self.record.timing(self.epoch, steps, seconds, rate, self.step)
            self.report(f"{line}  {self.record.summary()}")
        except (InputError, OSError):  # a file cannot be written, but last.pt may be possible
            self.save()  # `reported` is unchanged, so a resumed run begins with the report
            raise

    @rank_zero_only
    def report(self, line: str) -> None:
        """Draw samples, evaluate, save and print at the end of an epoch.

        Printing comes last, because printing fails if the reader of standard output has ended.
        """
        lines, best = [line], self.best
        if self.epoch % self.sample_every == 0:
            self.draw_samples()
        if self.evaluation and self.epoch % self.args.eval_every == 0:
            metrics = self.evaluation(self.state["ema"], self.critic)
            self.record.measured(metrics, self.step)
            texts = [f"{name} {shown(value, '.4g')}" for name, value in metrics.items()]
            lines.append("      " + "  ".join(texts))
            best = min(best, next(iter(metrics.values())))
        files = ["best.pt", "last.pt"] if best < self.best else ["last.pt"]
        self.save(*files, best=best, reported=self.epoch)
        self.best, self.reported = best, self.epoch
        self.orderly_end.print("\n".join(lines))

    def evaluate_with(self, d_loss: LossOfBoth, g_loss: LossOfFake, real_sign: int = 1) -> None:
        """Register the losses that the evaluation reports, without label noise or smoothing.

        d_loss: a function of real and fake logits. g_loss: a function of fake logits. real_sign:
        the sign of the logits that mean "real" (with -1 both functions get mirrored logits), or 0
        for the scores of a critic, which have no threshold.
        """
        self.real_sign = real_sign
        if rank() > 0:  # only process 0 evaluates, but log() of every process uses real_sign
            return
        saved_state = random_state(self.device)  # because a new network draws random weights
        try:
            network = feature_network(self.args, self.dataset, self.device)
            if network is not None:
                losses = (d_loss, g_loss, real_sign)
                self.evaluation = Evaluation(
                    network, self.args, self.dataset, *losses, self.conditional
                )
        except InputError as error:
            if self.args.features is not None:  # the user requested an evaluation
                raise
            say(f"warning: training without evaluation: {error}")
        restore_random_state(saved_state, self.device)

    def check_weights(self) -> None:
        """Raise InputError if a weight of a network is not finite."""
        if name := self.saving.not_finite():
            self.record.diverged(f"the {name} is not finite at step {self.step:,}")

    def draw_samples(self) -> None:
        grid, warning = self.samples.draw(self.state["ema"])
        if warning:
            self.record.warn(warning)
        save_picture(grid, self.folder / "samples" / f"epoch_{self.epoch:04d}.png")
        self.record.image("images/generated", grid, self.step)

    @rank_zero_only
    def save(self, *files: str, **progress: float) -> None:
        """Write metrics.csv and the checkpoints `files` (default: last.pt) of the current step.

        `progress`: new values of `best` and `reported`.
        """
        window = self.record.finite_window(self.step)
        self.check_weights()
        self.record.save()
        content = {
            "step": self.step,
            "best": self.best,
            "reported": self.reported,
            "rows": self.record.rows,
            "names": self.record.names,
            "window": window,
        }
        paths = [self.folder / name for name in files or ("last.pt",)]
        self.saving.save(paths, content | progress)
        self.record.events.flush()

    def load(self) -> None:
        """Load the progress and state in last.pt. Raise InputError if last.pt does not fit."""
        progress = self.saving.load(self.folder / "last.pt")
        self.step, self.best = progress["step"], progress["best"]
        self.reported = progress.get("reported", self.epoch)
        self.record.names, self.record.rows = progress["names"], progress["rows"]
        self.record.window = list(progress["window"])

    @rank_zero_only
    def finish(self) -> None:
        """Plot the losses and metrics of the run, and animate the samples."""
        # --max_steps may end a run between two rows. The plots show the steps after the last row.
        record, rows = self.record, list(self.record.rows)
        if record.window:
            rows.append(record.window_row(self.step, self.step / self.steps_per_epoch))
        draw_results(self.folder, rows, record.warn)
        print(f"{self.step:,} steps done; the results are in {self.folder}")
        path = shlex.quote(str(self.folder))
        print(f"to draw samples: python generate.py --load_path {path} --grid_size 8")
