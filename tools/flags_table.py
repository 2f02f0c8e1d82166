"""Write tables of all flags into docs/reference.md, from the parsers of the commands.

python tools/flags_table.py
"""

import argparse
import contextlib
import importlib
import re
import sys
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
TRAINING = ("vanilla_gan", "dcgan", "cdcgan", "wgan_gp")
OTHERS = ("generate", "demo", "fid", "inception_score", "training.classifier", "training.plots")
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
    return "" if action.default is None else f"{action.default}"


def meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%").replace("|", "\\|")
    text = text.removesuffix(
        " (default: %(default)s)"
    )  # Python 3.10 adds this to flags of type SWITCH
    return f"{text} ({', '.join(map(str, action.choices))})" if action.choices else text


def tables() -> str:
    flags = {script: actions(script) for script in TRAINING}
    names = dict.fromkeys(name for own in flags.values() for name in own)
    head = "| flag | " + " | ".join(f"`{script}`" for script in TRAINING) + " | what |"
    lines = [head, "|---|" + "---|" * (len(TRAINING) + 1)]
    for name in names:
        having = [flags[script].get(name) for script in TRAINING]
        cells = ["-" if action is None else default(action) for action in having]
        # Remove the sources, because help texts of the scripts may differ only in the source.
        said = dict.fromkeys(
            re.sub(r" \([^)]*\d{4}[^)]*\)| \((Alg|Fig|Sec|DCGAN)[^)]*\)", "", meaning(a))
            for a in having
            if a
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} | {' / '.join(said)} |")
    for script in OTHERS:
        command = f"python -m {script}" if "." in script else f"{script}.py"
        lines += ["", f"**{command}**", "", "| flag | default | what |", "|---|---|---|"]
        for name, action in actions(script).items():
            lines.append(f"| `{name}` | {default(action)} | {meaning(action)} |")
    return "\n".join(lines) + "\n"


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
