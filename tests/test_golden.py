"""Compare short runs of the scripts, and the other commands, with the numbers in golden.json.

The other tests check one thing each. This test runs everything together, so it finds a wrong
argument, a missing step or a wrong order between parts that are right. A change that is meant to
change the results needs new numbers. This command writes them: `python -m tests.test_golden`.
"""

import importlib
import io
import json
import re
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import training.run
from support.checkpoints import read_checkpoint
from support.features import ClassifierFeatures
from support.files import writing
from tests.conftest import CLASSES, ROOT, folder_flags, make_pictures, make_runs_short
from tests.stand_ins import classifier_checkpoint

GOLDEN = Path(__file__).with_name("golden.json")
TRAINING = """
    vanilla_gan.py --d_steps 2 --label_noise 0.1 --hflip
    vanilla_gan.py --label_smoothing 0.2 --flip_labels --ema 0 --image_size 32
    dcgan.py --label_noise 0.1 --hflip --lr_decay 0.9
    dcgan.py --feature_matching --dropout 0.3
    dcgan.py --norm layer --flip_labels --image_size 64 --batch_size 30
    cdcgan.py --hflip --features classifier --eval_samples 30
    cdcgan.py --norm batch --label_noise 0.1 --dropout 0.3 --lr_decay 0.9
    cdcgan.py --feature_matching --flip_labels --classes bag,shoe
    wgan_gp.py --hflip --features classifier --eval_samples 30
    wgan_gp.py --n_critic 2 --conditional --dropout 0.3
    wgan_gp.py --weight_clip 0.02 --n_critic 3
"""
METRICS = """
    fid.py pretrained/dcgan-fashion_mnist.pt pretrained/cdcgan-fashion_mnist.pt --kid --prdc
    inception_score.py pretrained/cdcgan-fashion_mnist.pt --splits 3
"""
SAMPLES = """
    generate.py --num_images 40 --format npz --z_scale 0.7 --class Bag
    generate.py --num_images 40 --format npz --seed 3
    generate.py --interpolate 3 --grid_size 5
    generate.py --grid_size 4 --seed 3
"""
Numbers = dict[str, list[float]]


def sizes(values: Tensor) -> list[float]:
    """Return the mean absolute value of each eighth of a tensor."""
    return [round(part.double().abs().mean().item(), 8) for part in values.flatten().chunk(8)]


def trained(command: str, pictures: Path, out: Path) -> Numbers:
    """Train for two epochs; return the rows of metrics.csv and the sizes of the weights."""
    always = "--batch_size 20 --precision fp32 --epochs 2 --name run"
    classifier = ClassifierFeatures({**classifier_checkpoint(classes=3), "classes": CLASSES})
    with pytest.MonkeyPatch.context() as patch:
        if "classifier" in command:  # random weights, because a trained one is never the same
            patch.setattr(training.run, "feature_network", lambda *_: classifier)
        call(command, *folder_flags(pictures, out), *always.split())
    checkpoint = read_checkpoint(out / "run" / "last.pt")
    rows = checkpoint["rows"]
    found = {f"step {row['step']}": [round(value, 8) for value in row.values()] for row in rows}
    for name in ("generator", "ema", "discriminator", "critic"):
        if name in checkpoint:
            state = checkpoint[name].values()
            found[name] = sizes(torch.cat([values.flatten().double() for values in state]))
    return found


def measured(command: str, pictures: Path, out: Path) -> Numbers:
    """Compare or score 120 samples with the classifier of Fashion-MNIST; return the results."""
    always = "--dataset fashion_mnist --features classifier --num_images 120 --precision fp32"
    command = command.replace("pretrained", str(ROOT / "pretrained"))
    with redirect_stdout(io.StringIO()) as printed:
        call(command, *always.split(), "--json")
    return json.loads(printed.getvalue())


def drawn(command: str, pictures: Path, out: Path) -> Numbers:
    """Draw with the pretrained generator; return the sizes of the pixels and labels."""
    path = out / ("drawn.npz" if "npz" in command else "drawn.png")
    call(command, "--save_path", str(path))
    if path.suffix == ".png":
        with Image.open(path) as image:
            return {"grid": sizes(torch.from_numpy(np.array(image)))}
    with np.load(path) as file:
        return {name: sizes(torch.from_numpy(file[name])) for name in file}


def call(command: str, *more: str) -> None:
    script, *flags = command.split()
    importlib.import_module(script.removesuffix(".py")).main([*flags, *more])


NUMBERS_OF = {
    line.strip(): numbers
    for lines, numbers in ((TRAINING, trained), (METRICS, measured), (SAMPLES, drawn))
    for line in lines.strip().splitlines()
}


@pytest.mark.parametrize("command", NUMBERS_OF)
def test_a_command_gives_the_recorded_numbers(command: str, pictures: Path, tmp_path: Path) -> None:
    """The tolerance allows for the rounding of other processors and versions of torch."""
    expected = json.loads(GOLDEN.read_text())[command]
    assert NUMBERS_OF[command](command, pictures, tmp_path) == {
        name: value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-5)
        for name, value in expected.items()
    }


if __name__ == "__main__":
    make_runs_short()
    table = {}
    for line, numbers in NUMBERS_OF.items():
        with tempfile.TemporaryDirectory() as folder:
            table[line] = numbers(line, make_pictures(Path(folder) / "data"), Path(folder))
    with writing(GOLDEN) as temporary:  # one line per list
        temporary.write_text(re.sub(r"\n  ( +|(?=\]))", "", json.dumps(table, indent=1)) + "\n")
