"""Flags, with values that nobody would think of: taken within their interval, or refused."""

from support.command import InputError

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest

import cdcgan
import dcgan
import fid
import generate
import support.features
import support.image_sets
import vanilla_gan
import wgan_gp
from training.flags import as_flags

SCRIPTS = {"vanilla_gan": vanilla_gan, "dcgan": dcgan, "cdcgan": cdcgan, "wgan_gp": wgan_gp}
# What --help and the scripts say of each number, written down a second time.
WIDTH, COUNT, RATE, SHARE = "[1, 4096]", "[1, 1e9]", "(0, 1]", "[0, 1)"
INTERVALS = {
    **dict.fromkeys(("z_dim", "ngf", "ndf"), WIDTH),
    **dict.fromkeys(("epochs", "batch_size", "max_steps", "sample_every", "eval_every"), COUNT),
    **dict.fromkeys(("d_steps", "n_critic"), COUNT),
    **dict.fromkeys(("lr_g", "lr_d", "weight_clip"), RATE),
    **dict.fromkeys(("dropout", "beta1", "beta2", "ema", "lr_decay"), SHARE),
    **{"label_smoothing": "[0, 0.5]", "label_noise": "[0, 1]", "lambda_gp": "[0, 1e6]"},
    **{"seed": "[0, 4294967295]", "eval_samples": "[10, 1e7]", "depth": "[0, 8]"},
}
OF_GENERATE = {
    **{"grid_size": "[1, 100]", "neighbours": "[1, 30]", "interpolate": "[1, 30]"},
    **{"num_images": "[1, 1e7]", "z_scale": "[0, 2]", "seed": f"[0, {2**63 - 1}]"},
}
OF_FID = {"num_images": "[1, 1e7]", "batch_size": "[1, 1e7]", "seed": f"[0, {2**63 - 1}]"}
every_script = pytest.mark.parametrize("script", SCRIPTS)


def within(value: float, interval: str) -> bool:
    low, high = json.loads(f"[{interval[1:-1]}]")
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def assert_sound(args: argparse.Namespace, intervals: dict[str, str]) -> None:
    """Every number that was parsed lies in its interval, and each has one."""
    for name, value in vars(args).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "image_size":
            assert within(value, intervals[name]), (name, value)


def try_everything(parse: Any, flags: list[str], intervals: dict[str, str]) -> None:
    """Call `parse` with what hypothesis makes up: it returns sound arguments, or refuses them."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    numbers = [
        math.nan,
        math.inf,
        *(x for i in intervals.values() for x in json.loads(f"[{i[1:-1]}]")),
    ]
    near = st.sampled_from(numbers).flatmap(
        lambda x: st.sampled_from(
            [x, -x, x + 1, x - 1, math.nextafter(x, -1), math.nextafter(x, 9e9)]
        )
    )
    text = st.one_of(st.text(), st.integers().map(str), st.floats().map(str), near.map(str))
    outcomes = set()

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.tuples(st.sampled_from(flags), text), min_size=1, max_size=3))
    def check(given_flags: list[tuple[str, str]]) -> None:
        argv = [f"--{flag}={value}" for flag, value in given_flags]
        try:
            args = parse(argv)
        except InputError:
            outcomes.add("refused")
        except SystemExit as end:
            assert end.code == 2, argv
            outcomes.add("refused")
        else:
            assert_sound(args, intervals)
            outcomes.add("taken")

    check()
    assert outcomes == {"refused", "taken"}


@pytest.mark.slow
@every_script
def test_any_value_of_a_script_s_flags(script: str) -> None:
    parse = SCRIPTS[script].parse_args
    try_everything(parse, list(vars(parse([]))), INTERVALS)


@pytest.mark.slow
def test_any_value_of_generate_s_flags() -> None:
    def parse(argv: list[str]) -> argparse.Namespace:
        args = generate.parse_args(argv)
        generate.check_args(args, Path(args.save_path))
        generate.pick_device(args.device)
        return args

    names = {"class" if name == "class_name" else name for name in vars(generate.parse_args([]))}
    try_everything(parse, sorted(names), OF_GENERATE)


@pytest.mark.slow
def test_any_value_of_fid_s_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []
    network_for = support.image_sets.network_for

    class Checked(Exception):
        """The flags are read: what follows is no longer theirs."""

    def checked(sources: list[str], args: argparse.Namespace) -> None:
        network_for(sources, args)
        seen.append(args)
        raise Checked

    def parse(argv: list[str]) -> argparse.Namespace:
        with pytest.raises(Checked):
            fid.main(["mnist:train", "mnist:test", *argv])
        return seen.pop()

    monkeypatch.setattr(support.image_sets, "network_for", checked)
    monkeypatch.setattr(support.image_sets, "load_features", lambda *args: None)
    flags = ["kid", "prdc", "save_stats", "features", "dataset", "inception_path", "data_dir"]
    try_everything(parse, [*flags, *OF_FID, "device", "precision", "json"], OF_FID)


@pytest.mark.slow
@every_script
def test_arguments_survive_config_json(script: str) -> None:
    """parse, as_flags, parse again: the same, also through the JSON of config.json."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    parse = SCRIPTS[script].parse_args
    values: dict[str, Any] = {}
    for name, default in vars(parse([])).items():
        if name in INTERVALS:
            low, high = json.loads(f"[{INTERVALS[name][1:-1]}]")
            whole = name in ("seed", "eval_samples", "depth") or INTERVALS[name] in (WIDTH, COUNT)
            inside: Any = st.integers(int(low), int(high)) if whole else st.floats(low, high)
            values[name] = inside.filter(lambda x, name=name: within(x, INTERVALS[name]))
        elif isinstance(default, bool):
            values[name] = st.booleans()
        elif name in ("data_dir", "out_dir", "classes", "inception_path"):
            values[name] = st.text(st.characters(codec="utf-8", exclude_characters="\0"))

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.fixed_dictionaries({}, optional=values))
    def check(given_values: dict[str, Any]) -> None:
        args = vars(parse(as_flags(given_values)))
        assert {name: args[name] for name in given_values} == given_values
        assert vars(parse(as_flags(args))) == args
        assert vars(parse(as_flags(json.loads(json.dumps(args))))) == args

    check()


def test_arguments_become_the_command_line_that_gives_them() -> None:
    """A zero is a value; only what was not given is left out."""
    args = {"lr_decay": 0.0, "seed": 0, "hflip": False, "flip_labels": True, "classes": None}
    expected = ["--lr_decay=0.0", "--seed=0", "--no-hflip", "--flip_labels"]
    assert as_flags(args) == expected
