"""Damage what the commands read: each must refuse it in one line, soon, and lose nothing.

    python tools/corrupt_inputs.py --cases 2000 --commands 220 --seed 0

Every case damages one valid input and gives it to a command. The cases run in forks of this
process, in which torch is loaded already; --commands more of them as the real commands. A case
fails that ends otherwise than well or with code 2 and one line, that takes longer than LIMIT or
GIGABYTE more memory than with the valid input, that changes or half-writes a file, or that runs
what a pickle brought. Where this runs as root, the read-only cases give up root's right to write
anywhere.
"""

import argparse
import contextlib
import ctypes
import gzip
import hashlib
import io
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import exit_on_input_error

import cdcgan
import dcgan
import demo
import fid
import generate
import inception_score
import support.download
import support.features
import training.run
import vanilla_gan
import wgan_gp
from support.checkpoints import read_checkpoint
from tests.conftest import TINY, command
from tests.stand_ins import inception_state, random_images
from tests.test_data import FILES, write_cifar
from tools.damage import Case, make_bombs, spoil

# demo.py loads its model, finds this port taken and ends.
TAKEN = socket.create_server(("", 0))
PORT = TAKEN.getsockname()[1]
FLAGS: dict[str, list[str]] = {}  # script: what its --help names
LIMIT, GIGABYTE = 60, 1 << 30  # seconds of work, bytes
MODELS = {module.__name__: module for module in (vanilla_gan, dcgan, cdcgan, wgan_gp)}
SCRIPTS = (*MODELS.values(), generate, fid, inception_score, demo)
MAINS = {f"{module.__name__}.py": module.main for module in SCRIPTS}
MAINS |= {"training.run": training.run.main, "support.features": support.features.main}
CPU = ["--device", "cpu"]
FOLDER = ["--dataset", "folder", "--data_dir", "data", "--image_size", "28", *TINY, *CPU]
CLASSIFIER = ["--dataset", "fashion_mnist", *CPU]
TRAINED = ["support.features", *FOLDER[:6], "--epochs", "1", "--save_path", "out/c.pt", *CPU]
NUMBERS = ["-1", *"0 1 2 1000000000 9223372036854775808 1e400 nan -inf 0x1 0.5".split(), "9" * 30]
WORDS = ["", " ", "\u00e4 \u65e5", "a" * 300, *".. /dev/null/x - cuda:99 meta".split()]
# Flags that do as told for ever: a width of 4096, 10^9 updates of D, a server.
ENDLESS = {"--z_dim", "--ngf", "--ndf", "--n_critic", "--d_steps", "--port", "--max_steps"}


# ---- kinds of input: each puts one into the case's folder and returns the command ----


def idx(case: Case) -> list[str]:
    data = case.take("idx", "data")
    packed = case.rng.random() < 0.7
    for path in data.glob("*.gz"):
        if not packed:
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    case.forged = case.rng.random() < 0.5
    spoil(case, case.one_of(data, "*ubyte*"))
    return ["fid.py", "mnist:test", "--save_stats", "out/s.npz", "--data_dir", "data", *CPU]


def cifar(case: Case) -> list[str]:
    data = case.take("cifar", "data")
    case.forged = not case.harm or case.rng.random() < 0.5
    if case.rng.random() < 0.5:  # its archive
        with tarfile.open(data / CIFAR10.filename, "w:gz") as tar:
            tar.add(data / CIFAR10.base_folder, CIFAR10.base_folder)
        shutil.rmtree(data / CIFAR10.base_folder)
    path = case.one_of(data, "*")
    if path.suffix == ".gz" and case.harm and case.rng.random() < 0.5:
        batch = case.rng.choice(["data_batch_1", "test_batch"])
        names = [f"cifar-10-batches-py/{batch}", "elsewhere", "../up", "/tmp/absolute"]
        with tarfile.open(path, "w:gz") as tar:  # links, other members, a bomb
            entry = tarfile.TarInfo(case.rng.choice(names))
            entry.type = case.rng.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
            entry.linkname, entry.size = "/etc/passwd", 0
            if entry.isreg() and case.rng.random() < 0.5:
                entry.size = 1 << 40  # said, not there
            tar.addfile(entry)
        case.did.append(f"{path.name}: {entry}")
    else:
        spoil(case, path)
    return ["fid.py", "cifar10:test", "--save_stats", "out/s.npz", "--data_dir", "data", *CPU]


def pictures(case: Case) -> list[str]:
    data = case.take("data")
    shutil.rmtree(data / ".cache")
    spoil(case, case.one_of(data, "*.[pj][np]g"))
    return case.rng.choice([["cdcgan.py", *FOLDER, "--max_steps", "1"], TRAINED])


