"""Train and evaluate one run, and record the results for the tables in docs/results.md.

    python tools/record_results.py dcgan.py --dataset fashion_mnist --seed 1
    python tools/record_results.py --table    # the tables in docs/results.md
    python tools/record_results.py --real     # real images, measured like samples
    python tools/record_results.py --same     # after a change that trains the same

The tool runs the script, evaluates the EMA generator of last.pt with fid.py --prdc, and appends one
line to docs/results.jsonl. FCD uses the classifier of the data set. "FCD, other" uses the
classifier of another data set. The minutes are processor time, summed over all threads, and include
evaluation. With one thread (OMP_NUM_THREADS=1), other programs hardly change the minutes.

Each line has a fingerprint of the script, of the helpers in TRAINING_CODE and of the flags. A test
compares it with the fingerprint of the current code. After a change of form for which
tools/same_training.py finds bit-identical weights, --same writes the new fingerprints.
"""

import argparse
import ast
import csv
import datetime
import hashlib
import importlib
import io
import json
import os
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from data import load_dataset  # noqa: E402
from fid import density_coverage, frechet_distance, precision_recall  # noqa: E402
from inception_score import inception_score  # noqa: E402
from support.features import load_features  # noqa: E402
from tools.what_metrics_see import N, measured  # noqa: E402
from training.flags import hyperparameters  # noqa: E402

RESULTS = ROOT / "docs/results.jsonl"
REAL_IMAGES = ROOT / "docs/real_images.json"
TRAINING_CODE = ("data.py", *(f"support/{name}.py" for name in ("device", "images", "layers")))
OTHER_CLASSIFIER = {"fashion_mnist": "cifar10", "mnist": "fashion_mnist"}  # else fashion_mnist
DATA_NAMES = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST", "cifar10": "CIFAR-10"}
METRICS = ("fcd", "precision", "recall", "coverage")  # of fid.py --prdc
QUALITY = {
    "fcd": "FCD",
    "fcd_other": "FCD, other",
    "score": "score",
    "class_share": "in class",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
}
DATA_FLAGS = ("--dataset", "--data_dir", "--image_size", "--hflip", "--seed", "--name")


def code_of(path: Path) -> str:
    """Return the code of a file without comments, docstrings, layout and the function parse_args.

    The flags that parse_args defines are in the fingerprint by their values.
    """
    source = path.read_text()
    tree = ast.parse(source)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        flags = isinstance(node, ast.FunctionDef) and node.name == "parse_args"
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and (flags or docstring):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    depth, kept = 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        if token.start[0] in skipped or token.type == tokenize.COMMENT:
            continue
        ends_line = token.type == tokenize.NEWLINE
        kept.append(f" {depth}\n" if ends_line else "".join(token.string.split()))
    return "".join(kept)


def fingerprint(script: Path, args: dict[str, Any]) -> str:
    """Return a hash of a script, of TRAINING_CODE beside it, and of the hyperparameters `args`."""
    parts = [code_of(script.parent / name) for name in (script.name, *TRAINING_CODE)]
    parts.append(json.dumps(args, sort_keys=True))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def hyperparameters_of(command: str) -> dict[str, Any]:
    """Return the hyperparameters of a training command, such as "python dcgan.py --norm batch"."""
    _, script, *argv = shlex.split(command)
    return hyperparameters(importlib.import_module(script.removesuffix(".py")).parse_args(argv))


def fingerprint_of(command: str) -> str:
    """Return the fingerprint of a training command."""
    return fingerprint(ROOT / shlex.split(command)[1], hyperparameters_of(command))


def per_epoch(run: Path, column: str) -> list[float]:
    """Return the values of a column of metrics.csv after each epoch, from a run folder."""
    with (run / "metrics.csv").open() as file:
        return [round(float(row[column]), 3) for row in csv.DictReader(file) if row.get(column)]


def quality(run: Path) -> dict[str, float]:
    """Return METRICS of last.pt in a run folder, and fcd_other, the FCD of another classifier."""
    args = json.loads((run / "config.json").read_text())["args"]
    data, own, options = args["dataset"], args["dataset"], ["--data_dir", args["data_dir"]]
    real = f"{data}:test"
    if data == "folder":
        real, own, options = f"{args['data_dir']}/test", "cifar10", []

    def measure(classifier: str) -> dict[str, float]:
        flags = ["--prdc", "--json", "--dataset", classifier, *options]
        argv = [sys.executable, "fid.py", real, str(run), *flags]
        answer = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
        return json.loads(answer.stdout)

    found, other = measure(own), measure(OTHER_CLASSIFIER.get(data, "fashion_mnist"))
    rounded = {name: round(found[name], 6) for name in METRICS}
    return rounded | {"fcd_other": round(other["fcd"], 6)}


