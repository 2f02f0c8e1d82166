"""What a command says beside its results: progress bars and warnings, on standard error.

Standard error may be closed (a service) or broken (`2>&1 | tee log` after Ctrl-C has ended tee).
Then these lines are lost, and nothing else.
"""

import os
import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm


def progress(*args: Any, **kwargs: Any) -> tqdm:
    """Return a tqdm bar, which shows nothing unless standard error is a terminal."""
    return tqdm(*args, **kwargs, disable=None if sys.stderr else True)


def say(line: str) -> None:
    """Print `line` to standard error, above a progress bar if there is one."""
    if sys.stderr:  # tqdm and print take None for standard output
        with suppress(OSError, ValueError):  # broken, or closed by the program
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()


def mute() -> None:
    """Send standard output to the null device: its reader has gone, and a last flush would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
