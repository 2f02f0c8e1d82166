"""Prove that training did not change: train two versions of the code and compare all weights.

    python tools/same_training.py OLD_COMMIT                      # against the working tree
    python tools/same_training.py OLD_COMMIT NEW_COMMIT           # against another commit
    python tools/same_training.py OLD_COMMIT --only "dcgan.py --norm batch"

Each row of CONFIGURATIONS is a command line. Both versions run it at the same time, with the same
seed and the same random images. Then the tool compares all tensors of the two last.pt files by
position, because a commit may rename tensors. The networks, the EMA and the optimiser moments must
be bit-identical. All rows together take about four minutes on two cores.

The exit code is 0 if all rows agree, 1 if a row differs or fails, and 2 for bad input. The tool
cannot see a new default value of a flag in COMMON. Do not edit the code while the tool runs.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parent.parent
# 108 images make 10 batches, so that 6 epochs are 60 generator updates. Several discriminator
# updates per generator update need more epochs. The flags of a row override COMMON.
COMMON = """--dataset folder --data_dir grey --image_size 28 --features none --seed 1 --epochs 6
    --batch_size 10 --z_dim 8 --ngf 4 --ndf 4 --device cpu --precision fp32
    --out_dir runs --name run"""
CONFIGURATIONS = """
    vanilla_gan.py
    vanilla_gan.py --label_smoothing 0 --dropout 0 --ema 0 --data_dir colour --image_size 32
    vanilla_gan.py --d_steps 2 --epochs 12 --label_noise 0.1 --flip_labels --hflip
    dcgan.py --norm spectral --label_smoothing 0 --lr_decay 0
    dcgan.py --norm batch --label_noise 0.1 --hflip
    dcgan.py --norm instance --flip_labels --label_smoothing 0.2
    dcgan.py --norm layer --dropout 0.3 --data_dir colour --image_size 32
    dcgan.py --norm none --lr_decay 0.9 --ema 0
    dcgan.py --feature_matching --dropout 0.3
    dcgan.py --precision bf16
    cdcgan.py --norm spectral --label_smoothing 0 --lr_decay 0
    cdcgan.py --norm batch --label_noise 0.1 --hflip
    cdcgan.py --norm instance --flip_labels --label_smoothing 0.2
    cdcgan.py --norm layer --dropout 0.3 --data_dir colour --image_size 32
    cdcgan.py --norm none --lr_decay 0.9 --ema 0
    cdcgan.py --feature_matching --dropout 0.3
    cdcgan.py --features classifier --eval_samples 50 --precision bf16
    wgan_gp.py --norm layer --hflip
    wgan_gp.py --norm instance --dropout 0.3 --n_critic 3 --epochs 20
    wgan_gp.py --norm none --data_dir colour --image_size 32 --ema 0
    wgan_gp.py --norm batch --weight_clip 0.01 --n_critic 5 --epochs 30
    wgan_gp.py --weight_clip 0.05 --conditional
    wgan_gp.py --conditional --precision bf16
"""


def refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check `commit` out into a new git worktree `folder`; remove the worktree at the end."""
    worktree = ["git", "-C", str(ROOT), "worktree"]
    try:
        add = [*worktree, "add", "--detach", str(folder), commit]
        done = subprocess.run(add, capture_output=True, text=True)
        if done.returncode:
            refuse(f"cannot check out {commit!r} of {ROOT}: {done.stderr.splitlines()[-1]}")
        yield folder
    finally:
        remove = [
            *worktree,
            "remove",
            "--force",
            "--force",
            str(folder),
        ]  # also if the worktree is incomplete
        subprocess.run(remove, capture_output=True)


def make_images(folder: Path, shape: tuple[int, ...]) -> None:
    """Write random images of `shape` in 3 classes: 108 for training and 12 for testing."""
    rng = np.random.default_rng(0)
    for number in range(120):
        path = folder / ("train" if number < 108 else "test") / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 80, shape) + 80 * (number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def train(root: Path, cwd: Path, row: str) -> str:
    """Run the command of a row with the code in `root`; return the failure, "" if there is none."""
    script, *flags = row.split()
    command = [sys.executable, str(root / script), *COMMON.split(), *flags]
    env = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd / "cache")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    reason = (done.stderr.splitlines() or ["no message"])[-1]
    return f"{cwd.name} ended with exit code {done.returncode}: {reason}" if done.returncode else ""


def difference(old_file: Path, new_file: Path) -> str:
    """Return how the tensors of two checkpoints differ, "" if they are bit-identical."""
    old, new = (tensors(torch.load(file, weights_only=True)) for file in (old_file, new_file))
    if len(old) != len(new) or not old:
        return f"{len(old)} tensors in OLD, {len(new)} in NEW"
    changes = []
    for number, (a, b) in enumerate(zip(old, new, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"tensor {number}: {a.dtype} {[*a.shape]} in OLD, {b.dtype} {[*b.shape]} in NEW"
        if a.numpy().tobytes() != b.numpy().tobytes():
            changes.append((a.double() - b.double()).abs().max().item())
    return f"{len(changes)} of {len(old)} tensors, by up to {max(changes):.3g}" if changes else ""


def tensors(content: Any) -> list[Tensor]:
    """Return the tensors in a checkpoint, at any depth, in the order of the file.

    Random states (bytes) and the empty window of losses are left out, because neither is a weight.
    """
    if isinstance(content, Tensor):
        return [content] if content.numel() and content.dtype != torch.uint8 else []
    parts = content.values() if isinstance(content, dict) else content
    return [x for part in parts for x in tensors(part)] if isinstance(content, dict | list) else []


def main(argv: Sequence[str] | None = None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("old_commit", help="commit to compare with")
    parser.add_argument("new_commit", nargs="?", help="commit to check (default: the working tree)")
    parser.add_argument(
        "--only", default="", metavar="ROW", help="run only rows that begin with ROW"
    )
    args = parser.parse_args(argv)
    rows = [row.strip() for row in CONFIGURATIONS.strip().splitlines()]
    rows = [row for row in rows if row.startswith(args.only)]
    if not rows:
        refuse(f"no row of CONFIGURATIONS begins with {args.only!r}")
    if shutil.which("git") is None:
        refuse("git is not installed")
    start, wrong = time.monotonic(), 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        roots, places = [], [folder / "OLD", folder / "NEW"]
        for commit, place in zip((args.old_commit, args.new_commit), places, strict=True):
            code = checked_out(commit, place / "code") if commit is not None else nullcontext(ROOT)
            roots.append(stack.enter_context(code))
            make_images(place / "grey", (28, 28))
            make_images(place / "colour", (32, 32, 3))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        for row in rows:
            row_start = time.monotonic()
            failures = list(pool.map(train, roots, places, [row] * 2))
            checkpoints = (place / "runs" / "run" / "last.pt" for place in places)
            found = "; ".join(filter(None, failures)) or difference(*checkpoints)
            for place in places:
                shutil.rmtree(place / "runs", ignore_errors=True)
            wrong += bool(found)
            verdict = f"DIFFERENT ({found})" if found else "ok"
            print(f"{time.monotonic() - row_start:5.1f} s  {row}: {verdict}", flush=True)
    print(f"{wrong} of {len(rows)} configurations differ; {time.monotonic() - start:.0f} s in all")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM also removes the worktree
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
