"""What several test files share: a small folder of pictures, tiny networks, a command's end."""

from support.command import installation_fault

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

try:
    from support.command import exit_on_input_error

    import numpy as np
    import torch
    from PIL import Image

    import training.classifier
except Exception as error:  # a broken library raises anything
    print(installation_fault(error), file=sys.stderr)
    sys.exit(2)  # pytest.exit() would add its own traceback of this file

ROOT = Path(__file__).parent.parent
CLASSES = ("bag", "coat", "shoe")
TINY = ["--z_dim", "8", "--ngf", "4", "--ndf", "4", "--batch_size", "10", "--features", "none"]


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the commands cache for a user does not outlive the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def small_and_hasty() -> None:
    """The classifiers of the tests' small folders need not be good."""
    training.classifier.LEAST_STEPS = 10
    torch.set_num_threads(1)  # on tensors this small, a second one costs more than it does


def make_pictures(folder: Path) -> Path:
    """A folder of 28 x 28 grey images in 3 class folders: 105 for training, 12 for testing."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 35), ("test", 4)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (28, 28)) + 80 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def flags(pictures: Path, tmp_path: Path) -> list[str]:
    """The command line of a tiny run on `pictures`, 10 steps an epoch, into tmp_path."""
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    return [*TINY, *data, "--out_dir", str(tmp_path), "--device", "cpu"]


def command(script: str, *argv: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *argv]


def run(script: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(script, *argv), capture_output=True, text=True, cwd=cwd)


def refusal(
    main: Callable[[Sequence[str]], object], argv: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """The one line with which `main` refuses `argv`, after argparse's usage if that is there."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        main(list(argv))
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    if lines[0].startswith("usage:"):
        lines = lines[-1:]
    assert len(lines) == 1, lines
    assert "error: " in lines[0]
    return lines[0]