def folder_of_images(case: Case) -> list[str]:
    data = case.take("data/train/bag", "images")
    spoil(case, case.one_of(data, "*.[pj][np]g"))
    return ["fid.py", "images", "images", *CLASSIFIER]


def decoded_cache(case: Case) -> list[str]:
    data = case.take("data")
    spoil(case, case.one_of(data / ".cache", "*.npy"))
    return ["cdcgan.py", *FOLDER, "--max_steps", "1"]


def checkpoint(case: Case) -> list[str]:
    run = case.take(f"runs/{case.rng.choice(list(MODELS))}", "run")
    if case.rng.random() < 0.5:
        (run / "last.pt").replace(run / "best.pt")
    path = next(run.glob("*.pt"))
    spoil(case, path)
    few = ["--num_images", "12", *CPU]
    commands = [
        ["generate.py", "--load_path", "run", "--save_path", "out", *CPU],
        ["generate.py", "--load_path", str(path), "--save_path", "out", "--format", "npz", *few],
        ["generate.py", "--load_path", "run", "--save_path", "out", "--interpolate", "2", *CPU],
        ["fid.py", "run", "--dataset", "mnist", "--save_stats", "out.npz", *few],
        ["inception_score.py", "run", "--dataset", "mnist", "--splits", "2", *few],
        ["demo.py", "--load_path", "run", "--port", str(PORT), *CPU],
        ["generate.py", "--load_path", "run", "--export", "out/mine.pt"],
    ]
    return case.rng.choice(commands)


def resumed(case: Case) -> list[str]:
    case.take("data")
    script = case.rng.choice(list(MODELS))
    run = case.take(f"runs/{script}", "run")
    spoil(case, run / "last.pt" if case.rng.random() < 0.8 else case.one_of(run, "*"))
    return [f"{script}.py", "--resume", "run", "--data_dir", "data", "--max_steps", "4", *CPU]


def config(case: Case) -> list[str]:
    case.take("data")
    script = case.rng.choice(list(MODELS))
    path = case.take(f"runs/{script}/config.json")
    spoil(case, path)
    # Without the data set, which nothing is to fetch here.
    argv = [f"{script}.py", "--config", str(path), "--dataset", "folder", "--data_dir", "data"]
    return [*argv, "--out_dir", "out", "--max_steps", "1", *CPU]


def metrics(case: Case) -> list[str]:
    run = case.take(f"runs/{case.rng.choice(list(MODELS))}", "a $x_{ run")
    spoil(case, run / "metrics.csv")
    others = [str(case.take("runs/dcgan", "b"))] if case.rng.random() < 0.5 else []
    return ["training.run", "plot", str(run), *others, "--save_path", "out"]


def classifier(case: Case) -> list[str]:
    data = case.take("data")
    case.take("runs/cdcgan", "run")
    spoil(case, case.one_of(data / ".cache", "*.pt"))
    return ["generate.py", "--load_path", "run", "--neighbours", "3", "--data_dir", "data", *CPU]


def inception(case: Case) -> list[str]:
    case.take("two.npz")  # on a CPU, Inception takes its time
    spoil(case, case.take("inception.pt"))
    return ["fid.py", "two.npz", "two.npz", "--inception_path", "inception.pt", *CPU]


def statistics(case: Case) -> list[str]:
    spoil(case, case.take("statistics.npz"))
    return ["fid.py", "statistics.npz", "statistics.npz", *CLASSIFIER]


def array(case: Case) -> list[str]:
    spoil(case, case.take("images.npz"))
    extra = case.rng.choice([[], ["--kid"], ["--prdc"]])
    return ["fid.py", "images.npz", "images.npz", *CLASSIFIER, *extra]


def flags(case: Case) -> list[str]:
    """A valid command line and one to three flags with values that few would type."""
    case.take("data")
    for name in MODELS:
        case.take(f"runs/{name}")
    script = case.rng.choice([script for script in MAINS if FLAGS[script]])
    valid = {
        "generate.py": ["--load_path", "runs/cdcgan", "--save_path", "out", *CPU],
        "fid.py": ["data/train/bag", "runs/cdcgan", "--num_images", "12", *CLASSIFIER],
        "inception_score.py": ["runs/cdcgan", "--num_images", "12", *CLASSIFIER],
        "demo.py": ["--load_path", "runs/cdcgan", *CPU],
        "support.features": TRAINED[1:],
    }.get(script, [*FOLDER, "--out_dir", "out"])
    last = {"demo.py": ["--port", str(PORT)]}.get(script, [])
    last = ["--max_steps", "1"] if script[:-3] in MODELS else last
    given = []
    for _ in range(case.rng.randint(1, 3) if case.harm else 0):
        flag = case.rng.choice(sorted(set(FLAGS[script]) - ENDLESS))
        given += [flag, *case.rng.choice([[], *([x] for x in NUMBERS + WORDS)])]
    case.did += given
    return [script, *valid, *given, *last]


