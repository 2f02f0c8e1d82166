"""support/device.py: what a machine without a GPU can try of the code for one."""

from support.command import InputError

from typing import Any

import pytest
import torch

import support.device
from support.device import (
    autocast_for,
    pick_device,
    random_state,
    restore_random_state,
    seed_process,
)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")]
)
def test_auto_prefers_a_gpu(
    cuda: int, mps: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []

    def zeros(_: int, device: torch.device) -> torch.Tensor:
        asked.append(device)
        return torch.ones(1)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    monkeypatch.setattr(torch, "zeros", zeros)
    assert pick_device("auto") == torch.device(expected) == asked[0]


def test_a_numbered_gpu_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda's random state, which checkpoints hold, is the current device's."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        pick_device(name)
    assert chosen == [torch.device("cuda:1")]
    monkeypatch.setattr(support.device, "processes", lambda: 8)
    monkeypatch.setenv("RANK", "6")  # of torchrun's processes each takes its own on this machine
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("cuda") == chosen.pop() == torch.device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_gpu_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, device: torch.device) -> None:
        raise RuntimeError(f"no {device.type} here\nat all")

    monkeypatch.setattr(torch, "zeros", absent)
    with pytest.raises(
        InputError, match=rf"--device {name} cannot be used here \(no {name} here\)"
    ):
        pick_device(name)


@pytest.mark.parametrize(
    ("kind", "native", "bf16"),
    [(k, n, n and k != "mps") for k in ("cuda", "cpu", "mps") for n in (True, False)],
)
def test_auto_precision(
    kind: str, native: bool, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    # The processor has it where the GPU has not: neither is asked about the other.
    other = native if kind != "cuda" else not native
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: other)
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *args, enabled: asked.append((*args, enabled)))
    for precision in ("auto", "bf16", "fp32"):
        autocast_for(torch.device(kind), precision)()
    assert asked == [(kind, torch.bfloat16, enabled) for enabled in (bf16, True, False)]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_random_state_goes_with_its_kind_of_device(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run resumed on another kind of device takes the CPU's state and leaves the other alone."""
    gpu = torch.tensor([7], dtype=torch.uint8)
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(getattr(torch, kind), "get_rng_state", lambda: gpu)
    monkeypatch.setattr(getattr(torch, kind), "set_rng_state", restored.append)
    state = random_state(torch.device(kind))
    assert state.keys() == {"cpu", kind} and state[kind] is gpu
    drawn = torch.rand(3)
    restore_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(3), drawn) and restored == []
    restore_random_state(state, torch.device(kind))
    assert torch.equal(torch.rand(3), drawn) and restored == [gpu]
    restore_random_state({"cpu": state["cpu"]}, torch.device(kind))  # of a run on a CPU
    assert restored == [gpu]


def test_seeded_numbers_are_drawn_on_the_cpu() -> None:
    """So that every device sees the same: with another default device, too."""
    with torch.device("meta"):
        generator = support.device.seeded(0, support.device.NOISE)
    assert generator.device == torch.device("cpu")


def test_each_process_and_step_has_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They repeat in a run that is resumed; the first process goes on with its own."""

    def drawn(rank: int, *given: int) -> float:
        monkeypatch.setattr(support.device, "rank", lambda: rank)
        seed_process(*given)
        return torch.rand(1).item()

    places = [(rank, seed, step) for rank in (1, 2) for seed in (0, 1) for step in (0, 1)]
    numbers = [drawn(*place) for place in places]
    assert numbers == [drawn(*place) for place in places]
    assert len(set(numbers)) == len(places)
    state = torch.get_rng_state()
    expected = torch.rand(1).item()
    torch.set_rng_state(state)
    assert drawn(0, 0, 1) == expected
