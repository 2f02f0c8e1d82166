"""What holds for all four scripts: their steps, their flags, and that they resume and match."""

import argparse
import difflib
import inspect
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cdcgan
import dcgan
import vanilla_gan
import wgan_gp
from support.checkpoints import read_checkpoint
from tests.conftest import ROOT, folder_flags, refusal

SCRIPTS = {module.__name__: module for module in (vanilla_gan, dcgan, cdcgan, wgan_gp)}
every_script = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


def critic_of(state: dict[str, Any]) -> nn.Module:
    return state["discriminator"] if "discriminator" in state else state["critic"]


class Watch:
    """Sits in the optimisers of a run and compares the networks around every step."""

    def __init__(self) -> None:
        self.networks: dict[str, nn.Module] = {}
        self.events: list[tuple[str, set[str]]] = []  # whose step, which networks it changed
        self.last: dict[str, Tensor] = {}
        self.d_grad = torch.empty(0)  # D's gradients at the last step of either
        self.clipped = False  # weights may be clipped between the steps

    def snapshot(self) -> dict[str, Tensor]:
        return {
            name: torch.cat([p.detach().flatten() for p in network.parameters()])
            for name, network in self.networks.items()
        }

    def wrap(self, original: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
        watch = self

        class Watched(original):  # type: ignore[misc, valid-type]
            def step(self, closure: Any = None) -> Any:
                mine = {id(p) for group in self.param_groups for p in group["params"]}
                (owner,) = (
                    name
                    for name, network in watch.networks.items()
                    if mine == {id(p) for p in network.parameters()}
                )
                before = watch.snapshot()
                if watch.last and not watch.clipped:  # only these two steps change a weight
                    assert all(torch.equal(before[name], watch.last[name]) for name in before)
                if owner == "D" and not watch.last:  # D's loss never reached G
                    assert all(p.grad is None for p in watch.networks["G"].parameters())
                grads = [p.grad for p in watch.networks["D"].parameters()]
                d_grad = torch.cat([grad.flatten() for grad in grads if grad is not None])
                if owner == "G":  # G's loss did not reach D's weights
                    assert torch.equal(d_grad, watch.d_grad)
                watch.d_grad = d_grad
                super().step(closure)
                watch.last = watch.snapshot()
                changed = {n for n in before if not torch.equal(before[n], watch.last[n])}
                watch.events.append((owner, changed))

        return Watched


@pytest.mark.parametrize(
    ("script", "argv", "d_steps"),
    [
        (vanilla_gan, [], 1),
        (vanilla_gan, ["--d_steps", "3"], 3),
        (dcgan, ["--norm", "batch"], 1),
        (dcgan, ["--feature_matching"], 1),
        (cdcgan, ["--norm", "batch"], 1),
        (cdcgan, ["--feature_matching"], 1),
        (wgan_gp, [], 1),
        (wgan_gp, ["--n_critic", "2", "--conditional"], 2),
        (wgan_gp, ["--n_critic", "5", "--weight_clip", "0.1", "--norm", "batch"], 5),
    ],
)
def test_each_step_changes_its_own_network(
    script: ModuleType,
    argv: list[str],
    d_steps: int,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And there are as many of D's to one of G's as asked for."""
    watch = Watch()
    watch.clipped = "--weight_clip" in argv

    class Run(script.Run):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **state: Any) -> None:
            watch.networks = {"G": state["generator"], "D": critic_of(state)}
            super().__init__(*args, **state)

    monkeypatch.setattr(script, "Run", Run)
    for name in ("Adam", "RMSprop"):
        monkeypatch.setattr(torch.optim, name, watch.wrap(getattr(torch.optim, name)))
    script.main([*flags, "--max_steps", "3", *argv])
    once = [("D", {"D"})] * d_steps + [("G", {"G"})]
    assert watch.events == once * 3


def weights(folder: Path) -> dict[str, Tensor]:
    checkpoint = read_checkpoint(folder / "last.pt")
    networks = [
        name for name in ("generator", "discriminator", "critic", "ema") if name in checkpoint
    ]
    return {f"{n}.{k}": v for n in networks for k, v in checkpoint[n].items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# For each script, the flags that must change the training, with a value other than the default.
COMMON = {
    "z_dim": ["7"],
    "ngf": ["5"],
    "ndf": ["5"],
    "dropout": ["0.5"],
    "batch_size": ["9"],
    "lr_g": ["0.001"],
    "lr_d": ["0.001"],
    "lr_decay": ["0.99"],
    "beta1": ["0.3"],
    "beta2": ["0.99"],
    "ema": ["0"],
    "hflip": [],
    "seed": ["1"],
    "classes": ["bag,shoe"],
    "image_size": ["32"],
    "precision": ["bf16"],
}
LABELS = {"label_smoothing": ["0"], "label_noise": ["0.5"], "flip_labels": []}
CONVOLUTIONAL: dict[str, list[str]] = {"norm": ["batch"], "feature_matching": [], "depth": ["1"]}
CHANGES: dict[str, dict[str, list[str]]] = {
    "vanilla_gan": {**COMMON, **LABELS, "d_steps": ["2"]},
    "dcgan": {**COMMON, **LABELS, **CONVOLUTIONAL},
    "cdcgan": {**COMMON, **LABELS, **CONVOLUTIONAL},
    "wgan_gp": {
        **COMMON,
        "norm": ["none"],
        "depth": ["1"],
        "conditional": [],
        "n_critic": ["2"],
        "lambda_gp": ["1"],
        "weight_clip": ["0.01"],
    },
}
# Tested elsewhere: they say where a run comes from, goes and ends, and change no weight.
ELSEWHERE = (
    *("help", "epochs", "dataset", "data_dir", "out_dir", "name", "resume", "config", "device"),
    *("max_steps", "sample_every", "eval_every", "eval_samples", "features", "inception_path"),
)
NORMS = {
    "dcgan": ("spectral", "batch", "instance", "layer", "none"),
    "cdcgan": ("spectral", "batch", "instance", "layer", "none"),
    "wgan_gp": ("layer", "instance", "none"),
}


@every_script
def test_every_flag_is_tested(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []
    parse_args = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(
        argparse.ArgumentParser,
        "parse_args",
        lambda self, *args: parsers.append(self) or parse_args(self, *args),  # type: ignore[func-returns-value]
    )
    script.parse_args([])
    flags = {action.dest for action in parsers[0]._actions}
    assert flags == set(CHANGES[script.__name__]) | set(ELSEWHERE)
    assert all(action.help for action in parsers[0]._actions)


@pytest.fixture(scope="module")
def plain(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By script, the command line whose weights the flags below must change, run once."""
    lines = {}
    for name, script in SCRIPTS.items():
        out = tmp_path_factory.mktemp(name)
        few = ["--epochs", "1", "--max_steps", "3"]  # Adam's betas act from the second step on
        lines[name] = [*folder_flags(pictures, out), "--precision", "fp32", *few]
        script.main([*lines[name], "--name", "plain"])
    return lines


def run_of(plain: dict[str, list[str]], script: ModuleType, *argv: str) -> dict[str, Tensor]:
    """The weights after a plain run with other flags."""
    line = plain[script.__name__]
    out = Path(line[line.index("--out_dir") + 1])
    name = "-".join(argv).replace("--", "").replace(",", "") or "again"
    if name != "plain":
        script.main([*line, "--name", name, *argv])
    return weights(out / name)


@every_script
def test_the_same_seed_repeats_to_the_bit(script: ModuleType, plain: dict[str, list[str]]) -> None:
    assert same(run_of(plain, script), run_of(plain, script, "plain"))


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        # dcgan.py's flags are cdcgan.py's, to the byte: by default, those of the others are tried.
        pytest.param(name, flag, marks=[pytest.mark.slow] if name == "dcgan" else [])
        for name, flags in CHANGES.items()
        for flag in flags
    ],
)
def test_flag_changes_the_training(name: str, flag: str, plain: dict[str, list[str]]) -> None:
    script, argv = SCRIPTS[name], [f"--{flag}", *CHANGES[name][flag]]
    assert not same(run_of(plain, script, *argv), run_of(plain, script, "plain"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_both_learning_rates_fall(name: str, plain: dict[str, list[str]]) -> None:
    script, decay = SCRIPTS[name], ["--lr_decay", "0.9"]
    run_of(plain, script, *decay)
    out = Path(plain[name][plain[name].index("--out_dir") + 1])
    state, args = read_checkpoint(out / "lr_decay-0.9"), script.parse_args(plain[name])
    factors = [
        state[optimiser]["param_groups"][0]["lr"] / rate
        for optimiser, rate in (("opt_g", args.lr_g), ("opt_d", args.lr_d))
    ]
    assert factors == pytest.approx([0.8 / 0.9] * 2)  # the last step is step 2 of 10


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_another(name: str, flags: list[str], tmp_path: Path) -> None:
    found = []
    for norm in NORMS[name]:
        SCRIPTS[name].main([*flags, "--name", norm, "--norm", norm, "--max_steps", "2"])
        found.append(weights(tmp_path / norm)["generator.project.weight"])
    for i, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:i])


