"""What must not cost a run: a full disk, a second process in the same folder, what kills leave."""

from support.command import InputError

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cdcgan
import data
import fid
import generate
import training.run
import vanilla_gan
from data import load_dataset
from support import folders
from support.checkpoints import read_checkpoint
from support.files import ABANDONED, UNFINISHED, atomic, locked, remove_abandoned, user_cache
from tests.conftest import TINY, command, refusal
from tests.test_experiment import assert_same_run
from tools.kill_runs import start, survive
from tools.long_run import long_flags, measure
from training.events import EventsFile

Capture = pytest.CaptureFixture[str]
resource = pytest.importorskip("resource", reason="Windows has neither its limits nor fork")

# ---- a full disk ----


@contextmanager
def full_disk(limit: int = 0) -> Iterator[None]:
    """No file of this process grows beyond `limit` bytes: writing on is an OSError, as when full.

    (The signal that the system sends as well is one that Python ignores.)
    """
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def fill_at(call: int, limit: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which at its `call`-th call meets a disk that is full."""
    calls: list[None] = []

    def filling(*args: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) != call:
            return function(*args, **named)
        with full_disk(limit):
            return function(*args, **named)

    return filling


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The flags of a run of 3 epochs of 10 steps, and the folder of one that had room."""
    out = tmp_path_factory.mktemp("runs")
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    evaluated = ["--features", "classifier", "--eval_samples", "30", "--epochs", "3"]
    flags = [*data, *TINY, *evaluated, "--out_dir", str(out), "--device", "cpu"]
    cdcgan.main([*flags, "--name", "straight"])
    return flags, out / "straight"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "function", "call", "limit", "file", "step"),
    [
        (training.run.Run, "write_config", 1, 0, "config.json", None),
        (training.run, "save_tensors", 1, 50_000, "last.pt", None),  # half of it fits
        (EventsFile, "add_image", 4, 0, "events.out", 10),  # of real images, epochs 0, 1 and 2
        (training.run, "save_picture", 3, 5_000, "epoch_0002.png", 10),
        (training.run.Run, "append_timing", 2, 0, "timing.csv", 10),
        (training.run.Run, "save", 3, 0, "metrics.csv", 10),
        (training.run, "save_tensors", 2, 50_000, "best.pt", 0),  # last, best, last, last
        (training.run, "save_tensors", 4, 50_000, "last.pt", 10),
        (EventsFile, "flush", 3, 0, "events.out", 20),
        (training.run, "plot", 1, 0, "losses.png", 30),
        (training.run, "save_gif", 1, 0, "training.gif", 30),
    ],
)
def test_a_full_disk_stops_the_run_and_spares_its_checkpoint(
    owner: Any,
    function: str,
    call: int,
    limit: int,
    file: str,
    step: int | None,
    straight: tuple[list[str], Path],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags, whole = straight
    folder = whole.parent / f"full-{function}-{call}"
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fill_at(call, limit, getattr(owner, function)))
        line = refusal(cdcgan.main, [*flags, "--name", folder.name], capsys)
    assert file in line and "cannot be written (File too large)" in line
    assert not list(folder.rglob(".*.part"))
    if step is None:
        assert not (folder / "last.pt").exists()
        return
    assert read_checkpoint(folder / "last.pt")["step"] == step
    cdcgan.main(["--resume", str(folder)])
    assert_same_run(folder, whole)
    for name in ("losses.png", "metrics.png", "training.gif", "timing.csv"):
        assert (folder / name).stat().st_size > 0


