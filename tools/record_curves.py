"""Train the short runs of docs/failures.md, exercises.md and log.md; record FCD per epoch.

    python tools/record_curves.py                     # all runs without a folder
    python tools/record_curves.py d_wins healthy      # these runs
    python tools/record_curves.py --same              # after a change that trains the same

Each run gets the folder runs/curves/NAME, and one line in docs/curves.jsonl, with a fingerprint as
in tools/record_results.py. tools/make_figures.py draws the pictures of the runs.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from record_results import ROOT, fingerprint, per_epoch, quality, recorded

from training.flags import NO_HYPERPARAMETERS

CURVES, FOLDER = ROOT / "docs/curves.jsonl", ROOT / "runs/curves"


class Curve(NamedTuple):
    """A training command, and how its code differs from the repository's."""

    command: str  # the script and its flags
    patch: str = ""  # name of a file in docs/answers
    edits: tuple[tuple[str, str], ...] = ()  # (old text, new text), replaced after the patch
    measure: bool = False  # whether fid.py --prdc measures last.pt


D_WINS = "--d_steps 5 --lr_d 1e-3 --lr_g 5e-5 --dropout 0 --label_smoothing 0"
NO_R2 = ((" + gradient_penalty(fake_logits, inputs)", ""),)
EARLY = (
    ("        opt_g.zero_grad()\n        g_loss", "        g_loss"),
    ("            d_loss.backward", "            opt_g.zero_grad()\n            d_loss.backward"),
)
BATCH_NORM = (
    "--z_dim 100 --lr_decay 0 --norm batch --beta1 0.5 --beta2 0.999 --lr_g 2e-4 --lr_d 2e-4"
    " --ema 0.999"
)
FAST, SLOW = (f"--lr_g {lr} --lr_d {lr} --ema 0.999" for lr in ("4e-4", "5e-5"))
R3GAN = "dcgan.py --epochs 21 --norm none --label_smoothing 0"
RUNS = {
    # docs/failures.md and docs/course.md
    "healthy": Curve("vanilla_gan.py --epochs 6"),
    "d_wins": Curve(f"vanilla_gan.py --epochs 6 {D_WINS}"),
    "d_wins_d_steps": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --d_steps 1"),
    "d_wins_lr_d": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --lr_d 4e-4"),
    "d_wins_lr_g": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --lr_g 4e-4"),
    "d_wins_rates": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --lr_d 4e-4 --lr_g 4e-4"),
    "d_wins_dropout": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --dropout 0.3"),
    "d_wins_smoothing": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --label_smoothing 0.1"),
    "d_wins_label_noise": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --label_noise 0.05"),
    "g_too_fast": Curve("vanilla_gan.py --epochs 6 --lr_g 2e-3 --lr_d 1e-4"),
    "rates_too_high": Curve("vanilla_gan.py --epochs 6 --lr_g 1e-2 --lr_d 1e-2"),
    "momentum": Curve("vanilla_gan.py --epochs 6 --beta1 0.9 --ema 0"),
    "no_ema": Curve("vanilla_gan.py --epochs 6 --ema 0"),
    "label_noise": Curve("vanilla_gan.py --epochs 6 --label_noise 0.3"),
    "little_label_noise": Curve("vanilla_gan.py --epochs 6 --label_noise 0.05"),
    "no_smoothing": Curve("vanilla_gan.py --epochs 6 --label_smoothing 0"),
    "mixed_batch": Curve(f"dcgan.py --epochs 2 {BATCH_NORM}", "mixed-batch"),
    "separate_batches": Curve(f"dcgan.py --epochs 2 {BATCH_NORM}"),
    # docs/exercises.md
    "no_detach": Curve("vanilla_gan.py --epochs 1", "no-detach"),
    "early_zero_grad": Curve("vanilla_gan.py --epochs 1", "no-detach", EARLY),
    "strong_d": Curve(f"vanilla_gan.py --epochs 2 {D_WINS}"),
    "saturating": Curve(f"vanilla_gan.py --epochs 2 {D_WINS}", "saturating-loss"),
    "projection": Curve("cdcgan.py --epochs 2"),
    "concatenation": Curve("cdcgan.py --epochs 2", "concatenation"),
    "clipping": Curve(f"wgan_gp.py --epochs 1 --n_critic 5 --weight_clip 0.01 {SLOW}"),
    "r3gan_gamma_0.2": Curve(f"{R3GAN} --gamma 0.2", "r3gan", measure=True),
    "r3gan_gamma_0.05": Curve(f"{R3GAN} --gamma 0.05", "r3gan", measure=True),
    "r3gan": Curve(f"{R3GAN} --gamma 1", "r3gan", measure=True),
    "r3gan_no_penalty": Curve(f"{R3GAN} --gamma 0", "r3gan", measure=True),
    "r3gan_r1_only": Curve(f"{R3GAN} --gamma 1", "r3gan", NO_R2, measure=True),
    "r3gan_seed_1": Curve(f"{R3GAN} --gamma 1 --seed 1", "r3gan", measure=True),
    # docs/log.md and docs/results.md
    "loud_embeddings": Curve("cdcgan.py --epochs 6", "loud-embeddings", measure=True),
    "quiet_embeddings": Curve("cdcgan.py --epochs 6", measure=True),
    "five_critic_steps": Curve(f"wgan_gp.py --epochs 3 --n_critic 5 {FAST}"),
    "small_z": Curve("wgan_gp.py --epochs 2 --z_dim 16"),
    "dcgan_optimiser": Curve(f"dcgan.py --epochs 4 {BATCH_NORM}"),
    "wgan_gp_optimiser": Curve(
        f"wgan_gp.py --epochs 1 --n_critic 5 {SLOW} --lr_g 1e-4 --lr_d 1e-4"
    ),
}


