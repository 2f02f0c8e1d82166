"""Write tables of all flags into docs/reference.md, from the parsers of the commands.

python tools/flags_table.py
"""

import argparse
import contextlib
import importlib
import re
import sys
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
TRAINING = ("vanilla_gan", "dcgan", "cdcgan", "wgan_gp")
OTHERS = ("generate", "demo", "fid", "inception_score", "training.classifier", "training.plots")
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
BEGIN, END = "<!-- flags: made by tools/flags_table.py -->\n", "<!-- end of flags -->"


class Built(Exception):
    """Stop a command when the parser is complete, instead of parsing."""


def actions(module: str) -> dict[str, argparse.Action]:
    """Return the flags and arguments in a command's parser, by name."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *args: object) -> None:
        found.append(parser)
        raise Built

    with patch.object(argparse.ArgumentParser, "parse_args", stop), contextlib.suppress(Built):
        importlib.import_module(module).main([])
    named = {
        (action.option_strings or [str(action.metavar or action.dest)])[0]: action
        for action in found[0]._actions
    }
    return {name: action for name, action in named.items() if action.dest != "help"}


def default(action: argparse.Action) -> str:
    if isinstance(action.default, bool):
        return "on" if action.default else "off"
    if isinstance(action.default, Path):
        return action.default.relative_to(ROOT).as_posix()
    if action.default is not None:
        return f"{action.default}"
    # The help text says what happens without the flag.
    said = re.search(r"\(default: ([^)]*)\)", action.help or "")
    return said[1] if said else ""


def meaning(action: argparse.Action) -> str:
    """Return the help text without the default, which has its own column, and with the choices."""
    text = (action.help or "").replace("%%", "%").replace("|", "\\|")
    if action.default is not False:  # a switch that is off may have a text, such as "a PNG"
        text = re.sub(r" \(default\)| \(default: [^)]*\)", "", text)
    text = text.replace(" (default: no)", "").replace(
        " (default: %(default)s)", ""
    )  # Python 3.10 adds this to switches
    choices = [str(choice) for choice in action.choices or ()]
    told = all(re.search(rf"\b{choice}\b", text) for choice in choices)
    return text if told else f"{text} ({', '.join(choices)})"


def without_source(text: str) -> str:
    """Remove the sources, because help texts of the scripts may differ only in the source."""
    source = r" \((Alg|Fig|Sec|DCGAN|WGAN|usual|authors' code)[^)]*\)| \([^)]*\d{4}[^)]*\)"
    return re.sub(source, "", text)


def in_code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def group(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """Return the second entries by first entry, in the order of the first entries."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def joined(said: dict[str, list[str]]) -> str:
    """Join the meanings of a flag. If there are several, name the scripts of each."""
    if len(said) == 1:
        return next(iter(said))
    return "; ".join(f"{text} ({in_code(scripts)})" for text, scripts in said.items())


def training_tables() -> list[str]:
    """Return one table of the flags that are equal in all training scripts, and one of the rest."""
    flags = {script: actions(script) for script in TRAINING}
    shared = ["| flag | default | what |", "|---|---|---|"]
    names = " | ".join(f"`{script}`" for script in TRAINING)
    other = [f"| flag | {names} | what |", "|---|" + "---|" * (len(TRAINING) + 1)]
    for name in dict.fromkeys(name for own in flags.values() for name in own):
        having = {script: own[name] for script, own in flags.items() if name in own}
        said = group((without_source(meaning(a)), script) for script, a in having.items())
        defaults = {default(action) for action in having.values()}
        if len(having) == len(TRAINING) and len(said) == len(defaults) == 1:
            shared.append(f"| `{name}` | {defaults.pop()} | {joined(said)} |")
            continue
        cells = [default(having[script]) if script in having else "-" for script in TRAINING]
        other.append(f"| `{name}` | {' | '.join(cells)} | {joined(said)} |")
    return [
        "Flags that all training scripts have, with the same default:",
        "",
        *shared,
        "",
        "Flags of single training scripts, or with other defaults (a dash: no such flag):",
        "",
        *other,
    ]


def other_table() -> list[str]:
    """Return one table of the flags of all other commands.

    Flags of two commands with one name and one default share a row.
    """
    rows = group(
        ((name, default(action)), (meaning(action), script if "." in script else f"{script}.py"))
        for script in OTHERS
        for name, action in actions(script).items()
    )
    lines = ["| flag | command | default | what |", "|---|---|---|---|"]
    for (name, value), found in rows.items():
        scripts = in_code([script for _, script in found])
        lines.append(f"| `{name}` | {scripts} | {value} | {joined(group(found))} |")
    return ["Flags of the other commands:", "", *lines]


def tables() -> str:
    return "\n".join([*training_tables(), "", *other_table()]) + "\n"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    page = ROOT / "docs/reference.md"
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}{tables()}{END}{after}")


if __name__ == "__main__":
    main()
