"""How commands begin and end: Ctrl-C, closed streams, broken installations, threads."""

from support.command import InputError, exit_on_input_error

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cdcgan
import training.run
from support import command as support_command
from support.checkpoints import read_checkpoint
from tests.conftest import ROOT, command, refusal

Capture = pytest.CaptureFixture[str]
COMMANDS = (
    "vanilla_gan dcgan cdcgan wgan_gp fid inception_score generate demo "
    "training/run support/features"
)


@pytest.mark.parametrize("name", COMMANDS.split())
def test_every_command_prepares_itself_first(name: str) -> None:
    lines = (ROOT / f"{name}.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports[0].startswith("from support.command import ")


@pytest.mark.parametrize("after", [0.3, 0.8])
def test_ctrl_c_while_libraries_are_imported(after: float) -> None:
    process = subprocess.Popen(
        command("cdcgan.py", "--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    if process.returncode == 0:
        pytest.skip("this machine has imported everything by then")
    assert (process.returncode, err) == (130, "interrupted\n")


def fake_package(folder: Path, name: str, code: str) -> dict[str, str]:
    """Return an environment in which `import name` runs `code`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')"),
        ("torch", "raise OSError('libcudart.so.13: cannot open shared object file')"),
        ("PIL", "raise ImportError('undefined symbol: x')"),
    ],
)
@pytest.mark.parametrize("script", ["generate.py", "fid.py", "pytest"])
def test_a_broken_installation_is_a_line(
    package: str, code: str, script: str, tmp_path: Path
) -> None:
    env = fake_package(tmp_path, package, code)
    tests = [sys.executable, "-m", "pytest", "tests/test_startup.py"]
    start = tests if script == "pytest" else command(script, "--help")
    end = subprocess.run(start, cwd=ROOT, env=env, capture_output=True, text=True)
    (line,) = end.stderr.splitlines()
    assert end.returncode == 2
    assert line.startswith("error: the installed packages do not work together: torch 2.")
    assert "torchvision 0." in line and "pip install -r requirements.txt" in line


def test_a_library_in_a_folder_named_like_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_command, "ROOT", "/some/gan")
    for file, of_library in (("/some/gan-env/torch.py", True), ("/some/gan/data.py", False)):
        with pytest.raises(RuntimeError) as caught:
            exec(compile("raise RuntimeError", file, "exec"), {})
        trace = caught.tb.tb_next
        assert support_command.raised_by_import(trace) == of_library


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
    class Clock(training.run.datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Clock":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(training.run.datetime, "datetime", Clock)
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
        assert f"give its folder, {run}" in refusal(training.run.main, ["plot", str(path)], capsys)
    line = refusal(training.run.main, ["plot", str(run)], capsys)
    assert "every 50 steps" in line and "wait" not in line


def test_what_cannot_be_reported_is_saved(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an epoch fails to draw; its ten steps are in the checkpoint."""

    def fail(self: training.run.Run) -> None:
        if self.step:
            raise InputError("no room for a picture")

    monkeypatch.setattr(training.run.Run, "draw_samples", fail)
    with pytest.raises(InputError, match="no room"):
        cdcgan.main([*flags, "--name", "run"])
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 10


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
    monkeypatch.setattr(training.run, "mute", lambda: None)  # of pytest's own output
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
    said = "stopped at step 10; to go on: python cdcgan.py --resume" in capsys.readouterr().err
    assert said == ("stderr" not in broken)
