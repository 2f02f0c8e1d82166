"""Does a run grow? Memory, open files and the time of a step, early and late in 2,000 steps.

    python tools/long_run.py --steps 2000               # half a minute
    python tools/long_run.py --steps 2000 --script wgan_gp

The networks are tiny and an epoch is 50 steps, so that epochs, too, have their share: 40 pictures,
checkpoints, evaluations. Where an old process is measured, what it freed before counts as its own.
"""

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import support.features
from tests.conftest import TINY, make_pictures


@dataclass
class Growth:
    """What a run took: after each quarter of its steps, and in each step."""

    memory: list[float] = field(default_factory=list)  # MB, resident
    handles: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def resident() -> float:
    """MB of memory that this process has now (of Linux; its peak would hide what comes later)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(script: ModuleType, argv: Sequence[str], steps: int) -> Growth:
    """Train `steps` steps with the flags `argv`, and look at it from outside."""
    growth = Growth()

    class Watched(script.Run):  # type: ignore[misc, name-defined]
        def steps(self) -> Iterator[int]:
            for step in super().steps():
                began = time.perf_counter()
                yield step
                growth.seconds.append(time.perf_counter() - began)
                if (step + 1) % (steps // 4) == 0:
                    growth.memory.append(resident())
                    growth.handles.append(len(os.listdir("/proc/self/fd")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "Run", Watched)
        script.main([*argv, "--max_steps", str(steps)])
    return growth


def long_flags(pictures: Path, out: Path) -> list[str]:
    """Of a run of tiny networks with 52 steps of two images an epoch."""
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    measured = ["--features", "classifier", "--eval_samples", "30", "--epochs", "1000000"]
    run = ["--out_dir", str(out), "--device", "cpu"]
    return [*data, *TINY, "--batch_size", "2", *measured, *run]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--script", default="cdcgan")
    args = parser.parse_args()
    torch.set_num_threads(1)
    support.features.LEAST_STEPS = 10  # the folder's classifier need not be good
    script: Any = importlib.import_module(args.script)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        pictures = make_pictures(Path(folder) / "pictures")
        growth = measure(script, long_flags(pictures, Path(folder)), args.steps)
    quarter = args.steps // 4
    print("steps    memory     open files   a step, median of the quarter")
    for i, (memory, handles) in enumerate(zip(growth.memory, growth.handles, strict=True), start=1):
        median = statistics.median(growth.seconds[(i - 1) * quarter : i * quarter])
        print(f"{i * quarter:>5,}  {memory:7.1f} MB  {handles:>8}  {1000 * median:12.2f} ms")


if __name__ == "__main__":
    main()
