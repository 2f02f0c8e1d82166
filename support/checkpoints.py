"""Load and export checkpoints. A checkpoint may come from anywhere, so no code in it is executed.

    generator, checkpoint = load_generator("runs/RUN")      # the run's last.pt; in eval mode

docs/reference.md lists the content of a checkpoint. Only tensors, numbers and text are read
(PyTorch's weights_only), and the content is checked before use. A checkpoint names the script that
wrote it. That script is imported for the class Generator.
"""

from support.command import InputError, say

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from support.download import CLASSES
from support.files import is_name, load_tensors, save_tensors
from support.layers import MOST_DEPTH

SCRIPTS = ("vanilla_gan", "dcgan", "cdcgan", "wgan_gp")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, with all tensors on the CPU. No code is executed.

    `path`: a file, or a run folder, which means its last.pt (best.pt is chosen by test images).
    Raise InputError if there is no checkpoint, or if the file is damaged or not of these scripts.
    """
    path = Path(path)
    # os.path returns False for a name that is too long or not accessible. Path.is_dir() may raise.
    if os.path.isdir(path):
        path = path / "last.pt"
        if not os.path.isfile(path):
            raise InputError(f"{path.parent} has no last.pt: it is not a run folder")
    if not os.path.isfile(path):
        raise InputError(f"there is no checkpoint {path}: give a .pt file or a run folder")
    try:
        content = load_tensors(path)
    except Exception:  # a damaged file makes torch raise any error, and advise weights_only=False
        refused = "it is damaged, or holds more than tensors, numbers and text"
        raise InputError(f"{path} is refused as a checkpoint: {refused}") from None
    keys = ("script", "dataset", "classes", "generator_args", "ema")
    if not (isinstance(content, dict) and all(key in content for key in keys)):
        raise InputError(f"{path} is not a checkpoint of these scripts")
    if content["script"] not in SCRIPTS:
        raise InputError(
            f"{path} comes from script {content['script']!r}, which is not {', '.join(SCRIPTS)}"
        )
    return content


@contextmanager
def check_fits(path: str | Path, what: str) -> Iterator[None]:
    """Turn every exception inside into an InputError: checkpoint `path` does not fit `what`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged or forged checkpoint can raise any error
        # torch names the entries that do not fit from the second line of its message on.
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or "unknown"
        raise InputError(f"{path} does not fit {what}: {reason}") from None


class _NoInitialisation(TorchFunctionMode):
    """Skip the functions of torch.nn.init. On the meta device, they would import torch._dynamo."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def load_generator(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the EMA generator of a checkpoint, in eval mode, on `device`, and the whole content.

    Raise InputError as read_checkpoint() does, and if the weights do not fit the Generator.
    """
    checkpoint = read_checkpoint(path)
    with check_fits(path, f"{checkpoint['script']}.py"):
        # Here, because the scripts import training/run.py, which imports this file.
        network = importlib.import_module(checkpoint["script"]).Generator
        args, classes = checkpoint["generator_args"], checkpoint["classes"]
        sizes = [n for name, n in args.items() if name != "depth"]
        depth_fits = args.get("depth", 0) in range(MOST_DEPTH + 1)
        sizes_fit = args["channels"] in (1, 3) and all(type(n) is int and n > 0 for n in sizes)
        if not (sizes_fit and depth_fits):
            raise ValueError(f"no generator has these arguments: {args}")
        # A small file may claim a huge network. Check the shapes first, without memory for weights.
        with torch.device("meta"), _NoInitialisation():
            # A copy by dict(), because otherwise the state's metadata would keep `assign`, and the
            # next load_state_dict() would assign as well.
            network(**args).load_state_dict(dict(checkpoint["ema"]), assign=True)
        generator = network(**args)
        generator.load_state_dict(checkpoint["ema"])
        for name, value in generator.state_dict().items():
            given = checkpoint["ema"][name]
            if given.is_floating_point() != value.is_floating_point() or not value.isfinite().all():
                raise ValueError(f"{name} holds values that are not finite numbers")
        if args.get("num_classes", len(classes)) != len(classes):
            raise ValueError(f"{args['num_classes']} classes with {len(classes)} names")
        # If the entry is missing, the published data set has all classes, provided that it has
        # these classes.
        published = CLASSES.get(checkpoint["dataset"], ())
        known = published if set(classes) <= set(published) else classes
        of_data_set = checkpoint.setdefault("all_classes", known)
        if not all(is_name(name) for name in (*classes, *of_data_set, checkpoint["dataset"])):
            raise ValueError("the name of a class or data set is not printable text")
        if not set(classes) <= set(of_data_set):
            raise ValueError(f"a class is not in {checkpoint['dataset']}")
    return generator.to(device).eval().requires_grad_(False), checkpoint


