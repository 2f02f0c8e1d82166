"""Where a run computes, in which precision, and where its random numbers come from."""

from support.command import InputError
from support.processes import processes, rank

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Purposes of seeded(): independent random streams.
SHUFFLES, NOISE, EVALUATION, PROCESSES = 1, 2, 3, 4


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" prefers a GPU. InputError if it cannot be used.

    Of torchrun's processes each takes a GPU of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        name = "mps" if name == "cpu" and torch.backends.mps.is_available() else name
    if processes() > 1 and name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    elif processes() > 1 and name != "cpu":
        raise InputError(f"--device {name} is not for {processes()} processes: give cpu or cuda")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise InputError(f"--device {name} cannot be used here ({reason}); try cpu") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # whose random state torch.cuda then speaks of
    return device


def autocast_for(device: torch.device, precision: str) -> Callable[[], torch.autocast]:
    """A function that gives the autocast context of `precision` on `device`."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            # Processors with AMX have it too. (torch has a public name for this from 2.11 on.)
            native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if native else "fp32"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def seeded(seed: int, *purpose: int) -> torch.Generator:
    """A random generator of its own for each (seed, purpose...), on the CPU.

    There, so that every device sees the same numbers. SeedSequence mixes what it is given into 32
    bits, all that torch's CPU generator takes: seed + epoch would make two seeds share epochs.
    """
    mixed = np.random.SeedSequence(seed, spawn_key=purpose).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def seed_process(seed: int, step: int) -> None:
    """Give torchrun's other processes random numbers that are not the first's, but repeat."""
    if rank() > 0:
        torch.manual_seed(seeded(seed, PROCESSES, rank(), step).initial_seed())


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's global random generators: the CPU's and the device's own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = getattr(torch, device.type).get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo random_state(). Another kind of device than the run's has no state to go on from."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(state[device.type])