@every_script
def test_stopped_and_resumed_is_the_same(
    script: ModuleType, flags: list[str], tmp_path: Path
) -> None:
    two_an_epoch = ["--n_critic", "5"] if script is wgan_gp else ["--batch_size", "50"]
    argv = [*flags, *two_an_epoch, "--dropout", "0.2", "--epochs", "2"]
    script.main([*argv, "--name", "whole"])
    script.main([*argv, "--name", "stopped", "--max_steps", "3"])
    script.main(["--resume", str(tmp_path / "stopped")])
    one, other = (torch.load(tmp_path / n / "last.pt") for n in ("whole", "stopped"))
    assert one["step"] == 4
    assert str(one) == str(other) and same(*(weights(tmp_path / n) for n in ("whole", "stopped")))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").iterdir()), ids=lambda path: path.stem)
def test_the_papers_settings_train(path: Path, flags: list[str], tmp_path: Path) -> None:
    """Each file in configs/ names hyperparameters of its script, and a run trains with them."""
    config = json.loads(path.read_text())
    about = "not_reached" if "paper" in path.stem or "clip" in path.stem else "about"
    assert config.keys() == {"script", about, "args"} and config[about]
    script, settings = SCRIPTS[config["script"]], config["args"]
    evaluation = {"eval_every", "eval_samples"}
    assert settings.keys() <= {*CHANGES[config["script"]], "epochs", *evaluation}
    parsed, defaults = vars(script.parse_args(["--config", str(path)])), vars(script.parse_args([]))
    assert parsed == defaults | settings | {"config": str(path)}
    assert about == "about" or settings["ema"] == 0
    script.main(["--config", str(path), *flags, "--name", "run", "--max_steps", "3"])
    args = json.loads((tmp_path / "run" / "config.json").read_text())["args"]
    kept = {key: value for key, value in settings.items() if f"--{key}" not in flags}
    assert kept and kept == {key: args[key] for key in kept}
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 3


