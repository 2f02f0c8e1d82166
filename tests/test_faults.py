"""What must not cost a run: a full disk, a second process, kills, Ctrl-C, poor surroundings."""

import support.command
from support.command import InputError, exit_on_input_error

import contextlib
import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from tqdm import tqdm

import cdcgan
import data
import fid
import generate
import support.files
import training.plots
import training.run
import training.saving
import training.start
from data import Batches, load_dataset
from support import image_cache
from support.checkpoints import read_checkpoint
from support.files import ABANDONED, UNFINISHED, atomic, locked, remove_stale_files, user_cache
from tests.conftest import ROOT, assert_same_run, command, folder_flags, refusal
from training.events import EventsFile
from training.record import Record

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
def evaluated(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The flags of a run of 3 epochs of 10 steps, and the folder of one that had room."""
    out = tmp_path_factory.mktemp("runs")
    evaluated = ["--features", "classifier", "--eval_samples", "30", "--epochs", "3"]
    flags = [*folder_flags(pictures, out), *evaluated]
    cdcgan.main([*flags, "--name", "whole"])
    return flags, out / "whole"


@pytest.mark.slow
@pytest.mark.usefixtures("final_pictures")
@pytest.mark.parametrize(
    ("owner", "function", "call", "limit", "file", "step"),
    [
        (training.run, "write_config", 1, 0, "config.json", None),
        (training.saving, "save_tensors", 1, 50_000, "last.pt", None),  # half of it fits
        (EventsFile, "add_image", 4, 0, "events.out", 20),  # of real images, epochs 0, 1 and 2
        (training.run, "save_picture", 3, 500, "epoch_0002.png", 20),
        (Record, "timing", 2, 0, "timing.csv", 20),
        (Record, "save", 3, 0, "metrics.csv", 20),
        (training.saving, "save_tensors", 2, 50_000, "best.pt", 10),  # last, best, last, last
        (training.saving, "save_tensors", 4, 50_000, "last.pt", 20),
        (EventsFile, "flush", 3, 0, "events.out", 20),
        (training.plots, "plot", 1, 0, "losses.png", 30),
        (training.plots, "save_gif", 1, 0, "training.gif", 30),
    ],
)
def test_a_full_disk_stops_the_run_and_spares_its_checkpoint(
    owner: Any,
    function: str,
    call: int,
    limit: int,
    file: str,
    step: int | None,
    evaluated: tuple[list[str], Path],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags, whole = evaluated
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
        (training.plots.main, [run, "--save_path", str(target)]),
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
    monkeypatch.setattr(image_cache, "IN_MEMORY", 1000)
    with full_disk(20_000), pytest.raises(InputError, match="File too large.*XDG_CACHE_HOME"):
        load_dataset("folder", pictures, 28)
    assert list(user_cache().iterdir()) == []
    assert torch.equal(load_dataset("folder", pictures, 28).train_images, dataset.train_images)


# ---- two processes ----


def start(main: Callable[[Sequence[str]], object], argv: Sequence[str], log: Path) -> int:
    """Fork a process that runs a command's `main`, its output in `log`; return its id."""
    child = os.fork()
    if child:
        return child
    # All forks share tqdm's own lock. A fork that is killed while it holds it stops the others.
    tqdm.set_lock(threading.RLock())
    code = 1
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            with exit_on_input_error():
                main(argv)
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            file.flush()
            os._exit(code)


def test_of_runs_of_one_name_only_one_begins(
    straight: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Of four that start at once, the one that makes the folder trains as if it were alone."""
    flags, whole = straight
    logs = [tmp_path / f"log{i}" for i in range(4)]
    children = [start(cdcgan.main, [*flags, "--name", "same"], log) for log in logs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 2, 2, 2]
    for code, log in zip(codes, logs, strict=True):
        if code == 2:
            (line,) = log.read_text().splitlines()
            assert "same is in use" in line or "same exists already" in line
    assert_same_run(whole.parent / "same", whole)


def test_a_run_that_trains_is_not_resumed_beside_itself_and_survives_its_kill(
    straight: tuple[list[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    flags, whole = straight
    folder = whole.parent / "twice"
    get = Batches.__getitem__

    def get_or_wait(self: Batches, index: int) -> tuple[Tensor, Tensor]:
        if index == 25:
            time.sleep(600)  # for the kill
        return get(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__getitem__", get_or_wait)
        child = start(cdcgan.main, [*flags, "--name", folder.name], tmp_path / "log")
    try:
        while not (folder / "samples" / "epoch_0002.png").exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), (tmp_path / "log").read_text()
            time.sleep(0.01)
        line = refusal(cdcgan.main, ["--resume", str(folder)], capsys)
        assert f"{folder} is in use: another process trains in it" in line
    finally:
        with contextlib.suppress(OSError):  # where it has ended by itself, an assert says why
            os.kill(child, signal.SIGKILL)  # with the process goes its lock
            os.waitpid(child, 0)
    assert read_checkpoint(folder)["step"] in (10, 20)  # whole, and not of the step of the kill
    cdcgan.main(["--resume", str(folder)])
    assert_same_run(folder, whole)


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="in use"):
        locked(tmp_path)
    locked(tmp_path).close()
    with pytest.raises(InputError, match="absent/.lock cannot be written"):
        locked(tmp_path / "absent")


def test_a_drive_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(support.files.fcntl, "flock", refuse)
    with locked(tmp_path) as file:
        assert file.writable()


# ---- kills, and what they leave ----


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
    remove_stale_files(tmp_path / "absent")  # is no error
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

    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(data.Path, "home", lambda: Path("/home/me"))
    assert user_cache() == Path("/home/me/.cache/gan-scripts")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(data.Path, "home", no_home)
    assert user_cache() == Path("/.cache/gan-scripts")


# ---- poor surroundings ----


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository into which nothing can be written."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("pretrained", "support", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@pytest.mark.slow
def test_commands_in_poor_surroundings(checkout: Path, pictures: Path, tmp_path: Path) -> None:
    """One core, a read-only checkout, no HOME, the locale C, output into files, no input at all."""
    env = {name: os.environ[name] for name in ("PATH", "XDG_CACHE_HOME")}
    env |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    # root may write anywhere, unless this right is taken from it
    bound = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"]
    prefix = [*core, *(bound if os.geteuid() == 0 else []), "sh", "-c", 'exec "$@" <&-', "sh"]
    before = {path.name for path in checkout.rglob("*")}
    with pytest.raises(subprocess.CalledProcessError):  # it is read-only indeed
        subprocess.run([*prefix, "touch", str(checkout / "x")], check=True, capture_output=True)

    run = tmp_path / "runs" / "poor"
    evaluated = ["--features", "classifier", "--eval_samples", "30", "--epochs", "1"]
    classes = [str(pictures / "train" / name) for name in ("bag", "coat")]
    for line in (
        ["cdcgan.py", *folder_flags(pictures, Path("runs")), *evaluated, "--name", "poor"],
        ["generate.py", "--load_path", "runs/poor", "--save_path", "runs/grid.png"],
        ["fid.py", *classes, "--dataset", "fashion_mnist"],
    ):
        python = [sys.executable, str(checkout / line[0]), *line[1:]]
        end = subprocess.run([*prefix, *python], cwd=tmp_path, env=env, capture_output=True)
        said = (end.stdout + end.stderr).decode("ascii")
        assert end.returncode == 0, (line, said)
        assert "\r" not in said, "no progress bars in files"
    assert (run / "training.gif").exists() and (tmp_path / "runs" / "grid.png").exists()
    assert {path.name for path in checkout.rglob("*")} == before


# ---- how commands begin and end ----


@pytest.mark.parametrize(
    "name",
    "vanilla_gan dcgan cdcgan wgan_gp fid inception_score generate demo "
    "training/plots training/classifier support/processes".split(),
)
def test_every_command_prepares_itself_first(name: str) -> None:
    """The training scripts begin with support/processes.py, which begins with command.py."""
    lines = (ROOT / f"{name}.py").read_text().splitlines()
    first = next(line for line in lines if line.startswith(("import ", "from ")))
    modules = "(command|processes)" if "gan" in name else "command"
    assert re.match(rf"from support\.{modules} import ", first)
    if name != "support/processes":
        end = "training_command" if "gan" in name else "exit_on_input_error"
        assert lines[-3:] == ['if __name__ == "__main__":', f"    with {end}():", "        main()"]


def test_what_counts_as_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    started = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "__main__", started)
    for file in ("fid.py", "training/plots.py", "support/x.py", "tests/x.py", "../pytest.py"):
        started.__file__ = str(ROOT / file)
        ours = not file.startswith(("tests", ".."))
        assert support.command.is_command() == ours, file
    started.__file__ = str(ROOT / "fid.py")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # python -i fid.py
    assert not support.command.is_command()


def test_a_command_leaves_ctrl_c_ignored_as_nohup_does() -> None:
    code = (
        "import signal, sys\n"
        f"sys.modules['__main__'].__file__ = {str(ROOT / 'fid.py')!r}\n"
        "signal.signal(signal.SIGINT, getattr(signal, sys.argv[1]))\n"
        "import support.command\n"
        "print(signal.getsignal(signal.SIGINT) is support.command.interrupted)\n"
    )
    for before, says in (("SIG_IGN", "False"), ("default_int_handler", "True")):
        python = [sys.executable, "-c", code, before]
        end = subprocess.run(python, cwd=ROOT, capture_output=True, text=True)
        assert end.stdout == f"{says}\n", end.stderr


def test_ctrl_c_while_a_command_works(capsys: Capture) -> None:
    """An exception, so that unfinished files are removed; after the end, one word again."""
    before = signal.signal(signal.SIGINT, support.command.interrupted)
    try:
        with pytest.raises(SystemExit) as end, exit_on_input_error():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            signal.raise_signal(signal.SIGINT)
        assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"
        assert signal.getsignal(signal.SIGINT) is support.command.interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_of_a_run_are_noted_and_given_back() -> None:
    """The second one ends a run at once, but none of torchrun's processes."""
    both = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(which) for which in both]
    for insist in (False, True):
        ended = False
        with support.command.OrderlyEnd(insist) as end:
            assert not end.asked
            signal.raise_signal(signal.SIGTERM)
            assert end.asked
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                ended = True
        assert ended == insist
        assert [signal.getsignal(which) for which in both] == before


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.EPIPE, 141, ""),
        (errno.ENOSPC, 2, "error: the output cannot be written (No space left on device)\n"),
    ],
)
def test_an_output_that_fails(
    number: int, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    muted: list[int] = []
    monkeypatch.setattr(support.command, "mute", lambda: muted.append(1))
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        raise OSError(number, os.strerror(number))
    assert (end.value.code, capsys.readouterr().err, muted) == (code, says, [1])
    with pytest.raises(OSError), exit_on_input_error():  # a file's is a fault of ours
        raise OSError(number, os.strerror(number), "file")


def test_ctrl_c_while_libraries_are_imported() -> None:
    process = subprocess.Popen(
        command("cdcgan.py", "--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    if process.returncode == 0:
        pytest.skip("this machine has imported everything by then")
    assert (process.returncode, err) == (130, "interrupted\n")


def fake_package(folder: Path, name: str, code: str) -> dict[str, str]:
    """Return an environment in which `import name` runs `code`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    return os.environ | {"PYTHONPATH": str(folder)}


def test_a_broken_installation_is_a_line(tmp_path: Path) -> None:
    pytest_here = [sys.executable, "-m", "pytest", "tests/test_faults.py"]
    cifar = command("fid.py", "cifar10:test", "cifar10:test", "--data_dir", str(tmp_path))
    broken = [
        (cifar, "torchvision", "raise RuntimeError('torchvision::nms does not exist')"),
        (command("fid.py", "--help"), "torch", "raise OSError('libcudart.so.13: no such file')"),
        (command("generate.py"), "PIL", "raise ImportError('undefined symbol: x')"),
        (pytest_here, "torchvision", "raise RuntimeError('torchvision::nms does not exist')"),
    ]
    processes = [
        subprocess.Popen(
            argv,
            cwd=ROOT,
            env=fake_package(tmp_path / str(number), package, code),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, (argv, package, code) in enumerate(broken)
    ]
    for process in processes:
        (line,) = process.communicate()[1].splitlines()
        assert process.returncode == 2
        assert line.startswith("error: the installed packages do not work together: torch 2.")
        assert "torchvision 0." in line and "pip install -r requirements.txt" in line


def test_a_library_in_a_folder_named_like_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support.command, "ROOT", "/some/gan")
    for file, of_library in (("/some/gan-env/torch.py", True), ("/some/gan/data.py", False)):
        with pytest.raises(RuntimeError) as caught:
            exec(compile("raise RuntimeError", file, "exec"), {})
        trace = caught.tb.tb_next
        assert support.command.raised_by_import(trace) == of_library


def test_closed_standard_streams(flags: list[str], tmp_path: Path) -> None:
    """No stream is there, as for a service; no file may take the place of one."""
    argv = command("cdcgan.py", *flags, "--name", "run", "--max_steps", "3")
    code = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    assert subprocess.run([sys.executable, "-c", code, *argv]).returncode == 0
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 3


def test_a_module_without_standard_error(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a program without a console; bars, warnings and error lines go nowhere."""
    monkeypatch.setattr(sys, "stderr", None)
    cdcgan.main([*flags, "--name", "run", "--epochs", "1"])
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        cdcgan.main([*flags, "--name", "run"])
    assert end.value.code == 2


def test_training_in_a_thread(flags: list[str], tmp_path: Path) -> None:
    """A web server or a notebook may train so; only the main thread may handle signals."""
    ends: list[object] = []

    def train() -> None:
        with exit_on_input_error():
            cdcgan.main([*flags, "--name", "run", "--max_steps", "3"])
        ends.append("well")

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert ends == ["well"]
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 3


def test_runs_that_start_in_the_same_second(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(training.start.datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Clock":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(training.start.datetime, "datetime", Clock)
    for _ in range(3):
        cdcgan.main([*flags, "--max_steps", "1"])
    names = sorted(path.name for path in tmp_path.glob("cdcgan-*"))
    first = "cdcgan-folder-20260102-030405"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_advice_for_names_that_are_taken(flags: list[str], tmp_path: Path, capsys: Capture) -> None:
    argv = [*flags, "--max_steps", "1", "--name", "run"]
    (tmp_path / "run").mkdir()
    line = refusal(cdcgan.main, argv, capsys)
    assert "choose another --name" in line and "--resume" not in line  # it is no run
    (tmp_path / "run").rmdir()
    cdcgan.main(argv)
    assert f"--resume {tmp_path / 'run'}" in refusal(cdcgan.main, argv, capsys)
    held = training.run.locked(tmp_path / "run")
    line = refusal(cdcgan.main, argv, capsys)
    assert "in use" in line and "--resume" not in line
    held.close()


def test_advice_for_files_where_folders_belong(
    flags: list[str], tmp_path: Path, capsys: Capture
) -> None:
    cdcgan.main([*flags, "--max_steps", "1", "--name", "run"])
    run = tmp_path / "run"
    for name in ("last.pt", "config.json"):
        line = refusal(cdcgan.main, ["--resume", str(run / name)], capsys)
        assert f"is a file: give its folder, {run}" in line
    assert "give a run's config.json" in refusal(cdcgan.main, ["--config", str(run)], capsys)
    for path in (run / "metrics.csv", run / "last.pt"):
        assert f"give its folder, {run}" in refusal(training.plots.main, [str(path)], capsys)
    line = refusal(training.plots.main, [str(run)], capsys)
    assert "every 50 steps" in line and "wait" not in line


def test_what_cannot_be_reported_is_saved(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The end of an epoch fails to draw; its ten steps are in the checkpoint, to be reported."""

    def fail(self: training.run.Run) -> None:
        if self.step:
            raise InputError("no room for a picture")

    with monkeypatch.context() as patch:
        patch.setattr(training.run.Run, "draw_samples", fail)
        with pytest.raises(InputError, match="no room"):
            cdcgan.main([*flags, "--name", "run"])
    folder = tmp_path / "run"
    assert read_checkpoint(folder / "last.pt")["step"] == 10
    for times in (1, 0):  # once, not whenever the run goes on
        cdcgan.main(["--resume", str(folder), "--max_steps", "10"])
        assert capsys.readouterr().out.count("\nepoch   1/70\n") == times
        assert (folder / "samples" / "epoch_0001.png").is_file()


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("broken", [["stdout"], ["stdout", "stderr"]])
def test_ctrl_c_that_ends_the_reader_of_the_output_as_well(
    broken: list[str],
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """As in `python cdcgan.py | tee log`, at the end of an epoch, before it is saved."""
    monkeypatch.setattr(support.command, "mute", lambda: None)  # of pytest's own output
    draw = training.run.Run.draw_samples

    def interrupted(self: training.run.Run) -> None:
        draw(self)
        if self.step:
            for name in broken:
                monkeypatch.setattr(sys, name, Broken())
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.run.Run, "draw_samples", interrupted)
    with pytest.raises(SystemExit) as end:
        cdcgan.main([*flags, "--name", "run"])
    assert end.value.code == 130
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 10
    said = "stopped at step 10; to resume: python cdcgan.py --resume" in capsys.readouterr().err
    assert said == ("stderr" not in broken)
