"""Bad input: one clear line on standard error, exit code 2, no traceback, nothing lost."""

from support.command import InputError, exit_on_input_error

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import cdcgan
import demo
import fid
import generate
import inception_score
import support.features
import support.image_sets
from data import load_dataset
from support.files import load_tensors, save_tensors, user_cache
from tests.conftest import command, folder_flags, refusal
from tests.stand_ins import Payload, inflating, path_of_classifier, random_classifier, random_images
from training.classifier import classifier_for
from training.evaluation import real_statistics

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    cdcgan.main([*folder_flags(pictures, out), "--name", "run", "--max_steps", "12"])
    return out / "run"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--lr_g", "-0.1"], "--lr_g: -0.1 is not in the range (0, 1]"),
        (["--lr_d", "nan"], "--lr_d: nan is not in the range (0, 1]"),
        (["--batch_size", "0"], "--batch_size: 0 is not in the range [1, 1e9]"),
        (["--batch_size", "1.5"], "--batch_size"),
        (["--dropout", "1.5"], "--dropout: 1.5 is not in the range [0, 1)"),
        (["--beta1", "1"], "--beta1"),
        (["--ema", "-1"], "--ema"),
        (["--label_smoothing", "0.6"], "--label_smoothing"),
        (["--label_noise", "2"], "--label_noise"),
        (["--epochs", "0"], "--epochs"),
        (["--max_steps", "0"], "--max_steps"),
        (["--seed", "-1"], "--seed"),
        (["--dataset", "imagenet"], "--dataset"),
        (["--norm", "group"], "--norm"),
        (["--image_size", "30"], "--image_size"),
        (["--epoch", "3"], "unrecognized arguments"),
        (["--name", "../up"], "--name '../up'"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used here"),
        (["--device", "toaster"], "--device toaster cannot be used here"),
        (["--device", "hpu"], "--device hpu cannot be used here"),
        (["--config", "nowhere.json"], "nowhere.json cannot be read"),
        (["--resume", "nowhere"], "nowhere"),
        (["--resume", "a", "--config", "b"], "exclude each other"),
        (["--classes", "bag,sofa"], "sofa"),
        (["--batch_size", "106"], "106"),
    ],
)
def test_flags_of_a_script(argv: list[str], says: str, flags: list[str], capsys: Capture) -> None:
    assert says in refusal(cdcgan.main, [*flags, "--epochs", "1", *argv], capsys)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--grid_size", "0"], "--grid_size 0"),
        (["--grid_size", "-3"], "--grid_size -3"),
        (["--num_images", "0"], "--num_images 0"),
        (["--num_images", "5", "--grid_size", "2"], "exclude each other"),
        (["--num_images", "5", "--interpolate", "2"], "exclude each other"),
        (["--neighbours", "5", "--gif"], "--neighbours"),
        (["--neighbours", "0"], "--neighbours 0"),
        (["--interpolate", "0"], "--interpolate 0"),
        (["--gif", "--save_path", "x.png"], "x.png"),
        (["--num_images", "5", "--gif"], "--num_images"),
        (["--num_images", "5", "--save_path", "x.png"], "not x.png"),
        (["--num_images", "5", "--save_path", "x.npz", "--format", "png"], "not x.npz"),
        (["--save_path", "x.npz"], "--num_images"),
        (["--format", "npz"], "--num_images"),
        (["--save_path", "x.jpeg"], "x.jpeg"),
        (["--class", "sofa"], "sofa"),
        (["--class", "3"], "3"),
        (["--seed", "-1"], "--seed -1"),
        (["--z_scale", "nan"], "--z_scale nan"),
        (["--z_scale", "-1"], "--z_scale -1"),
        (["--device", "cuda:77"], "--device cuda:77"),
    ],
)
def test_flags_of_generate(argv: list[str], says: str, trained: Path, capsys: Capture) -> None:
    argv = ["--load_path", str(trained), "--device", "cpu", *argv]
    assert says in refusal(generate.main, argv, capsys)


