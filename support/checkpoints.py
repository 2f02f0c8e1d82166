"""Reading checkpoints, which come from anywhere: nothing in them is executed or taken on trust.

    generator, checkpoint = load_generator("runs/RUN")      # best.pt, else last.pt; in eval mode

docs/reference.md lists what a checkpoint holds. Tensors, numbers and text are all that is read
(PyTorch's weights_only), and each is checked against what the scripts write. The checkpoint says
which script it came from; that script is imported for its Generator and for nothing else.
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

from support.download import CLASSES
from support.files import is_name, load_tensors, save_tensors

SCRIPTS = ("vanilla_gan", "dcgan", "cdcgan", "wgan_gp")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, its tensors on the CPU. Executes no code that the file may hold.

    `path`: a file, or a run folder, of which best.pt is taken, else last.pt.
    InputError if there is none, or it is damaged or not a checkpoint of these scripts.
    """
    path = Path(path)
    if os.path.isdir(path):  # os.path: False for a name that is too long or may not be looked up
        found = [path / name for name in ("best.pt", "last.pt") if os.path.isfile(path / name)]
        if not found:
            raise InputError(f"{path} holds neither best.pt nor last.pt: it is no run folder")
        path = found[0]
    if not os.path.isfile(path):
        raise InputError(f"there is no checkpoint {path}: give a .pt file or a run folder")
    try:
        content = load_tensors(path)
    except Exception:  # a damaged file makes torch raise anything, and advise to trust it
        refused = "it is damaged, or holds more than tensors, numbers and text"
        raise InputError(f"{path} is refused as a checkpoint: {refused}") from None
    keys = ("script", "dataset", "classes", "generator_args", "ema")
    if not (isinstance(content, dict) and all(key in content for key in keys)):
        raise InputError(f"{path} is not a checkpoint of these scripts")
    if content["script"] not in SCRIPTS:
        raise InputError(f"{path} is of {content['script']!r}, which is not {', '.join(SCRIPTS)}")
    return content


