"""One run: it counts the steps, and between them logs, draws, measures and saves.

A script builds its networks and hands them to a Run:

    run = Run("cdcgan", args, dataset, len(batches), generator_args, generator=generator, ...)
    for step in run.steps():
        ...                                         # the script's own two updates
        run.log(d_loss=d_loss, g_loss=g_loss)

What it leaves in runs/<name>/:

    config.json    the command line's arguments, versions, device; --config reads it back
    metrics.csv    losses and the like: what repeats to the bit (on a CPU: see Run)
    timing.csv     seconds and images/s an epoch: what does not
    events.*       the same for TensorBoard, with pictures and hyperparameters
    samples/       epoch_0001.png, ...: the same z, after every epoch or, in long runs, every few
    last.pt        the last checkpoint: networks, optimisers, random state
    best.pt        the checkpoint with the smallest distance to the test images
    losses.png, metrics.png, training.gif           at the end
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
from training.record import Record, rates_of_answers
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

PICTURES = 100  # sample pictures of a long run, or up to twice as many; a short one's are fewer


class Run:
    """A run's folder, and where the training in it stands.

    `args`: of parse_args. `generator_args`: what Generator() was called with, which is all that
    load_generator() needs to rebuild it. `state`: every network and optimiser that training
    changes, by name: `generator`, its average `ema` (which draws the pictures), `discriminator` or
    `critic`, and the optimisers. All of it goes into each checkpoint and comes back with --resume.

    It counts the steps, makes the script's optimisers average their gradients over processes, and
    calls what writes (Record), draws (Samples) and measures (Evaluation). It never changes a loss,
    a weight or a random number of the training. A run that was stopped and resumed equals one that
    was not, to the bit: on a CPU, with as many threads and processes. A GPU adds in an order that
    changes (convolutions' and embeddings' gradients), so there only the random numbers repeat.
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
        self.sample_every = args.sample_every or max(1, args.epochs // PICTURES)
        d_steps = getattr(args, "n_critic", getattr(args, "d_steps", 1))  # to one of G's
        self.images_per_step = d_steps * args.batch_size
        self.step = 0  # generator updates done
        self.orderly_end = OrderlyEnd(insist=processes() == 1)
        self.best = math.inf  # the smallest distance so far
        self.reported = 0  # epochs at whose ends the run has drawn and measured
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
        support.processes.go_on = f"; to go on from its last checkpoint: {command}"
        self.begin()

    @rank_zero_only
    def lock(self) -> None:
        self.lock_file = locked(self.folder)

    @rank_zero_only
    def begin(self) -> None:
        """Put into the folder what it has before the first step."""
        remove_unfinished(self.folder)
        write_config(self.folder, self.script, self.args, self.device)
        self.record.open(self.step)
        self.save()  # from here on the run can be resumed
        generator, samples = self.state["generator"], self.samples
        print_summary(
            self.dataset, self.steps_per_epoch, generator, self.critic, samples.z, samples.labels
        )
        print_where(self.folder, self.device, self.step, self.total_steps)
        if self.step == 0:
            self.record.image("images/real", samples.draw_real(), 0)
            self.record.hyperparameters(hyperparameters(self.args))
            self.draw_samples()  # epoch 0: what an untrained generator draws

    @property
    def epoch(self) -> int:  # whole epochs done
        return self.step // self.steps_per_epoch

    def steps(self) -> Iterator[int]:
        """Number the generator updates that are left; between them log, draw and save.

        Ctrl-C and SIGTERM let the step finish, save, and end with exit code 130 (128 + SIGINT).
        InputError where a loss or a weight is no longer finite; last.pt then stays as it was.
        """
        last = min(self.args.max_steps or self.total_steps, self.total_steps)
        try:
            with self.orderly_end:
                if self.reported < self.epoch:  # the run ended where it should have reported
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
        """Save and end, because of Ctrl-C or SIGTERM."""
        self.save()
        command = resume_command(self.script, self.folder)
        self.orderly_end.print(f"stopped at step {self.step:,}; to go on: {command}")
        any_rank(True)  # wait: torchrun ends the others as soon as one has ended
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

    def log(self, *answers: Tensor, **values: Tensor) -> None:
        """Note this step's losses (0-d tensors) and D's answers, without waiting for them.

        answers: D's logits (B,) of real images, and of generated ones before and after D's update.
        Of them, the mean probabilities D(x) and D(G(z)) are noted, and the shares that D is right
        about before its update.
        """
        if answers:
            values |= rates_of_answers(*(self.real_sign * logits for logits in answers))
        self.record.names = list(values)
        means = average(torch.stack([value.detach().float() for value in values.values()]))
        if rank() == 0:
            self.record.window.append(means)

    @rank_zero_only
    def end_window(self) -> None:
        self.record.end_window(self.step, self.step / self.steps_per_epoch)

    @rank_zero_only
    def end_epoch(self, steps: int, seconds: float) -> None:
        """After an epoch's last step, note its time and report on it."""
        rate = steps * self.images_per_step / seconds
        line = f"epoch {self.epoch:>3}/{self.args.epochs}  {seconds:6.1f} s  {rate:6,.0f} images/s"
        self.check_weights()
        try:
            self.record.timing(self.epoch, steps, seconds, rate, self.step)
            self.report(f"{line}  {self.record.summary()}")
        except (InputError, OSError):  # something cannot be written; perhaps the weights can
            self.save()  # with the report still to come: a resumed run begins with it
            raise

    @rank_zero_only
    def report(self, line: str) -> None:
        """Draw and measure at the end of an epoch, save, and print.

        Printing comes last because it fails where the reader of the output has gone.
        """
        lines, best = [line], self.best
        if self.epoch % self.sample_every == 0:
            self.draw_samples()
        if self.evaluation and self.epoch % self.args.eval_every == 0:
            metrics = self.evaluation(self.state["ema"], self.critic)
            self.record.measured(metrics, self.step)
            found = [f"{name} {shown(value, '.4g')}" for name, value in metrics.items()]
            lines.append("      " + "  ".join(found))
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
        if rank() > 0:  # the first process evaluates alone, but all of them log
            return
        before = random_state(self.device)  # making a network draws its first weights
        try:
            network = feature_network(self.args, self.dataset, self.device)
            if network is not None:
                losses = (d_loss, g_loss, real_sign)
                self.evaluation = Evaluation(
                    network, self.args, self.dataset, *losses, self.conditional
                )
        except InputError as error:
            if self.args.features is not None:  # asked for
                raise
            say(f"warning: training without evaluation: {error}")
        restore_random_state(before, self.device)

    def check_weights(self) -> None:
        """InputError where a network holds a number that is not finite."""
        if name := self.saving.not_finite():
            self.record.diverged(f"the {name} is not finite at step {self.step:,}")

    def draw_samples(self) -> None:
        picture, warning = self.samples.draw(self.state["ema"])
        if warning:
            self.record.warn(warning)
        save_picture(picture, self.folder / "samples" / f"epoch_{self.epoch:04d}.png")
        self.record.image("images/generated", picture, self.step)

    @rank_zero_only
    def save(self, *files: str, **progress: float) -> None:
        """Write metrics.csv and the checkpoints (last.pt if not said otherwise) as of this step.

        `progress`: what has changed of the run's `best` and `reported`.
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
        """Take everything back from last.pt. InputError if it does not fit this run."""
        progress = self.saving.load(self.folder / "last.pt")
        self.step, self.best = progress["step"], progress["best"]
        self.reported = progress.get("reported", self.epoch)
        self.record.names, self.record.rows = progress["names"], progress["rows"]
        self.record.window = list(progress["window"])

    @rank_zero_only
    def finish(self) -> None:
        """Draw the pictures of the whole run."""
        # A run that --max_steps ended early shows what it has since the last row, too.
        record, rows = self.record, list(self.record.rows)
        if record.window:
            rows.append(record.window_row(self.step, self.step / self.steps_per_epoch))
        draw_results(self.folder, rows, record.warn)
        print(f"{self.step:,} steps done; everything is in {self.folder}")
        path = shlex.quote(str(self.folder))
        print(f"to sample it: python generate.py --load_path {path} --grid_size 8")
