"""TensorBoard's file in a run's folder: numbers and pictures, step by step.

torch's SummaryWriter leaves the writing to a thread of its own. Where the disk is full, that thread
prints a traceback and dies, and training hears of it some calls later. Here the same records are
written by whoever calls: an error is raised where it happens, and what was flushed is on the disk.
"""

from support.command import InputError

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar


class EventsFile:
    """A new events file in `folder`. InputError from all its methods where it cannot be written."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        """`purge_step`: what older files hold from this step on is not shown any more.

        A run that was killed may have logged steps that it repeats when resumed.
        """
        now = int(time.time())
        self.path = folder / f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}"
        try:
            self.file = self.path.open("ab")
        except OSError as error:
            raise self.refused(error) from None
        self.records = RecordWriter(self.file)
        # As SummaryWriter begins its files: only in a file of this version may steps be purged.
        self.write(Event(file_version="brain.Event:2"))
        self.write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.add_summary(scalar(tag, value), step)

    def add_image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """`picture`: uint8 (H, W, 3)."""
        self.add_summary(image(tag, picture, dataformats="HWC"), step)

    def add_summary(self, summary: Any, step: int = 0) -> None:
        self.write(Event(summary=summary, step=step))

    def write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self.records.write(event.SerializeToString())
        except OSError as error:
            raise self.refused(error) from None

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            raise self.refused(error) from None

    def close(self) -> None:
        """Flush what is left, if that can be: an error already under way is not to be hidden."""
        with contextlib.suppress(OSError):
            self.file.close()

    def refused(self, error: OSError) -> InputError:
        return InputError(f"{self.path} cannot be written ({error.strerror or error})")