def export_generator(source: str | Path, path: Path) -> None:
    """Write the EMA generator of a run to a small checkpoint, in float16, for load_generator().

    The file also holds the script, data set and classes, the training command and the last scores.
    """
    _, checkpoint = load_generator(source)
    of_run = os.path.isfile(path.parent / "config.json")
    if of_run and path.name in ("best.pt", "last.pt"):  # --resume needs the entries left out here
        raise InputError(f"{path} is a run's own checkpoint: export to another file")
    if "rows" not in checkpoint:
        raise InputError(f"{source} holds no metrics: give a run folder, or its last.pt")
    with check_fits(source, "a run"):
        check_progress(checkpoint)
    if "command" not in checkpoint:
        say(f"warning: {source} does not name its training command, so {path} will not either")
    measured = [row for row in checkpoint["rows"] if "test_d_loss" in row]
    kept = ("script", "dataset", "classes", "all_classes", "generator_args", "step")
    content = {
        **{name: checkpoint[name] for name in kept},
        "command": str(checkpoint.get("command", "")),
        "scores": measured[-1] if measured else {},  # with the epoch in which they were measured
        "ema": {
            name: value.half() if value.is_floating_point() else value
            for name, value in checkpoint["ema"].items()
        },
    }
    save_tensors(content, path)
    print(f"{path.stat().st_size:,} bytes: {path}")


def check_progress(checkpoint: dict[str, Any]) -> None:
    """Raise an error, for check_fits(), if a run's progress is not as Run.save() writes it."""
    step, rows, names = checkpoint["step"], checkpoint["rows"], checkpoint["names"]
    numbers = [checkpoint["best"], checkpoint.get("reported", 0)]
    numbers += (value for row in rows for value in row.values())
    if not (
        type(step) is int and 0 <= step <= 10**12 and {type(x) for x in numbers} <= {int, float}
    ):
        raise ValueError("step, best, reported or rows hold an invalid number")
    if not all({"step", "epoch"} <= row.keys() for row in rows):
        raise ValueError("a row has no step or no epoch")
    if not all(isinstance(name, str) for name in {*names, *(name for row in rows for name in row)}):
        raise ValueError("the name of a loss is not text")
    window = checkpoint["window"]
    if window.shape != (len(window), len(names)) or window.dtype != torch.float32:
        raise ValueError("the window of losses does not fit their names")


def load_part(part: Any, saved: dict[str, Any], step: int) -> None:
    """Load the state of a network or optimiser at `step`; raise an error if it does not fit."""
    if isinstance(part, nn.Module):
        part.load_state_dict(saved)
        if not all(value.isfinite().all() for value in part.state_dict().values()):
            raise ValueError("a weight is not finite")
        return
    # The flags set all options of the optimiser. Only the learning rate comes from the file,
    # because the learning rate may have decayed.
    groups = part.state_dict()["param_groups"]
    for group, saved_group in zip(groups, saved["param_groups"], strict=True):
        learning_rate = saved_group["lr"]
        if type(learning_rate) is not float or not 0 <= learning_rate <= group["lr"]:
            raise ValueError("an optimiser's learning rate is not one of this run")
        group["lr"] = learning_rate
    part.load_state_dict(saved | {"param_groups": groups})
    if bool(part.state) != bool(step):
        raise ValueError("an optimiser's moments do not fit the step")
    moments = {"square_avg"} if isinstance(part, torch.optim.RMSprop) else {"exp_avg", "exp_avg_sq"}
    for parameter, state in part.state.items():
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != {"step": torch.Size()} | dict.fromkeys(moments, parameter.shape):
            raise ValueError("an optimiser's state does not fit the network")
        if not all(
            value.is_floating_point() and value.isfinite().all() for value in state.values()
        ):
            raise ValueError("an optimiser's state is not finite")
