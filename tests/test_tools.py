"""tools/: they run, and the one that proves that training did not change tells what did."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from data import load_dataset
from tests.conftest import ROOT, refusal, tool

# A script that trains nothing: it copies the checkpoint that was committed with it.
SCRIPT = """
import shutil, sys
from pathlib import Path
folder = Path("runs", sys.argv[sys.argv.index("--name") + 1])  # fails where it is there already
folder.mkdir(parents=True)
shutil.copy(Path(__file__).with_name("weights.pt"), folder / "last.pt")
"""
same_training = tool("same_training")
ROW = "wgan_gp.py --norm none"  # one row of the tool's table begins so
ONES = torch.ones(2)


def checkpoint(path: Path, name: str, weight: Tensor, *more: Tensor) -> Path:
    """Write a checkpoint with three tensors of weights, `weight` last, and then `more`."""
    moments = {0: {"step": torch.tensor(60.0), "exp_avg": weight}}
    content = {
        "step": 60,
        "classes": ["bag"],
        "window": torch.zeros(0, 4),
        "random_state": {"cpu": torch.randint(256, (9,), dtype=torch.uint8)},
        name: {"0.weight": torch.ones(2, 3)},
        f"opt_{name}": {"state": moments, "param_groups": [{"lr": 0.1}]},
        "more": list(more),
    }
    torch.save(content, path)
    return path


def test_every_tensor_is_compared_whatever_its_name(tmp_path: Path) -> None:
    old = checkpoint(tmp_path / "old.pt", "critic", ONES)

    def found(weight: Tensor, *more: Tensor) -> str:
        new = checkpoint(tmp_path / "new.pt", "renamed", weight, *more)
        return same_training.difference(old, new)

    assert found(ONES) == ""
    assert found(torch.tensor([1.5, 1.25])) == "1 of 3 tensors, by up to 0.5"
    assert found(torch.nextafter(ONES, 2 * ONES)) == "1 of 3 tensors, by up to 1.19e-07"
    assert found(ONES, ONES) == "3 tensors in OLD, 4 in NEW"
    assert found(ONES.double()).startswith("tensor 2: torch.float32 [2] in OLD, torch.float64")
    assert found(ONES[None]).endswith("torch.float32 [1, 2] in NEW")


def test_the_sign_of_zero_counts_and_checkpoints_without_tensors_do_not_pass(
    tmp_path: Path,
) -> None:
    old = checkpoint(tmp_path / "old.pt", "critic", torch.tensor(0.0))
    new = checkpoint(tmp_path / "new.pt", "critic", torch.tensor(-0.0))
    assert same_training.difference(old, new) == "1 of 3 tensors, by up to 0"
    torch.save({"step": 60}, tmp_path / "empty.pt")
    empty = same_training.difference(tmp_path / "empty.pt", tmp_path / "empty.pt")
    assert empty == "0 tensors in OLD, 0 in NEW"


def git(repository: Path, *argv: str) -> str:
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    command = ["git", "-C", str(repository), *me, *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(repository: Path, script: str, weight: float) -> str:
    """Commit a script and its weights; return the commit's name."""
    (repository / "wgan_gp.py").write_text(script)
    checkpoint(repository / "weights.pt", "critic", weight * ONES)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "a version")
    return git(repository, "rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "repository")
    return tmp_path / "repository"


def test_versions_that_agree_differ_and_fail(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(same_training, "ROOT", repository)
    monkeypatch.setattr(same_training, "make_images", lambda folder, _: folder.mkdir(parents=True))
    first = commit(repository, SCRIPT, 1.0)
    commit(repository, SCRIPT, 1.5)
    failing = commit(repository, "raise SystemExit('error: unknown flag')", 1.0)
    same = commit(repository, SCRIPT, 1.0)

    def found(*commits: str) -> tuple[int, str]:
        code = same_training.main([*commits, "--only", ROW])
        assert len(git(repository, "worktree", "list").splitlines()) == 1
        return code, capsys.readouterr().out.splitlines()[0].partition(": ")[2]

    assert found(first, same) == (0, "ok")
    assert found("HEAD") == (0, "ok")
    differ = "DIFFERENT (1 of 3 tensors, by up to 0.5)"
    assert found("HEAD~2") == (1, differ)
    failure = "ended with exit code 1: error: unknown flag"
    assert found(first, failing) == (1, f"DIFFERENT (NEW {failure})")
    assert found(failing, failing) == (1, f"DIFFERENT (OLD {failure}; NEW {failure})")
    checkpoint(repository / "weights.pt", "critic", 1.5 * ONES)  # and not committed
    assert found("HEAD") == (1, differ)


def test_bad_input_is_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(same_training, "ROOT", repository)
    first = commit(repository, SCRIPT, 1.0)
    assert "'nosuch'" in refusal(same_training.main, ["nosuch"], capsys)
    assert "'nosuch'" in refusal(same_training.main, [first, "nosuch"], capsys)
    assert "cannot check out ''" in refusal(same_training.main, [""], capsys)
    assert "'pix2pix.py'" in refusal(same_training.main, [first, "--only", "pix2pix.py"], capsys)
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    shutil.rmtree(repository / ".git")
    assert "not a git repository" in refusal(same_training.main, [first], capsys)
    monkeypatch.setenv("PATH", "")
    assert "git is not installed" in refusal(same_training.main, [first], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tool_removes_its_worktree(
    repository: Path, tmp_path: Path, which: signal.Signals
) -> None:
    tool, started = repository / "tools" / "same_training.py", tmp_path / "started"
    tool.parent.mkdir()
    shutil.copy(same_training.__file__, tool)
    script = f"import time; open({str(started)!r}, 'w').close(); time.sleep(600)"
    command = [sys.executable, str(tool), commit(repository, script, 1.0), "--only", ROW]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    while process.poll() is None and not started.exists():
        time.sleep(0.05)
    assert len(git(repository, "worktree", "list").splitlines()) == 2
    os.killpg(process.pid, which)  # as a terminal's Ctrl-C, which reaches the trainings, too
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_a_commit_trains_as_itself() -> None:
    command = [sys.executable, str(ROOT / "tools/same_training.py"), "HEAD", "HEAD"]
    done = subprocess.run([*command, "--only", ROW], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 1 configurations differ" in done.stdout


# ---- the tools that make folders of images ----


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(file, "png")
    return file.getvalue()


def package(path: Path, emoji: object, images: dict[str, bytes]) -> Path:
    """Write an npm package as `npm pack emoji-datasource-google` does."""
    members = {"package/emoji.json": json.dumps(emoji).encode()}
    members |= {f"package/img/google/64/{name}": content for name, content in images.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_emoji_are_sorted_by_category_without_skin_tones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emoji = [
        {"image": "26f7.png", "category": "Food & Drink"},
        {"image": "1f44b.png", "category": "../../People"},
        {"image": "1f3fb.png", "category": "Component"},
    ]
    shades = {"26f7": 1, "1f44b": 2, "1f3fb": 3, "1f44b-1f3fb": 4}  # the last is a skin tone
    images = {f"{name}.png": png(shade) for name, shade in shades.items()}
    file, main = package(tmp_path / "emoji.tgz", emoji, images), tool("emoji").main
    out = tmp_path / "sub" / "emoji"
    main([str(file), str(out)])
    assert "2 images in 2 categories: food-drink, people" in capsys.readouterr().out
    written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}
    assert written == {"food-drink/26f7.png": png(1), "people/1f44b.png": png(2)}

    assert "exists: name a new folder" in refusal(main, [str(file), str(out)], capsys)
    other = str(tmp_path / "other")
    assert "cannot be read" in refusal(main, [str(tmp_path / "nosuch.tgz"), other], capsys)
    damaged = tmp_path / "damaged.tgz"
    for content in (b"text", file.read_bytes()[:200]):
        damaged.write_bytes(content)
        assert "is not the emoji package" in refusal(main, [str(damaged), other], capsys)
    wrong: object
    for wrong in ([], [1], [{"image": "nosuch.png", "category": "Flags"}], "text"):
        package(damaged, wrong, {})
        assert "is not the emoji package" in refusal(main, [str(damaged), other], capsys), wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.tgz", "emoji.tgz", "sub"]


def test_held_out_images_are_training_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    for split, number in (("train", 12), ("test", 4)):
        for label in ("a", "b"):
            (source / split / label).mkdir(parents=True)
            for i in range(number):
                shade = 100 * (label == "b") + 20 * (split == "test") + i
                image = Image.new("L", (28, 28), shade)
                image.save(source / split / label / f"{i}.png")
    main, out = tool("held_out").main, tmp_path / "out"
    options = ["--dataset", "folder", "--data_dir", str(source), "--image_size", "28"]
    main([str(out), *options, "--number", "5"])
    old, new = load_dataset("folder", source, 28), load_dataset("folder", out, 28)
    assert (len(new.train_images), len(new.test_images)) == (19, 5)

    def shades(images: Tensor, labels: Tensor) -> list[tuple[int, int]]:
        return [(int(image[0, 0, 0]), int(y)) for image, y in zip(images, labels, strict=True)]

    together = shades(new.train_images, new.train_labels) + shades(new.test_images, new.test_labels)
    assert sorted(together) == sorted(shades(old.train_images, old.train_labels))

    assert "exists: name a new folder" in refusal(
        main, [str(out), *options, "--number", "5"], capsys
    )
    again = [str(tmp_path / "again"), *options]
    for bad in ("0", "24", "-1"):
        line = refusal(main, [*again, "--number", bad], capsys)
        assert "does not fit 24 training images" in line
    assert not (tmp_path / "again").exists()


# ---- the stress tools, briefly ----


def figures(name: str, *argv: str) -> str:
    """What a tool prints. It runs in a process of its own because it forks."""
    line = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *argv]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_damaged_input_is_refused() -> None:
    said = figures("corrupt_inputs", "--cases", "195", "--commands", "5")
    refused = re.search(r"refused: (\d+)", said)
    assert refused and int(refused[1]) >= 100, said  # not everything was harmless


@pytest.mark.slow
def test_runs_survive_kills() -> None:
    """Runs of several data sets. Some kills wait until the data is being made ready."""
    said = figures("kill_runs", "--kills", "12", "--seed", "0")
    counts = {name: int(count) for name, count in re.findall(r"([\w' -]+): (\d+)", said)}
    counts = {name.strip(): count for name, count in counts.items()}
    assert counts["kills"] == 12
    aimed = [counts[phase] for phase in ("download", "unpacking", "folder's cache")]
    assert sum(aimed) >= 3, said  # not each: between seeing a phase and the kill, it may end


@pytest.mark.slow
def test_2000_steps_take_no_more_memory_files_or_time_than_500() -> None:
    said = figures("long_run", "--steps", "2000", "--script", "vanilla_gan")
    rows = re.findall(r"^ *([\d,]+) +([\d.]+) MB +(\d+) +([\d.]+) ms$", said, re.MULTILINE)
    assert [row[0] for row in rows] == ["500", "1,000", "1,500", "2,000"], said
    memory, files, seconds = ([float(row[i]) for row in rows] for i in (1, 2, 3))
    assert memory[3] < memory[0] + 10 and files[3] == files[0], said
    assert seconds[3] < 2 * seconds[1], "each step takes longer than those before"


@pytest.mark.slow
def test_a_changed_run_is_trained_and_recorded(flags: list[str], tmp_path: Path) -> None:
    curves = tool("record_curves")
    row = curves.train("early_zero_grad", tmp_path, [*flags, "--max_steps", "2"])
    assert (tmp_path / "early_zero_grad/last.pt").is_file()
    assert row["script"] == "vanilla_gan" and row["patch"] == "no-detach"
    assert row["fingerprint"] == curves.fingerprint_of("early_zero_grad", row["args"])
    assert row["fingerprint"] != curves.fingerprint_of("no_detach", row["args"])  # the edits


def test_a_run_that_is_there_or_unknown_is_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = tool("record_curves")
    (tmp_path / "healthy").mkdir()
    monkeypatch.setattr(curves, "FOLDER", tmp_path)
    for name, words in (("healthy", "delete the folder"), ("sick", "no run is called sick")):
        monkeypatch.setattr(sys, "argv", ["record_curves.py", name])
        with pytest.raises(SystemExit) as end:
            curves.main()
        assert end.value.code == 2 and words in capsys.readouterr().err