def links(case: Case) -> list[str]:
    data = case.take("data")
    inside, rng = data / "train" / "bag", case.rng
    if case.harm:
        targets = ".. . ../coat /etc /dev/zero /proc/self nowhere self a.png".split()
        for name in ("self", "b.png", "c")[: rng.randint(1, 3)]:
            os.symlink(target := rng.choice(targets), inside / name)
            case.did.append(f"{name} -> {target}")
    if rng.random() < 0.5:
        return ["fid.py", "data/train/bag", "data/train/bag", *CLASSIFIER]
    return ["cdcgan.py", *FOLDER, "--max_steps", "1"]


def names(case: Case) -> list[str]:
    """Folders with names that are no text, no option or too long."""
    odd = ["a b", "\u00e4\u65e5\U0001f600", os.fsdecode(b"\xff\xfe"), "new\nline", "-x", "%s$x^{"]
    name = f"./{case.rng.choice([*odd, 'a' * 255, 'a' * 256])}" if case.harm else "plain"
    case.did.append(repr(name))
    where = name if len(name) < 250 else "data"
    case.take("data", where)
    case.take("runs/cdcgan", f"{where}-run")
    commands = [
        ["cdcgan.py", *FOLDER, "--data_dir", where, "--out_dir", f"{name}-out", "--max_steps", "1"],
        ["cdcgan.py", "--resume", f"{where}-run", "--data_dir", name, "--max_steps", "4"],
        ["generate.py", "--load_path", f"{name}-run", "--save_path", name, *CPU],
        ["fid.py", f"{name}/train/bag", f"{where}-run", "--num_images", "12", *CLASSIFIER],
        ["training.run", "plot", f"{where}-run", f"{name}-run", "--save_path", f"{name}-plot"],
        ["fid.py", f"{where}-run", "--num_images", "9", "--save_stats", f"{name}.npz", *CLASSIFIER],
    ]
    return case.rng.choice(commands)


def read_only(case: Case) -> list[str]:
    """Folders that may not be written, files that may not be read."""
    data, run = case.take("data"), case.take("runs/cdcgan", "run")
    closed = case.folder / "closed"
    closed.mkdir()
    (closed / "file").write_text("")
    case.obeys_modes = True
    commands = [
        ["cdcgan.py", *FOLDER, "--max_steps", "1", "--out_dir", "closed/runs"],
        ["cdcgan.py", "--resume", "run", "--data_dir", "data", "--max_steps", "4", *CPU],
        ["generate.py", "--load_path", "run", "--save_path", "closed/x.png", *CPU],
        ["generate.py", "--load_path", "run/last.pt", "--save_path", "closed/file/x", *CPU],
        ["fid.py", "data/train/bag", "--save_stats", "closed/s.npz", *CLASSIFIER],
        ["training.run", "plot", "run"],
        ["generate.py", "--load_path", "run", "--export", "closed/mine.pt"],
        ["generate.py", "--load_path", "run", "--neighbours", "3", "--data_dir", "data", *CPU],
    ]
    if case.harm:
        if case.rng.random() < 0.5:
            shutil.rmtree(data / ".cache")
        if case.rng.random() < 0.3:
            file = case.rng.choice([run / "last.pt", run / "config.json", run / "metrics.csv"])
            file.chmod(0)
            case.did.append(f"{file.name} 0")
        for path in ("data/train/bag", "data", "run", "closed"):  # inner ones before outer ones
            if path == "closed" or case.rng.random() < 0.5:
                (case.folder / path).chmod(mode := case.rng.choice([0o555, 0o555, 0o444, 0o000]))
                case.did.append(f"{path} {mode:o}")
        return case.rng.choice(commands)
    return commands[1]


KINDS: list[Callable[[Case], list[str]]] = [
    *(idx, cifar, pictures, folder_of_images, decoded_cache, checkpoint, checkpoint, checkpoint),
    *(resumed, resumed, config, metrics, classifier, inception, statistics, array),
    *(flags, flags, links, names, read_only),
]


# ---- running them ----


def flags_of(script: str) -> list[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        MAINS[script](["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z_\d-]*", printed.getvalue())) - {"--help"})


