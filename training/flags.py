"""Define and parse the flags that all training scripts have.

    parser = argument_parser(__file__, __doc__)     # then the script adds its hyperparameters
    args = parse_run_args(parser, argv)             # adds the flags of every run, and parses

--config FILE starts from the arguments of another run. --resume DIR continues a stopped run.
"""

from support.command import InputError
from support.processes import from_rank_zero

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data import DATASETS
from support.features import FEATURES
from support.files import run_folder
from support.images import IMAGE_SIZES
from support.layers import MOST_DEPTH

SWITCH: Any = {"action": argparse.BooleanOptionalAction, "default": False}  # --x and --no-x
# Allowed values of each number, as intervals: "[0, 1)" contains 0 and excludes 1.
WIDTH, COUNT, FRACTION = "[1, 4096]", "[1, 1e9]", "[0, 1)"
RANGES = {
    **dict.fromkeys(("z_dim", "ngf", "ndf"), WIDTH),
    **dict.fromkeys(("epochs", "batch_size", "d_steps", "n_critic"), COUNT),
    **dict.fromkeys(("max_steps", "sample_every", "eval_every"), COUNT),
    **dict.fromkeys(("lr_g", "lr_d", "weight_clip"), "(0, 1]"),
    **dict.fromkeys(("dropout", "beta1", "beta2", "ema", "lr_decay"), FRACTION),
    "depth": f"[0, {MOST_DEPTH}]",
    **{"label_smoothing": "[0, 0.5]", "label_noise": "[0, 1]", "lambda_gp": "[0, 1e6]"},
    **{"seed": "[0, 4294967295]", "eval_samples": "[10, 1e7]"},
}
CHANGEABLE_ON_RESUME = {"device", "data_dir", "inception_path", "max_steps", "resume"}
CHANGEABLE_ON_RESUME |= {"sample_every", "eval_every"}
NO_HYPERPARAMETERS = CHANGEABLE_ON_RESUME | {"out_dir", "name", "config"}


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Show a script's docstring without reformatting, and the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is argparse.SUPPRESS:
            return action.help
        return super()._get_help_string(action)


def argument_parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser, to which the script in the file `script` adds hyperparameters."""
    return argparse.ArgumentParser(
        Path(script).name,
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def in_range(value: float, interval: str) -> bool:
    """Return whether `value` lies in an interval such as "[0, 1)". NaN lies in none."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def parse_checked(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse `argv`. Exit with code 2 and one line if a number is outside of RANGES."""
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if name in RANGES and value is not None and not in_range(value, RANGES[name]):
            parser.error(f"argument --{name}: {value} is not in the range {RANGES[name]}")
    return args


def parse_run_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Add the flags of every run, and parse `argv`. --config and --resume change the defaults."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", choices=DATASETS, default="fashion_mnist", help="data set to learn"
    )
    data_dir = "folder of the data set, or of your images with --dataset folder"
    data.add_argument("--data_dir", default="data", help=data_dir)
    size = "resize images to this many pixels per side (default: 28 or 32; 64 for a folder)"
    data.add_argument("--image_size", type=int, choices=IMAGE_SIZES, help=size)
    classes = "classes to keep, by name or number, separated by commas (default: all)"
    data.add_argument("--classes", help=classes)
    data.add_argument("--hflip", **SWITCH, help="mirror each image with probability 1/2")
    run = parser.add_argument_group("run")
    run.add_argument("--out_dir", default="runs", help="folder in which run folders are made")
    run.add_argument("--name", help="name of the run folder (default: script, data set and time)")
    resume = "continue the stopped run in this folder, with the flags that it was started with"
    run.add_argument("--resume", metavar="RUN_DIR", help=resume)
    config = "read defaults of flags from config.json of a run or configs/*.json; other flags win"
    run.add_argument("--config", metavar="FILE", help=config)
    run.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    precision = "fp32, bf16 (autocast), or auto: bf16 if the device has native bfloat16"
    run.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help=precision
    )
    run.add_argument("--max_steps", type=int, help="stop after this many generator updates in all")
    sample_every = (
        "save sample images every N epochs (default: 1; in runs of 200 epochs or more, chosen to "
        "give 100 to 150 files)"
    )
    run.add_argument("--sample_every", type=int, metavar="N", help=sample_every)
    run.add_argument(
        "--eval_every", type=int, default=1, metavar="N", help="evaluate every N epochs"
    )
    eval_samples = "samples per evaluation, which compares them with the test images"
    run.add_argument("--eval_samples", type=int, default=10_000, help=eval_samples)
    features = (
        "feature extractor of the evaluation (default: classifier; inception if there are no "
        "classes)"
    )
    run.add_argument("--features", choices=(*FEATURES, "none"), help=features)
    inception_path = "file with the Inception weights of FID (default: downloaded once)"
    run.add_argument("--inception_path", help=inception_path)

    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_checked(parser, argv)
    if args.resume and args.config:
        raise InputError(
            "--resume and --config exclude each other: --resume uses the run's own config.json"
        )
    if args.config:
        saved = from_rank_zero(partial(read_config, Path(args.config), parser.prog))
        own = {name: value for name, value in saved.items() if name not in ("name", "max_steps")}
        args = parse_checked(parser, as_flags(own) + argv)
    if args.resume:
        args = resumed_args(parser, argv, Path(args.resume))
    if args.name is not None and not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", args.name):
        raise InputError(f"--name {args.name!r}: use only letters, digits and . _ + -")
    folder = args.resume or args.out_dir
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise InputError(f"{folder!r} is not UTF-8: TensorBoard cannot write there") from None
    return args


