"""Measure the training speed and the memory of each script at 28, 32 and 64 pixels.

    python benchmarks/scripts.py                                   # prints a table
    python benchmarks/scripts.py --save_path docs/times.csv        # writes its numbers, too
    python benchmarks/scripts.py --device cuda --epochs 11

Each row is a run of its own with the default flags of the script, without evaluation, on the 6,000
T-shirts of Fashion-MNIST. The first epoch is not counted, and the other epochs give a median. The
seconds are for an epoch of all 60,000 images. The memory is the peak of the process in main memory.
Other programs slow the runs down, so use a quiet machine.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from support.checkpoints import SCRIPTS  # noqa: E402

SIZES = (28, 32, 64)
EPOCH = 60_000  # training images of Fashion-MNIST


def measure(script: str, image_size: int, epochs: int, device: str) -> tuple[float, float]:
    """Train one script; return its images per second, and the peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, f"{script}.py", "--classes", "0", "--image_size", str(image_size)]
        argv += ["--epochs", str(epochs), "--device", device, "--features", "none"]
        argv += ["--out_dir", folder, "--name", "run"]
        with (Path(folder) / "output").open("w") as output:
            process = subprocess.Popen(argv, cwd=ROOT, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)  # not on Windows
        if status:
            sys.exit((Path(folder) / "output").read_text())
        with (Path(folder) / "run/timing.csv").open() as file:
            _, *rows = csv.DictReader(file)
    return median(float(row["images_per_second"]) for row in rows), usage.ru_maxrss / 2**20


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of rows: script, image size, images per second, GB."""
    lines = ["| script | image size | images/s | seconds per epoch | GB |"]
    lines.append("|---|---:|---:|---:|---:|")
    for script, size, speed, memory in rows:
        seconds = EPOCH / float(speed)
        lines.append(f"| `{script}.py` | {size} | {float(speed):,.0f} | {seconds:.0f} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    epochs = "epochs per run, at least 2 (default: 2)"
    parser.add_argument("--epochs", type=int, default=2, help=epochs)
    device = "device of the training: cpu, cuda, cuda:N or mps (default: cpu)"
    parser.add_argument("--device", default="cpu", help=device)
    save_path = ".csv file for the numbers (default: none)"
    parser.add_argument("--save_path", type=Path, help=save_path)
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error(f"argument --epochs: {args.epochs} is less than 2")
    if args.save_path and not args.save_path.parent.is_dir():
        parser.error(f"argument --save_path: there is no folder {args.save_path.parent}")
    rows = []
    for script in SCRIPTS:
        for size in SIZES:
            speed, memory = measure(script, size, args.epochs, args.device)
            rows.append((script, str(size), f"{speed:.1f}", f"{memory:.1f}"))
            print(*rows[-1], file=sys.stderr)
    print(table(rows))
    if args.save_path:
        with args.save_path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