def record(run: Path, label: str | None, about: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the finished run in the folder `run`; return its record with the entries `about`."""
    config = json.loads((run / "config.json").read_text())
    args = config["args"]
    with (run / "metrics.csv").open() as file:
        *_, last = (row for row in csv.DictReader(file) if row["fcd"])
    return {
        "command": about["command"],
        "script": config["script"],
        "data": label or DATA_NAMES.get(args["dataset"], args["dataset"]),
        "seed": args["seed"],
        "epochs": args["epochs"],
        **quality(run),
        "score": round(float(last["classifier_score"]), 2),
        "class_share": round(float(last["class_share"]), 3) if last.get("class_share") else None,
        "fcd_per_epoch": per_epoch(run, "fcd"),
        **about,
        "dtype": config["precision"],
        "torch": torch.__version__,
        "commit": config["commit"],
        "date": datetime.date.today().isoformat(),
    }


def train(argv: Sequence[str], out: Path) -> dict[str, Any]:
    """Train in the folder `out` with the command line `argv`; return the cost of the run."""
    import resource  # not on Windows

    command = [sys.executable, *argv, "--out_dir", str(out), "--name", "run"]
    subprocess.run(command, cwd=ROOT, check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_minutes": round((usage.ru_utime + usage.ru_stime) / 60, 1),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }


def real_images() -> dict[str, float]:
    """Return the metrics of 10,000 training images of Fashion-MNIST, as if they were samples."""
    dataset = load_dataset("fashion_mnist")
    images, labels = dataset.train_images[:N], dataset.train_labels[:N]

    def compare(classifier: str) -> tuple[float, Tensor, Tensor, Tensor]:
        """Return the distance, the features of test and training images, and the logits."""
        network = load_features("classifier", classifier)
        test, real, _ = measured(dataset.test_images, network)
        train, fake, logits = measured(images, network)
        return frechet_distance(test.gaussian(), train.gaussian()), real, fake, logits

    fcd, real, fake, logits = compare("fashion_mnist")
    precision, recall = precision_recall(real, fake)
    row = {
        "fcd": fcd,
        "fcd_other": compare(OTHER_CLASSIFIER["fashion_mnist"])[0],
        "score": inception_score(logits)[0],
        "class_share": (logits.argmax(1) == labels).double().mean().item(),
        "precision": precision,
        "recall": recall,
        "coverage": density_coverage(real, fake)[1],
    }
    return {name: round(value, 6) for name, value in row.items()}


def tables(results: Sequence[dict[str, Any]], real: dict[str, float]) -> tuple[str, str]:
    """Return a table of the quality and a table of the time: one row per script, data and flags.

    A cell is the mean over the seeds, with the standard deviation where several seeds were run.
    The first row of the quality shows real images.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        key = (result["script"], result["data"], other_flags(result["command"]))
        groups.setdefault(key, []).append(result)

    def cell(runs: Sequence[dict[str, Any]], name: str, digits: int) -> str:
        values = [run[name] for run in runs if run[name] is not None]
        if not values:
            return ""
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{mean(values):,.{digits}f}{spread}"

    quality = [["script", "data", "seeds", "epochs", *QUALITY.values(), "other flags"]]
    digits = {name: 3 if name.startswith("fcd") else 2 for name in QUALITY}
    floor = [f"{real[name]:.{digits[name]}f}" for name in QUALITY]
    quality.append(["10,000 training images", "Fashion-MNIST", "", "", *floor, ""])
    time = [["script", "data", "processor", "numbers", "epochs", "CPU minutes", "other flags"]]
    for (script, data, flags), runs in groups.items():
        values = [cell(runs, name, digits[name]) for name in QUALITY]
        what, epochs, others = (
            [f"`{script}.py`", data],
            str(runs[0]["epochs"]),
            flags and f"`{flags}`",
        )
        quality.append([*what, str(len(runs)), epochs, *values, others])
        for machine in sorted({(run["processor"], run["dtype"]) for run in runs}):
            same = [run for run in runs if (run["processor"], run["dtype"]) == machine]
            minutes = f"{mean(run['cpu_minutes'] for run in same):.0f}"
            time.append([*what, *machine, epochs, minutes, others])
    return (
        markdown(quality, ["---", "---", *["---:"] * (2 + len(QUALITY)), "---"]),
        markdown(time, [*["---"] * 4, "---:", "---:", "---"]),
    )


def other_flags(command: str) -> str:
    """Return the flags of a training command except those that choose data, seed and name."""
    words = shlex.split(command)[2:]
    starts = [i for i, word in enumerate(words) if word.startswith("--")]
    flags = [words[i:j] for i, j in zip(starts, [*starts[1:], len(words)], strict=True)]
    return shlex.join(word for flag in flags if flag[0] not in DATA_FLAGS for word in flag)


def markdown(rows: Sequence[Sequence[str]], alignment: Sequence[str]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'|'.join(alignment)}|", *body])


def recorded(file: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the records of runs in a file with one JSON object per line."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the tables and train nothing")
    real = "measure 10,000 training images of Fashion-MNIST, and train nothing"
    parser.add_argument("--real", action="store_true", help=real)
    parser.add_argument(
        "--same", action="store_true", help="write the fingerprints of the current code"
    )
    parser.add_argument("--label", help="name of the data in the tables (default: the data set)")
    processor = "name of the processor, for the record (default: none)"
    parser.add_argument("--processor", default="", help=processor)
    keep = "folder for run folders (default: runs/recorded)"
    parser.add_argument("--keep", type=Path, default=Path("runs/recorded"), help=keep)
    training = "training script and flags of the script"
    parser.add_argument("argv", nargs=argparse.REMAINDER, help=training)
    args = parser.parse_args()
    if args.table:
        print(*tables(recorded(), json.loads(REAL_IMAGES.read_text())), sep="\n\n")
    elif args.real:
        REAL_IMAGES.write_text(json.dumps(real_images()) + "\n")
    elif args.same:
        rows = [run | {"fingerprint": fingerprint_of(run["command"])} for run in recorded()]
        RESULTS.write_text("".join(json.dumps(run) + "\n" for run in rows))
    elif not args.argv:
        parser.error("give a training script and its flags")
    else:
        command = shlex.join(["python", *args.argv])
        about = {"command": command, "processor": args.processor}
        # Before training, because the code may change during training.
        about["fingerprint"] = fingerprint_of(command)
        name = "-".join(part.lstrip("-").replace("/", "_") for part in args.argv)
        out = (args.keep / name).resolve()
        result = record(out / "run", args.label, about | train(args.argv, out))
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(result)


if __name__ == "__main__":
    main()
