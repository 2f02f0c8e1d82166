"""Measure whether memory, open files or the time per step grow during a training run.

    python tools/long_run.py --steps 2000               # cdcgan.py
    python tools/long_run.py --steps 2000 --script wgan_gp

The networks are tiny. An epoch has about 50 steps, so that the run has many epochs. Each epoch
draws samples, evaluates and writes a checkpoint, and this could also leak memory or files.
"""

import argparse
import importlib
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tools.same_training import make_images
from tools.samples import EVALUATED, TINY, scratch


@dataclass
class Growth:
    """Hold memory and open files after each quarter of a run, and the seconds of each step."""

    memory: list[float] = field(default_factory=list)  # MB, resident
    handles: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def resident() -> float:
    """Return the current memory of this process in MB (on Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(script: ModuleType, argv: Sequence[str], steps: int) -> Growth:
    """Train `steps` steps with the flags `argv`; return memory, open files and times."""
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

    with patch.object(script, "Run", Watched):
        script.main([*argv, "--max_steps", str(steps)])
    return growth


def long_flags(images: Path, out: Path) -> list[str]:
    """Return the flags of a run of tiny networks, two images per step, about 50 steps per epoch."""
    data = ["--dataset", "folder", "--data_dir", str(images), "--image_size", "28"]
    run = ["--batch_size", "2", "--epochs", "1000000", "--out_dir", str(out)]
    return [*data, *TINY, *EVALUATED, *run]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000, help="generator updates (default: 2000)")
    parser.add_argument(
        "--script", default="cdcgan", help="training script, without .py (default: cdcgan)"
    )
    args = parser.parse_args()
    script: Any = importlib.import_module(args.script)
    with scratch() as folder:
        make_images(folder / "images", (28, 28))
        growth = measure(script, long_flags(folder / "images", folder), args.steps)
    quarter = args.steps // 4
    print("steps    memory     open files   time per step, median of the quarter")
    for i, (memory, handles) in enumerate(zip(growth.memory, growth.handles, strict=True), start=1):
        median = statistics.median(growth.seconds[(i - 1) * quarter : i * quarter])
        print(f"{i * quarter:>5,}  {memory:7.1f} MB  {handles:>8}  {1000 * median:12.2f} ms")


if __name__ == "__main__":
    main()