def build(good: Path) -> None:
    """One valid input of every kind, and the bombs."""
    patch = pytest.MonkeyPatch()
    (good / "idx").mkdir(parents=True)
    for name, content in FILES["mnist"].items():
        (good / "idx" / f"{name}.gz").write_bytes(gzip.compress(content))
    digests = [hashlib.sha256(content).hexdigest() for content in FILES["mnist"].values()]
    support.download.IDX_SHA256["mnist"] = tuple(digests)  # type: ignore[assignment]
    write_cifar(good / "cifar" / CIFAR10.base_folder, patch)
    # No network, and no data but what is here.
    MNIST.mirrors, CIFAR10.url, support.download.SYSTEM_FOLDERS = [], "http://127.0.0.1:9/none", {}
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        for label, name in enumerate(("bag", "coat", "shoe")):
            folder = good / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(80 * label, 80 * label + 80, (28, 28)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 3 == 2 else 'png'}")
    os.chdir(good)
    for name, module in MODELS.items():
        seen = ["--features", "classifier", "--eval_samples", "30"] if name == "cdcgan" else []
        module.main([*FOLDER, *seen, "--max_steps", "3", "--out_dir", "runs", "--name", name])
    generate.save_npz(random_images(12, 1, 28), torch.zeros(12), Path("images.npz"))
    generate.save_npz(random_images(2, 1, 28), None, Path("two.npz"))
    fid.main(["images.npz", "--save_stats", "statistics.npz", *CLASSIFIER])
    torch.save(inception_state(), good / "inception.pt")
    make_bombs(good / "bombs")


def start(case: Case, argv: list[str], real: bool) -> int:
    """Fork a process that runs the command in the case's folder, real or not; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(case.folder.parent / f"{case.folder.name}.log", os.O_CREAT | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(case.folder)
        if case.obeys_modes and os.geteuid() == 0:
            obey_modes()
        # Both end this process, and stay set in what it executes. A loaded machine is no hang.
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        signal.alarm(5 * LIMIT)
        # What would bring the machine down is refused by it: more than a fault needs to show.
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 8 * GIGABYTE,) * 2)
        if real:
            os.execv(sys.executable, command(*argv))
        if case.forged:
            forge(case.folder / "data")
        sys.argv = argv
        with exit_on_input_error():
            MAINS[argv[0]](argv[1:])
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def obey_modes() -> None:
    """Give up root's right to write and read what a file's mode forbids, for what is executed, too.

    Another user would do, but may not be let in where root's interpreter lies.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    rights = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    dropped = [libc.prctl(24, right, 0, 0, 0) for right in rights]  # PR_CAPBSET_DROP
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2): version 3, of this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the first 32 rights, others
    had = libc.capget(header, sets)
    for i in range(3):
        sets[i] &= ~sum(1 << right for right in rights)
    if any(dropped) or had or libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "a right that cannot be given up")


def forge(data: Path) -> None:
    """Make the checksums of damaged files the known ones: what reads them then sees the damage."""
    known = list(support.download.IDX_SHA256["mnist"])
    for i, name in enumerate(support.download.IDX_FILES):
        if (data / name).exists():
            known[i] = hashlib.sha256((data / name).read_bytes()).hexdigest()
        with (
            contextlib.suppress(OSError, EOFError, zlib.error),
            gzip.open(data / f"{name}.gz") as file,
        ):
            known[i] = hashlib.sha256(file.read(support.download.LARGEST_IDX + 1)).hexdigest()
    support.download.IDX_SHA256["mnist"] = tuple(known)  # type: ignore[assignment]
    for listing in (CIFAR10.train_list, CIFAR10.test_list):
        for entry in listing:
            path = data / CIFAR10.base_folder / entry[0]
            if path.exists():
                entry[1] = hashlib.md5(path.read_bytes()).hexdigest()
    if (data / CIFAR10.filename).exists():
        CIFAR10.tgz_md5 = hashlib.md5((data / CIFAR10.filename).read_bytes()).hexdigest()


def contents(folder: Path) -> dict[Path, bytes]:
    """The digests of a folder's files; of one that may not be read, that it is there."""
    digests = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if os.path.isfile(path) and not os.path.islink(path):
                readable = os.access(path, os.R_OK)
                digests[path] = hashlib.sha256(path.read_bytes()).digest() if readable else b""
    return digests


