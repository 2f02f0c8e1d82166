"""Check and measure training on a GPU, one part at a time. tools/gpu_check.sh runs all parts.

    python tools/gpu_check.py header        # the machine; then the names of the parts below

Each result becomes at once one row of a Markdown table in $OUT/results.txt. The exit code is 1 if a
check of the part failed. Environment variables are the settings:

    DEVICE     cuda, cuda:N or cpu (default: cuda)
    DATASET    mnist, fashion_mnist or cifar10 (default: fashion_mnist)
    DATA_DIR   the folder of the data set (default: data)
    OUT        the folder of the results (default: gpu_check)
    QUICK      1: a rehearsal with tiny networks, few steps and random images
"""

import argparse
import importlib
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.profiler
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import InputError, exit_on_input_error

import generate
import training.classifier
import training.run
from data import load_dataset
from fid import Statistics, frechet_distance
from support.checkpoints import read_checkpoint
from support.device import pick_device
from support.download import CLASSES
from support.features import FeatureNetwork, InceptionFeatures, extract, load_features
from support.sampling import noise
from tools.same_training import make_images
from tools.samples import ROOT, TINY, inception_weights
from training.evaluation import Evaluation

DEVICE = os.environ.get("DEVICE", "cuda")
DATASET, DATA_DIR = os.environ.get("DATASET", "fashion_mnist"), os.environ.get("DATA_DIR", "data")
OUT = Path(os.environ.get("OUT", "gpu_check"))
QUICK = os.environ.get("QUICK", "") not in ("", "0")

SCRIPTS = ("cdcgan", "dcgan", "wgan_gp", "vanilla_gan")
COMPARED = 5  # steps whose losses are compared with those on the CPU
FINITE = 8 if QUICK else 200  # steps whose losses must be finite
WARM_UP = 2 if QUICK else 50  # steps that are neither timed nor profiled
TIMED, PROFILED = (5, 5) if QUICK else (200, 50)
IMAGES = (300, 8) if QUICK else (1000, 64)  # for the classifier and for Inception
LOSS_GAP, FEATURE_GAP = 1e-3, 1e-4  # the largest relative differences between device and CPU
# A loss may be close to 0, where rounding is a large fraction of it.
LEAST_LOSS = 0.01
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # calls in which Python waits for the GPU


class Report:
    """Appends rows to results.txt, and remembers whether a check failed."""

    def __init__(self, part: str) -> None:
        self.part, self.failed = part, False

    def row(self, what: str, result: str, passed: bool | None = None) -> None:
        """Append one row. `passed`: None for a measurement without a verdict."""
        self.failed |= passed is False
        verdict = {None: "", True: "ok", False: "FAILED"}[passed]
        cells = (text.replace("|", "/") for text in (self.part, what, result, verdict))
        append(f"| {' | '.join(cells)} |")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Report an error in the block as a failed row, and go on after the block."""
        try:
            yield
        except Exception as error:
            lines = str(error).splitlines() or [""]
            self.row(what, f"{type(error).__name__}: {lines[0]}", False)


def append(line: str) -> None:
    print(line, flush=True)
    with (OUT / "results.txt").open("a") as file:
        file.write(line + "\n")


# ---- runs of the scripts ----


def flags(folder: Path, *more: str) -> list[str]:
    """Return the command line of a run in `folder`, on the device, without evaluation."""
    run = ["--device", DEVICE, "--seed", "1", "--features", "none", "--out_dir", str(folder), *more]
    if not QUICK:
        return ["--dataset", DATASET, "--data_dir", DATA_DIR, *run]
    images = folder / "images"
    if not images.exists():
        make_images(images, (28, 28))
    return ["--dataset", "folder", "--data_dir", str(images), "--image_size", "28", *TINY, *run]


def train(script: str, argv: Sequence[str]) -> list[dict[str, float]]:
    """Train with one row of losses per step; return the rows of the run's last.pt."""
    runs: list[Any] = []
    module = importlib.import_module(script)

    class Kept(module.Run):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **state: Any) -> None:
            super().__init__(*args, **state)
            runs.append(self)

    with patch.object(module, "Run", Kept), patch.object(training.run, "LOG_EVERY", 1):
        module.main(argv)
    return read_checkpoint(runs[0].folder / "last.pt")["rows"]


