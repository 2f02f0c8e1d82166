"""Damage the inputs of every command. The command must refuse each in one line and lose nothing.

    python tools/corrupt_inputs.py --cases 300 --commands 30 --seed 0
    python tools/corrupt_inputs.py --only case-17      # the case that a fault's line names

Each case damages one valid input and gives it to a command. --cases run in forks of this process,
because torch is then loaded already. --commands run as new processes. A case must end with exit
code 0, or with exit code 2 and one line. A case is also a fault in these situations:

- The case takes more than LIMIT seconds of processor time, or 5 LIMIT seconds of wall-clock time.
- The case takes over GIGABYTE more memory than valid input of the same kind.
- A refused input leaves a changed file, or any case leaves an unfinished file.
- The case executes code in a pickle.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

sys.path.insert(0, str(Path(__file__).parent.parent))
import generate
from data import load_dataset
from support.checkpoints import read_checkpoint
from tools.damage import Case, make_bombs, spoil
from tools.flags_table import actions
from tools.same_training import make_images
from tools.samples import (
    CPU,
    EVALUATED,
    ROOT,
    TINY,
    inception_weights,
    scratch,
    small_data_sets,
    start,
)

# The commands, as names of modules.
SCRIPTS = ("vanilla_gan", "dcgan", "cdcgan", "wgan_gp")
PLOT, TRAIN_CLASSIFIER = ["training.plots"], ["training.classifier"]
OTHERS = ("generate", "fid", "inception_score", "demo", PLOT[0], TRAIN_CLASSIFIER[0])

LIMIT, GIGABYTE = 60, 1 << 30  # seconds of processor time, bytes
# demo.py loads its model, finds that this port is taken, and ends.
TAKEN = socket.create_server(("", 0))
PORT = ["--port", str(TAKEN.getsockname()[1])]
FOLDER = ["--dataset", "folder", "--data_dir", "data", "--image_size", "28", *TINY]
SHORT = [*FOLDER, "--features", "none", "--max_steps", "1"]
FASHION = ["--dataset", "fashion_mnist", *CPU]  # its classifier is committed
FEW = ["--num_images", "12"]
CLASSIFIED = [*FOLDER[:6], "--epochs", "1", "--save_path", "out/c.pt", *CPU]
VALUES = ["-1", *"0 1 2 1000000000 9223372036854775808 1e400 nan -inf 0x1 0.5".split(), "9" * 30]
VALUES += ["", " ", "\u00e4 \u65e5", "a" * 300, *".. /dev/null/x - cuda:99 meta".split()]
# Valid values of these flags can take hours (a width of 4096, 10^9 updates of D) or start a server.
ENDLESS = {"--z_dim", "--ngf", "--ndf", "--n_critic", "--d_steps", "--port", "--max_steps"}


# ---- kinds of input: each function damages an input in the case's folder; returns a command ----


def mnist(case: Case) -> list[str]:
    for path in (case.good / "sets").glob("*.gz"):
        case.take(f"sets/{path.name}", f"data/{path.name}")
    spoil(case, case.one_of(case.folder / "data", "*"))
    return ["fid", "mnist:test", "--save_stats", "out/s.npz", "--data_dir", "data", *CPU]


def cifar(case: Case) -> list[str]:
    name = case.rng.choice([CIFAR10.filename, CIFAR10.base_folder])
    case.take(f"sets/{name}", f"data/{name}")
    spoil(case, case.one_of(case.folder / "data", "*"))
    return ["fid", "cifar10:test", "--save_stats", "out/s.npz", "--data_dir", "data", *CPU]


def images(case: Case) -> list[str]:
    spoil(case, case.one_of(case.take("data"), "*.[pj][np]g"))
    commands = [
        ["cdcgan", *SHORT],
        [*TRAIN_CLASSIFIER, *CLASSIFIED],
        ["fid", "data/train/a", "data/train/a", *FASHION],
    ]
    return case.rng.choice(commands)


def decoded_cache(case: Case) -> list[str]:
    data = case.take("data")
    os.environ["XDG_CACHE_HOME"] = str(case.folder / "cache")
    load_dataset("folder", data, 28)  # now, because a cached data set belongs to one folder
    spoil(case, case.one_of(case.folder / "cache", "*.npy"))
    return ["cdcgan", *SHORT, "--data_dir", str(data)]


def checkpoint(case: Case) -> list[str]:
    run = case.take(f"runs/{case.rng.choice(SCRIPTS)}", "run")
    path = run / "last.pt"
    spoil(case, path)
    draw = ["generate", "--load_path", "run", "--save_path", "out", *CPU]
    commands = [
        draw,
        [*draw, "--interpolate", "2"],
        [*draw, "--load_path", str(path), "--format", "npz", *FEW],
        ["fid", "run", "--dataset", "mnist", "--save_stats", "out.npz", *FEW, *CPU],
        ["inception_score", "run", "--dataset", "mnist", "--splits", "2", *FEW, *CPU],
        ["demo", "--load_path", "run", *PORT, *CPU],
        ["generate", "--load_path", "run", "--export", "out/mine.pt"],
    ]
    return case.rng.choice(commands)


def resumed(case: Case) -> list[str]:
    case.take("data")
    script = case.rng.choice(SCRIPTS)
    run = case.take(f"runs/{script}", "run")
    spoil(case, run / "last.pt" if case.rng.random() < 0.8 else case.one_of(run, "*"))
    return [script, "--resume", "run", "--data_dir", "data", "--max_steps", "12", *CPU]


def config(case: Case) -> list[str]:
    case.take("data")
    script = case.rng.choice(SCRIPTS)
    path = case.take(f"runs/{script}/config.json")
    spoil(case, path)
    # The flags name the data set, because the file may name a data set that must be downloaded.
    data = ["--dataset", "folder", "--data_dir", "data", "--out_dir", "out", "--max_steps", "1"]
    return [script, "--config", str(path), *data, *CPU]


def metrics(case: Case) -> list[str]:
    run = case.take(f"runs/{case.rng.choice(SCRIPTS)}", "a $x_{ run")
    spoil(case, run / "metrics.csv")
    return [*PLOT, str(run), str(case.take("runs/dcgan", "b")), "--save_path", "out"]


def classifier(case: Case) -> list[str]:
    case.take("data")
    case.take("runs/cdcgan", "run")
    spoil(case, case.one_of(case.take("cache"), "classifier-*.pt"))
    data = ["--neighbours", "3", "--data_dir", "data"]
    return ["generate", "--load_path", "run", "--save_path", "out", *data, *CPU]


def inception(case: Case) -> list[str]:
    case.take("two.npz")  # two images, because Inception is slow on a CPU
    spoil(case, case.take("inception.pt"))
    return ["fid", "two.npz", "two.npz", "--inception_path", "inception.pt", *CPU]


def statistics(case: Case) -> list[str]:
    spoil(case, case.take("statistics.npz"))
    return ["fid", "statistics.npz", "statistics.npz", *FASHION]


def array(case: Case) -> list[str]:
    spoil(case, case.take("images.npz"))
    extra = case.rng.choice([[], ["--kid"], ["--prdc"]])
    return ["fid", "images.npz", "images.npz", *FASHION, *extra]


def flags(case: Case) -> list[str]:
    """Return a valid command line with one to three more flags, which have unusual values."""
    case.take("data")
    case.take("runs/cdcgan", "run")
    name = case.rng.choice([name for name in FLAGS if FLAGS[name]])
    valid = {
        "generate": ["--load_path", "run", "--save_path", "out", *CPU],
        "fid": ["data/train/a", "run", *FEW, *FASHION],
        "inception_score": ["run", *FEW, *FASHION],
        "demo": ["--load_path", "run", *CPU],
        PLOT[0]: ["run"],
        TRAIN_CLASSIFIER[0]: CLASSIFIED,
    }.get(name, [*FOLDER, "--features", "none", "--out_dir", "out"])
    for _ in range(case.rng.randint(1, 3) if case.harm else 0):
        value = case.rng.choice([[], *([x] for x in VALUES)])
        case.did += [case.rng.choice(FLAGS[name]), *value]
    last = {"demo": PORT}.get(name, ["--max_steps", "1"] if name in SCRIPTS else [])
    return [name, *valid, *case.did, *last]


def links(case: Case) -> list[str]:
    inside = case.take("data") / "train" / "a"
    for name in ("self", "b.png", "c") if case.harm else ():
        targets = ".. . ../b /etc /dev/zero /proc/self nowhere self 0.png".split()
        os.symlink(target := case.rng.choice(targets), inside / name)
        case.did.append(f"{name} -> {target}")
    fid = ["fid", "data/train/a", "data/train/a", *FASHION]
    return case.rng.choice([fid, ["cdcgan", *SHORT]])


def names(case: Case) -> list[str]:
    """Give folders names that are not UTF-8, look like an option, or are too long."""
    odd = ["a b", "\u00e4\u65e5\U0001f600", os.fsdecode(b"\xff\xfe"), "new\nline", "-x", "%s$x^{"]
    name = f"./{case.rng.choice([*odd, 'a' * 255, 'a' * 256])}" if case.harm else "plain"
    case.did.append(repr(name))
    where = name if len(name) < 250 else "data"
    case.take("data", where)
    case.take("runs/cdcgan", f"{where}-run")
    commands = [
        ["cdcgan", *SHORT, "--data_dir", where, "--out_dir", f"{name}-out"],
        ["cdcgan", "--resume", f"{where}-run", "--data_dir", name, "--max_steps", "12"],
        ["generate", "--load_path", f"{name}-run", "--save_path", name, *CPU],
        ["fid", f"{name}/train/a", f"{where}-run", *FEW, *FASHION],
        [*PLOT, f"{where}-run", f"{name}-run", "--save_path", f"{name}-plot"],
        ["fid", f"{where}-run", *FEW, "--save_stats", f"{name}.npz", *FASHION],
    ]
    return case.rng.choice(commands)


def read_only(case: Case) -> list[str]:
    """Remove permissions, so that folders cannot be written or files cannot be read."""
    case.obeys_modes = True
    data, run, closed = case.take("data"), case.take("runs/cdcgan", "run"), case.folder / "closed"
    closed.mkdir()
    (closed / "file").touch()
    commands = [
        ["cdcgan", "--resume", "run", "--data_dir", "data", "--max_steps", "12", *CPU],
        ["cdcgan", *SHORT, "--out_dir", "closed/runs"],
        ["generate", "--load_path", "run", "--save_path", "closed/x.png", *CPU],
        ["generate", "--load_path", "run/last.pt", "--save_path", "closed/file/x", *CPU],
        ["fid", "data/train/a", "--save_stats", "closed/s.npz", *FASHION],
        [*PLOT, "run"],
        ["generate", "--load_path", "run", "--export", "closed/mine.pt"],
    ]
    if not case.harm:
        return commands[0]
    places = [run / "last.pt", run / "config.json", data / "train" / "a", data, run]
    for path in (*case.rng.sample(places, 2), closed):
        if path == closed or os.access(path, os.F_OK):
            path.chmod(mode := case.rng.choice([0o555, 0o444, 0o000]))
            case.did.append(f"{path.name} {mode:o}")
    return case.rng.choice(commands)


KINDS: list[Callable[[Case], list[str]]] = [
    *(mnist, cifar, images, images, decoded_cache, checkpoint, checkpoint, checkpoint),
    *(resumed, resumed, config, metrics, classifier, inception, statistics, array),
    *(flags, flags, links, names, read_only),
]
FLAGS: dict[str, list[str]] = {}  # the flags of each command


# ---- running the cases ----


def build(good: Path) -> None:
    """Make one valid input of each kind, and the files of make_bombs()."""
    os.chdir(good)
    os.environ["XDG_CACHE_HOME"] = str(good / "cache")
    make_images(Path("data"), (28, 28))
    for path in Path("data").rglob("*5.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    for name in SCRIPTS:
        flags = [*FOLDER, *(EVALUATED if name == "cdcgan" else ["--features", "none"])]
        main_of(name)([*flags, "--max_steps", "10", "--out_dir", "runs", "--name", name])
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 28, 28), np.uint8)
    generate.save_npz(torch.tensor(pixels), torch.zeros(12), Path("images.npz"))
    generate.save_npz(torch.tensor(pixels[:2]), None, Path("two.npz"))
    main_of("fid")(["images.npz", "--save_stats", "statistics.npz", *FASHION])
    torch.save(inception_weights(), "inception.pt")
    make_bombs(good / "bombs")


def main_of(name: str) -> Callable[[Sequence[str]], object]:
    return importlib.import_module(name).main


def run(case: Case, real: bool, argv: Sequence[str]) -> None:
    """Run the command of a case in the case's folder, with limits on time and memory."""
    os.chdir(case.folder)
    os.environ["XDG_CACHE_HOME"] = str(case.folder / "cache")
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    signal.alarm(5 * LIMIT)  # wall-clock time, because a case may wait forever
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(
        resource.RLIMIT_AS, (size + 8 * GIGABYTE,) * 2
    )  # keeps memory for the other processes
    name, *args = argv
    if real or case.obeys_modes:
        module = ["-m", name] if "." in name else [str(ROOT / f"{name}.py")]
        command = [sys.executable, *module, *args]
        if case.obeys_modes and os.geteuid() == 0:  # root ignores permissions without this
            command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
        os.execvp(command[0], command)
    sys.argv = list(argv)
    main_of(name)(args)


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the digests of the readable files in a folder."""
    digests = {}
    for path in folder.rglob("*"):
        if os.path.isfile(path) and not path.is_symlink() and os.access(path, os.R_OK):
            digests[path] = hashlib.sha256(path.read_bytes()).digest()
    return digests


def find_fault(case: Case, code: int, lines: Sequence[str], before: dict[Path, bytes]) -> str:
    """Return the fault of a case that has ended, "" if there is none."""
    if code in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        return f"still running after {LIMIT} s of processor time or {5 * LIMIT} s"
    if code not in (0, 2) or any("Traceback" in line for line in lines):
        return f"code {code}: {lines[-1] if lines else 'no output'}"
    errors = [line for line in lines if re.match(r"([\w. ]+: )?error: ", line)]
    if code == 2 and errors != lines[-1:]:
        return f"not one line: {lines[-3:]}"
    if (case.folder.parent / "ran").exists():
        return "code in the input was executed"
    after = contents(case.folder)
    if [*case.folder.rglob(".*.part")]:
        return "an unfinished file is left"
    kept = {path for path, digest in before.items() if after.get(path) == digest}
    changed = {path.name for path in before if path not in kept and "cache" not in path.parts}
    diverged = re.search(r"at step (\d+); (\S+) is intact, from an earlier step", "".join(errors))
    if diverged:  # a resumed run had saved last.pt before it diverged
        step = read_checkpoint(case.folder / diverged[2])["step"]
        changed = set() if step < int(diverged[1]) else {"last.pt"}
    return f"changed: {', '.join(sorted(changed))}; {lines[-1]}" if code == 2 and changed else ""


def campaign(args: argparse.Namespace, folder: Path) -> Counter[str]:
    """Run all cases and print each fault. Return counts, and maxima of time and memory."""
    os.environ["PYTHONPATH"] = str(ROOT)
    with contextlib.redirect_stdout(io.StringIO()):
        build(folder / "good")
    for name in (*SCRIPTS, *OTHERS):
        known = set(actions(name)) - ENDLESS
        FLAGS[name] = sorted(flag for flag in known if flag.startswith("--"))
    plan = [(f"valid-{i}", kind, False) for i, kind in enumerate(KINDS)]
    plan += [(f"case-{i}", KINDS[i % len(KINDS)], True) for i in range(args.cases)]
    mixed = random.Random(args.seed).sample(
        KINDS, len(KINDS)
    )  # a few commands must cover different kinds
    plan += [(f"command-{i}", mixed[i % len(mixed)], True) for i in range(args.commands)]
    plan = [entry for entry in plan if args.only in (None, entry[0])]
    figures = Counter(
        dict.fromkeys(("refused", "harmless", "faults", "most seconds", "most extra MB"), 0)
    )
    usual: Counter = Counter()  # peak memory (MB) with valid input, per kind
    running: dict[int, tuple] = {}

    def end_one() -> None:
        child, status, used = os.wait4(-1, 0)
        case, kind, argv, before, began, log = running.pop(child)
        seconds = round(time.perf_counter() - began)
        lines = log.read_text(errors="replace").splitlines()
        code = os.waitstatus_to_exitcode(status)
        wrong = find_fault(case, code, lines, before)
        # demo.py has accepted the input if the message names the port.
        refused = code and not any(PORT[1] in line for line in lines)
        peak = used.ru_maxrss >> 10
        if case.harm:
            more = peak - usual[kind] if usual[kind] else 0
            wrong = wrong or (f"{more} MB more than with valid input" if more > 1024 else "")
            figures["refused" if refused else "harmless"] += 1
            figures["most seconds"] = max(figures["most seconds"], seconds)
            figures["most extra MB"] = max(figures["most extra MB"], more)
        else:
            usual[kind] = max(usual[kind], peak)
            wrong = wrong or (f"valid input was refused: {lines[-1]}" if refused else "")
        if wrong:
            figures["faults"] += 1
            line = f"{case.folder.name} {' '.join(argv)} [{'; '.join(case.did)}]: {wrong}"
            print(ascii(line)[:1000], flush=True)
        shutil.rmtree(folder / "ran", ignore_errors=True)
        shutil.rmtree(case.folder, ignore_errors=True)
        log.unlink()

    for i, (name, kind, harm) in enumerate(plan):
        while i == len(KINDS) and running:  # finish valid inputs first, to know their memory
            end_one()
        case = Case(folder / name, folder / "good", random.Random(f"{args.seed} {name}"), harm)
        case.folder.mkdir()
        argv = kind(case)
        before, began, log = contents(case.folder), time.perf_counter(), folder / f"{name}.log"
        real = name.startswith("command")
        child = start(partial(run, case, real), argv, log)
        running[child] = case, kind.__name__, argv, before, began, log
        if len(running) == args.jobs:
            end_one()
    while running:
        end_one()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", type=int, default=2000, help="number of cases in forks (default: 2000)"
    )
    parser.add_argument(
        "--commands", type=int, default=220, help="number of cases in new processes (default: 220)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage (default: 0)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="cases at the same time (default: number of CPU cores)",
    )
    parser.add_argument("--only", metavar="NAME", help="run only this case, such as case-17")
    args = parser.parse_args()
    with scratch() as folder, small_data_sets(folder / "good" / "sets", "http://127.0.0.1:9/"):
        figures = campaign(args, folder)
    print(", ".join(f"{name}: {figure}" for name, figure in figures.items()))
    raise SystemExit(1 if figures["faults"] else 0)


if __name__ == "__main__":
    main()
