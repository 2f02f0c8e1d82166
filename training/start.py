"""Start a run: make the folder, write config.json, and print a summary."""

from support.command import InputError
from support.processes import processes

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data import Dataset
from support.device import pick_precision
from support.files import UNFINISHED, locked, writing

LISTED_CLASSES = 20  # a summary prints at most this many class names


def new_folder(script: str, args: argparse.Namespace) -> Path:
    """Make a new folder for a run. Raise InputError if the folder exists already."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = args.name or f"{script}-{args.dataset}-{now}"
    # Without --name, runs that start in the same second get different numbers.
    more = () if args.name else (f"{name}-{number}" for number in range(2, 1000))
    out, folder = Path(args.out_dir), Path(args.out_dir, name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for free in (name, *more):
            with suppress(FileExistsError):
                (out / free).mkdir()  # fails if another run has just made the folder
                return out / free
    except OSError as error:
        raise InputError(f"{folder} cannot be created ({error.strerror})") from None
    hint = "choose another --name"
    if (folder / "config.json").is_file():
        locked(folder).close()  # raises InputError if another process trains in the folder
        hint = f"resume the run (--resume {folder}) or {hint}"
    raise InputError(f"{folder} exists already: {hint}")


def resume_command(script: str, folder: Path) -> str:
    """Return the command that resumes a run with the current number of processes."""
    env, machines = os.environ, "--standalone"
    if env.get("GROUP_WORLD_SIZE", "1") != "1":  # each other machine needs its own --node_rank
        machines = f"--nnodes={env['GROUP_WORLD_SIZE']} --node_rank=0 "
        machines += f"--rdzv_endpoint={env['MASTER_ADDR']}:{env['MASTER_PORT']}"
    several = f"torchrun {machines} --nproc_per_node={env.get('LOCAL_WORLD_SIZE', processes())}"
    python = several if processes() > 1 else "python"
    return f"{python} {script}.py --resume {shlex.quote(str(folder))}"


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files that a killed process left in the folder of a run."""
    for unfinished in folder.rglob(f".*{UNFINISHED}"):
        with suppress(OSError):
            unfinished.unlink()


def write_config(folder: Path, script: str, args: argparse.Namespace, device: torch.device) -> None:
    """Write config.json: the arguments for --config and --resume, device, precision, versions."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    not_saved = ("resume", "config")
    config = {
        "script": script,
        "args": {name: v for name, v in vars(args).items() if name not in not_saved},
        "device": str(device),
        "precision": pick_precision(device, args.precision),
        "processes": processes(),
        "commit": commit,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    with writing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def print_summary(
    dataset: Dataset,
    steps_per_epoch: int,
    generator: nn.Module,
    critic: nn.Module,
    z: Tensor,
    labels: Tensor | None,
) -> None:
    """Print the layers of both networks, and the sizes and classes of the data set."""
    label = () if labels is None else (labels[:1],)
    image = torch.zeros(1, *dataset.train_images.shape[1:], device=z.device)
    print(layer_table(generator, z[:1], *label))
    print(layer_table(critic, image, *label))
    print(
        f"{dataset.name}: {len(dataset.train_images):,} training and "
        f"{len(dataset.test_images):,} test images of {dataset.channels} x {dataset.image_size} x "
        f"{dataset.image_size}, {len(dataset.classes) or 'no'} classes; "
        f"{steps_per_epoch:,} steps per epoch"
    )
    if dataset.classes:
        counts = dataset.train_labels.bincount(minlength=len(dataset.classes)).tolist()
        listed = [f"{name} {n:,}" for name, n in zip(dataset.classes, counts, strict=True)]
        more = f" and {len(listed) - LISTED_CLASSES:,} more" if len(listed) > LISTED_CLASSES else ""
        print(f"classes (training images): {', '.join(listed[:LISTED_CLASSES])}{more}")


def print_where(folder: Path, device: torch.device, step: int, total_steps: int) -> None:
    """Print the device and the folder of the run, and the TensorBoard command."""
    stands = f"resuming at step {step:,} of {total_steps:,}" if step else "new run"
    print(f"{stands} on {device}, in {folder}")
    print(f"to watch the run: tensorboard --logdir {shlex.quote(str(folder.parent))}", flush=True)
    if device.type != "cpu":
        print(f"a repeated run is bit-identical on a CPU, but not on {device.type}")


def layer_table(network: nn.Module, *inputs: Tensor) -> str:
    """Return a table of the layers: name, kind, output shape for `inputs`, and parameters."""
    rows = []
    hooks = [
        module.register_forward_hook(
            lambda module, _, out, name=name: rows.append(
                f"  {name:<16}{module._get_name().removeprefix('Parametrized'):<18}"
                f"{tuple(out.shape)!s:<22}{count_parameters(module):>10,}"
            )
        )
        for name, module in network.named_modules()
        if name and "parametrizations" not in name and is_layer(module)
    ]
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(*inputs)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    title = f"{network._get_name()}: {count_parameters(network):,} parameters"
    return "\n".join([title, *rows])


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer, and not a container of layers."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