@contextmanager
def changed_code(run: Curve) -> Iterator[Path]:
    """Yield a folder with a copy of the code that `run` trains."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for part in ("support", "training"):
            shutil.copytree(ROOT / part, folder / part)
        (folder / "pretrained").symlink_to(ROOT / "pretrained")
        if run.patch:
            patch = ROOT / f"docs/answers/{run.patch}.patch"
            subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
        script = folder / run.command.split()[0]
        for old, new in run.edits:
            assert old in script.read_text(), f"{script.name} has no text {old!r}"
            script.write_text(script.read_text().replace(old, new))
        yield folder


def commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()


def train(name: str, out_dir: Path, more: Sequence[str] = ()) -> dict[str, Any]:
    """Train the run `name` in out_dir/name; return its line of docs/curves.jsonl.

    `more` are further flags of the script.
    """
    run, folder = RUNS[name], out_dir / name
    script, *flags = shlex.split(run.command)
    places = ["--data_dir", str(ROOT / "data"), "--out_dir", str(out_dir), "--name", name]
    argv = [sys.executable, script, "--dataset", "fashion_mnist", *flags, *places, *more]
    with changed_code(run) as code:
        row: dict[str, Any] = {"name": name, "patch": run.patch, "commit": commit()}
        subprocess.run(argv, cwd=code, check=True)
        config = json.loads((folder / "config.json").read_text())
        row["script"] = config["script"]
        row["args"] = {k: v for k, v in config["args"].items() if k not in NO_HYPERPARAMETERS}
        row["fingerprint"] = fingerprint(code / script, row["args"])
    for column in ("fcd", "class_share"):
        row[f"{column}_per_epoch"] = per_epoch(folder, column)
    return row | (quality(folder) if run.measure else {})


def fingerprint_of(name: str, args: dict[str, Any]) -> str:
    """Return the fingerprint of the current code of the run `name` with hyperparameters `args`."""
    with changed_code(RUNS[name]) as code:
        return fingerprint(code / RUNS[name].command.split()[0], args)


def write(rows: dict[str, dict[str, Any]]) -> None:
    lines = [json.dumps(rows[name]) + "\n" for name in RUNS if name in rows]
    CURVES.write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--same", action="store_true", help="write the current fingerprints")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in RUNS]:
        parser.error(f"no run is called {unknown[0]}; the runs are {', '.join(RUNS)}")
    names = args.names or [name for name in RUNS if not (FOLDER / name).exists()]
    if there := [name for name in names if not args.same and (FOLDER / name).exists()]:
        parser.error(f"{FOLDER / there[0]} exists: delete the folder to train the run anew")
    rows = {row["name"]: row for row in recorded(CURVES)}
    if args.same:
        for name, row in rows.items():
            row["fingerprint"] = fingerprint_of(name, row["args"])
        write(rows)
        return
    for name in names:
        rows[name] = train(name, FOLDER)
        write(rows)


if __name__ == "__main__":
    main()
