"""Kill training runs at random moments. Each resumed run must equal an uninterrupted run.

    python tools/kill_runs.py --kills 10 --seed 0

The runs are tiny, and each run must first prepare data. A folder of images needs decoding and a
classifier. MNIST and CIFAR-10 are downloaded from a slow local server. The first kill of a run
waits for such a preparation. Later kills come at a random moment or while a checkpoint is written.
"""

import argparse
import contextlib
import http.server
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import cdcgan
from tools.same_training import difference, make_images
from tools.samples import EVALUATED, TINY, scratch, small_data_sets, start

KILLS_PER_RUN = 3  # at most
SECONDS = 0.2  # time in which the server sends one file
RANDOM = ["--dropout", "0.2", "--label_noise", "0.1", "--hflip", "--epochs", "4"]
# Phase -> pattern of the unfinished files that a kill in this phase leaves. The first match counts.
PHASES = {
    "download": r"\.gz\.[0-9a-f]+\.gan",
    "unpacking": r"\.part/cifar-10-batches-py",
    "folder's cache": r"\.npy\.",
    "folder's classifier": r"classifier-",
    "checkpoint": r"(last|best)\.pt\.",
    "another file": r"\.part",
    "nothing half-written": "",
}
# Data set -> its flags, and the phases that the first kills of its runs wait for.
DATA = {
    "folder": (["--image_size", "28"], ["folder's cache", "folder's classifier"]),
    "mnist": ([], ["download"]),
    "cifar10": (["--classes", "0,1"], ["unpacking", "download"]),
}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Yield the address of a slow server for `folder`, in a process without other threads."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (folder / self.path.strip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            piece = len(body) // 20 + 1
            with contextlib.suppress(OSError):  # the client was killed
                for begin in range(0, len(body), piece):
                    self.wfile.write(body[begin : begin + piece])
                    time.sleep(SECONDS / 20)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.socket.close()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def unfinished(*folders: Path) -> set[str]:
    """Return the unfinished files below `folders`, and the content of unfinished folders."""
    found = {  # os.walk skips folders that are removed in the meantime
        Path(place, name)
        for folder in folders
        for place, subfolders, files in os.walk(folder)
        for name in (*subfolders, *files)
        if re.fullmatch(r"\..*\.part", name)
    }
    with contextlib.suppress(OSError):  # the file was finished in the meantime
        found |= {inner for path in found if path.is_dir() for inner in path.iterdir()}
    return set(map(str, found))


def phase(left: set[str]) -> str:
    """Return the phase in which a kill leaves the files `left`."""
    return next(name for name, p in PHASES.items() if not p or any(re.search(p, x) for x in left))


def check_same(run: Path, straight: Path) -> None:
    """Raise AssertionError if two run folders differ in weights, metrics or samples."""
    assert (run / "best.pt").exists() == (straight / "best.pt").exists(), run
    for path in straight.glob("*.pt"):
        assert not difference(path, run / path.name), run
    samples = [path.name for path in (straight / "samples").iterdir()]
    assert sorted(samples) == sorted(path.name for path in (run / "samples").iterdir()), run
    for name in ["metrics.csv", *(f"samples/{name}" for name in samples)]:
        assert (run / name).read_bytes() == (straight / name).read_bytes(), run / name
    assert not unfinished(run), run


def survive(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Kill `kills` times; return the number of kills per phase, and the number of runs.

    Raise AssertionError if a run does not resume, or differs from an uninterrupted run.
    """
    rng = random.Random(seed)
    make_images(folder / "images", (28, 28))
    log, runs = folder / "log", folder / "runs"

    def prepare(kind: str, name: str) -> list[str]:
        """Make separate data and caches for a run; return the flags of the run."""
        if kind == "folder":
            shutil.copytree(folder / "images", folder / name)
        os.environ["XDG_CACHE_HOME"] = str(folder / name / ".cache")
        data = ["--dataset", kind, "--data_dir", str(folder / name), *DATA[kind][0]]
        return [*data, *TINY, *RANDOM, *EVALUATED, "--out_dir", str(runs), "--name", name]

    def finish(argv: list[str]) -> None:
        assert os.waitpid(start(cdcgan.main, argv, log), 0)[1] == 0, log.read_text()

    lengths = {}
    for kind in DATA:
        began = time.perf_counter()
        finish(prepare(kind, f"straight-{kind}"))
        lengths[kind] = time.perf_counter() - began

    counts = Counter(dict.fromkeys(("kills", "runs", "before the first checkpoint", *PHASES), 0))
    while counts["kills"] < kills:
        turn, number = divmod(counts["runs"], len(DATA))
        kind = list(DATA)[number]
        name = f"run{counts['runs']}"
        counts["runs"] += 1
        first = argv = prepare(kind, name)
        data, run = folder / name, runs / name
        aim = DATA[kind][1][turn % len(DATA[kind][1])]
        for _ in range(min(KILLS_PER_RUN, kills - counts["kills"])):
            before = unfinished(data, run)
            child = start(cdcgan.main, argv, log)
            ended, status = 0, 0
            if not aim:
                time.sleep(rng.uniform(0, lengths[kind]))
                ended, status = os.waitpid(child, os.WNOHANG)
            while aim and not ended and phase(unfinished(data, run) - before) != aim:
                ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, log.read_text()
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts["kills"] += 1
            counts[phase(unfinished(data, run) - before)] += 1
            argv = ["--resume", str(run), "--data_dir", str(data)]
            if not (run / "last.pt").is_file():  # no checkpoint yet, so start again
                counts["before the first checkpoint"] += 1
                shutil.rmtree(run, ignore_errors=True)
                argv = first
            aim = rng.choice(["", "checkpoint"])
        else:
            finish(argv)
        check_same(run, runs / f"straight-{kind}")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default: 50)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random moments (default: 0)"
    )
    args = parser.parse_args()
    with (
        scratch() as folder,
        serving(folder / "sets") as address,
        small_data_sets(folder / "sets", address),
    ):
        counts = survive(args.kills, args.seed, folder)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