def as_flags(args: dict[str, Any]) -> list[str]:
    """Return the flags that set `args`. Parsing the flags checks the values."""
    flags = []
    for name, value in args.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def hyperparameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments except paths, the device, --max_steps and reporting intervals."""
    return {name: value for name, value in vars(args).items() if name not in NO_HYPERPARAMETERS}


def as_command(script: str, args: argparse.Namespace) -> str:
    """Return the command line that sets all hyperparameters of a run."""
    return shlex.join(["python", f"{script}.py", *as_flags(hyperparameters(args))])


def read_config(path: Path, script: str) -> dict[str, Any]:
    """Return the arguments in a config.json.

    Raise InputError if the file is no config.json or belongs to another script.
    """
    try:
        config = json.loads(path.read_text())
        of_script, args = (
            config["script"],
            config["args"] | {},
        )  # | raises TypeError for other types
        for text in filter(lambda value: isinstance(value, str), args.values()):
            if b"\0" in os.fsencode(text):  # fsencode refuses other text that names no file
                raise ValueError("a text contains a zero byte")
    except OSError as error:
        advice = "give a run's config.json" if path.is_dir() else "check the name of the run folder"
        raise InputError(f"{path} cannot be read ({error.strerror}): {advice}") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{path} is not the config.json of a run") from None
    if of_script != Path(script).stem:
        raise InputError(f"{path} belongs to {of_script}.py: run that script")
    return args


def resumed_args(
    parser: argparse.ArgumentParser, argv: Sequence[str], folder: Path
) -> argparse.Namespace:
    """Return the arguments of the run in `folder`, with the changes in `argv`.

    Raise InputError if `argv` changes an argument that must not change.
    """
    # Process 0 reads config.json, because other machines do not have the run folder.
    saved = from_rank_zero(lambda: read_config(run_folder(folder) / "config.json", parser.prog))
    if lacking := vars(parser.parse_args([])).keys() - saved.keys() - {"resume", "config"}:
        flags = ", ".join(f"--{name}" for name in sorted(lacking))
        hint = "resume the run with the commit in config.json"
        raise InputError(f"{folder} was started by a version without {flags}: {hint}")
    old = parse_checked(parser, as_flags(saved))
    saved.pop("max_steps", None)
    args = parse_checked(parser, as_flags(saved) + list(argv))
    for name, value in vars(args).items():
        before = getattr(old, name)
        if name == "epochs" and value < before:
            raise InputError(
                f"--epochs {value}: {folder} has {before} epochs; give at least as many"
            )
        if name not in CHANGEABLE_ON_RESUME | {"epochs"} and value != before:
            raise InputError(f"--{name} {value}: {folder} was started with {before}; omit --{name}")
    return args
