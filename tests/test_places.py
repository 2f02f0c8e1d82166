"""The commands in poor surroundings, and what of other devices a machine without them can try."""

from support.command import InputError

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import support.device
from support.device import autocast_for, pick_device, random_state, restore_random_state
from tests.conftest import ROOT, TINY


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository into which nothing can be written."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    shutil.copytree(ROOT / "pretrained", folder / "pretrained")
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@pytest.mark.slow
def test_commands_in_poor_surroundings(checkout: Path, pictures: Path, tmp_path: Path) -> None:
    """One core, a read-only checkout, no HOME, the locale C, output into files, no input at all."""
    env = {name: os.environ[name] for name in ("PATH", "XDG_CACHE_HOME")}
    env |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    # root may write anywhere, unless this right is taken from it
    bound = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"]
    prefix = [*core, *(bound if os.geteuid() == 0 else []), "sh", "-c", 'exec "$@" <&-', "sh"]
    before = {path.name for path in checkout.rglob("*")}
    with pytest.raises(subprocess.CalledProcessError):  # it is read-only indeed
        subprocess.run([*prefix, "touch", str(checkout / "x")], check=True, capture_output=True)

    run = tmp_path / "runs" / "poor"
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    evaluated = ["--features", "classifier", "--eval_samples", "30", "--epochs", "1"]
    place = ["--out_dir", "runs", "--name", "poor", "--device", "cpu"]
    classes = [str(pictures / "train" / name) for name in ("bag", "coat")]
    for command in (
        ["cdcgan.py", *data, *TINY, *evaluated, *place],
        ["generate.py", "--load_path", "runs/poor", "--save_path", "runs/grid.png"],
        ["fid.py", *classes, "--dataset", "fashion_mnist"],
    ):
        python = [sys.executable, str(checkout / command[0]), *command[1:]]
        end = subprocess.run([*prefix, *python], cwd=tmp_path, env=env, capture_output=True)
        said = (end.stdout + end.stderr).decode("ascii")
        assert end.returncode == 0, (command, said)
        assert "\r" not in said, "no progress bars in files"
    assert (run / "training.gif").exists() and (tmp_path / "runs" / "grid.png").exists()
    assert {path.name for path in checkout.rglob("*")} == before


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
    ("kind", "native", "bf16"), [("cuda", True, True), ("cuda", False, False), ("mps", True, False)]
)
def test_auto_precision_of_other_devices(
    kind: str, native: bool, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
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
