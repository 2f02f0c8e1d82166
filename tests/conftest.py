"""Provide fixtures and helpers for several test files: tiny runs, commands, comparison of runs."""

from support.command import installation_fault

import ast
import http.server
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

try:
    from support.command import exit_on_input_error

    import numpy as np
    import torch
    from PIL import Image
    from torch import Tensor
    from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

    import cdcgan
    import support.download
    import support.features
    import training.classifier
    import training.plots
    import training.run
    import training.samples
    from support.checkpoints import read_checkpoint
    from tests.stand_ins import FILES, digests_of, inception_state
except Exception as error:  # a broken library raises anything
    print(installation_fault(error), file=sys.stderr)
    sys.exit(2)  # pytest.exit() would add its own traceback of this file

ROOT = Path(__file__).parent.parent
CLASSES = ("bag", "coat", "shoe")
# A tiny run with all sources of randomness: dropout, noisy labels, mirrored images.
RANDOM = ["--dropout", "0.2", "--label_noise", "0.1", "--hflip", "--epochs", "4"]
TINY = ["--z_dim", "8", "--ngf", "4", "--ndf", "4", "--batch_size", "10", "--features", "none"]


def code_lines(path: Path) -> int:
    """Return the number of lines without blank ones, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docstrings
        for number, line in lines
    )


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the commands a cache folder that is removed after the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Let the tests send Ctrl-C, even if nohup or a background job started them without it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def small_and_hasty() -> None:
    make_runs_short()


def make_runs_short() -> None:
    """Train classifiers for a few steps and draw few images, because the tests check no quality."""
    training.classifier.LEAST_STEPS = 10
    # Drawing the plots and the GIF would take most of the time of a tiny run.
    training.run.draw_results = lambda *_: None
    training.samples.GRID_ROWS = 3
    torch.set_num_threads(1)  # because a second thread slows down tensors this small


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch before each test, so that the order of the tests has no effect."""
    torch.manual_seed(0)


@pytest.fixture
def final_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a test draw plots and the GIF at the end."""
    monkeypatch.setattr(training.run, "draw_results", training.plots.draw_results)


def make_pictures(folder: Path) -> Path:
    """Write 28 x 28 grey images in 3 class folders: 105 for training, 12 for testing."""
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


def folder_flags(pictures: Path, out: Path) -> list[str]:
    """Return the command line of a tiny run on `pictures`, 10 steps per epoch, into `out`."""
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    return [*TINY, *data, "--out_dir", str(out), "--device", "cpu"]


@pytest.fixture
def flags(pictures: Path, tmp_path: Path) -> list[str]:
    return folder_flags(pictures, tmp_path)


@pytest.fixture(scope="session")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Return the flags of a run of 4 epochs with evaluation, and the folder of the complete run."""
    out = tmp_path_factory.mktemp("runs")
    evaluated = ["--features", "classifier", "--eval_samples", "30", "--eval_every", "2"]
    flags = [*folder_flags(pictures, out), *RANDOM, *evaluated, "--seed", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.run, "draw_results", training.plots.draw_results)
        cdcgan.main([*flags, "--name", "straight"])
    return flags, out / "straight"


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 96 MB in the format of FID's published weights, with random weights."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(inception_state(), path)
    return path


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the test an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, own_cache: None) -> None:
    """Remove mirrors, the system's copy and apt. The checksums are those of FILES."""
    monkeypatch.setattr(MNIST, "mirrors", [])
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setattr(support.download, "SYSTEM_FOLDERS", {})
    monkeypatch.setattr(support.download.shutil, "which", lambda command: None)
    monkeypatch.setattr(support.download, "IDX_SHA256", digests_of(FILES))


Serve = Callable[[Callable[[http.server.BaseHTTPRequestHandler], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Yield a function that starts a server with a given GET handler, and returns the address."""
    servers = []

    def start(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            do_GET = respond

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int) -> None:
    """Send `body` after a header that announces `length` bytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def command(script: str, *argv: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *argv]


def run(script: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(script, *argv), capture_output=True, text=True, cwd=cwd)


def refusal(
    main: Callable[[Sequence[str]], object], argv: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """Return the one line of the error with which `main` ends for `argv`, without the usage."""
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


def tool(name: str) -> Any:
    """Load tools/NAME.py, or the file FOLDER/NAME.py, because tests import only the product."""
    path = ROOT / ("" if "/" in name else "tools") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def equal(a: Any, b: Any) -> bool:
    """Return whether two checkpoints, or parts of them, are bit-identical."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "best.pt").is_file() == (other / "best.pt").is_file()
    for file in {"last.pt", "best.pt"} & {path.name for path in one.iterdir()}:
        assert equal(read_checkpoint(one / file), read_checkpoint(other / file)), file
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    samples = sorted(path.name for path in (one / "samples").iterdir())
    assert samples == sorted(path.name for path in (other / "samples").iterdir())
    for name in samples:
        assert (one / "samples" / name).read_bytes() == (other / "samples" / name).read_bytes()
