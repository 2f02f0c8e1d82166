"""Handle the start, the messages and the end of a command.

Every command imports this module first.

- Ctrl-C while the libraries are imported prints one word and exits with 130, without a traceback.
- A broken installation (a missing package, versions that do not fit) is reported in one line.
- A closed standard stream (`2>&-`, services) is replaced by the null device. Otherwise the next
  file that the program opens would take its number, and messages would be written into that file.
- Bad input, an InputError, is reported in one line on standard error, with exit code 2.

If a notebook, a test or another program imports a script, this module changes nothing on import.
"""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def is_command() -> bool:
    """Return whether Python was started with a command of this repository, not interactively."""
    file = getattr(sys.modules["__main__"], "__file__", None) or "/"
    folders = (ROOT, os.path.join(ROOT, "training"), os.path.join(ROOT, "support"))
    return os.path.dirname(os.path.abspath(file)) in folders and not hasattr(sys, "ps1")


def open_streams() -> None:
    """Open the null device in place of each closed standard stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115


def interrupted(which: int, frame: FrameType | None) -> None:
    """End at once on Ctrl-C. A library's import could swallow or misread an exception."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def installation_fault(error: BaseException) -> str:
    """Return one line that says which installed versions do not work, and what to do."""
    from importlib import metadata  # here, because the import is slow and rarely needed

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
    """Replace sys.excepthook: report a fault of the installation in one line, exit with code 2."""
    if issubclass(kind, ImportError) or (issubclass(kind, Exception) and raised_by_import(trace)):
        print(installation_fault(error), file=sys.stderr)
        sys.exit(2)
    sys.__excepthook__(kind, error, trace)


if is_command():
    open_streams()
    sys.excepthook = report
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores Ctrl-C
        signal.signal(signal.SIGINT, interrupted)


# ---- bad input, as one line ----


class InputError(Exception):
    """Report unusable input. The message says in one line what is wrong and what to do."""


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turn an InputError inside into one line on standard error and exit code 2; Ctrl-C into 130.

    Exit with 141 if the reader of standard output ends early, as `head` does. A shell gives 141 to
    programs that SIGPIPE ends.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may hold bytes that are not text
        sys.stdout.reconfigure(errors="backslashreplace")
    main_thread = threading.current_thread() is threading.main_thread()
    starting = main_thread and signal.getsignal(signal.SIGINT) is interrupted
    try:
        if starting:  # from here on Ctrl-C is an exception, so that unfinished files are removed
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with report_out_of_memory():
            yield
        if sys.stdout:
            sys.stdout.flush()
    except InputError as error:
        say("error: " + " ".join(str(error).splitlines()))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None
    except OSError as error:  # from print(): errors about files were turned into InputErrors
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EFBIG):
            raise
        mute()
        if error.errno == errno.EPIPE:
            raise SystemExit(141) from None
        say(f"error: the output cannot be written ({error.strerror})")
        raise SystemExit(2) from None
    finally:
        if starting:
            signal.signal(signal.SIGINT, interrupted)


@contextmanager
def report_out_of_memory() -> Iterator[None]:
    """Turn out-of-memory errors into a one-line InputError.

    Some flags can ask for more memory than any machine has.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch raises a RuntimeError. Only these texts (CPU, GPU and Mac) tell it from others.
        texts = ("can't allocate memory", "not enough memory", "out of memory")
        if not (isinstance(error, MemoryError) or any(text in str(error) for text in texts)):
            raise
        advice = "try a smaller batch, fewer channels or fewer samples (see --help)"
        raise InputError(f"not enough memory: {advice}") from None


# ---- an orderly end ----


class OrderlyEnd:
    """Note Ctrl-C and SIGTERM, so that a step can finish before the program ends.

    `asked` is True after the first signal. If `insist`, the second signal raises KeyboardInterrupt.
    Under torchrun `insist` is False, because Ctrl-C may reach each process twice, and torchrun
    itself ends slow processes. Only the main thread may handle signals. In another thread, no
    signal is noted.
    """

    def __init__(self, insist: bool) -> None:
        self.insist, self.asked = insist, False

    def __enter__(self) -> "OrderlyEnd":
        main_thread = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main_thread else ()
        self.handlers = {which: signal.signal(which, self.note) for which in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self.handlers.items():
            signal.signal(which, handler)

    def note(self, which: int, frame: FrameType | None) -> None:
        if self.asked and self.insist:
            raise KeyboardInterrupt
        self.asked = True

    def print(self, text: str) -> None:
        """Print to standard output. If Ctrl-C has ended the reader (`| tee log`), use stderr."""
        try:
            print(text, flush=True)
        except OSError:
            if not self.asked:
                raise
            mute()
            say(text)


# ---- progress bars, warnings and numbers ----


def progress(*args: Any, **kwargs: Any) -> "tqdm":
    """Return a tqdm bar, which shows nothing unless standard error is a terminal."""
    from tqdm import tqdm  # here, because `--help` does not need it

    return tqdm(*args, **kwargs, disable=None if sys.stderr else True)


def say(line: str) -> None:
    """Print `line` to standard error, above a progress bar if there is one.

    Standard error may be closed (a service) or broken (`2>&1 | tee log` after Ctrl-C has ended
    tee). Then only the line is lost, and the program goes on.
    """
    from tqdm import tqdm  # here, because most commands print no such line

    if sys.stderr:  # tqdm and print take None for standard output
        with suppress(OSError, ValueError):
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()


def mute() -> None:
    """Send standard output to the null device, because Python's last flush would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def shown(value: float, spec: str) -> str:
    """Format a number for people. A number that is rounded to 0 has no sign ("0.0000")."""
    text = format(value, spec)
    return text if float(text) else format(0.0, spec)
