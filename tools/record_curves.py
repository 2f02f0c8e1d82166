"""Train the short runs of docs/failures.md, exercises.md and log.md; record FCD per epoch.

    python tools/record_curves.py                     # all runs that docs/curves.jsonl lacks
    python tools/record_curves.py d_wins healthy      # these runs
    python tools/record_curves.py --same              # after a change that trains the same

Each run gets the folder runs/curves/NAME, and one line in docs/curves.jsonl. A run folder that
exists is recorded without training. tools/make_figures.py draws the pictures of the runs. Do not
edit the scripts while the tool trains. Each line has a fingerprint as in tools/record_results.py.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
    edits: tuple[tuple[str, str], ...] = ()  # texts of the patched script, each with its successor
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
LARGE_BATCH = "--batch_size 128 --lr_g 2e-4 --lr_d 2e-4"
R3GAN = "dcgan.py --epochs 21 --norm none --label_smoothing 0"
RUNS = {
    # docs/failures.md and docs/course.md
    "healthy": Curve("vanilla_gan.py --epochs 6"),
    "d_wins": Curve(f"vanilla_gan.py --epochs 6 {D_WINS}"),
    "d_wins_d_steps": Curve(f"vanilla_gan.py --epochs 6 {D_WINS} --d_steps 1"),
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
    "no_dropout": Curve(f"vanilla_gan.py --epochs 2 {LARGE_BATCH} --dropout 0"),
    "dropout": Curve(f"vanilla_gan.py --epochs 2 {LARGE_BATCH}"),
    "dcgan_optimiser": Curve(f"dcgan.py --epochs 4 {BATCH_NORM}"),
    "wgan_gp_optimiser": Curve(
        f"wgan_gp.py --epochs 1 --n_critic 5 {SLOW} --lr_g 1e-4 --lr_d 1e-4"
    ),
}


@contextmanager
def changed_code(run: Curve) -> Iterator[Path]:
    """Yield a folder with the code that `run` trains."""
    if not run.patch:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for part in ("support", "training", "pretrained", "configs"):
            (folder / part).symlink_to(ROOT / part)
        patch = ROOT / f"docs/answers/{run.patch}.patch"
        subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
        script = folder / run.command.split()[0]
        for text, successor in run.edits:
            assert text in script.read_text(), f"{script.name} has no text {text!r}"
            script.write_text(script.read_text().replace(text, successor))
        yield folder


def train(name: str, folder: Path) -> None:
    """Train the run `name` in the run folder `folder`."""
    with changed_code(RUNS[name]) as code:
        script, *flags = shlex.split(RUNS[name].command)
        places = ["--data_dir", str(ROOT / "data"), "--out_dir", str(folder.parent)]
        argv = [sys.executable, script, "--dataset", "fashion_mnist", *flags, *places]
        subprocess.run([*argv, "--name", name], cwd=code, check=True)


def row_of(name: str, folder: Path) -> dict[str, Any]:
    """Return the line of docs/curves.jsonl for the finished run `name` in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    left_out = NO_HYPERPARAMETERS | {"features", "eval_samples"}
    args = {key: value for key, value in config["args"].items() if key not in left_out}
    return {
        "name": name,
        "script": config["script"],
        "patch": RUNS[name].patch,
        "edits": len(RUNS[name].edits),
        "args": args,
        "fcd_per_epoch": per_epoch(folder, "fcd"),
        "class_share": per_epoch(folder, "class_share"),
        **(quality(folder) if RUNS[name].measure else {}),
        "commit": config["commit"],
        "fingerprint": fingerprint_of(name, args),
    }


def fingerprint_of(name: str, args: dict[str, Any]) -> str:
    with changed_code(RUNS[name]) as code:
        return fingerprint(code / RUNS[name].command.split()[0], args)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--same", action="store_true", help="write the current fingerprints")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in RUNS]:
        parser.error(f"no run is called {unknown[0]}; the runs are {', '.join(RUNS)}")
    rows = {row["name"]: row for row in recorded(CURVES)}
    if args.same:
        for name, row in rows.items():
            row["fingerprint"] = fingerprint_of(name, row["args"])
    for name in [] if args.same else args.names or [name for name in RUNS if name not in rows]:
        folder = FOLDER / name
        if not folder.exists():
            train(name, folder)
        rows[name] = row_of(name, folder)
    CURVES.write_text("".join(json.dumps(rows[name]) + "\n" for name in RUNS if name in rows))


if __name__ == "__main__":
    main()