def train_watched(
    script: str,
    argv: Sequence[str],
    steps: int,
    during: AbstractContextManager[object],
    benchmark: bool = True,
) -> int:
    """Train WARM_UP steps, and then `steps` steps within `during`; return their images."""
    module = importlib.import_module(script)
    images = 0

    class Watched(module.Run):  # type: ignore[misc, name-defined]
        def steps(self) -> Iterator[int]:
            nonlocal images
            images = steps * self.images_per_step
            torch.backends.cudnn.benchmark = benchmark
            with ExitStack() as stack:
                for step in super().steps():
                    if step == WARM_UP:
                        stack.enter_context(during)
                    yield step
                    if step == WARM_UP + steps - 1:
                        stack.close()

    # Without rows of losses within the steps, because reading them waits for the GPU.
    with patch.object(module, "Run", Watched), patch.object(training.run, "LOG_EVERY", 10**9):
        module.main([*argv, "--max_steps", str(WARM_UP + steps)])
    return images


@contextmanager
def drawn_on_the_cpu() -> Iterator[None]:
    """Draw z and alpha on the CPU and move them, so that every device trains with the same."""

    def moved(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *size, device="cpu", **more: draw(*size, **more).to(device)

    with patch.multiple(torch, rand=moved(torch.rand), randn=moved(torch.randn)):
        yield


def exact_float32() -> None:
    """Keep all bits of float32 in products and convolutions until the process ends (no TF32)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def synchronise() -> None:
    if DEVICE != "cpu":
        torch.cuda.synchronize(DEVICE)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's seconds to seconds[name], together with the work that waits on the GPU."""
    synchronise()
    began = time.perf_counter()
    yield
    synchronise()
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began


# ---- comparisons ----


def loss_gap(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """Return the largest relative difference of two lists of losses; NaN stays NaN."""
    if not ours or [row["step"] for row in ours] != [row["step"] for row in theirs]:
        return math.inf
    one, other = (
        torch.tensor([[row["d_loss"], row["g_loss"]] for row in rows]).double()
        for rows in (ours, theirs)
    )
    scale = torch.maximum(one.abs(), other.abs()).clamp(min=LEAST_LOSS)
    return ((one - other).abs() / scale).max().item()


def tensor_gap(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference as a fraction of the largest number; NaN stays NaN."""
    difference = ours.cpu().double() - theirs.double()
    return (difference.abs().max() / theirs.double().abs().max()).item()


def finite(rows: list[dict[str, float]]) -> int:
    """Return how many rows hold finite numbers only."""
    return sum(all(math.isfinite(value) for value in row.values()) for row in rows)


def falls(values: Sequence[float]) -> bool:
    """Return whether each of at least two values is smaller than the value before it."""
    return len(values) > 1 and all(b < a for a, b in zip(values, values[1:], strict=False))


# ---- the parts ----


def training_steps(report: Report, folder: Path) -> None:
    """Compare the first losses of each script with those on the CPU, train on, and draw samples."""
    exact_float32()
    for script in SCRIPTS:
        with report.attempt(f"{script}.py: losses"), drawn_on_the_cpu():
            argv = flags(folder, "--precision", "fp32", "--dropout", "0")
            few = ["--device", "cpu", "--max_steps", str(COMPARED), "--name", f"{script}-cpu"]
            on_cpu = train(script, [*argv, *few])
            rows = train(script, [*argv, "--max_steps", str(FINITE), "--name", script])
            # Rounding grows from step to step: on a CPU without oneDNN, from 4e-6 to 7e-4 at most.
            first, gap = loss_gap(rows[:1], on_cpu[:1]), loss_gap(rows[:COMPARED], on_cpu)
            what = f"{script}.py: losses of {COMPARED} steps, relative difference from the CPU"
            report.row(what, f"{gap:.1e} (first step: {first:.1e})", gap <= LOSS_GAP)
            what = f"{script}.py: steps with finite losses, of {FINITE}"
            report.row(what, str(finite(rows)), finite(rows) == FINITE)
        with report.attempt(f"{script}.py: generate.py"):
            ours, theirs = (drawn(folder / script, device).int() for device in (DEVICE, "cpu"))
            difference = int((ours - theirs).abs().max())
            what = f"{script}.py: pixels of samples, difference from the CPU, of 255"
            report.row(what, str(difference), difference <= 1)  # 1: a pixel is a rounded number


def drawn(run: Path, device: str) -> Tensor:
    """Return 16 samples that generate.py draws from a run on a device, uint8."""
    path = run / f"{device.replace(':', '')}.npz"
    what = ["--load_path", str(run), "--num_images", "16", "--save_path", str(path)]
    generate.main([*what, "--device", device])
    return torch.from_numpy(np.load(path)["images"])


def resume(report: Report, folder: Path) -> None:
    """Stop each script, resume it, and compare it with a run that was not stopped."""
    exact_float32()
    for script in SCRIPTS:
        with report.attempt(f"{script}.py: stop and resume"):
            argv = flags(folder, "--precision", "fp32")
            whole = train(script, [*argv, "--max_steps", "6", "--name", f"{script}-whole"])
            train(script, [*argv, "--max_steps", "3", "--name", script])
            again = ["--resume", str(folder / script), "--device", DEVICE, "--max_steps", "6"]
            gap = loss_gap(train(script, again), whole)
            what = f"{script}.py: stopped and resumed, relative difference of the losses"
            report.row(what, f"{gap:.1e}", gap <= LOSS_GAP)


def features(report: Report, folder: Path) -> None:
    """Compare features, logits, statistics and z on the device with those on the CPU."""
    exact_float32()
    torch.manual_seed(0)
    with report.attempt("z"):
        numbers = []
        for _ in range(2):
            torch.manual_seed(1)
            numbers.append(torch.randn(1000, device=DEVICE))
        fixed = torch.equal(noise(64, 16, 1, DEVICE).cpu(), noise(64, 16, 1))
        same = fixed and torch.equal(*numbers)
        report.row("z of the same seed", "equal" if same else "different", same)
    shape = (3, 32, 32) if DATASET == "cifar10" else (1, 28, 28)
    classifier = load_features("classifier", DATASET)
    networks: tuple[FeatureNetwork, ...] = (classifier, InceptionFeatures(inception_weights()))
    for network, number in zip(networks, IMAGES, strict=True):
        with report.attempt(network.name):
            images = torch.randint(256, (number, *shape), dtype=torch.uint8)
            images[number // 2 :] //= 2  # darker, so that the two halves have a distance
            on_cpu, on_device = measured(images, network), measured(images, network.to(DEVICE))
            for what, theirs in on_cpu.items():
                gap = tensor_gap(on_device[what], theirs)
                what = f"{network.name}: {what}, relative difference from the CPU"
                report.row(what, f"{gap:.1e}", gap <= FEATURE_GAP)


def measured(images: Tensor, network: FeatureNetwork) -> dict[str, Tensor]:
    """Return features and logits of images, and the distance of the first half from the second."""
    found: dict[str, list[Tensor]] = {"features": [], "logits": []}
    gaussians = []
    for half in images.chunk(2):
        statistics = Statistics(network.dim)
        for part, logits in extract(half.split(50), network):
            statistics.update(part)
            found["features"].append(part)
            found["logits"].append(logits)
        gaussians.append(statistics.gaussian())
    distance = torch.tensor(frechet_distance(*gaussians))
    return {name: torch.cat(parts) for name, parts in found.items()} | {"distance": distance}


def epochs(report: Report, folder: Path) -> None:
    """Train whole epochs of cdcgan.py with evaluation: does the FCD fall, and what takes time?"""
    module = importlib.import_module("cdcgan")
    number = 2 if QUICK else 3
    tables: list[dict[str, float]] = []
    seconds: dict[str, float] = {}

    class Watched(module.Run):  # type: ignore[misc, name-defined]
        def end_epoch(self, steps: int, of_steps: float) -> None:
            seconds.clear()
            seconds["steps"] = of_steps
            with timed(seconds, "all else"):
                super().end_epoch(steps, of_steps)
            seconds["images/s"] = steps * self.images_per_step / of_steps
            tables.append(dict(seconds))

        def draw_samples(self) -> None:
            with timed(seconds, "pictures"):
                super().draw_samples()

        def save(self, *files: str, **progress: float) -> None:
            with timed(seconds, "checkpoints"):
                super().save(*files, **progress)

    class Timed(Evaluation):
        def __call__(self, *networks: Any) -> dict[str, float]:
            with timed(seconds, "evaluation"):
                return super().__call__(*networks)

    evaluated = ["--features", "classifier", "--epochs", str(number), "--name", "epochs"]
    evaluated += ["--eval_samples", "30"] if QUICK else []
    with patch.object(module, "Run", Watched), patch.object(training.run, "Evaluation", Timed):
        module.main([*flags(folder), *evaluated])
    rows = read_checkpoint(folder / "epochs" / "last.pt")["rows"]
    distances = [row["fcd"] for row in rows if "fcd" in row]
    found = ", ".join(f"{distance:.3g}" for distance in distances)
    # Networks as tiny as those of a rehearsal need not learn anything in two epochs.
    passed = len(distances) == number if QUICK else falls(distances[:2])
    report.row(f"cdcgan.py: FCD of epochs 1 to {number}", found, passed)
    last = tables[-1]
    rate = f"{last.pop('images/s'):,.0f} images/s in the steps"
    report.row(f"cdcgan.py: epoch {number}", rate)
    total = last["steps"] + last.pop("all else")
    split = ", ".join(f"{name} {value:.2f}" for name, value in last.items())
    report.row(f"cdcgan.py: epoch {number} with its evaluation, seconds", f"{total:.2f} ({split})")


def speed(report: Report, folder: Path) -> None:
    """Measure images per second and peak memory of each script."""
    for script in SCRIPTS:
        for precision in ("bf16", "fp32"):
            for benchmark in (True, False):
                name = f"{script}.py, {precision}, cudnn.benchmark {'on' if benchmark else 'off'}"
                with report.attempt(name):
                    argv = flags(folder, "--precision", precision)
                    if DEVICE != "cpu":
                        torch.cuda.reset_peak_memory_stats(DEVICE)
                    seconds: dict[str, float] = {}
                    images = train_watched(script, argv, TIMED, timed(seconds, "steps"), benchmark)
                    report.row(name, f"{images / seconds['steps']:,.0f} images/s, peak {peak()}")


def peak() -> str:
    """Return the most memory that tensors took on the device."""
    if DEVICE == "cpu":
        return "not measured"
    return f"{torch.cuda.max_memory_allocated(DEVICE) / 1e6:,.0f} MB"


def profile(report: Report, folder: Path) -> None:
    """Count the kernels of each script's steps, the time of their launches, and the waits."""
    for script in SCRIPTS:
        with report.attempt(f"{script}.py: profile"):
            # Only the GPU's own events: to record every operator would slow Python down.
            kind = ProfilerActivity.CPU if DEVICE == "cpu" else ProfilerActivity.CUDA
            profiler = torch.profiler.profile(activities=[kind])
            seconds: dict[str, float] = {}
            calls: list[str] = []
            train_watched(script, flags(folder), PROFILED, profiled(profiler, seconds, calls))
            rows = list(profiler.key_averages())
            found = counts(rows, PROFILED, seconds["steps"])
            for name, value in found.items():
                report.row(f"{script}.py: {name}", f"{value:.4g}")
            waits = sum(row.count for row in rows if row.key in WAITS)
            what = f"{script}.py: calls in {PROFILED} steps that wait for the GPU"
            recorded = DEVICE == "cpu" or found["kernels per step"] > 0
            passed = recorded and waits == 0 and not calls
            report.row(what, ", ".join([str(waits), *sorted(set(calls))]), passed)


@contextmanager
def profiled(
    profiler: torch.profiler.profile, seconds: dict[str, float], calls: list[str]
) -> Iterator[None]:
    """Profile and time the block; add to `calls` the place of each call that waits for CUDA."""
    with warnings.catch_warnings(record=True) as caught, profiler, timed(seconds, "steps"):
        warnings.simplefilter("always")
        if DEVICE != "cpu":
            torch.cuda.set_sync_debug_mode("warn")
        yield
        if DEVICE != "cpu":
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchronizing" in str(warning.message):
            calls.append(f"{Path(warning.filename).name}:{warning.lineno}")


def counts(rows: Sequence[Any], steps: int, seconds: float) -> dict[str, float]:
    """Return what the rows of a profile say of `steps` steps that took `seconds`."""
    kernels = [
        row
        for row in rows
        if row.device_type == DeviceType.CUDA
        and not row.is_user_annotation
        and not row.key.startswith(("Memcpy", "Memset"))
    ]
    launches = [row for row in rows if "LaunchKernel" in row.key]
    launching = sum(row.self_cpu_time_total for row in launches) / 1e6
    computing = sum(row.self_device_time_total for row in kernels) / 1e6
    return {
        "kernels per step": sum(row.count for row in kernels) / steps,
        "fraction of the profiled time in launches": launching / seconds,
        "fraction of the profiled time in kernels": computing / seconds,
    }


def tests(report: Report, folder: Path) -> None:
    """Run the default tests; a rehearsal runs only those of the devices."""
    number = min(8, os.cpu_count() or 1)
    which = ["-n", "0", "tests/test_device.py"] if QUICK else ["-n", str(number)]
    command = [sys.executable, "-m", "pytest", *which]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    last = (done.stdout.splitlines() or done.stderr.splitlines() or ["no output"])[-1]
    report.row("pytest", last, done.returncode == 0)


PARTS = {
    part.__name__: part
    for part in (training_steps, resume, features, epochs, speed, profile, tests)
}


def header() -> None:
    """Begin results.txt with the machine. InputError if the device or the data cannot be used."""
    device = pick_device(DEVICE)
    if device.type not in ("cuda", "cpu"):
        raise InputError(f"DEVICE={DEVICE}: give cuda, cuda:N or cpu")
    if DATASET not in CLASSES:
        raise InputError(f"DATASET={DATASET}: give one of {', '.join(CLASSES)}")
    if not QUICK:
        load_dataset(DATASET, DATA_DIR)  # downloads it, which no part has the time for
    try:
        OUT.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT={OUT} cannot be made ({error.strerror})") from None
    gpu = "none (a rehearsal)" if device.type == "cpu" else torch.cuda.get_device_name(device)
    driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    commit = output("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    append(f"GPU: {gpu}; driver: {driver}; CUDA: {torch.version.cuda}")
    append(f"torch: {torch.__version__}; Python: {platform.python_version()}; commit: {commit}\n")
    append("| part | what | result | verdict |\n|---|---|---:|---|")


def output(*command: str) -> str:
    """Return the first line that a command prints, "unknown" if it cannot run."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except OSError:
        lines = []
    return (lines or ["unknown"])[0]


def main(argv: Sequence[str] | None = None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("part", choices=("header", *PARTS))
    part = parser.parse_args(argv).part
    if part == "header":
        header()
        return 0
    pick_device(DEVICE)
    training.run.draw_results = lambda *_: None  # no check looks at the plots of a whole run
    if QUICK:
        training.classifier.LEAST_STEPS = 10
        torch.set_num_threads(1)  # for tensors this small, a second thread takes more time
    report = Report(part)
    with tempfile.TemporaryDirectory() as folder:
        PARTS[part](report, Path(folder))
    return int(report.failed)


if __name__ == "__main__":
    with exit_on_input_error():
        raise SystemExit(main())
