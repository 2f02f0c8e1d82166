"""Kill training runs at random moments: each must resume, and end as one that was never killed.

    python tools/kill_runs.py --kills 50 --seed 0

A run is tiny, evaluated, and begins without its data: a folder of pictures that is to be decoded
and has no classifier yet, MNIST from a slow server, CIFAR-10's archive from there, Fashion-MNIST
from Debian's package (all three stand-ins of a few images). The first kill of a run waits for the
middle of such a step; the others come at any moment, or in the middle of a checkpoint. The runs are
forked from this process, in which torch is loaded already: most of their time is what is tested.
"""

import argparse
import contextlib
import gzip
import hashlib
import http.server
import io
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import exit_on_input_error

import cdcgan
import support.download
import support.features
from tests.conftest import TINY, make_pictures
from tests.test_data import FILES, build_package, digests_of, write_apt
from tests.test_experiment import RANDOM, assert_same_run

PER_RUN = 3  # kills of one run, at most
SECONDS = 0.2  # that the server takes for a file, and apt-get for the package
# What a kill interrupted, told from the names of the unfinished files it left; the first that fits.
PHASES = {
    "download": r"\.gz\.[0-9a-f]+\.gan",
    "unpacking": r"\.part/cifar-10-batches-py|\.debian-",
    "folder's cache": r"\.npy\.",
    "folder's classifier": r"classifier-",
    "checkpoint": r"(last|best)\.pt\.",
    "another file": r"\.part",
    "nothing half-written": "",
}
# Data set -> the steps that its first kills wait for.
AIMS = {
    "folder": ["folder's cache", "folder's classifier"],
    "mnist": ["download"],
    "cifar10": ["unpacking", "download"],
    "fashion_mnist": ["unpacking"],
}


def start(main: Callable[[Sequence[str]], None], argv: Sequence[str], log: Path) -> int:
    """Fork a process that runs a command's `main`, its output in `log`; its id."""
    child = os.fork()
    if child:
        return child
    # tqdm's own lock is shared with all forks: one killed with it in hand would stop the others.
    tqdm.set_lock(threading.RLock())
    code = 1
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            with exit_on_input_error():
                main(list(argv))
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc(file=file)
        finally:
            file.flush()
            os._exit(code)


class SlowServer(http.server.ThreadingHTTPServer):
    """Serves `bodies` by name, each in pieces that take SECONDS together."""

    bodies: dict[str, bytes]

    def handle_error(self, *args: object) -> None:
        pass  # a client that was killed

    class Handler(http.server.BaseHTTPRequestHandler):
        server: "SlowServer"

        def do_GET(self) -> None:
            body = self.server.bodies[self.path.strip("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            piece = len(body) // 20 + 1
            for begin in range(0, len(body), piece):
                self.wfile.write(body[begin : begin + piece])
                time.sleep(SECONDS / 20)

        def log_message(self, *args: object) -> None:
            pass


@contextlib.contextmanager
def serving(bodies: dict[str, bytes]) -> Iterator[str]:
    """The address of a SlowServer: a process of its own, as one with threads must not fork."""
    server = SlowServer(("127.0.0.1", 0), SlowServer.Handler)
    server.bodies = bodies
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.socket.close()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def cifar_archive(patch: pytest.MonkeyPatch) -> bytes:
    """CIFAR-10's archive with 200 images a batch; its checksums become those that are known."""
    rng = np.random.default_rng(0)
    listing, buffer = [], io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            pixels = rng.integers(0, 256, (200, 3072), np.uint8)
            batch = pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(200)]}, 4)
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(batch)
            tar.addfile(member, io.BytesIO(batch))
            listing.append([name, hashlib.md5(batch).hexdigest()])
    patch.setattr(CIFAR10, "train_list", listing[:5])
    patch.setattr(CIFAR10, "test_list", listing[5:])
    patch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


