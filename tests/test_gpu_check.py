"""tools/gpu_check: its comparisons find a difference, and its parts run on a CPU."""

import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from tests.conftest import ROOT, tool

gpu_check = tool("gpu_check")


def rows(*losses: float) -> list[dict[str, float]]:
    """Return rows of metrics.csv with these losses of D, and losses of G that never change."""
    return [{"step": i, "d_loss": loss, "g_loss": 2.0} for i, loss in enumerate(losses, start=1)]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The tool checks the CPU, and writes its results into this folder."""
    monkeypatch.setattr(gpu_check, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_check, "OUT", tmp_path)
    return tmp_path / "results.txt"


def test_losses_are_compared_relative_to_their_size() -> None:
    assert gpu_check.loss_gap(rows(1.0, 4.0), rows(1.0, 4.0)) == 0
    assert gpu_check.loss_gap(rows(1.0, 4.0), rows(1.0, 3.0)) == pytest.approx(0.25)
    assert gpu_check.loss_gap(rows(-1.0), rows(1.0)) == pytest.approx(2.0)
    assert gpu_check.loss_gap(rows(1e-9), rows(2e-9)) < gpu_check.LOSS_GAP  # both are rounding
    assert gpu_check.loss_gap(rows(1.0), rows(1.0, 4.0)) == math.inf
    assert gpu_check.loss_gap([], []) == math.inf
    assert not gpu_check.loss_gap(rows(1.0, math.nan), rows(1.0, 4.0)) <= gpu_check.LOSS_GAP


def test_tensors_are_compared_relative_to_the_largest_number() -> None:
    one = torch.tensor([1.0, -4.0])
    assert gpu_check.tensor_gap(one, one) == 0
    assert gpu_check.tensor_gap(torch.tensor([1.0, -3.0]), one) == pytest.approx(0.25)
    broken = torch.tensor([1.0, math.nan])
    assert not gpu_check.tensor_gap(broken, one) <= gpu_check.FEATURE_GAP


def test_finite_rows_and_falling_distances() -> None:
    assert gpu_check.finite(rows(1.0, math.nan, 2.0, math.inf)) == 2
    assert gpu_check.falls([2.0, 1.0])
    assert not any(map(gpu_check.falls, ([], [1.0], [1.0, 1.0], [1.0, 2.0], [1.0, math.nan])))


def test_every_device_gets_the_numbers_of_the_cpu() -> None:
    torch.manual_seed(0)
    expected = [torch.rand(2), torch.randn(3), torch.rand(4)]
    torch.manual_seed(0)
    with gpu_check.drawn_on_the_cpu():
        assert torch.equal(torch.rand(2, device="cpu"), expected[0])
        assert torch.randn(3, device="meta").device.type == "meta"
    assert torch.equal(torch.rand(4), expected[2])


def test_a_difference_and_an_error_are_failed_rows(
    on_cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make the exit code 1. The scripts that follow are still checked."""

    def train(script: str, argv: list[str]) -> list[dict[str, float]]:
        if script == "dcgan":
            raise RuntimeError("out of | memory\nhere")
        return rows(1.0, 2.01 if script == "wgan_gp" and "--resume" in argv else 2.0)

    monkeypatch.setattr(gpu_check, "train", train)
    assert gpu_check.main(["resume"]) == 1
    found = [line.split(" | ") for line in on_cpu.read_text().splitlines()]
    assert [row[-1] for row in found] == ["ok |", "FAILED |", "FAILED |", "ok |"]
    assert found[1][2] == "RuntimeError: out of / memory"
    assert found[2][2] == "5.0e-03"


def test_a_profile_is_counted() -> None:
    def row(key: str, count: int, cpu: float, device: float, on_gpu: bool) -> SimpleNamespace:
        return SimpleNamespace(
            key=key,
            count=count,
            self_cpu_time_total=cpu,
            self_device_time_total=device,
            device_type=DeviceType.CUDA if on_gpu else DeviceType.CPU,
            is_user_annotation=key.startswith("Optimizer"),
        )

    profile = [
        row("aten::mm", 40, 1e6, 3e5, False),
        row("cudaLaunchKernel", 90, 4e5, 0, False),
        row("cuLaunchKernelEx", 10, 1e5, 0, False),
        row("gemm", 40, 0, 3e5, True),
        row("elementwise_kernel", 60, 0, 1e5, True),
        row("Memcpy DtoD (Device -> Device)", 5, 0, 1e5, True),
        row("Optimizer.step#Adam.step", 10, 0, 9e5, True),
    ]
    assert gpu_check.counts(profile, steps=10, seconds=2.0) == {
        "kernels per step": 10,
        "fraction of the profiled time in launches": pytest.approx(0.25),
        "fraction of the profiled time in kernels": pytest.approx(0.2),
    }


def test_calls_that_wait_are_found(on_cpu: Path) -> None:
    calls: list[str] = []
    with gpu_check.profiled(torch.profiler.profile(), {}, calls):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert len(calls) == 1 and calls[0].startswith(f"{Path(__file__).name}:")


def gpu_check_sh(out: Path, **settings: str) -> Any:
    env = os.environ | {"PYTHON": sys.executable, "OUT": str(out), **settings}
    command = [str(ROOT / "tools" / "gpu_check.sh")]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    "settings", [{"DEVICE": "nonsense"}, {"DEVICE": "cpu", "DATASET": "nonsense"}]
)
def test_bad_settings_are_one_line(settings: dict[str, str], tmp_path: Path) -> None:
    done = gpu_check_sh(tmp_path / "out", **settings)
    assert done.returncode == 2 and "nonsense" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_rehearsal_on_a_cpu_passes(tmp_path: Path) -> None:
    done = gpu_check_sh(tmp_path, DEVICE="cpu", QUICK="1")
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert done.stdout == (tmp_path / "results.txt").read_text()
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[5:]]
    assert {row[0] for row in table} == set(gpu_check.PARTS)
    assert [row[0] for row in table if row[1] == "all of it"] == list(gpu_check.PARTS)
    for script in gpu_check.SCRIPTS:
        checked = [row for row in table if row[1].startswith(f"{script}.py") and row[-1] == "ok"]
        assert len(checked) >= 5, script
    rates = re.findall(r"([\d,]+) images/s, peak", done.stdout)
    assert len(rates) == 16 and "0" not in rates