def judge(case: Case, status: int, before: dict[Path, bytes]) -> str:
    """What is wrong with how a case ended; "" if nothing is."""
    code = os.waitstatus_to_exitcode(status)
    log = case.folder.parent / f"{case.folder.name}.log"
    lines = log.read_text(errors="replace").splitlines()
    if code in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        return f"not ended after {LIMIT} s of work or {5 * LIMIT} s"
    if code not in (0, 2) or any("Traceback" in line for line in lines):
        return f"code {code}: {lines[-1] if lines else 'no output'}"
    errors = [line for line in lines if re.match(r"([\w. ]+: )?error: ", line)]
    if code == 2 and (len(errors) != 1 or lines[-1] != errors[0]):
        return f"not one line: {lines[-3:]}"
    after = contents(case.folder)
    if [*case.folder.rglob(".*.part")]:
        return "a half-written file stays"
    changed = {path.name for path, digest in before.items() if after.get(path) != digest}
    diverged = (
        re.search(r"at step (\d+); (\S+) is whole, from before", lines[-1]) if errors else None
    )
    if diverged:  # a resumed run had begun, and saved what it read
        step = read_checkpoint(case.folder / diverged[2])["step"]
        changed = set() if step < int(diverged[1]) else {"last.pt"}
    if code == 2 and changed:
        return f"changed or removed: {', '.join(sorted(changed))}; {lines[-1]}"
    if (case.folder.parent / "ran").exists():
        (case.folder.parent / "ran").rmdir()
        return "what the input brought was run"
    return ""


def campaign(args: argparse.Namespace, folder: Path) -> tuple[Counter, list[str]]:
    """Run so many cases in forks, and more as commands; the figures, and a line for each fault."""
    torch.set_num_threads(1)
    support.features.LEAST_STEPS = 10
    (folder / "home").mkdir()
    os.environ |= {"HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/home"}
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.redirect_stdout(io.StringIO()):
        build(folder / "good")
    FLAGS.update({script: flags_of(script) for script in MAINS})
    plan = [(f"valid-{i}", KINDS[i % len(KINDS)], False, False) for i in range(2 * len(KINDS))]
    plan += [(f"case-{i}", KINDS[i % len(KINDS)], True, False) for i in range(args.cases)]
    mixed = random.Random(args.seed).sample(KINDS, len(KINDS))  # a few commands, of any kind
    plan += [(f"command-{i}", mixed[i % len(mixed)], True, True) for i in range(args.commands)]
    plan = [entry for entry in plan if args.only in (None, entry[0])]
    figures: Counter = Counter()
    faults: list[str] = []
    usual: Counter = Counter()  # the most memory that valid input of a kind took
    running: dict[int, tuple] = {}

    def end_one() -> None:
        child, status, used = os.wait4(-1, 0)
        case, kind, argv, before, began = running.pop(child)
        seconds, peak = time.perf_counter() - began, used.ru_maxrss << 10
        wrong = judge(case, status, before)
        log = (folder / f"{case.folder.name}.log").read_text(errors="replace")
        refused = status and f"port {PORT}" not in log  # where demo.py gets so far, it ends
        if not case.harm:
            usual[kind] = max(usual[kind], peak)
            wrong = wrong or ("valid, and refused" if refused else "")
        elif not wrong and peak > usual[kind] + GIGABYTE:
            wrong = f"{(peak - usual[kind]) >> 20} MB more than with valid input"
        if case.harm:
            figures[kind] += 1
            figures["refused" if refused else "harmless"] += 1
            figures["MB above a valid run, at most"] = max(
                figures["MB above a valid run, at most"], (peak - usual[kind]) >> 20
            )
            figures["s, at most"] = max(figures["s, at most"], round(seconds))
        if wrong:
            faults.append(f"{case.folder.name} {' '.join(argv)} [{'; '.join(case.did)}]: {wrong}")
            print(repr(faults[-1])[:1000], flush=True)
        shutil.rmtree(case.folder, ignore_errors=True)
        (folder / f"{case.folder.name}.log").unlink()

    for i, (name, kind, harm, is_real) in enumerate(plan):
        while i == 2 * len(KINDS) and running:  # the valid ones first, to the end
            end_one()
        rng = random.Random(f"{args.seed} {name}")
        case = Case(folder / name, folder / "good", rng, harm)
        case.folder.mkdir()
        argv = kind(case)
        before, began = contents(case.folder), time.perf_counter()
        running[start(case, argv, is_real)] = (case, kind.__name__, argv, before, began)
        if len(running) == args.jobs:
            end_one()
    while running:
        end_one()
    return figures, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--commands", type=int, default=220)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--only", metavar="NAME", help="the one case that a fault's line names")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, faults = campaign(args, Path(folder).resolve())
    print(", ".join(f"{name}: {figure}" for name, figure in figures.items()))
    raise SystemExit(f"{len(faults)} faults" if faults else 0)


if __name__ == "__main__":
    main()
