"""Print the commands of the README's quick start, one per line, with a short training run.

    python tools/quick_start.py --max_steps 20

.ci/run executes the printed commands, so the README and CI cannot differ. This file imports only
the standard library, because .ci/run calls it before the packages are installed.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def commands(text: str, max_steps: int) -> list[str]:
    """Return the commands of the quick start in `text`, with --max_steps for the training."""
    section = re.search(r"^## Quick start\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    blocks = (
        re.findall(r"^```sh\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE) if section else []
    )
    if len(blocks) != 1:
        raise ValueError(f"1 sh block is expected under '## Quick start', {len(blocks)} found")
    lines = [line.partition(" #")[0].rstrip() for line in blocks[0].splitlines()]
    training = [number for number, line in enumerate(lines) if " --epochs " in line]
    if len(training) != 1:
        raise ValueError(f"1 quick-start line with --epochs is expected, {len(training)} found")
    lines[training[0]] += f" --max_steps {max_steps}"
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--max_steps", type=int, required=True, help="generator updates of the training run"
    )
    parser.add_argument(
        "--readme", type=Path, default=README, help="file to read (default: README.md)"
    )
    args = parser.parse_args(argv)
    try:
        lines = commands(args.readme.read_text(encoding="utf-8"), args.max_steps)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{args.readme}: {error}\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
