"""support/processes.py: two processes train as one, stop together; one that dies ends the run.

torchrun runs this file too, as the training that is compared with that of one process.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
import support.processes
from support.command import InputError
from support.processes import (
    any_rank,
    average,
    from_rank_zero,
    local_rank_zero_first,
    local_rows,
    local_slice,
    process_group,
    rank_zero_only,
)

import cdcgan
import dcgan
import support.device
import training.run
import training.start
import vanilla_gan
import wgan_gp
from data import Batches, load_dataset
from support.checkpoints import read_checkpoint
from tests.conftest import RANDOM, ROOT, TINY, assert_same_run, make_pictures

# One worker runs these tests one after the other: no two torchrun jobs at once on one loopback.
pytestmark = pytest.mark.xdist_group("torchrun")
SCRIPTS = {script.__name__: script for script in (vanilla_gan, dcgan, cdcgan, wgan_gp)}
# Without dropout, which differs between processes.
CASES = {
    "vanilla_gan": ["--dropout", "0", "--d_steps", "2"],
    "dcgan": [],
    "cdcgan": [],
    "wgan_gp": ["--n_critic", "2"],
    # At clipping's own rates: at the penalty's, RMSprop's steps of 0.016 make more of a last digit.
    "wgan_gp clipped": (
        "--n_critic 2 --weight_clip 0.1 --conditional --lr_g 5e-5 --lr_d 5e-5".split()
    ),
}


@contextmanager
def image_by_image() -> Iterator[None]:
    """Without what makes two halves of a batch another thing than the whole: norm and chance."""
    rand = torch.rand

    def half(*size: int, **options: Any) -> Tensor:
        return rand(*size, **options) if "generator" in options else torch.full(size, 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "BatchNorm2d", lambda channels, **_: nn.GroupNorm(1, channels))
        patch.setattr(torch, "rand", half)  # the penalty's alpha
        yield


def train_all(flags: Sequence[str]) -> None:
    """Five steps of every case."""
    with image_by_image():
        for case, argv in CASES.items():
            name = ["--name", case.replace(" ", "-"), "--max_steps", "5", "--precision", "fp32"]
            SCRIPTS[case.split()[0]].main([*flags, *argv, *name])


def torchrun(script: Path, *argv: str, processes: int = 2) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launch, f"--nproc_per_node={processes}", str(script), *argv]


def alone(**environment: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **environment}


def logged(checkpoint: dict[str, Any]) -> list[float]:
    rows = [row[name] for row in checkpoint["rows"] for name in checkpoint["names"]]
    return rows + checkpoint["window"].flatten().tolist()


@pytest.mark.slow
def test_two_processes_train_as_one_does(flags: list[str], tmp_path: Path) -> None:
    """To 1e-5 in every weight and in every mean that is logged; half the batch does not."""
    out = flags.index("--out_dir") + 1
    folders = {}
    for name in ("one", "half", "two"):
        folders[name] = tmp_path / name
        flags[out] = str(folders[name])
        batch = ["--batch_size", "5" if name == "half" else "10"]
        if name == "two":
            command = torchrun(Path(__file__), *flags, *batch)
            subprocess.run(command, check=True, env=alone(), stdout=subprocess.DEVNULL)
        else:
            train_all([*flags, *batch])
    for case in CASES:
        one, half, two = (read_checkpoint(f / case.replace(" ", "-")) for f in folders.values())
        assert logged(two) == pytest.approx(logged(one), abs=1e-5), case
        for network in ("generator", "discriminator", "critic", "ema"):
            for name, weight in one.get(network, {}).items():
                assert (weight - two[network][name]).abs().max() < 1e-5, (case, network, name)
        moved, apart = (
            max((one["generator"][n] - weight).abs().max() for n, weight in other.items())
            for other in (half["generator"], two["generator"])
        )
        assert moved > 1e-4 and apart < moved / 1000, case
    ends = []
    for name in ("one", "two"):  # and what two began, one can go on with
        vanilla_gan.main(["--resume", str(folders[name] / "vanilla_gan"), "--max_steps", "7"])
        ends.append(read_checkpoint(folders[name] / "vanilla_gan" / "last.pt"))
    assert ends[0]["step"] == ends[1]["step"] == 7
    for name, weight in ends[0]["generator"].items():
        assert (weight - ends[1]["generator"][name]).abs().max() < 1e-5, name


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def worker(process: subprocess.Popen[str], rank: int) -> int:
    """The id of the process that torchrun started as `rank`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = (
        child
        for child in children
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0")
    )
    return int(found)


