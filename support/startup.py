"""Prepare a command before its slow imports: every command of this repository imports this first.

- Ctrl-C while the libraries are imported prints one word and exits with 130, not with a traceback.
- A broken installation (torch and torchvision that do not fit, a missing package) is one line.
- A closed standard stream (`2>&-`, services) is replaced by the null device. Otherwise the next
  file that the program opens would take its number, and messages would be written into that file.

Nothing happens where a script is imported, by a notebook, a test or another program.
"""

import os
import signal
import sys
from types import FrameType, TracebackType

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def is_command() -> bool:
    """Return whether Python was started with a command of this repository, not interactively."""
    file = getattr(sys.modules["__main__"], "__file__", None) or ""
    return os.path.dirname(os.path.abspath(file)) == ROOT and bool(file) and not hasattr(sys, "ps1")


def open_streams() -> None:
    """Give each of the three standard streams that is closed the null device."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115


def interrupted(which: int, frame: FrameType | None) -> None:
    """End at once on Ctrl-C. An exception could be lost or mistaken inside a library's import."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def installation_fault(error: BaseException) -> str:
    """Return one line that says which installed versions do not work, and what to do."""
    from importlib import metadata  # here, because it is slow: Ctrl-C would meet its import

    versions = []
    for package in ("torch", "torchvision"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    reason = " ".join(str(error).split())[:200]
    return (
        f"error: the installed packages do not work together: {', '.join(versions)} ({reason}); "
        "run pip install -r requirements.txt in a fresh virtual environment"
    )


def raised_by_import(trace: TracebackType | None) -> bool:
    """Return whether an exception came from a library that was being imported."""
    while trace is not None:
        code = trace.tb_frame.f_code
        file = code.co_filename
        ours = file.startswith(ROOT + os.sep) and "site-packages" not in file
        if code.co_name == "<module>" and not ours:
            return True
        trace = trace.tb_next
    return False


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replace sys.excepthook: a fault of the installation becomes one line and exit code 2."""
    if issubclass(kind, ImportError) or (issubclass(kind, Exception) and raised_by_import(trace)):
        print(installation_fault(error), file=sys.stderr)
        sys.exit(2)
    sys.__excepthook__(kind, error, trace)


if is_command():
    open_streams()
    sys.excepthook = report
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores Ctrl-C
        signal.signal(signal.SIGINT, interrupted)
