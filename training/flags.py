"""The flags that every run has, and how a script adds its own.

    parser = argument_parser(__file__, __doc__)         # a script adds its hyperparameters ...
    args = parse_args(parser, argv)                     # ... and this the rest, and parses

--config FILE starts from the arguments of another run, --resume DIR goes on with a stopped one.
"""

from support.command import InputError
from support.processes import from_first

import argparse
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data import DATASETS
from support.features import FEATURES
from support.files import run_folder
from support.images import IMAGE_SIZES

SWITCH: Any = {"action": argparse.BooleanOptionalAction, "default": False}  # of a yes/no flag
# What a resumed run may change.
MAY_DIFFER = {"device", "data_dir", "inception_path", "max_steps", "resume"}
MAY_DIFFER |= {"sample_every", "eval_every"}
NO_HYPERPARAMETERS = MAY_DIFFER | {"out_dir", "name", "config"}


def number(interval: str, kind: type = float) -> Callable[[str], Any]:
    """An argparse type: a number in an interval written as in mathematics, say "[0, 1)"."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):  # a NaN is neither
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun} in {interval}")
        return value

    return parse


COUNT = number("[1, 1e9]", int)
RATE, SHARE = number("(0, 1]"), number("[0, 1)")
WIDTH = number("[1, 4096]", int)  # of z and of layers


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a script's docstring as it is, and every flag's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is argparse.SUPPRESS:
            return action.help
        return super()._get_help_string(action)


def argument_parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """The parser to which `script`, a file's name, adds its own flags."""
    return argparse.ArgumentParser(
        Path(script).name,
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a script's flags and those that every run has; --config and --resume give defaults."""
    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=DATASETS, default="fashion_mnist", help="what to learn")
    add("--data_dir", default="data", help="where it is or goes; the pictures of --dataset folder")
    add("--image_size", type=int, choices=IMAGE_SIZES, help="resize to this many pixels a side")
    add("--classes", help="keep these classes only, by name or number: a,b,c")
    add("--hflip", **SWITCH, help="mirror images left to right at random")
    add = parser.add_argument_group("run").add_argument
    add("--out_dir", default="runs", help="where run folders go")
    add("--name", help="the run folder's name; if not given: script, data set, time")
    add("--resume", metavar="RUN_DIR", help="go on with a stopped run; its flags are kept")
    add("--config", metavar="FILE", help="a run's config.json: its arguments become the defaults")
    add("--seed", type=number("[0, 4294967295]", int), default=0, help="seed of everything random")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    help_precision = "auto: bfloat16 autocast where the device computes it natively, else float32"
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help=help_precision)
    add("--max_steps", type=COUNT, help="stop after this many generator updates in all")
    help_every = "epochs from one sample picture to the next; if not given: 1, in long runs more"
    add("--sample_every", type=COUNT, help=help_every)
    add("--eval_every", type=COUNT, default=1, help="epochs from one evaluation to the next")
    help_samples = "samples that an evaluation compares with the test images"
    add("--eval_samples", type=number("[10, 1e7]", int), default=10_000, help=help_samples)
    help_features = (
        "what evaluation looks through; if not given: classifier (inception, if classes lack)"
    )
    add("--features", choices=(*FEATURES, "none"), help=help_features)
    add("--inception_path", help="FID's Inception weights; if not given: downloaded once")

    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    if args.resume and args.config:
        raise InputError("--resume and --config exclude each other: a run brings its own arguments")
    if args.config:
        saved = from_first(partial(read_config, Path(args.config), parser.prog))
        own = {name: value for name, value in saved.items() if name not in ("name", "max_steps")}
        args = parser.parse_args(as_flags(own) + argv)
    if args.resume:
        args = resumed_args(parser, argv, Path(args.resume))
    if args.name is not None and not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", args.name):
        raise InputError(f"--name {args.name!r}: letters, digits and . _ + - only")
    folder = args.resume or args.out_dir
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise InputError(f"{folder!r} is not UTF-8: TensorBoard cannot write there") from None
    return args


def as_flags(args: dict[str, Any]) -> list[str]:
    """Arguments as the command line that gives them: so they are checked as a command line is."""
    flags = []
    for name, value in args.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def hyperparameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that decide what a run's networks become."""
    return {name: value for name, value in vars(args).items() if name not in NO_HYPERPARAMETERS}


def as_command(script: str, args: argparse.Namespace) -> str:
    """Return the command line that trains a run's networks, without where they go."""
    return shlex.join(["python", f"{script}.py", *as_flags(hyperparameters(args))])


def read_config(path: Path, script: str) -> dict[str, Any]:
    """The arguments in a run's config.json. InputError if it is none, or another script's."""
    try:
        config = json.loads(path.read_text())
        of_script, args = config["script"], config["args"] | {}  # TypeError for what is no dict
        for text in filter(lambda value: isinstance(value, str), args.values()):
            if b"\0" in os.fsencode(text):  # which itself refuses other text that names no file
                raise ValueError("a name with a zero byte")
    except OSError as error:
        advice = "give a run's config.json" if path.is_dir() else "check the name of the run folder"
        raise InputError(f"{path} cannot be read ({error.strerror}): {advice}") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{path} is not the config.json of a run") from None
    if of_script != Path(script).stem:
        raise InputError(f"{path} is of {of_script}.py: run that script")
    return args


def resumed_args(
    parser: argparse.ArgumentParser, argv: Sequence[str], folder: Path
) -> argparse.Namespace:
    """The arguments of the run in `folder` with those of `argv` that may differ from them."""
    # The first process reads, because other machines do not have the run folder.
    saved = from_first(lambda: read_config(run_folder(folder) / "config.json", parser.prog))
    if lacking := vars(parser.parse_args([])).keys() - saved.keys() - {"resume", "config"}:
        flags = ", ".join(f"--{name}" for name in sorted(lacking))
        hint = "go on with the commit that its config.json names"
        raise InputError(f"{folder} was started before there was {flags}: {hint}")
    old = parser.parse_args(as_flags(saved))
    saved.pop("max_steps", None)
    args = parser.parse_args(as_flags(saved) + list(argv))
    for name, value in vars(args).items():
        before = getattr(old, name)
        if name == "epochs" and value < before:
            raise InputError(f"--epochs {value}: {folder} was started for {before}; only raise it")
        if name not in MAY_DIFFER | {"epochs"} and value != before:
            raise InputError(f"--{name} {value}: {folder} was started with {before}; leave it out")
    return args