def write_bad_checkpoint(kind: str, good: Path, path: Path) -> None:
    content = torch.load(good, weights_only=True)
    if kind == "cut":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(path.parent / "ran"), protocol=2))  # torch.save's
    elif kind == "other project":
        torch.save({"state_dict": content["generator"]}, path)
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "other network":
        torch.save({**content, "generator_args": {**content["generator_args"], "ngf": 6}}, path)
    elif kind == "other arguments":
        torch.save({**content, "generator_args": {"height": 6}}, path)
    elif kind == "bomb":
        inflating(path, "last/data/0")
    elif kind == "huge network":
        args = {**content["generator_args"], "ngf": 4000}
        torch.save({**content, "generator_args": args}, path)
    elif kind == "huge tensor":
        huge = torch.zeros(1).expand(1 << 20, 1 << 20)
        torch.save({**content, "ema": {**content["ema"], "embed.weight": huge}}, path)
    elif kind == "not finite":
        weight = content["ema"]["embed.weight"] * float("nan")
        torch.save({**content, "ema": {**content["ema"], "embed.weight": weight}}, path)
    elif kind == "no classes":
        torch.save({k: v for k, v in content.items() if k != "classes"}, path)
    elif kind == "other script":
        torch.save({**content, "script": "vanilla_gan"}, path)
    elif kind == "unknown script":
        torch.save({**content, "script": "os"}, path)


