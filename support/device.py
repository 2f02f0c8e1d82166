"""Choose the device and the precision of a run, and seed its random numbers."""

from support.command import InputError
from support.processes import processes, rank

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Purposes for seeded(). Each purpose has an independent random stream.
SHUFFLES, NOISE, EVALUATION, PROCESSES = 1, 2, 3, 4


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" prefers a GPU. Raise InputError if it is unusable.

    Under torchrun, "cuda" is the GPU with the local rank of the process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        name = "mps" if name == "cpu" and torch.backends.mps.is_available() else name
    if processes() > 1 and name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    elif processes() > 1 and name != "cpu":
        raise InputError(
            f"--device {name} cannot be used with {processes()} processes: give cpu or cuda"
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise InputError(f"--device {name} cannot be used here ({reason}); try cpu") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # so that torch.cuda.get_rng_state() refers to this GPU
    return device


def pick_precision(device: torch.device, precision: str) -> str:
    """Return "fp32" or "bf16". "auto" means bf16 if `device` computes with bfloat16 natively."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # CPUs with AMX support AVX512-BF16 as well.
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def autocast_for(device: torch.device, precision: str) -> Callable[[], torch.autocast]:
    """Return a function that returns the autocast context of `precision` on `device`."""
    enabled = pick_precision(device, precision) == "bf16"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def seeded(seed: int, *purpose: int) -> torch.Generator:
    """Return a separate random generator on the CPU for each (seed, purpose...).

    The numbers come from the CPU, so that they do not depend on the device of the run. SeedSequence
    mixes seed and purpose into 32 bits, because torch's CPU generator uses no more. With
    seed + epoch instead, epoch 1 of seed 0 would equal epoch 0 of seed 1.
    """
    mixed = np.random.SeedSequence(seed, spawn_key=purpose).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def seed_process(seed: int, step: int) -> None:
    """Seed torch's global generators in all processes of torchrun except the first.

    Each process draws different numbers, and a repeated run draws the same numbers again.
    """
    if rank() > 0:
        torch.manual_seed(seeded(seed, PROCESSES, rank(), step).initial_seed())


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's global random generators, on the CPU and on the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = getattr(torch, device.type).get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore what random_state() returned. A state for another kind of device is ignored."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(state[device.type])
