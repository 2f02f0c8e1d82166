"""docs/exercises.md and docs/tour.ipynb: the check of a loss, printed answers, all cells."""

import importlib
import importlib.util
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

CELLS = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
WRONG_LOSSES = {
    "return 1.386": "0-d tensor",
    "return F.softplus(-real) + F.softplus(fake)": "0-d tensor",
    "return F.softplus(-real).sum() + F.softplus(fake).sum()": "at logits 0",
    "return F.softplus(real).mean() + F.softplus(-fake).mean()": "smaller if D is right",
    "return math.log(2) + F.softplus(-real).mean() + fake.mean()": "random logits",
    "return (F.softplus(-real).mean() + F.softplus(fake).mean()).detach()": "has a gradient",
    "return 2 * F.softplus((fake - real).double() / 2).mean()": "random logits",
    "return F.softplus(-real).mean() + F.softplus(fake.detach()).mean()": "its gradient",
    "return -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()": "-200 and 200",
}


@pytest.mark.parametrize("line, failed", WRONG_LOSSES.items())
def test_a_wrong_loss_gets_a_hint(
    line: str, failed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "import math\nimport torch.nn.functional as F\ndef discriminator_loss(real, fake):\n    "
    (tmp_path / "my_loss.py").write_text(head + line)
    with pytest.raises(SystemExit, match="1"):
        importlib.import_module("docs.check_loss").main([str(tmp_path / "my_loss.py")])
    *_, name, hint = capsys.readouterr().out.splitlines()
    assert re.match(rf"FAILED .*{failed}", name) and hint.strip()


@pytest.mark.parametrize("script", ("vanilla_gan", "dcgan", "cdcgan"))
def test_the_loss_of_the_scripts_passes(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("docs.check_loss").main([str(ROOT / f"{script}.py")])
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_losses_of_r3gan_in_closed_form(tmp_path: Path) -> None:
    """For D(x) = w.x the penalty is |w|^2 at any images; equal logits give the loss log 2."""
    shutil.copy(ROOT / "dcgan.py", tmp_path)
    patch = ROOT / "docs/answers/r3gan.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("patched", tmp_path / "dcgan.py")
    assert spec and spec.loader
    patched = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patched)
    images = torch.randn(5, 1, 28, 28, requires_grad=True)
    w = torch.randn(1, 28, 28, requires_grad=True)
    penalty = patched.gradient_penalty((images * w).sum(dim=(1, 2, 3)), images)
    assert penalty.item() == pytest.approx(w.square().sum().item(), rel=1e-5)
    (slope,) = torch.autograd.grad(penalty, w)  # the penalty trains D
    assert torch.allclose(slope, 2 * w)
    logits, loss = torch.randn(7), patched.pairing_loss
    for difference in (-5.0, 0.0, 5.0):
        expected = math.log1p(math.exp(-difference))
        assert loss(logits + difference, logits).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.data
def test_the_answers_print_what_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/exercises.md").read_text()
    blocks = re.findall(r"```python\n([^`]*)```\n\n```text\n([^`]*)```", page)
    assert len(blocks) == 4
    number = re.compile(r"-?\d+(?:\.\d+)?")
    for block, shown in blocks:
        exec(block, {})
        found = capsys.readouterr().out
        words = [number.sub(" ", text).split() for text in (shown, found)]
        values = [[float(value) for value in number.findall(text)] for text in (shown, found)]
        assert words[0] == words[1]
        assert values[0] == pytest.approx(values[1], rel=0.02, abs=0.002)


def test_the_notebook_is_short_and_stripped() -> None:
    assert 8 <= len(CELLS) <= 12
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "Colab" in "".join(CELLS[0]["source"])
    text = "".join("".join(cell["source"]) for cell in CELLS if cell not in code)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / target).is_file(), target


@pytest.mark.data
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code of all cells in order, without Jupyter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pyplot = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    namespace: dict[str, Any] = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    assert len(pyplot.gcf().axes) == 2
    pyplot.close("all")
    assert [int(row["step"]) for row in namespace["rows"]] == [50, 100, 150, 200]


@pytest.mark.parametrize("patch", sorted((ROOT / "docs/answers").iterdir()), ids=lambda p: p.stem)
def test_a_patched_discriminator_keeps_spectral_norm(patch: Path, tmp_path: Path) -> None:
    for script in ("dcgan", "cdcgan", "vanilla_gan", "wgan_gp"):
        shutil.copy(ROOT / f"{script}.py", tmp_path)
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    for script, classes in (("dcgan", {}), ("cdcgan", {"num_classes": 3})):
        spec = importlib.util.spec_from_file_location(
            f"{patch.stem}_{script}", tmp_path / f"{script}.py"
        )
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        d = module.Discriminator(4, 1, 28, norm="spectral", dropout=0.0, **classes)
        kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.Embedding)
        layers = [layer for layer in d.modules() if isinstance(layer, kinds)]
        assert len(layers) >= 4
        assert all(hasattr(layer, "parametrizations") for layer in layers)
        labels = (torch.tensor([0, 2]),) if classes else ()
        assert d(torch.zeros(2, 1, 28, 28), *labels).shape == (2,)
