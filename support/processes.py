"""Train one model on several devices, in the processes that torchrun starts.

    torchrun --standalone --nproc_per_node=2 cdcgan.py ...

Each process has all networks and a slice of every batch. All processes start with the weights of
the first process (rank 0), and average the gradients before each optimiser step. Therefore the
weights stay equal in all processes. --batch_size is the size of the whole batch, and the first
process draws z for all. The training equals single-process training up to rounding, except:
- Batch norm and feature matching use several images at once, so each process uses its slice only.
  Checkpoints contain the running statistics of the first process.
- Each process draws its own dropout, noisy labels and alpha of the penalty.

The processes may be on several machines. Only the first process reads and writes the run folder. On
each machine, the process with local rank 0 fetches and decodes the data before the others read it.

torch's DistributedDataParallel does not suit GANs, because it averages in hooks of one forward and
one backward pass. D makes two forward passes per backward pass, and the penalty differentiates
twice. One all_reduce after backward() suits both. Without torchrun, all functions here do nothing
or act as for one process.
"""

from support.command import InputError, exit_on_input_error, report_out_of_memory, say

import functools
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Time limit of a wait. The others wait while the first process evaluates or downloads, perhaps for
# hours. A dead process is noticed earlier, because the system closes its connections.
LONGEST = timedelta(days=1)
LEAST_IMAGES = 16  # per process and step, because batch norm of fewer images is too noisy
go_on = ""  # advice for messages about a dead process; Run sets it when there is a run to resume
P = ParamSpec("P")
T = TypeVar("T")


def started() -> bool:
    """Return whether this is one of torchrun's processes, inside process_group()."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process. Only process 0, the first, writes and prints."""
    return dist.get_rank() if started() else 0


def processes() -> int:
    return dist.get_world_size() if started() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Join torchrun's processes, if there are any. If they must end, one process says why."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    store, rank, size = next(dist.rendezvous("env://", timeout=LONGEST))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST)
    try:
        with ExitStack() as silence:
            if rank > 0:
                null = silence.enter_context(open(os.devnull, "w"))
                silence.enter_context(redirect_stdout(null))
                silence.enter_context(redirect_stderr(null))
            silence.enter_context(report_out_of_memory())
            yield
            # Leave together: while the first process draws its plots, the others would leave, and
            # torchrun waits only five minutes for the last machine.
            any_rank(False)
    except (InputError, KeyboardInterrupt):
        # When one process ends, the others fail, and torchrun terminates all with SIGTERM. SIGTERM
        # is ignored here, so that the message is printed first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            errors = store.add("errors", 1)
            if rank == 0:
                store.set("said", "")
        except RuntimeError:  # the process with the store has ended, and has printed the reason
            raise SystemExit(2) from None
        if errors > 1:
            raise SystemExit(2) from None
        raise
    except SystemExit:
        # From argparse, for example. The first process must print before any process ends.
        if rank == 0:
            store.set("said", "")
        else:
            with suppress(RuntimeError):
                store.wait(["said"], timedelta(minutes=1))
        raise
    dist.destroy_process_group()


@contextmanager
def training_command() -> Iterator[None]:
    """Run a training script: report bad input in one line, and join torchrun's processes."""
    with exit_on_input_error(), process_group():
        yield


@contextmanager
def _others_alive() -> Iterator[None]:
    """Raise InputError if communication with the other processes fails inside."""
    try:
        yield
    except RuntimeError as error:
        # Keep gloo's reason, without the source file before and the advice after the reason.
        reason = re.sub(r"^\[\S+\] ", "", str(error)).partition(". ")[0]
        raise InputError(f"another process of this run has died ({reason}){go_on}") from None


def average(values: Tensor) -> Tensor:
    """Overwrite `values` with the mean over all processes, and return `values`."""
    if started():
        with _others_alive():
            dist.all_reduce(values)
        values /= processes()
    return values


def average_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Replace each gradient of the optimiser's parameters by the mean over all processes."""
    if started():
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # All gradients go in one message, because many small messages would mostly wait.
        means = average(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = means.split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view_as(gradient))


def local_rows(batch_size: int) -> slice:
    """Return the rows of a batch for this process. Raise InputError if slices would be unequal."""
    parts, part = processes(), rank()
    if batch_size % parts:
        raise InputError(
            f"--batch_size {batch_size} cannot be divided among {parts} processes: "
            f"choose a multiple of {parts}"
        )
    size = batch_size // parts
    if parts > 1 and size < LEAST_IMAGES:
        few = f"warning: each of {parts} processes gets {size} images per step"
        say(f"{few}, but batch norm needs about {LEAST_IMAGES}: raise --batch_size")
    return slice(part * size, (part + 1) * size)


def local_slice(batch: Tensor) -> Tensor:
    """Broadcast the batch from the first process, and return the slice for this process."""
    if started():
        with _others_alive():
            dist.broadcast(batch, src=0)
    return batch.chunk(processes())[rank()]


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set in any process.

    All processes get the same answer, so they can leave a loop together. The votes stay on the CPU,
    because reading a value from a GPU would wait for the GPU.
    """
    if started():
        votes = torch.tensor(float(flag))
        with _others_alive():
            dist.all_reduce(votes)
        flag = votes.item() > 0
    return flag


def from_rank_zero(make: Callable[[], T]) -> T:
    """Return the result of `make` in the first process. If it raises InputError, end all."""
    if not started():
        return make()
    result: list[Any] = [None, None]
    if rank() == 0:
        try:
            result[0] = make()
        except InputError as error:
            result[1] = error
    with _others_alive():
        dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
    if result[1]:
        raise result[1] if rank() == 0 else SystemExit(2)  # the first process says why
    return result[0]


def train_together(parts: Iterable[nn.Module | torch.optim.Optimizer]) -> None:
    """Copy the weights and buffers of the first process to all, and average gradients.

    The gradients are averaged before each step of an optimiser.
    """
    for part in parts:
        if isinstance(part, torch.optim.Optimizer):
            part.register_step_pre_hook(lambda optimiser, *_: average_gradients(optimiser))
        elif started():
            with _others_alive():
                for values in part.state_dict().values():
                    dist.broadcast(values, src=0)


def rank_zero_only(function: Callable[P, None]) -> Callable[P, None]:
    """Make a function do nothing in all processes except the first."""

    @functools.wraps(function)
    def in_first(*args: P.args, **kwargs: P.kwargs) -> None:
        if rank() == 0:
            function(*args, **kwargs)

    return in_first


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Let one process per machine run the block first. The others then find the fetched files."""
    first = not started() or os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        any_rank(False)  # wait for the first process of every machine
    yield
    if first:
        any_rank(False)
