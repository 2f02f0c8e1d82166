"""Kill training runs at random moments: each must resume, and end as one that was never killed.

    python tests/kill_runs.py --kills 50 --seed 0

A run is tiny, evaluated and on a folder of pictures that is not decoded yet, so that kills also
hit the making of the folder's cache, of its classifier and of a checkpoint. The runs are forked
from this process, in which torch is loaded already: most of their time is what is to be tested.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import cdcgan
import features
from files import exit_on_input_error
from tests.conftest import TINY, make_pictures
from tests.test_experiment import RANDOM, assert_same_run


def start(main: Callable[[Sequence[str]], None], argv: Sequence[str], log: Path) -> int:
    """Fork a process that runs a command's `main`, its output in `log`; its id."""
    child = os.fork()
    if child:
        return child
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


def survive(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Kill `kills` times in all; how many runs that took, and what the kills left behind.

    AssertionError where a run does not resume, or ends otherwise than one that was not killed.
    """
    rng = random.Random(seed)
    torch.set_num_threads(1)
    features.LEAST_STEPS = 10
    original = make_pictures(folder / "pictures")
    log = folder / "log"

    def flags(name: str) -> list[str]:
        data = ["--dataset", "folder", "--data_dir", str(folder / name), "--image_size", "28"]
        end = ["--features", "classifier", "--eval_samples", "30", "--device", "cpu"]
        return [*data, *TINY, *RANDOM, *end, "--out_dir", str(folder / "runs"), "--name", name]

    shutil.copytree(original, folder / "straight")
    began = time.perf_counter()
    assert os.waitpid(start(cdcgan.main, flags("straight"), log), 0)[1] == 0, log.read_text()
    length = time.perf_counter() - began
    counts = {"kills": 0, "runs": 0, "before the first checkpoint": 0}
    half_written: set[Path] = set()
    while counts["kills"] < kills:
        name = f"run{counts['runs']}"
        counts["runs"] += 1
        shutil.copytree(original, folder / name)
        run, argv = folder / "runs" / name, flags(name)
        while True:
            child = start(cdcgan.main, argv, log)
            if counts["kills"] < kills:
                time.sleep(rng.uniform(0, length))
            else:
                assert os.waitpid(child, 0)[1] == 0, log.read_text()
                break
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, log.read_text()
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts["kills"] += 1
            half_written |= set(folder.rglob(".*.part"))
            argv = ["--resume", str(run), "--data_dir", str(folder / name)]
            if not (run / "last.pt").is_file():  # killed before there was anything to lose
                counts["before the first checkpoint"] += 1
                shutil.rmtree(run, ignore_errors=True)
                argv = flags(name)
        assert_same_run(run, folder / "runs" / "straight")
        assert not [*run.rglob(".*.part")]
    return counts | {"half-written files": len(half_written)}


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
