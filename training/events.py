"""Write TensorBoard's events file of a run: scalars, images and hyperparameters.

SummaryWriter of torch writes in a separate thread. If the disk is full, this thread prints a
traceback and ends, and training notices the error only several calls later. EventsFile writes in
the calling thread instead. A failed call raises an error at once, and flushed records are in the
file.
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
    """Write a new events file in `folder`. Failures raise InputError, except in close()."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        """Open the file. TensorBoard hides records of older files from `purge_step` on.

        A resumed run repeats the steps that a killed process logged after its last checkpoint.
        """
        now = int(time.time())
        self.path = folder / f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}"
        try:
            self.file = self.path.open("ab")
        except OSError as error:
            raise self.refused(error) from None
        self.records = RecordWriter(self.file)
        # SummaryWriter also writes this version first. TensorBoard uses purge_step only in files of
        # this version.
        self.write(Event(file_version="brain.Event:2"))
        self.write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.add_summary(scalar(tag, value), step)

    def add_image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Add an image, uint8 (H, W, 3)."""
        self.add_summary(image(tag, pixels, dataformats="HWC"), step)

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
        """Flush and close. Errors are ignored, because they would hide an earlier error."""
        with contextlib.suppress(OSError):
            self.file.close()

    def refused(self, error: OSError) -> InputError:
        return InputError(f"{self.path} cannot be written ({error.strerror or error})")