@pytest.mark.parametrize(
    "argv",
    [
        ["--save_path", "out/grid.png"],
        ["--save_path", "out/grid.gif", "--grid_size", "2"],
        ["--num_images", "3", "--save_path", "out"],
        ["--num_images", "3", "--save_path", "out/samples.npz"],
    ],
)
def test_a_full_disk_leaves_no_half_samples(
    argv: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with full_disk(1000 if "grid" in argv[-1] else 10):
        line = refusal(generate.main, [*argv, "--device", "cpu"], capsys)
    assert "cannot be written (File too large)" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_leaves_no_half_results(
    straight: tuple[list[str], Path], pictures: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = str(straight[1])
    target = tmp_path / "out"
    saving = ["--save_stats", str(target / "stats.npz"), "--features", "classifier"]
    classifier = ["--dataset", "fashion_mnist", "--device", "cpu"]
    for main, argv in (
        (generate.main, ["--load_path", run, "--export", str(target / "generator.pt")]),
        (training.run.main, ["plot", run, "--save_path", str(target)]),
        (fid.main, [str(pictures / "test" / "bag"), *saving, *classifier]),
    ):
        with full_disk(100):
            assert "cannot be written (File too large)" in refusal(main, argv, capsys)
        assert list(target.iterdir()) == []


def test_a_full_disk_leaves_no_half_cache(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Few images are then kept in memory; many are not, as they might not fit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with full_disk(20_000):
        dataset = load_dataset("folder", pictures, 28)
    assert "File too large" in capsys.readouterr().err
    assert list(user_cache().iterdir()) == []
    monkeypatch.setattr(folders, "IN_MEMORY", 1000)
    with full_disk(20_000), pytest.raises(InputError, match="File too large.*XDG_CACHE_HOME"):
        load_dataset("folder", pictures, 28)
    assert list(user_cache().iterdir()) == []
    assert torch.equal(load_dataset("folder", pictures, 28).train_images, dataset.train_images)


# ---- two processes ----


def test_of_two_runs_of_one_name_only_one_begins(
    straight: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Eight, started at once: the one that made the folder trains, and as if it were alone."""
    flags, whole = straight
    logs = [tmp_path / f"log{i}" for i in range(8)]
    children = [start(cdcgan.main, [*flags, "--name", "same"], log) for log in logs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [2] * 7
    for code, log in zip(codes, logs, strict=True):
        if code == 2:
            (line,) = log.read_text().splitlines()
            assert "same is in use" in line or "same is there already" in line
    assert_same_run(whole.parent / "same", whole)


def test_a_run_that_is_training_is_not_resumed_beside_itself(
    straight: tuple[list[str], Path], tmp_path: Path, capsys: Capture
) -> None:
    flags, whole = straight
    folder = whole.parent / "twice"
    child = start(
        cdcgan.main, [*flags, "--name", folder.name, "--epochs", "1000"], tmp_path / "log"
    )
    try:
        while not (folder / "samples" / "epoch_0010.png").exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), (tmp_path / "log").read_text()
            time.sleep(0.01)
        line = refusal(cdcgan.main, ["--resume", str(folder)], capsys)
        assert f"{folder} is in use: another process trains in it" in line
    finally:
        with contextlib.suppress(OSError):  # where it has ended by itself, an assert says why
            os.kill(child, signal.SIGKILL)  # with the process goes its lock
            os.waitpid(child, 0)
    cdcgan.main(["--resume", str(folder), "--max_steps", "30"])
    assert read_checkpoint(folder / "last.pt")["step"] >= 30


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="in use"):
        locked(tmp_path)
    locked(tmp_path).close()
    with pytest.raises(InputError, match="absent/.lock cannot be written"):
        locked(tmp_path / "absent")


# ---- kills, and what they leave ----


@pytest.mark.slow
def test_runs_survive_kills(tmp_path: Path) -> None:
    """A run of each data set, killed up to three times, once while its data is made ready."""
    counts = survive(12, seed=0, folder=tmp_path)
    assert counts["kills"] == 12
    aimed = [counts[phase] for phase in ("download", "unpacking", "folder's cache")]
    assert sum(aimed) >= 3, counts  # not each: between seeing a phase and the kill, it may end


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Of one process number too, as in two containers: what stays is the last one's to end."""
    path = tmp_path / "file"
    with atomic(path) as first, atomic(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_abandoned_is_removed_and_nothing_else(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    load_dataset("folder", folder, 28)
    places = [folder, user_cache()]
    long_ago = time.time() - ABANDONED - 60
    for place in places:
        for age in ("old", "new"):
            (place / f".{age}.npy.123{UNFINISHED}").write_bytes(b"half")
            (place / f".cifar10-{age}{UNFINISHED}").mkdir()
            (place / f".{age}-film.mkv.part").write_bytes(b"another program's")
            (place / f".cifar10-{age}{UNFINISHED}" / "data_batch_1").write_bytes(b"half")
        for path in (*place.glob(".*old*.part"), *place.glob("*.npy")):
            os.utime(path, (long_ago, long_ago))
    before = {path for place in places for path in place.iterdir()}
    load_dataset("folder", folder, 28)
    after = {path for place in places for path in place.iterdir()}
    assert {path.name for path in before - after} == {
        f".old.npy.123{UNFINISHED}",
        f".cifar10-old{UNFINISHED}",
    }
    assert len(before - after) == 4 and after < before
    remove_abandoned(tmp_path / "absent")  # is no error
    with pytest.raises(InputError, match="too long"):
        load_dataset("folder", tmp_path / ("x" * 300), 28)


def test_steps_that_a_kill_makes_a_run_repeat_show_once_in_tensorboard(tmp_path: Path) -> None:
    for first, steps in ((1, (10, 20, 30)), (21, (30, 40))):
        file = EventsFile(tmp_path, purge_step=first)
        for step in steps:
            file.add_scalar("loss", first + step, step)
        file.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [
        (10, 11),
        (20, 21),
        (30, 51),
        (40, 61),
    ]


@pytest.mark.slow
def test_output_that_cannot_be_written(flags: list[str], tmp_path: Path) -> None:
    """Whoever reads it has gone, as with `| head`, or it goes to a file on a full disk."""
    reading, writing = os.pipe()
    os.close(reading)
    full = "error: the output cannot be written (No space left on device)\n"
    for output, code, said in (writing, 141, ""), (os.open("/dev/full", os.O_WRONLY), 2, full):
        argv = command("cdcgan.py", *flags, "--name", f"run{code}")
        pipe = subprocess.PIPE
        end = subprocess.run(argv, stdout=output, stderr=pipe, text=True, cwd=tmp_path)
        os.close(output)
        assert (end.returncode, end.stderr) == (code, said)
        assert read_checkpoint(tmp_path / f"run{code}" / "last.pt")["step"] == 0


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(data.Path, "home", no_home)
    assert user_cache() == Path("/.cache/gan-scripts")


# ---- long runs ----


@pytest.mark.slow
def test_2000_steps_take_no_more_memory_files_or_time_than_500(
    pictures: Path, tmp_path: Path
) -> None:
    growth = measure(vanilla_gan, long_flags(pictures, tmp_path), 2000)
    assert len(growth.seconds) == 2000
    assert growth.memory[-1] < growth.memory[0] + 10, growth.memory
    assert growth.handles[-1] == growth.handles[0], growth.handles
    second, last = (statistics.median(growth.seconds[i : i + 500]) for i in (500, 1500))
    assert last < 2 * second, "each step takes longer than those before"
