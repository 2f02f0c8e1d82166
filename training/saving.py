"""Write and read checkpoints: networks, optimisers, random state and progress of a run."""

from support.command import InputError
from support.processes import from_rank_zero

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data import Dataset
from support.checkpoints import check_fits, check_progress, load_part, read_checkpoint
from support.device import random_state, restore_random_state
from support.files import save_tensors


class Saving:
    """Write and read the checkpoints of one run.

    `state`: every network and optimiser that training changes, by name.
    """

    def __init__(
        self,
        script: str,
        command: str,
        dataset: Dataset,
        generator_args: dict[str, int],
        steps_per_epoch: int,
        state: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.script, self.state, self.device = script, state, device
        # A run can resume a checkpoint only if these values are equal in both.
        self.in_common = {
            "classes": list(dataset.classes),
            "generator_args": generator_args,
            "steps_per_epoch": steps_per_epoch,
            "images": fingerprint(dataset.train_images),
        }
        if from_rank_zero(lambda: self.in_common) != self.in_common:
            raise InputError(
                "this machine has other training images: copy the images of the first machine"
            )
        self.about = {
            "script": script,
            "command": command,
            "dataset": dataset.name,
            "all_classes": list(dataset.all_classes),
            **self.in_common,
        }

    def save(self, files: list[Path], progress: dict[str, Any]) -> None:
        """Write the state and `progress` (numbers and tensors) to each of `files`."""
        content = {
            **self.about,
            **progress,
            "random_state": random_state(self.device),
            **{name: part.state_dict() for name, part in self.state.items()},
        }
        for file in files:
            save_tensors(content, file)

    def load(self, path: Path) -> dict[str, Any]:
        """Load the state in `path`; return the content. Raise InputError if `path` does not fit."""
        content = from_rank_zero(lambda: read_checkpoint(path))
        if content["script"] != self.script:
            raise InputError(
                f"{path} belongs to {content['script']}.py: resume the run with that script"
            )
        with check_fits(path, "this run"):
            for name, value in self.in_common.items():
                if content.get(name) != value:
                    found = f"{name} {content.get(name)} in the checkpoint, {value} in this run"
                    raise InputError(f"{path} was trained on other data: {found}")
            check_progress(content)
            for name, part in self.state.items():
                load_part(part, content[name], content["step"])
            content["window"] = content["window"].to(self.device)
            restore_random_state(content["random_state"], self.device)
        return content

    def not_finite(self) -> str | None:
        """Return the name of a network with a number that is not finite, or None."""
        for name, part in self.state.items():
            if isinstance(part, nn.Module) and not all(
                weights.isfinite().all() for weights in part.state_dict().values()
            ):
                return name
        return None


def fingerprint(images: Tensor) -> list[int]:
    """Return the number of images, and a position-weighted sum over at most 1,999 of them.

    Other images give another sum. Another order, such as two swapped class folders, does as well.
    """
    few = images[:: max(1, len(images) // 1000)].flatten(1).sum(dim=1, dtype=torch.int64)
    return [len(images), int((few * torch.arange(1, len(few) + 1)).sum())]
