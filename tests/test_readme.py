"""README.md names files, flags and pictures that are there."""

import contextlib
import importlib
import io
import re
import shlex
from functools import cache

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


@cache
def help_of(script: str) -> str:
    module = importlib.import_module(script.removesuffix(".py"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        module.main(["--help"])
    return printed.getvalue()


def commands() -> list[list[str]]:
    """Every command that starts with python in a code block or between backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(python [^`]+)`", README)
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [w for w in words if w[:1] == ["python"]]


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) > 10
    for target in targets:
        if not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_every_command_has_its_script_and_flags() -> None:
    found = commands()
    assert len(found) > 20
    for words in found:
        script = words[1]
        assert (ROOT / script).is_file(), script
        for word in words[2:]:
            if word.startswith("--") and not script.startswith("tests/"):
                assert re.search(rf"{word.partition('=')[0]}\b", help_of(script)), (script, word)


def test_every_flag_in_the_text_is_one_of_a_script() -> None:
    scripts = sorted({words[1] for words in commands() if not words[1].startswith("tests/")})
    known = "".join(help_of(script) for script in scripts) + "--logdir"
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z_]+", README)):
        assert re.search(rf"{flag}\b", known), flag
