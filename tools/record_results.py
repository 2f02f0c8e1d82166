"""Train and evaluate one run, and record the results for the tables in docs/results.md.

    python tools/record_results.py dcgan.py --dataset fashion_mnist --epochs 5 --seed 1
    python tools/record_results.py --table          # the tables in docs/results.md
    python tools/record_results.py --curve runs/RUN --patch r1   # add a finished run

The tool runs the given script, evaluates the best checkpoint with fid.py --prdc, and appends one
line to docs/results.jsonl. The minutes are processor time, summed over all threads, and include
evaluation. With one thread (OMP_NUM_THREADS=1), other programs hardly change the minutes.
"""

import argparse
import csv
import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS, CURVES = ROOT / "docs/results.jsonl", ROOT / "docs/curves.jsonl"
QUALITY = {
    "fcd": "FCD",
    "score": "score",
    "class_share": "in class",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
TIME = {"cpu_minutes": "CPU minutes", "images_per_second": "images/s", "gigabytes": "GB"}
DATA_FLAGS = ("--dataset", "--data_dir", "--image_size", "--hflip", "--epochs", "--seed")


def record(argv: Sequence[str], label: str | None, machine: str, out: Path) -> dict[str, Any]:
    """Train in the folder `out` with the command line `argv`; return the record of the run."""
    import resource  # not on Windows

    command = [sys.executable, *argv, "--out_dir", str(out), "--name", "run"]
    subprocess.run(command, cwd=ROOT, check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # before fid.py runs
    run = out / "run"
    config = json.loads((run / "config.json").read_text())
    args = config["args"]
    with (run / "timing.csv").open() as file:
        epochs = list(csv.DictReader(file))
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fcd"]]
    best = min(rows, key=lambda row: float(row["fcd"]))
    data = args["dataset"]
    real, options = f"{data}:test", ["--data_dir", args["data_dir"]]
    if data == "folder":
        real, options = (
            f"{args['data_dir']}/test",
            ["--dataset", "cifar10"],
        )  # CIFAR-10's classifier
    measure = [sys.executable, "fid.py", real, str(run), *options, "--prdc", "--json"]
    answer = subprocess.run(measure, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = usage.ru_utime + usage.ru_stime
    updates = args.get("n_critic", args.get("d_steps", 1))  # updates of D per update of G
    images = sum(int(row["steps"]) for row in epochs) * args["batch_size"] * updates
    return {
        "command": shlex.join(["python", *argv]),
        "script": config["script"],
        "data": label or data,
        "seed": args["seed"],
        "epochs": len(epochs),
        "best_epoch": round(float(best["epoch"])),
        "cpu_minutes": round(seconds / 60, 1),
        "images_per_second": round(images / seconds),
        "gigabytes": round(usage.ru_maxrss / 2**20, 1),
        "score": round(float(best["classifier_score"]), 2),
        "class_share": round(float(best["class_share"]), 3) if best.get("class_share") else None,
        **{name: round(json.loads(answer.stdout)[name], 3) for name in ("fcd", *[*QUALITY][3:])},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "machine": machine,
        "commit": config["commit"],
        "date": datetime.date.today().isoformat(),
    }


def tables(results: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return a table of the quality and a table of the time: one row per script and data set.

    A cell is the mean over the seeds, with the standard deviation where several seeds were run.
    """
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["script"], result["data"], result["epochs"]), []).append(result)

    def cell(runs: Sequence[dict[str, Any]], name: str, digits: int) -> str:
        values = [run[name] for run in runs if run[name] is not None]
        if not values:
            return ""
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 and digits else ""
        return f"{mean(values):,.{digits}f}{spread}"

    quality = [["script", "data", "seeds", "epochs", *QUALITY.values(), "other flags"]]
    time = [["script", "data", "processor", "epochs", *TIME.values()]]
    for (script, data, epochs), runs in groups.items():
        what = [f"`{script}.py`", data]
        values = [cell(runs, name, 2) for name in QUALITY]
        flags = other_flags(runs[0]["command"])
        quality.append([*what, str(len(runs)), str(epochs), *values, flags and f"`{flags}`"])
        (machine,) = {run["machine"] for run in runs}
        cost = [cell(runs, "cpu_minutes", 0), cell(runs, "images_per_second", 0)]
        cost.append(cell(runs, "gigabytes", 1).partition(" ")[0])
        time.append([*what, machine, str(epochs), *cost])
    numbers = len(QUALITY)
    return (
        markdown(quality, ["---", "---", *["---:"] * (2 + numbers), "---"]),
        markdown(time, ["---", "---", "---", *["---:"] * (1 + len(TIME))]),
    )


def other_flags(command: str) -> str:
    """Return the flags of a training command except those that choose data, epochs and seed."""
    words = shlex.split(command)[2:]
    starts = [i for i, word in enumerate(words) if word.startswith("--")]
    flags = [words[i:j] for i, j in zip(starts, [*starts[1:], len(words)], strict=True)]
    return shlex.join(word for flag in flags if flag[0] not in DATA_FLAGS for word in flag)


def markdown(rows: Sequence[Sequence[str]], alignment: Sequence[str]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'|'.join(alignment)}|", *body])


def curve(run: Path, patch: str) -> dict[str, Any]:
    """Return hyperparameters and FCD per epoch of a run; `patch` names a change of the code."""
    sys.path.insert(0, str(ROOT))
    from training.flags import NO_HYPERPARAMETERS

    config = json.loads((run / "config.json").read_text())
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("fcd")]
    left_out = NO_HYPERPARAMETERS | {"epochs", "features", "eval_samples"}
    return {
        "script": config["script"],
        "patch": patch,
        "args": {name: v for name, v in config["args"].items() if name not in left_out},
        "epochs": config["args"][
            "epochs"
        ],  # planned epochs, which determine the learning-rate decay
        "fcd": [round(float(row["fcd"]), 3) for row in rows],
        "commit": config["commit"],
    }


def recorded(file: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the records of runs in a file with one JSON object per line."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the tables and train nothing")
    parser.add_argument(
        "--curve",
        type=Path,
        help="run folder whose FCD per epoch is added to docs/curves.jsonl; train nothing",
    )
    parser.add_argument(
        "--patch", default="", help="name of a change of the code, for --curve (default: none)"
    )
    parser.add_argument("--label", help="name of the data in the tables (default: the data set)")
    parser.add_argument(
        "--machine", default="", help="name of the processor, for the record (default: none)"
    )
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/recorded"), help="folder for run folders"
    )
    parser.add_argument(
        "argv", nargs=argparse.REMAINDER, help="training script and flags of the script"
    )
    args = parser.parse_args()
    if args.table:
        print(*tables(recorded()), sep="\n\n")
        return
    if args.curve:
        with CURVES.open("a") as file:
            file.write(json.dumps(curve(args.curve, args.patch)) + "\n")
        return
    name = "-".join(part.lstrip("-").replace("/", "_") for part in args.argv)
    result = record(args.argv, args.label, args.machine, (args.keep / name).resolve())
    with RESULTS.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(result)


if __name__ == "__main__":
    main()