@contextmanager
def check_fits(path: str | Path, what: str) -> Iterator[None]:
    """InputError for whatever is raised where the checkpoint `path` does not fit `what`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged or forged one fails anywhere, with anything
        # torch names what does not fit from its second line on.
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or "unknown"
        raise InputError(f"{path} does not fit {what}: {reason}") from None


def load_generator(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """The averaged generator of a checkpoint, in eval mode, on `device`, and what else it holds.

    InputError as of read_checkpoint(), and where the generator is not one of its script's.
    """
    checkpoint = read_checkpoint(path)
    with check_fits(path, f"{checkpoint['script']}.py"):
        # Here, not above: the scripts import training/run.py, which imports this file.
        network = importlib.import_module(checkpoint["script"]).Generator
        args, classes = checkpoint["generator_args"], checkpoint["classes"]
        if args["channels"] not in (1, 3) or not all(
            type(n) is int and n > 0 for n in args.values()
        ):
            raise ValueError(f"it cannot draw: {args}")
        with torch.device("meta"):  # without memory first: a small file may claim a huge network
            # dict: a state's metadata would remember `assign`, and the next load do it, too.
            network(**args).load_state_dict(dict(checkpoint["ema"]), assign=True)
        generator = network(**args)
        generator.load_state_dict(checkpoint["ema"])
        for name, value in generator.state_dict().items():
            given = checkpoint["ema"][name]
            if given.is_floating_point() != value.is_floating_point() or not value.isfinite().all():
                raise ValueError(f"{name} holds what is no finite number")
        if args.get("num_classes", len(classes)) != len(classes):
            raise ValueError(f"{args['num_classes']} classes with {len(classes)} names")
        # Without this entry, classes that are all a published data set's are taken for its own.
        published = CLASSES.get(checkpoint["dataset"], ())
        known = published if set(classes) <= set(published) else classes
        of_data_set = checkpoint.setdefault("all_classes", known)
        if not all(is_name(name) for name in (*classes, *of_data_set, checkpoint["dataset"])):
            raise ValueError("a class or data set whose name is no name")
        if not set(classes) <= set(of_data_set):
            raise ValueError(f"classes that are none of {checkpoint['dataset']}'s")
    return generator.to(device).eval().requires_grad_(False), checkpoint


def export_generator(source: str | Path, path: Path) -> None:
    """Write the EMA generator of a run alone, in float16, as load_generator() reads it.

    With it go its script, data set and classes, the command that trained it and its scores.
    """
    _, checkpoint = load_generator(source)
    of_run = os.path.isfile(path.parent / "config.json")
    if of_run and path.name in ("best.pt", "last.pt"):  # what is left out, a resumed run needs
        raise InputError(f"{path} is a run's own checkpoint: export to another file")
    if "rows" not in checkpoint:
        raise InputError(f"{source} holds no metrics: give a run folder, or its best.pt")
    with check_fits(source, "a run"):
        check_progress(checkpoint)
    if "command" not in checkpoint:
        say(f"warning: {source} does not say which command trained it and neither will {path}")
    measured = [row for row in checkpoint["rows"] if "test_d_loss" in row]
    kept = ("script", "dataset", "classes", "all_classes", "generator_args", "step")
    content = {
        **{name: checkpoint[name] for name in kept},
        "command": str(checkpoint.get("command", "")),
        "scores": measured[-1] if measured else {},  # `epoch` in them says of when
        "ema": {
            name: value.half() if value.is_floating_point() else value
            for name, value in checkpoint["ema"].items()
        },
    }
    save_tensors(content, path)
    print(f"{path.stat().st_size:,} bytes: {path}")


def check_progress(checkpoint: dict[str, Any]) -> None:
    """Raise, for check_fits(), where a run's progress is not what Run.save() writes."""
    step, rows, names = checkpoint["step"], checkpoint["rows"], checkpoint["names"]
    numbers = [checkpoint["best"], checkpoint.get("reported", 0)]
    numbers += (value for row in rows for value in row.values())
    if not (
        type(step) is int and 0 <= step <= 10**12 and {type(x) for x in numbers} <= {int, float}
    ):
        raise ValueError("its step, best or rows are no numbers")
    if not all({"step", "epoch"} <= row.keys() for row in rows):
        raise ValueError("a row without its step or epoch")
    if not all(isinstance(name, str) for name in {*names, *(name for row in rows for name in row)}):
        raise ValueError("a name of a loss that is no text")
    window = checkpoint["window"]
    if window.shape != (len(window), len(names)) or window.dtype != torch.float32:
        raise ValueError("a window that does not fit its names")


def load_part(part: Any, saved: dict[str, Any], step: int) -> None:
    """Load the state of a network or optimiser at `step`; raise if it does not fit."""
    if isinstance(part, nn.Module):
        part.load_state_dict(saved)
        if not all(value.isfinite().all() for value in part.state_dict().values()):
            raise ValueError("a weight that is not finite")
        return
    # All settings are those of the flags, which are the same, but the rate: it may have fallen.
    groups = part.state_dict()["param_groups"]
    for group, of_file in zip(groups, saved["param_groups"], strict=True):
        rate = of_file["lr"]
        if type(rate) is not float or not 0 <= rate <= group["lr"]:
            raise ValueError("an optimiser's rate that is not the run's")
        group["lr"] = rate
    part.load_state_dict(saved | {"param_groups": groups})
    if bool(part.state) != bool(step):
        raise ValueError("an optimiser without its moments")
    moments = {"square_avg"} if isinstance(part, torch.optim.RMSprop) else {"exp_avg", "exp_avg_sq"}
    for parameter, state in part.state.items():
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != {"step": torch.Size()} | dict.fromkeys(moments, parameter.shape):
            raise ValueError("an optimiser's state that does not fit")
        if not all(
            value.is_floating_point() and value.isfinite().all() for value in state.values()
        ):
            raise ValueError("an optimiser's state that is not finite")