@every_script
def test_checkpoints_of_other_scripts_are_refused(
    script: ModuleType, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([*flags, "--name", "run", "--max_steps", "1"])
    for other in SCRIPTS.values():
        if other is not script:
            line = refusal(other.main, ["--resume", str(tmp_path / "run")], capsys)
            assert f"{script.__name__}.py" in line


@every_script
@pytest.mark.parametrize("image_size", [28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_fit_every_image(script: ModuleType, image_size: int, channels: int) -> None:
    conditional = script in (cdcgan, wgan_gp)
    classes = {"num_classes": 5} if conditional else {}
    labels = (torch.tensor([0, 4, 2]),) if conditional else ()
    generator = script.Generator(
        z_dim=8, ngf=4, channels=channels, image_size=image_size, **classes
    )
    images = generator(torch.randn(3, 8), *labels)
    assert images.shape == (3, channels, image_size, image_size)
    assert images.abs().max() <= 1
    critic = getattr(script, "Discriminator", None) or script.Critic
    norm = {} if script is vanilla_gan else {"norm": "layer"}
    network = critic(4, channels=channels, image_size=image_size, dropout=0.0, **norm, **classes)
    scores = network(images, *labels)
    assert scores.shape == (3,) and scores.dtype == torch.float32


@pytest.mark.parametrize("name", NORMS)
def test_depth_adds_convolutions_of_stride_1(name: str) -> None:
    """--depth 2 adds two 3 x 3 convolutions per feature map of G and of D."""
    script = SCRIPTS[name]
    classes = {"num_classes": 5} if script is cdcgan else {}
    labels = (torch.tensor([0, 4, 2]),) if script is cdcgan else ()
    critic = getattr(script, "Discriminator", None) or script.Critic

    def networks(**depth: int) -> tuple[nn.Module, nn.Module]:
        image = {"channels": 1, "image_size": 32, **classes, **depth}
        d = critic(4, norm=NORMS[name][0], dropout=0.0, **image)
        return script.Generator(z_dim=8, ngf=4, **image), d

    def layers(network: nn.Module) -> list[str]:
        return [f"{layer}" for layer in network.layers]  # type: ignore[union-attr]

    plain, deep = networks(), networks(depth=2)
    assert [layers(network) for network in plain] == [layers(n) for n in networks(depth=0)]
    for network, deeper in zip(plain, deep, strict=True):
        added = list((Counter(layers(deeper)) - Counter(layers(network))).elements())
        convolutions = [line for line in added if "Conv2d(" in line]
        assert len(convolutions) == 2 * 3  # at 16, 8 and 4 pixels
        assert all("kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)" in c for c in convolutions)
        assert sum("ReLU(" in line for line in added) == 2 * 3
    images = deep[0](torch.randn(3, 8), *labels)
    assert images.shape == (3, 1, 32, 32)
    assert deep[1](images, *labels).shape == (3,)


@every_script
def test_a_black_pixel_can_turn_white_in_bfloat16(script: ModuleType) -> None:
    """tanh(-4) is -0.9993: in bfloat16 that is -1 to the bit, and its slope would be 0."""
    classes = {"num_classes": 5} if script is cdcgan else {}
    labels = (torch.tensor([0, 4, 2]),) if script is cdcgan else ()
    generator = script.Generator(z_dim=8, ngf=4, channels=1, image_size=28, **classes)
    last = generator.layers[-1]
    torch.nn.init.constant_(last.bias, -4.0)
    torch.nn.init.zeros_(last.weight)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(torch.randn(3, 8), *labels)
    images.sum().backward()
    assert images.dtype == torch.float32 and (images > -1).all()
    assert (last.bias.grad > 0).all()


# ---- the scripts as texts ----


def source(script: ModuleType, name: str) -> str:
    return inspect.getsource(getattr(script, name))


def test_shared_blocks_are_the_same_to_the_byte() -> None:
    for name in ("targets", "discriminator_loss"):
        assert source(vanilla_gan, name) == source(dcgan, name) == source(cdcgan, name)
    assert source(dcgan, "parse_args") == source(cdcgan, "parse_args")
    for name in ("generator_loss", "feature_matching_loss"):
        assert source(dcgan, name) == source(cdcgan, name)
    for name in ("channel_widths", "init_weights"):
        assert source(dcgan, name) == source(cdcgan, name) == source(wgan_gp, name)
    for name in ("decay_lr", "update_ema"):
        assert len({source(script, name) for script in SCRIPTS.values()}) == 1


def test_conditioning_is_what_tells_cdcgan_from_dcgan() -> None:
    one, other = ((ROOT / name).read_text().splitlines() for name in ("dcgan.py", "cdcgan.py"))
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    changed = sum(b - a + d - c for kind, a, b, c, d in blocks if kind != "equal")
    assert changed < 80  # lines of either that the other lacks


@every_script
def test_scripts_are_read_in_an_evening(script: ModuleType) -> None:
    lines = Path(str(script.__file__)).read_text().splitlines()
    assert 160 <= len(lines) <= 306
    order = [line.split("(")[0] for line in lines if line.startswith(("class ", "def "))]
    order = [name for name in order if name != "def channel_widths"]
    assert order[:2] == ["def parse_args", "class Generator"] and order[-1] == "def main"