@contextlib.contextmanager
def slow_sources(folder: Path) -> Iterator[None]:
    """Everything that is fetched comes from here, and slowly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support.download, "IDX_SHA256", digests_of(FILES))
        patch.setattr(support.download, "SYSTEM_FOLDERS", {})
        bodies = {f"{name}.gz": gzip.compress(body) for name, body in FILES["mnist"].items()}
        with serving({**bodies, CIFAR10.filename: cifar_archive(patch)}) as address:
            patch.setattr(MNIST, "mirrors", [address])
            patch.setattr(FashionMNIST, "mirrors", [])
            patch.setattr(CIFAR10, "url", address + CIFAR10.filename)
            if shutil.which("dpkg-deb"):
                package = build_package(folder)
                apt = write_apt(folder, f"sleep {SECONDS}; cp {package} .; sleep {SECONDS}")
                patch.setenv("PATH", f"{apt.parent}{os.pathsep}{os.environ['PATH']}")
            yield


def unfinished(*folders: Path) -> set[str]:
    """The unfinished files and folders in `folders`, and what lies in the latter."""
    found = {path for folder in folders for path in folder.glob(".*.part")}
    with contextlib.suppress(OSError):  # finished in between
        found |= {inner for path in found if path.is_dir() for inner in path.iterdir()}
    return set(map(str, found))


def phase(left: set[str]) -> str:
    """The phase of PHASES that left these behind."""
    return next(
        name
        for name, names in PHASES.items()
        if not names or any(re.search(names, x) for x in left)
    )


def survive(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Kill `kills` times in all: how often in which phase, and how many runs that took.

    AssertionError where a run does not resume, or ends otherwise than one that was not killed.
    """
    with slow_sources(folder):
        return kill_and_resume(kills, random.Random(seed), folder)


def kill_and_resume(kills: int, rng: random.Random, folder: Path) -> Counter[str]:
    torch.set_num_threads(1)
    support.features.LEAST_STEPS = 10
    pictures = make_pictures(folder / "pictures")
    log = folder / "log"
    runs = folder / "runs"
    kinds = [kind for kind in AIMS if kind != "fashion_mnist" or shutil.which("dpkg-deb")]

    def flags(kind: str, name: str) -> list[str]:
        data = ["--dataset", kind, "--data_dir", str(folder / name)]
        data += {"folder": ["--image_size", "28"], "cifar10": ["--classes", "0"]}.get(kind, [])
        end = ["--features", "classifier", "--eval_samples", "30", "--device", "cpu"]
        return [*data, *TINY, *RANDOM, *end, "--out_dir", str(runs), "--name", name]

    def prepare(kind: str, name: str) -> None:
        if kind == "folder":
            shutil.copytree(pictures, folder / name)

    lengths = {}
    for kind in kinds:
        prepare(kind, f"straight-{kind}")
        began = time.perf_counter()
        child = start(cdcgan.main, flags(kind, f"straight-{kind}"), log)
        assert os.waitpid(child, 0)[1] == 0, log.read_text()
        lengths[kind] = time.perf_counter() - began

    counts = Counter(dict.fromkeys(("kills", "runs", "before the first checkpoint", *PHASES), 0))
    while counts["kills"] < kills:
        kind, turn = kinds[counts["runs"] % len(kinds)], counts["runs"] // len(kinds)
        name = f"run{counts['runs']}"
        counts["runs"] += 1
        prepare(kind, name)
        data, run, argv = folder / name, runs / name, flags(kind, name)
        places = (data, data / kind, data / ".cache", run, run / "samples")
        aim = AIMS[kind][turn % len(AIMS[kind])]
        for _ in range(min(PER_RUN, kills - counts["kills"])):
            before = unfinished(*places)
            child = start(cdcgan.main, argv, log)
            ended, status = 0, 0
            if aim:
                while not ended and phase(unfinished(*places) - before) != aim:
                    ended, status = os.waitpid(child, os.WNOHANG)
            else:
                time.sleep(rng.uniform(0, lengths[kind]))
                ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, log.read_text()
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts["kills"] += 1
            counts[phase(unfinished(*places) - before)] += 1
            argv = ["--resume", str(run), "--data_dir", str(data)]
            if not (run / "last.pt").is_file():  # killed before there was anything to lose
                counts["before the first checkpoint"] += 1
                shutil.rmtree(run, ignore_errors=True)
                argv = flags(kind, name)
            aim = rng.choice(["", "checkpoint"])
        else:
            assert os.waitpid(start(cdcgan.main, argv, log), 0)[1] == 0, log.read_text()
        assert_same_run(run, runs / f"straight-{kind}")
        assert not unfinished(run, run / "samples")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        counts = survive(args.kills, args.seed, Path(folder))
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
