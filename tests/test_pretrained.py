"""The generators in pretrained/: what they are, and that they are as good as they say."""

import csv
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fid
import generate
from data import load_dataset
from fid import frechet_distance
from inception_score import inception_score
from support.checkpoints import SCRIPTS, load_generator
from support.device import EVALUATION, seeded
from support.features import load_features
from support.sampling import sample
from tests.conftest import ROOT, tool
from tests.stand_ins import measured

recorded = tool("record_results").recorded
GENERATORS = [ROOT / f"pretrained/{script}-fashion_mnist.pt" for script in SCRIPTS]
EMOJI = ROOT / "pretrained/cdcgan-emoji.pt"
every_generator = pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.stem)


def test_there_is_one_per_script_and_one_of_emoji_and_all_are_small() -> None:
    assert {*(ROOT / "pretrained").glob("*gan*.pt")} == {*GENERATORS, EMOJI}
    assert sum(path.stat().st_size for path in (ROOT / "pretrained").iterdir()) < 12e6


@every_generator
def test_it_says_what_it_is(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    script, dataset = path.stem.split("-")
    assert (content["script"], content["dataset"]) == (script, dataset)
    assert content["command"].startswith(f"python {script}.py ")
    assert content["scores"]["fcd"] > 0 and len(content["classes"]) == 10


@every_generator
def test_it_is_a_row_of_the_results_table(path: Path) -> None:
    """The same command was recorded, with the same number of epochs and score."""
    content = torch.load(path, weights_only=True)
    parse_args = importlib.import_module(content["script"]).parse_args

    def arguments(command: str) -> dict[str, object]:
        return vars(parse_args(shlex.split(command)[2:]))

    runs = [run for run in recorded() if run["script"] == content["script"]]
    said = arguments(content["command"])
    (run,) = [run for run in runs if arguments(run["command"]) == said]
    assert run["epochs"] == content["scores"]["epoch"]
    assert run["score"] == pytest.approx(content["scores"]["classifier_score"], abs=0.005)
    assert run["fcd"] == pytest.approx(content["scores"]["fcd"], rel=0.3)  # from other z, std 10 %


def test_generate_alone_draws_the_picture_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the picture with samples of the shipped file."""
    monkeypatch.chdir(tmp_path)
    generate.main([])
    drawn, shown = (
        np.asarray(Image.open(path).convert("L"), dtype=int)
        for path in (tmp_path / "samples" / "grid.png", ROOT / "docs/fashion_mnist.png")
    )
    assert drawn.shape == shown.shape
    assert abs(drawn - shown).max() <= 3  # the last digits of float32, and the colours of a palette


def test_the_generator_of_emoji_belongs_to_the_configuration() -> None:
    content = torch.load(EMOJI, weights_only=True)
    config = json.loads((ROOT / "configs/cdcgan_emoji.json").read_text())
    args = vars(importlib.import_module("cdcgan").parse_args(shlex.split(content["command"])[2:]))
    wanted = config["args"] | {"seed": 0, "dataset": "folder"}
    del wanted["eval_every"]  # no hyperparameter, so the exported command does not contain it
    assert {key: args[key] for key in wanted} == wanted
    assert content["scores"]["epoch"] == wanted["epochs"] and len(content["classes"]) == 9
    with open(ROOT / "docs/emoji.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert row["setting"] == "the file in configs/"
    for name in ("d_accuracy_real", "d_accuracy_fake"):
        assert float(row[name]) == pytest.approx(content["scores"][name], abs=5e-5)


@pytest.mark.slow
@every_generator
def test_it_scores_as_it_says(path: Path) -> None:
    """The 10,000 z of its run's evaluation; what is left is the weights' rounding to float16.

    Other z move a score by up to 0.8 % (a standard deviation, of an earlier wgan_gp.py).
    """
    generator, content = load_generator(path)
    classes = content["generator_args"].get("num_classes")
    labels = torch.arange(10_000) % classes if classes else None
    (seed,) = re.findall(r"--seed=(\d+)", content["command"])
    draws = seeded(int(seed), EVALUATION)
    z = torch.randn(10_000, content["generator_args"]["z_dim"], generator=draws)
    images = sample(generator, z, labels)
    network = load_features("classifier", content["dataset"])
    fake, _, logits = measured(images.split(500), network)
    said = content["scores"]
    assert inception_score(logits)[0] == pytest.approx(said["classifier_score"], rel=0.002)
    real, _, _ = measured(load_dataset("fashion_mnist").test_images.split(500), network)
    distance = frechet_distance(real.gaussian(), fake.gaussian())
    assert distance == pytest.approx(said["fcd"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_fid_py_finds_the_distance_in_the_table(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 0's row, from the same z; other z move it by 10 % (cdcgan.py) and 2 % (dcgan.py)."""
    path = ROOT / "pretrained" / f"{script}-fashion_mnist.pt"
    command = torch.load(path, weights_only=True)["command"]
    fid.main(["fashion_mnist:test", str(path), "--json"])
    default = f"python {script}.py --dataset fashion_mnist"
    (row,) = [run for run in recorded() if run["command"] == default]
    assert "--seed=0" in command
    assert json.loads(capsys.readouterr().out)["fcd"] == pytest.approx(row["fcd"], abs=0.001)
