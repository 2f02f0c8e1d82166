"""One training on several devices: what the processes that torchrun starts do together.

    torchrun --standalone --nproc_per_node=2 cdcgan.py ...

Each process has all networks and its share of every batch. Before an optimiser's step the gradients
are averaged, so the weights stay the same everywhere. --batch_size is the whole batch and z is the
first process's, so the training is that of one process, but for rounding and for
- what looks at several images at once, and here sees a share: batch norm, feature matching (of the
  running statistics, the first process's are kept);
- dropout, noisy labels and the penalty's alpha, which every process draws for itself.

The usual DistributedDataParallel wraps a network and averages in hooks of its forward and backward
passes. It does not suit GANs: D goes forward twice and back once, is passed through without
gradients of its own, asked for features, and differentiated twice. One all_reduce after backward()
needs to know nothing of that. It does not overlap with backward(), as DDP's does.

Without torchrun, nothing here does anything.
"""

from support.command import InputError, exit_on_input_error, report_out_of_memory

import functools
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# What the first process does alone (an evaluation, a download) may take hours. A process that dies
# is not noticed by this time, but by its connections, which the system closes.
LONGEST = timedelta(days=1)
go_on = ""  # what to do where a process has died, once there is a run to go on with
P = ParamSpec("P")
T = TypeVar("T")


def started() -> bool:
    """Whether this is one of torchrun's processes, within process_group()."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number; the first is 0, and the only one that writes and prints."""
    return dist.get_rank() if started() else 0


def processes() -> int:
    return dist.get_world_size() if started() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Join torchrun's processes, if there are any; one of them alone says why all had to end."""
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
    except (InputError, KeyboardInterrupt):
        # One that ends makes the others fail, and torchrun terminate them: not before it is said.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if store.add("errors", 1) > 1:
            raise SystemExit(2) from None
        raise
    except SystemExit:
        # Say, of argparse: every process meets it, and the first is to print before any ends.
        if rank == 0:
            store.set("said", "")
        else:
            with suppress(RuntimeError):
                store.wait(["said"], timedelta(minutes=1))
        raise
    dist.destroy_process_group()


@contextmanager
def training_command() -> Iterator[None]:
    """Run a training script: bad input is one line, and torchrun's processes act together."""
    with exit_on_input_error(), process_group():
        yield


@contextmanager
def _others_alive() -> Iterator[None]:
    """InputError where what is done with the other processes fails."""
    try:
        yield
    except RuntimeError as error:
        # gloo's words without its source file before, and its advice behind them.
        reason = re.sub(r"^\[\S+\] ", "", str(error)).partition(". ")[0]
        raise InputError(f"another process of this run has died ({reason}){go_on}") from None


def average(values: Tensor) -> Tensor:
    """The mean of all processes' values, which this overwrites with it."""
    if started():
        with _others_alive():
            dist.all_reduce(values)
        values /= processes()
    return values


def average_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Give every parameter of the optimiser the mean of its gradients in all processes."""
    if started():
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # In one message: sent one by one, small tensors are all waiting.
        means = average(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = means.split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view_as(gradient))


def local_slice(batch: Tensor) -> Tensor:
    """This process's part of what the first drew for the whole batch."""
    if started():
        with _others_alive():
            dist.broadcast(batch, src=0)
    return batch.chunk(processes())[rank()]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process, in all alike: so they leave a loop together.

    The votes stay on the CPU, where reading them does not wait for a GPU.
    """
    if started():
        votes = torch.tensor(float(flag))
        with _others_alive():
            dist.all_reduce(votes)
        flag = votes.item() > 0
    return flag


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in all."""
    if not started():
        return make()
    result = [make() if rank() == 0 else None]
    with _others_alive():
        dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
    return result[0]  # type: ignore[return-value]


def first_only(function: Callable[P, None]) -> Callable[P, None]:
    """Makes a function do nothing in all processes but the first."""

    @functools.wraps(function)
    def in_first(*args: P.args, **kwargs: P.kwargs) -> None:
        if rank() == 0:
            function(*args, **kwargs)

    return in_first


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The others wait here until the first is through: what it fetched, they find."""
    if rank() > 0:
        any_process(False)
    yield
    if rank() == 0:
        any_process(False)