def errors_of_ours(text: str) -> list[str]:
    """Return what the scripts wrote, without torchrun's report and the warning of small slices."""
    assert 'gan.py", line' not in text, text  # no traceback of ours
    lines = [line for line in text.splitlines() if "images per step" not in line]
    return [line for line in lines if line.startswith(("error:", "warning:", "usage"))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds torchrun's processes in /proc")
def test_stopped_and_killed_and_resumed(flags: list[str], tmp_path: Path) -> None:
    """All that is random takes part. Whichever of the two gets the signal, both end."""
    script = ROOT / "cdcgan.py"
    evaluated = ["--features", "classifier", "--eval_samples", "30", "--eval_every", "2"]
    flags += [*RANDOM, *evaluated, "--epochs", "12"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    quiet: Any = {"env": alone(), "stdout": subprocess.PIPE, "text": True}
    subprocess.run(torchrun(script, *flags, "--name", "straight"), check=True, **quiet)

    quiet["stderr"] = subprocess.PIPE
    with subprocess.Popen(torchrun(script, *flags, "--name", "stopped"), **quiet) as process:
        wait_for(stopped / "samples" / "epoch_0001.png", process)
        os.kill(worker(process, 1), signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert errors_of_ours(err) == [] and process.returncode != 0
    resume = f"torchrun --standalone --nproc_per_node=2 cdcgan.py --resume {stopped}"
    step = read_checkpoint(stopped / "last.pt")["step"]
    assert out.splitlines()[-1] == f"stopped at step {step}; to resume: {resume}"
    assert 10 <= step < 120  # 10 if it was still at the picture

    for rank in (1, 0):
        step = read_checkpoint(stopped / "last.pt")["step"]
        resumed = torchrun(script, "--resume", str(stopped))
        with subprocess.Popen(resumed, **quiet) as process:
            wait_for(stopped / "samples" / f"epoch_{step // 10 + 1:04}.png", process)
            os.kill(worker(process, rank), signal.SIGKILL)
            out, err = process.communicate(timeout=60)
        (line,) = errors_of_ours(err)
        assert "another process of this run has died" in line and line.endswith(resume)
        assert step <= read_checkpoint(stopped / "last.pt")["step"] < 120
    subprocess.run(torchrun(script, "--resume", str(stopped)), check=True, **quiet)
    assert_same_run(stopped, straight)


@pytest.mark.slow
def test_bad_input_is_one_line_of_all_processes(flags: list[str]) -> None:
    for bad, expected in (
        (["--batch_size", "11"], "multiple of 2"),
        (["--lr_g", "7"], "7.0 is not in the range"),
    ):
        command = torchrun(ROOT / "cdcgan.py", *flags, *bad)
        process = subprocess.run(command, capture_output=True, text=True, env=alone())
        lines = [line for line in process.stderr.splitlines() if "error: " in line]
        assert len(lines) == 1 and expected in lines[0], process.stderr
        assert process.returncode != 0 and 'gan.py", line' not in process.stderr


# ---- several machines ----


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    """Two folders, each with its own data and cache, as two machines have them."""
    folders = [tmp_path / "machine0", tmp_path / "machine1"]
    for folder in folders:
        make_pictures(folder / "data")
    return folders


def start_on(machines: list[Path], *argv: str) -> list[subprocess.Popen[str]]:
    """Start torchrun on each of the machines, which speak to each other over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    agents = []
    for number, folder in enumerate(machines):
        where = [f"--nnodes={len(machines)}", f"--node_rank={number}", "--nproc_per_node=1"]
        launch = [sys.executable, "-m", "torch.distributed.run", f"--rdzv_endpoint={endpoint}"]
        env = alone(XDG_CACHE_HOME=str(folder / "cache"), GLOO_SOCKET_IFNAME="lo")
        command = [*launch, *where, str(ROOT / "vanilla_gan.py"), *argv]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        agents.append(subprocess.Popen(command, cwd=folder, env=env, **pipes))
    return agents


def outputs(agents: list[subprocess.Popen[str]]) -> list[tuple[str, str, int]]:
    """Return standard output, standard error and exit code of each agent."""
    # An agent waits up to 300 s for the others. With a longer limit, the asserts show what failed.
    texts = [agent.communicate(timeout=400) for agent in agents]
    return [(*text, agent.returncode) for text, agent in zip(texts, agents, strict=True)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds torchrun's processes in /proc")
def test_two_machines_train_and_resume_as_one_process(
    machines: list[Path], flags: list[str], tmp_path: Path
) -> None:
    """The second machine has no run folder. A kill of either process ends both."""
    data, out = flags.index("--data_dir") + 1, flags.index("--out_dir") + 1
    flags[data], flags[out] = "data", "runs"
    flags += "--dropout 0 --precision fp32 --epochs 12 --batch_size 10 --name run".split()
    run, epoch = machines[0] / "runs" / "run", 1
    for argv, rank in ((flags, 1), (["--resume", "runs/run"], 0)):
        agents = start_on(machines, *argv)
        wait_for(run / "samples" / f"epoch_{epoch:04}.png", agents[0])
        os.kill(worker(agents[rank], rank), signal.SIGKILL)
        ended = outputs(agents)
        (line,) = [line for _, err, _ in ended for line in errors_of_ours(err)]
        assert "another process of this run has died" in line
        assert "torchrun --nnodes=2 --node_rank=0 --rdzv_endpoint=127.0.0.1:" in line
        assert line.endswith("--nproc_per_node=1 vanilla_gan.py --resume runs/run")
        assert all(code for *_, code in ended)
        step = read_checkpoint(run / "last.pt")["step"]
        assert epoch * 10 - 10 <= step < 120  # the picture comes before the checkpoint
        epoch = step // 10 + 1
    ended = outputs(start_on(machines, "--resume", "runs/run"))
    assert [code for *_, code in ended] == [0, 0], "\n".join(err for _, err, _ in ended)
    assert f"resuming at step {step}" in ended[0][0]
    assert sorted(path.name for path in machines[1].iterdir()) == ["cache", "data"]

    flags[data], flags[out] = str(machines[0] / "data"), str(tmp_path)
    vanilla_gan.main(flags)
    two, one = read_checkpoint(run / "last.pt"), read_checkpoint(tmp_path / "run" / "last.pt")
    assert two["step"] == one["step"] == 120
    assert logged(two) == pytest.approx(logged(one), abs=1e-4)
    for network in ("generator", "discriminator", "ema"):
        for name, weight in one[network].items():
            assert (weight - two[network][name]).abs().max() < 1e-4, (network, name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="loopback is called lo")
def test_an_error_of_one_machine_is_one_line(machines: list[Path], flags: list[str]) -> None:
    folder = ["--dataset", "folder", "--data_dir", "data", "--features", "none"]
    small = [*TINY, *folder, "--image_size", "28", "--epochs", "1", "--device", "cpu"]

    def error_of(*argv: str) -> str:
        ended = outputs(start_on(machines, *argv))
        assert all(code for *_, code in ended)
        lines = [line for _, err, _ in ended for line in err.splitlines() if "error: " in line]
        assert len(lines) == 1, ended
        return lines[0]

    assert "runs/no/config.json cannot be read" in error_of("--resume", "runs/no")
    ended = outputs(start_on(machines, *small, "--name", "run", "--max_steps", "2"))
    assert [code for *_, code in ended] == [0, 0], "\n".join(err for _, err, _ in ended)
    assert "each of 2 processes gets 5 images per step" in ended[0][1]
    assert "--seed 1: runs/run was started with 0" in error_of(
        "--resume", "runs/run", "--seed", "1"
    )
    for image in (machines[1] / "data" / "train").rglob("00*.png"):
        image.unlink()
    assert "this machine has other training images" in error_of(*small)
    shutil.rmtree(machines[1] / "data")
    assert "data is not a folder" in error_of(*small)


# ---- without torchrun ----


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def plain(flags: list[str], tmp_path: Path) -> Path:
    wgan_gp.main([*flags, *RANDOM[:2], "--name", "plain", "--max_steps", "2"])
    return tmp_path / "plain"


def test_a_group_of_one_changes_no_bit(plain: Path, flags: list[str], group_of_one: None) -> None:
    wgan_gp.main([*flags, *RANDOM[:2], "--name", "grouped", "--max_steps", "2"])
    assert_same_run(plain, plain.parent / "grouped")


def test_nothing_happens_without_torchrun() -> None:
    values = torch.arange(6.0)
    with process_group():
        assert average(values) is values and torch.equal(local_slice(values), torch.arange(6.0))
        assert from_rank_zero(lambda: 3) == 3
    assert not dist.is_initialized()


def test_the_first_alone_does_what_it_alone_may(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    append = rank_zero_only(lambda number: done.append(number))
    for rank in (0, 1):
        monkeypatch.setattr("support.processes.rank", lambda rank=rank: rank)
        append(rank)
    assert done == [0]


def test_a_run_averages_what_every_process_has(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that there seem to be: the gradients before each optimiser's step, and the log."""
    averaged: list[set[int]] = []

    def average_gradients(optimiser: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        assert all(parameter.grad is not None for parameter in parameters)
        averaged.append({id(parameter) for parameter in parameters})

    class Run(cdcgan.Run):
        def __init__(self, *args: Any, **state: Any) -> None:
            names = ("discriminator", "generator")
            expected.extend({id(p) for p in state[name].parameters()} for name in names)
            super().__init__(*args, **state)

    expected: list[set[int]] = []
    monkeypatch.setattr(cdcgan, "Run", Run)
    monkeypatch.setattr(support.processes, "average_gradients", average_gradients)
    monkeypatch.setattr(training.run, "average", lambda values: values + 5)
    monkeypatch.setattr(training.start, "processes", lambda: 2)
    cdcgan.main([*flags, "--name", "run", "--epochs", "1", "--max_steps", "3"])
    assert averaged == expected * 3
    folder = tmp_path / "run"
    assert 5 <= read_checkpoint(folder)["window"].min() < 6
    again = f"torchrun --standalone --nproc_per_node=2 cdcgan.py --resume {folder}"
    assert support.processes.go_on.endswith(again)
    assert json.loads((folder / "config.json").read_text())["processes"] == 2


class Peer:
    """What torch.distributed does where this process is `rank` of two, and the other is played."""

    def __init__(self, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        monkeypatch.setattr("support.processes.started", lambda: True)
        monkeypatch.setattr("support.processes.processes", lambda: 2)
        monkeypatch.setattr("support.processes.rank", lambda: rank)
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setattr(dist, "all_reduce", lambda votes: self.calls.append("votes"))
        monkeypatch.setattr(dist, "broadcast", lambda batch, src: batch.copy_(torch.arange(6.0)))
        monkeypatch.setattr(dist, "broadcast_object_list", self.broadcast)
        self.rank = rank

    def broadcast(self, objects: list[Any], src: int, device: torch.device) -> None:
        assert src == 0 and objects == [None if self.rank else "mine", None]
        objects[0] = "the first's"


@pytest.mark.parametrize("rank", [0, 1])
def test_what_two_processes_share(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(rank, monkeypatch)
    assert local_slice(torch.zeros(6)).tolist() == [[0, 1, 2], [3, 4, 5]][rank]
    assert from_rank_zero(lambda: "mine") == "the first's"
    with local_rank_zero_first():
        peer.calls.append("work")
    assert peer.calls == (["votes", "work"] if rank else ["work", "votes"])
    with pytest.raises(InputError, match="unknown data set"):
        load_dataset("imagenet")
    assert len(peer.calls) == 2 + rank  # the others wait for the first before they look
    monkeypatch.setattr(dist, "all_reduce", lambda votes: None)
    assert any_rank(True) and not any_rank(False)
    monkeypatch.setattr(dist, "all_reduce", lambda votes: votes.add_(1))  # of the other
    assert any_rank(True) and any_rank(False)

    def die(values: Tensor) -> None:
        raise RuntimeError("[/gloo/pair.cc:534] Connection closed by peer. See the manual.")

    monkeypatch.setattr(dist, "all_reduce", die)
    monkeypatch.setattr("support.processes.go_on", "; to go on: x")
    says = r"process of this run has died \(Connection closed by peer\); to go on: x$"
    for talk in (lambda: average(torch.zeros(2)), lambda: any_rank(True)):
        with pytest.raises(InputError, match=says):
            talk()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_says_why_all_end(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever meets bad input first; what all meet, as bad flags, the first prints."""
    store = dist.HashStore()
    joined: list[dict[str, Any]] = []
    handled: list[tuple[object, ...]] = []
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, timeout: iter([(store, rank, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **options: joined.append(options))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: joined.append({}))
    monkeypatch.setattr(signal, "signal", lambda *given: handled.append(given))
    with process_group():
        print("a line")
        print("a warning", file=sys.stderr)
    assert capsys.readouterr() == (("a line\n", "a warning\n") if rank == 0 else ("", ""))
    assert (joined[0]["rank"], joined[0]["world_size"], joined[1]) == (rank, 2, {})
    for expected in (InputError, SystemExit):  # the second one is silent
        with pytest.raises(expected), process_group():
            raise InputError("no such folder")
        assert handled.pop() == (signal.SIGTERM, signal.SIG_IGN)  # until it is said
    if rank == 1:
        store.set("said", "")  # or it would wait for the first
    with pytest.raises(SystemExit) as end, process_group():
        raise SystemExit(2)
    assert end.value.code == 2 and store.check(["said"])


@pytest.mark.parametrize("hflip", [False, True])
def test_shares_make_up_the_batch(hflip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(50)

    def batches(shared: bool) -> Batches:
        return Batches(images, labels, 12, seed=0, device="cpu", hflip=hflip, shared=shared)

    monkeypatch.setattr(support.processes, "processes", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(support.processes, "rank", lambda rank=rank: rank)
        parts.append(batches(shared=True)[6])
    whole = batches(shared=False)[6]
    assert [len(part) for part, _ in parts] == [4, 4, 4]
    for got, expected in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(got), expected)
    monkeypatch.setattr(support.processes, "processes", lambda: 5)
    with pytest.raises(InputError, match="--batch_size 12 cannot be divided among 5 processes"):
        batches(shared=True)


def test_a_small_slice_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch norm sees a slice only. One process gets no warning, because its batch is asked for."""
    for parts, warned in ((1, False), (2, False), (4, True)):
        monkeypatch.setattr(support.processes, "processes", lambda parts=parts: parts)
        local_rows(32)
        message = "each of 4 processes gets 8 images per step"
        assert (message in capsys.readouterr().err) == warned


@pytest.mark.parametrize("name", ["cuda:0", "mps"])
def test_one_device_is_not_given_to_two(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support.device, "processes", lambda: 2)
    with pytest.raises(InputError, match=f"--device {name} cannot be used with 2 processes"):
        support.device.pick_device(name)
    assert support.device.pick_device("cpu") == torch.device("cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group(), pytest.MonkeyPatch.context() as patch:
        seed = torch.manual_seed  # each process draws its own first weights: the broadcast counts
        patch.setattr(torch, "manual_seed", lambda number: seed(number + support.processes.rank()))
        train_all(sys.argv[1:])