KINDS = [
    *("cut", "empty", "text", "pickle", "other project", "tensor"),
    *("other network", "other arguments", "no classes", "other script", "unknown script"),
    *("bomb", "huge network", "huge tensor", "not finite"),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("command", ["generate", "fid", "score", "export", "demo", "resume"])
def test_no_command_runs_what_a_checkpoint_brings(
    command: str,
    zipped: bool,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    path = tmp_path / "run" / "last.pt"
    shutil.copytree(trained, path.parent)
    content = {**torch.load(path, weights_only=True), "ema": Payload(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    mine = str(tmp_path / "mine.pt")
    mains: dict[str, tuple[Any, list[str]]] = {
        "generate": (generate.main, ["--load_path", str(path)]),
        "fid": (fid.main, [str(path.parent), "--save_stats", "s.npz", "--dataset", "mnist"]),
        "score": (inception_score.main, [str(path), "--dataset", "mnist"]),
        "export": (generate.main, ["--load_path", str(path), "--export", mine]),
        "demo": (demo.main, ["--load_path", str(path.parent)]),
        "resume": (cdcgan.main, ["--resume", str(path.parent)]),
    }
    monkeypatch.chdir(tmp_path)
    assert "last.pt is refused" in refusal(*mains[command], capsys)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "mine.pt").exists()


def test_no_cache_of_a_folder_is_run(
    trained: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """Its classifier is refused; its decoded images and the statistics are made anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    images = load_dataset("folder", folder, 28).train_images.clone()  # not the map of the cache
    payload = np.empty(1, object)
    payload[:] = [Payload(tmp_path / "ran")]
    (cache,) = user_cache().glob("images-*.npy")
    np.save(cache, payload)
    assert torch.equal(load_dataset("folder", folder, 28).train_images, images)

    dataset = load_dataset("folder", folder, 28)
    classifier_for(dataset, folder, torch.device("cpu"))
    path = path_of_classifier(dataset)
    torch.save({**torch.load(path), "classes": Payload(tmp_path / "ran")}, path)
    argv = ["--load_path", str(trained), "--neighbours", "2", "--data_dir", str(folder)]
    assert str(path) in refusal(generate.main, argv, capsys)

    network, few = random_classifier(), random_images(9, 1, 28)
    real = real_statistics(network, few)
    (saved,) = user_cache().glob("statistics-*")
    np.savez(saved, mu=payload, sigma=payload)
    assert torch.equal(real_statistics(network, few).mean, real.mean)
    assert not (tmp_path / "ran").exists()


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow tells formats by their content and gives EPS, a program, to Ghostscript."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it has not looked for it yet
    folder = image_folder(tmp_path, "a.png", "b.png")
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 30\n%%EndComments\nshowpage\n"
    (folder / "b.png").write_text(text)
    with pytest.raises(InputError, match="b.png cannot be decoded"):
        load_dataset("folder", folder, 28)
    with pytest.raises(InputError, match="b.png cannot be decoded"):
        list(support.image_sets.folder_images(folder, 2))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_checkpoints(kind: str, trained: Path, tmp_path: Path, capsys: Capture) -> None:
    """To sample, to resume and to export: each is refused, and nothing is lost."""
    shutil.copytree(trained, tmp_path / "run")
    path, out = tmp_path / "run" / "last.pt", tmp_path / "out"
    write_bad_checkpoint(kind, trained / "last.pt", path)
    before = path.read_bytes()
    commands: list[tuple[Any, list[str]]] = [
        (generate.main, ["--load_path", str(path), "--save_path", str(out)]),
        (generate.main, ["--load_path", str(path), "--export", str(out)]),
        (cdcgan.main, ["--resume", str(path.parent)]),
    ]
    for main, argv in commands[: 1 if kind == "no classes" else 3]:
        assert str(path) in refusal(main, argv, capsys)
    assert path.read_bytes() == before
    assert not out.exists() and not (path.parent / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "many"),
        ("step", -1),
        ("best", None),
        ("rows", [{"d_loss": 1.0}]),
        ("rows", [3]),
        ("names", [1] * 7),
        ("window", torch.zeros(2, 1)),
        ("opt_g", {"state": {}, "param_groups": []}),
        ("opt_g", {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}),
        ("opt_d", 0),
        ("random_state", {"cpu": torch.zeros(3)}),
        ("steps_per_epoch", torch.zeros(2)),
    ],
)
def test_resume_from_a_state_that_is_none(
    key: str, value: object, trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "run" / "last.pt"
    shutil.copytree(trained, path.parent)
    content = torch.load(path, weights_only=True)
    if isinstance(value, dict) and "param_groups" in value and value["state"]:
        value = {**content[key], **value, "param_groups": content[key]["param_groups"]}
    torch.save({**content, key: value}, path)
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    assert "does not fit" in refusal(cdcgan.main, ["--resume", str(path.parent)], capsys)
    assert {file: file.read_bytes() for file in before} == before
    if key in ("step", "best", "rows", "names", "window"):  # of the others, export takes nothing
        argv = ["--load_path", str(path), "--export", str(tmp_path / "mine.pt")]
        assert "does not fit" in refusal(generate.main, argv, capsys)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--lr_g", "0.1"], "--lr_g 0.1"),
        (["--epochs", "3"], "give at least as many"),
        (["--name", "other"], "--name other"),
        (["--hflip"], "--hflip"),
        (["--classes", "bag"], "--classes bag"),
        (["--seed", "7"], "--seed 7"),
    ],
)
def test_resume_with_contradicting_arguments(
    argv: list[str], says: str, trained: Path, capsys: Capture
) -> None:
    line = refusal(cdcgan.main, ["--resume", str(trained), *argv], capsys)
    assert says in line and str(trained) in line


def test_resume_of_what_is_no_run(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal(cdcgan.main, ["--resume", str(tmp_path / "empty")], capsys)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "last.pt").unlink()
    assert "last.pt" in refusal(cdcgan.main, ["--resume", str(tmp_path / "run")], capsys)
    config = tmp_path / "run" / "config.json"
    good = config.read_text()
    config.write_text(good.replace('"cdcgan"', '"dcgan"'))
    assert "dcgan.py" in refusal(cdcgan.main, ["--resume", str(tmp_path / "run")], capsys)
    no_name = good.replace('"out_dir": "', '"out_dir": "\\u0000')
    for bad in ("", "[]", "{}", good[:50], '{"script": "cdcgan", "args": 3}', "[" * 10**5, no_name):
        config.write_text(bad)
        assert "config.json" in refusal(cdcgan.main, ["--resume", str(tmp_path / "run")], capsys)
    changed = json.loads(good)
    changed["args"]["batch_size"] = "many"
    config.write_text(json.dumps(changed))
    assert "--batch_size" in refusal(cdcgan.main, ["--config", str(config)], capsys)


def test_existing_runs_are_not_written_into(
    trained: Path, flags: list[str], capsys: Capture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    argv = [*flags, "--out_dir", str(trained.parent), "--name", trained.name]
    assert f"--resume {trained}" in refusal(cdcgan.main, argv, capsys)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_out_dir_that_is_a_file(flags: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refusal(cdcgan.main, [*flags, "--out_dir", str(tmp_path / "file")], capsys)


def test_names_that_are_no_text(
    trained: Path, flags: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """A file's name may be any bytes. What can take them does, TensorBoard does not."""
    odd = str(tmp_path / os.fsdecode(b"\xff\n"))
    with exit_on_input_error():
        generate.main(["--load_path", str(trained), "--save_path", odd])
    assert Path(odd, "grid.png").is_file()
    shutil.copytree(trained, Path(odd, "run"))
    for argv in ([*flags, "--out_dir", odd], ["--resume", f"{odd}/run"]):
        assert "not UTF-8" in refusal(cdcgan.main, argv, capsys)


@pytest.mark.parametrize("length", [256, 5000])
def test_names_that_are_too_long(length: int, tmp_path: Path, capsys: Capture) -> None:
    name = str(tmp_path / ("a" * length))
    assert "no checkpoint" in refusal(generate.main, ["--load_path", name], capsys)
    assert "does not exist" in refusal(fid.main, [name, name, "--dataset", "mnist"], capsys)


def test_save_path_below_a_file(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    argv = ["--load_path", str(trained), "--save_path", str(tmp_path / "file" / "x.png")]
    assert "cannot be written" in refusal(generate.main, argv, capsys)


def image_folder(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "images"
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((30, 30), np.uint8)).save(path)
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("library", [torch, np])
def test_too_little_memory(library: ModuleType, capsys: Capture) -> None:
    """Which some flags can ask for: a petabyte."""

    def main(argv: Sequence[str]) -> None:
        library.empty(1 << 50)

    assert "not enough memory" in refusal(main, [], capsys)


def test_too_little_memory_of_a_gpu(capsys: Capture) -> None:
    def main(argv: Sequence[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert "not enough memory" in refusal(main, [], capsys)


@pytest.mark.parametrize(
    "value", [torch.zeros(1).expand(1 << 20), torch.zeros(3, device="meta")], ids=["few", "none"]
)
def test_tensors_without_their_memory(value: torch.Tensor, tmp_path: Path) -> None:
    """However deep they lie: they would take it where they are used."""
    good = {"rows": [(torch.zeros(2, 3).T, {"n": 1})]}
    save_tensors(good, tmp_path / "a.pt")
    assert load_tensors(tmp_path / "a.pt")["rows"][0][0].shape == (3, 2)
    for content in ([value], (value,), {"rows": [({"x": value},)]}):
        torch.save(content, tmp_path / "b.pt")
        with pytest.raises(ValueError, match="claims more memory"):
            load_tensors(tmp_path / "b.pt")


def test_an_input_error_is_one_line_and_code_2(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        raise InputError("first\nsecond")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shape"), exit_on_input_error():
        raise RuntimeError("a wrong shape")


def test_image_folders(flags: list[str], tmp_path: Path, capsys: Capture) -> None:
    def refused(folder: Path) -> str:
        return refusal(cdcgan.main, [*flags, "--data_dir", str(folder), "--epochs", "1"], capsys)

    assert "images" in refused(image_folder(tmp_path))  # empty
    assert "absent" in refused(tmp_path / "absent")
    folder = image_folder(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (folder / "a" / "note.txt").write_text("hello")
    assert "note.txt" in refused(folder)
    (folder / "a" / "note.txt").rename(folder / "a" / "note.png")
    assert "note.png" in refused(folder)
    flat = image_folder(tmp_path / "flat", *(f"{i}.png" for i in range(20)))
    assert "dcgan.py" in refused(flat)
    assert not list(tmp_path.glob("cdcgan-*"))  # no run folder was begun


def test_the_real_commands(tmp_path: Path) -> None:
    """Started at the same time: most of their seconds are imports."""
    lines = [
        command("cdcgan.py", "--lr_g", "nan"),
        command("generate.py", "--load_path", "absent"),
    ]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(line, stderr=pipe, text=True, cwd=tmp_path) for line in lines]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 2
        assert "Traceback" not in said
        assert "error: " in said.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_looked_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    """Another user's home, or here, as root may enter everything, a name that is too long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("x" * 300)))
    load_dataset("folder", image_folder(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png"), 28)
    network, images = random_classifier(), random_images(9, 1, 28)
    assert real_statistics(network, images).n == 9
    assert "computes the statistics again" in capsys.readouterr().err
    monkeypatch.setattr(support.features, "INCEPTION_URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(InputError, match="too long"):
        support.features.load_inception()
