"""support/features.py: FID's Inception to the digit, classifiers, and what is refused.

No test has the published weights: what is compared with other projects is the network with random
weights, the same in each.
"""

from support.command import InputError

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import Inception3

import support.features
import training.classifier
from data import Batches, Dataset, load_dataset
from support.features import (
    Classifier,
    ClassifierFeatures,
    build_inception,
    load_classifier,
    load_features,
    load_inception,
)
from support.files import save_tensors, user_cache
from tests.conftest import CLASSES, Serve, refusal, reply
from tests.stand_ins import (
    Payload,
    classifier_checkpoint,
    counters,
    inception_state,
    inflating,
    path_of_classifier,
    random_classifier,
    random_images,
    random_inception,
)
from training.classifier import classifier_for, pack_classifier, train_classifier

Capture = pytest.CaptureFixture[str]
KINDS = [(1, 28), (3, 32), (3, 64)]  # channels and size of the images that GANs are shown here


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest number expected."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def preprocessed(images: Tensor) -> Tensor:
    """What the specification makes of uint8 images: floats (N, 3, 299, 299) in [-1, 1]."""
    x = images.repeat(1, 3 // images.shape[1], 1, 1).float() / 255
    return 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1


# ---- FID's Inception ----


def test_inception_has_the_published_tensors() -> None:
    """94 convolutions of 5 tensors each, and the logits' two."""
    state = inception_state()
    assert len(state) == 472
    assert sum(value.numel() for value in state.values()) == 23_885_392
    assert state["fc.weight"].shape == (1008, 2048)
    assert not any("Aux" in name for name in state)


@pytest.fixture(scope="module")
def unfolded() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, and their pool features and biased logits by Inception as torchvision computes it."""
    network = build_inception()
    network.load_state_dict(inception_state(), strict=False)
    network.eval()
    images = random_images(2, 3, 32)
    pooled = []
    network.avgpool.register_forward_hook(
        lambda _, inputs, output: pooled.append(output.flatten(1))
    )
    with torch.no_grad():
        logits = network(preprocessed(images))
    yield images, pooled[0], logits


def test_folding_changes_nothing(unfolded: tuple[Tensor, Tensor, Tensor]) -> None:
    images, expected, _ = unfolded
    found, _ = random_inception()(images)
    assert found.shape == (2, 2048) and found.dtype == torch.float32
    assert relative(found, expected) < 1e-5
    assert not [m for m in random_inception().modules() if isinstance(m, nn.BatchNorm2d)]


def test_random_features_are_of_order_one() -> None:
    """Or else every comparison of them would be one of rounding errors."""
    found, logits = random_inception()(random_images(3, 3, 32))
    assert 0.1 < found.square().mean().sqrt() < 10
    assert 0.1 < logits.square().mean().sqrt() < 10
    apart = (found[0] - found[1]).norm() / found[0].norm()
    assert apart > 0.01  # and they tell images apart


def test_logits_have_no_bias(unfolded: tuple[Tensor, Tensor, Tensor]) -> None:
    images, _, biased = unfolded
    _, logits = random_inception()(images)
    assert logits.shape == (2, 1008)
    assert relative(logits + inception_state()["fc.bias"], biased) < 1e-5
    assert relative(logits, biased) > 1e-3


def test_pools_are_not_those_of_torchvision(unfolded: tuple[Tensor, Tensor, Tensor]) -> None:
    images, ours, _ = unfolded
    network = Inception3(1008, aux_logits=False, init_weights=False)
    network.load_state_dict(inception_state(), strict=False)
    network.fc = nn.Identity()
    with torch.no_grad():
        theirs = network.eval()(preprocessed(images))
    assert relative(theirs, ours) > 0.01


def test_each_block_pools_as_tensorflow_did() -> None:
    """The mean of the pixels that are there; in the last block the maximum."""
    pools = {}
    for name, block in build_inception().named_children():
        if not hasattr(block, "branch_pool"):
            continue
        given: list[Tensor] = []
        block.branch_pool.conv.register_forward_pre_hook(
            lambda _, x, given=given: given.append(x[0])
        )
        x = torch.rand(2, block.branch1x1.conv.in_channels, 5, 5)
        block.eval()(x)
        means = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        is_max = torch.equal(given[-1], F.max_pool2d(x, 3, stride=1, padding=1))
        assert is_max or torch.allclose(given[-1], means)
        pools[name.removeprefix("Mixed_")] = "max" if is_max else "mean"
    assert pools == {**dict.fromkeys("5b 5c 5d 6b 6c 6d 6e 7b".split(), "mean"), "7c": "max"}


@pytest.mark.parametrize("kind", ["inception", "classifier"])
def test_batch_size_does_not_matter_and_grey_is_repeated_rgb(kind: str) -> None:
    network = random_inception() if kind == "inception" else random_classifier(3, 32)
    images = random_images(3, 1, 28)
    together = network(images)
    for number, one in enumerate(images.split(1)):
        for found, expected in zip(network(one), together, strict=True):
            assert relative(found, expected[number : number + 1]) < 1e-5
    for found, expected in zip(network(images.repeat(1, 3, 1, 1)), together, strict=True):
        assert relative(found, expected) < 1e-6


@pytest.mark.parametrize("kind", ["inception", "classifier"])
def test_only_uint8_images_are_taken(kind: str) -> None:
    network = random_inception() if kind == "inception" else random_classifier()
    images = random_images(2, 1, 28)
    for wrong in (
        images.float(),
        images.float() / 255,
        images.long(),
        images[0],
        images.expand(-1, 2, -1, -1),
        images.expand(-1, 4, -1, -1),
    ):
        with pytest.raises(InputError, match="uint8"):
            network(wrong)


@pytest.mark.parametrize("kind", ["inception", "classifier"])
def test_network_stays_in_eval_mode(kind: str) -> None:
    network = random_inception() if kind == "inception" else random_classifier()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = random_images(2, 1, 28)
    with torch.enable_grad():
        first, again = network(images)[0], network(images)[0]
    assert torch.equal(first, again)  # no dropout
    assert not first.requires_grad
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bfloat16_is_close_and_comes_out_as_float32() -> None:
    network, images = random_inception(), random_images(2, 3, 32)
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    assert torch.equal(network(images)[0], expected[0])  # again in float32
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert 1e-6 < relative(a, b) < 0.05
    exact = found[0] @ inception_state()["fc.weight"].T
    assert relative(found[1], exact) < 1e-5  # the logits are not computed in bfloat16


# ---- FID's weights file ----


def write_weights(path: Path, **changes: Tensor | None) -> Path:
    """The random weights as a file; `changes`, dots as double underscores, replace or remove."""
    state = dict(inception_state())
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    torch.save(state, path)
    return path


def test_weights_load_with_and_without_counters(inception_weights: Path, tmp_path: Path) -> None:
    images = random_images(1, 1, 28)
    expected = random_inception()(images)[0]
    without = load_inception(inception_weights)
    torch.save({**inception_state(), **counters(inception_state())}, tmp_path / "with.pth")
    for network in (without, load_features("inception", inception_path=tmp_path / "with.pth")):
        assert torch.equal(network(images)[0], expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Mixed_7c__branch_pool__bn__running_var": None}, "Mixed_7c.branch_pool.bn.running_var"),
        ({"AuxLogits__fc__bias": torch.zeros(3)}, "AuxLogits.fc.bias"),
        ({"fc__weight": torch.zeros(1000, 2048)}, "fc.weight"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_of_another_network(changes: dict, says: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.pth", **changes)
    with pytest.raises(InputError, match="does not hold FID's Inception weights") as refused:
        load_inception(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert says in str(refused.value)


def test_weights_that_are_none(inception_weights: Path, tmp_path: Path) -> None:
    whole = inception_weights.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("not weights\n" * 100)
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"state": Payload(tmp_path / "ran")}, tmp_path / "payload.pth")
    inflating(tmp_path / "bomb.pth", "bomb/data/0")
    (tmp_path / "folder.pth").mkdir()
    for name in "half text empty list payload bomb folder nowhere".split():
        with pytest.raises(InputError) as refused:
            load_inception(tmp_path / f"{name}.pth")
        message = str(refused.value)
        assert f"{name}.pth" in message and "\n" not in message
        assert "weights_only" not in message and "trust" not in message  # torch's own advice
    assert not (tmp_path / "ran").exists()


ServeWeights = Callable[[bytes], str]


@pytest.fixture
def serve_weights(serve: Serve, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> ServeWeights:
    """serve_weights(content): FID's weights come from this machine."""

    def start(content: bytes) -> str:
        url = serve(lambda handler: reply(handler, content, len(content))) + "weights.pth"
        monkeypatch.setattr(support.features, "INCEPTION_URL", url)
        return url

    return start


def test_mirror_with_wrong_bytes_leaves_no_file(serve_weights: ServeWeights) -> None:
    url = serve_weights(b"not the weights")
    with pytest.raises(InputError, match="wrong checksum") as refused:
        load_inception()
    assert url in str(refused.value) and "--inception_path" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not [path for path in user_cache().rglob("*") if path.is_file()]


def test_no_mirror_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(support.features, "INCEPTION_URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(InputError, match="--features classifier"):
        load_features("inception")


def test_weights_are_downloaded_once(
    serve_weights: ServeWeights, inception_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = inception_weights.read_bytes()
    serve_weights(content)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(support.features, "INCEPTION_SHA256", digest)
    images = random_images(1, 1, 28)
    first = load_inception()
    monkeypatch.setattr(support.features, "download", None)  # a second time would fail
    for network in (first, load_inception()):
        assert torch.equal(network(images)[0], random_inception()(images)[0])


# ---- classifiers ----


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_classifier_takes_any_images(channels: int, size: int, tmp_path: Path) -> None:
    torch.save(classifier_checkpoint(channels, size, label="some"), tmp_path / "classifier.pt")
    network = load_classifier(tmp_path / "classifier.pt")
    assert network.name.startswith("some classifier ") and network.distance == "FCD"
    for given in (1, 3):
        for pixels in (28, 32, 64):
            found, logits = network(random_images(2, given, pixels))
            assert found.shape == (2, 128) and logits.shape == (2, 10)
            assert found.dtype == logits.dtype == torch.float32
    assert 0.01 < found.square().mean().sqrt() < 100


def test_a_classifiers_name_tells_its_weights() -> None:
    """So that statistics saved through one are not compared through another of its label."""
    same, other = classifier_checkpoint(), classifier_checkpoint()
    other["state"] = other["state"] | {"linear.bias": other["state"]["linear.bias"] + 0.5}
    names = {ClassifierFeatures(content).name for content in (same, classifier_checkpoint(), other)}
    assert len(names) == 2


def test_classifier_sees_the_generators_range() -> None:
    """Its input is what to_float makes of uint8, and colour is its channels' mean."""
    network = random_classifier()
    images = random_images(2, 3, 28)
    floats = (images.float().mean(dim=1, keepdim=True) - 127.5) / 127.5
    with torch.no_grad():
        expected, logits = network.classifier(floats)
    assert relative(network(images)[0], expected) < 1e-5
    assert relative(network(images)[1], logits) < 1e-5


def test_images_of_another_size_are_made_to_fit() -> None:
    """Antialiased, in either direction; an oblong image as well."""
    network = random_classifier(1, 28)
    for height, width in ((64, 64), (28, 40), (9, 28)):
        images = random_images(2, 1, 64)[:, :, :height, :width]
        x = F.interpolate((images.float() - 127.5) / 127.5, 28, mode="bilinear", antialias=True)
        with torch.no_grad():
            expected, _ = network.classifier(x)
        assert relative(network(images)[0], expected) < 1e-5


def test_what_is_no_classifier(tmp_path: Path) -> None:
    good = classifier_checkpoint()
    torch.save(good, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no tensors\n")
    torch.save({**good, "state": {}}, tmp_path / "weightless.pt")
    torch.save({**good, "classes": ["a", "b"]}, tmp_path / "classes.pt")
    torch.save({**good, "classes": [[i] for i in range(10)]}, tmp_path / "unnamed.pt")
    torch.save({**good, "channels": 3}, tmp_path / "channels.pt")
    torch.save({name: good[name] for name in good if name != "label"}, tmp_path / "nameless.pt")
    torch.save([good], tmp_path / "list.pt")
    torch.save({**good, "label": Payload(tmp_path / "ran")}, tmp_path / "payload.pt")
    inflating(tmp_path / "bomb.pt", "bomb/data/0")
    torch.save({**good, "image_size": 10**9}, tmp_path / "size.pt")
    state = {**good["state"], "linear.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    torch.save({**good, "state": state}, tmp_path / "huge.pt")
    load_classifier(tmp_path / "good.pt")
    bad = (
        "half text weightless classes unnamed channels nameless list payload bomb size huge nowhere"
    )
    for name in bad.split():
        with pytest.raises(InputError) as refused:
            load_classifier(tmp_path / f"{name}.pt")
        message = str(refused.value)
        assert f"{name}.pt" in message and "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_which_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(support.features, "PRETRAINED", tmp_path)
    torch.save(classifier_checkpoint(label="m"), tmp_path / "classifier-mnist.pt")
    network = load_features("classifier", dataset="mnist")
    assert isinstance(network, ClassifierFeatures) and network.name.startswith("m ")
    with pytest.raises(InputError, match="--features inception"):
        load_features("classifier", dataset="cifar10")
    with pytest.raises(InputError, match="--dataset"):
        load_features("classifier")


@pytest.fixture(scope="module")
def shades(pictures: Path) -> Dataset:
    """The three classes of `pictures`, which differ in how bright they are."""
    return load_dataset("folder", pictures, 28)


def test_training_learns_and_repeats(shades: Dataset, tmp_path: Path, capsys: Capture) -> None:
    cpu = torch.device("cpu")
    networks = [train_classifier(shades, 5, seed, cpu) for seed in (0, 0, 1)]
    first, second, other = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert not networks[0].training
    content = pack_classifier(shades, "shades", networks[0])
    save_tensors(content, tmp_path / "new" / "classifier.pt")
    network = load_classifier(tmp_path / "new" / "classifier.pt")
    right = network(shades.test_images)[1].argmax(1) == shades.test_labels
    assert network.accuracy == right.double().mean()  # of the float16 weights, as they are loaded
    assert network.accuracy > 0.9
    assert f"{network.accuracy:.4f}" in capsys.readouterr().out
    assert network.classes == CLASSES
    assert (tmp_path / "new" / "classifier.pt").stat().st_size < 700_000


def test_a_folders_classifier_is_trained_once(
    shades: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu, path = torch.device("cpu"), path_of_classifier(shades)
    trained = classifier_for(shades, "shades", cpu)
    assert "training a classifier of shades" in capsys.readouterr().out
    assert path.is_relative_to(tmp_path) and load_classifier(path).name == trained.name
    with monkeypatch.context() as patch:
        patch.setattr(training.classifier, "train_classifier", None)  # a second time would fail
        assert classifier_for(shades, "shades", cpu).name == trained.name
    # Where it cannot be kept it is used all the same.
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert classifier_for(shades, "shades", cpu).name == trained.name
    assert "the next run trains the classifier again" in capsys.readouterr().err
    fewer = Dataset(
        "folder",
        shades.train_images[1:],
        shades.train_labels[1:],
        shades.test_images,
        shades.test_labels,
        shades.classes,
    )
    assert path_of_classifier(fewer) != path  # other images, another classifier
    renamed = replace(shades, name="folder", train_images=shades.train_images.flip(0))
    assert path_of_classifier(renamed) != path  # the same images under others' names
    for other in (
        replace(shades, train_labels=shades.train_labels.flip(0)),
        replace(shades, classes=shades.classes[::-1]),
    ):
        assert path_of_classifier(other) != path
    flat = Dataset("folder", *(shades.train_images, shades.train_labels) * 2, classes=())
    with pytest.raises(InputError, match="without classes"):
        classifier_for(flat, tmp_path, cpu)
    known = Dataset("mnist", *(shades.train_images, shades.train_labels) * 2, classes=CLASSES)
    assert path_of_classifier(known) == support.features.PRETRAINED / "classifier-mnist.pt"
    one = replace(known, classes=CLASSES[:1])  # of --classes: the published one knows it, too
    assert classifier_for(one, tmp_path, cpu).name.startswith("mnist classifier")


@pytest.mark.parametrize(
    ("least", "images", "epochs"), [(300, 105, 300), (300, 1290, 30), (20, 105, 20), (3, 105, 10)]
)
def test_a_small_folders_classifier_gets_steps_enough(
    least: int, images: int, epochs: int, shades: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def noted(*args: object) -> None:
        asked.append(args)
        raise InputError("enough")

    monkeypatch.setattr(training.classifier, "LEAST_STEPS", least)
    monkeypatch.setattr(training.classifier, "train_classifier", noted)
    some = torch.arange(images) % len(shades.train_images)
    dataset = replace(
        shades, train_images=shades.train_images[some] + 1, train_labels=shades.train_labels[some]
    )
    with pytest.raises(InputError, match="enough"):
        classifier_for(dataset, "shades", torch.device("cpu"))
    assert asked == [(dataset, epochs, 0, torch.device("cpu"))]


@pytest.mark.parametrize(
    ("features", "name", "classes", "expected"),
    [
        ("inception", "mnist", CLASSES, "inception"),
        ("classifier", "folder", CLASSES, "classifier"),
        (None, "folder", CLASSES, "classifier"),
        (None, "folder", CLASSES[:1], "inception"),
        (None, "folder", (), "inception"),
        (None, "mnist", CLASSES[:1], "classifier"),
        ("none", "mnist", CLASSES, None),
    ],
)
def test_the_network_that_a_run_asks_for(
    features: str | None,
    name: str,
    classes: tuple[str, ...],
    expected: str | None,
    shades: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    found: dict[Any, Any] = {"inception": nn.Identity(), "classifier": nn.Identity(), None: None}
    asked: list[tuple[object, ...]] = []

    def stand_in(kind: str) -> Callable[..., nn.Module]:
        def load(*args: object) -> nn.Module:
            asked.append(args)
            return found[kind]

        return load

    monkeypatch.setattr(training.classifier, "load_inception", stand_in("inception"))
    monkeypatch.setattr(training.classifier, "classifier_for", stand_in("classifier"))
    args = argparse.Namespace(features=features, inception_path="weights", data_dir="pictures")
    dataset, cpu = replace(shades, name=name, classes=classes), torch.device("cpu")
    network = training.classifier.feature_network(args, dataset, cpu)
    assert network is found[expected]
    given: dict[Any, Any] = {
        "inception": [("weights",)],
        "classifier": [(dataset, "pictures", cpu)],
    }
    assert asked == given.get(expected, [])
    said = features is None and expected == "inception"
    assert ("slow on a CPU" in capsys.readouterr().out) == said


def test_the_steps_of_a_classifiers_training(
    shades: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """One cycle of the rate over all steps; images shifted, and mirrored, but no digits."""
    seen: list[Tensor] = []
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noted(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(images)
        features = images.mean((2, 3)).expand(-1, 128)  # its own take seconds
        return features, network.linear(features)

    def stepped(optimizer: torch.optim.SGD, *args: Any) -> None:
        (group,) = optimizer.param_groups
        assert group["nesterov"] and group["weight_decay"] == 5e-4
        rates.append(group["lr"])
        step(optimizer, *args)

    monkeypatch.setattr(Classifier, "forward", noted)
    monkeypatch.setattr(torch.optim.SGD, "step", stepped)
    cpu, count = torch.device("cpu"), len(shades.train_images)
    twice = replace(
        shades,
        train_images=shades.train_images.repeat(3, 1, 1, 1),
        train_labels=shades.train_labels.repeat(3),
    )
    for name in ("mnist", "folder"):
        train_classifier(replace(twice, name=name), 6, 3, cpu)
        assert len(rates) == len(seen) == 12 and 3 * count // 128 == 2
        assert max(rates) == pytest.approx(0.1, rel=0.05) and rates[-1] < 1e-4 < rates[0] < 0.01
        shifts = set()
        for number, images in enumerate(seen):
            mirrored = name != "mnist"
            batches = Batches(twice.train_images, twice.train_labels, 128, 3, cpu, mirrored)
            given = batches[number][0]
            (shift,) = [
                (y, x)
                for y in range(-2, 3)
                for x in range(-2, 3)
                if torch.equal(given.roll((y, x), (2, 3)), images)
            ]
            shifts.add(shift)
        assert len(shifts) > 6
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in lines] == [f"{i}/6" for i in range(1, 7)]
        seen.clear()
        rates.clear()


def test_command(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path = tmp_path / "classifier.pt"
    data = ["--dataset", "folder", "--data_dir", str(pictures), "--image_size", "28"]
    rest = ["--epochs", "1", "--label", "shades", "--save_path", str(path), "--device", "cpu"]
    training.classifier.main([*data, *rest])
    assert str(path) in capsys.readouterr().out
    assert load_classifier(path).name.startswith("shades classifier ")
    train, asked = training.classifier.train_classifier, []

    def noted(*args: Any) -> Classifier:
        asked.append(args)
        return train(args[0], 1, *args[2:])

    monkeypatch.setattr(training.classifier, "train_classifier", noted)
    few = tmp_path / "few.pt"
    training.classifier.main([*data, "--save_path", str(few), "--seed", "5", "--epochs", "7"])
    ((dataset, *rest),) = asked
    assert rest[:2] == [7, 5] and dataset.image_size == 28
    with monkeypatch.context() as patch:
        patch.setattr(
            training.classifier, "load_dataset", lambda *_: replace(dataset, name="mnist")
        )
        patch.setattr(training.classifier, "PRETRAINED", tmp_path)
        training.classifier.main(["--dataset", "mnist", "--device", "cpu"])
    assert load_classifier(tmp_path / "classifier-mnist.pt").name.startswith("mnist classifier ")
    assert "--save_path" in refusal(training.classifier.main, data, capsys)
    data += ["--save_path", str(tmp_path / "another.pt")]
    for argv, says in (
        (["--dataset", "imagenet"], "--dataset"),
        ([*data, "--data_dir", str(tmp_path / "nowhere")], "nowhere"),
        ([*data, "--device", "toaster"], "--device toaster"),
        ([*data, "--epochs", "0"], "--epochs"),
        ([*data, "--seed", "-1"], "--seed"),
        ([*data, "--data_dir", str(pictures / "train" / CLASSES[0])], "no classes"),
    ):
        assert says in refusal(training.classifier.main, argv, capsys)


# ---- against other projects, and the committed weights ----


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")
def test_features_are_those_of_pytorch_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fed as its own command feeds it: floats in [0, 1], which it resizes and maps to [-1, 1]."""
    from pytorch_fid import inception as theirs

    state = {**inception_state(), **counters(inception_state())}
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: state)
    network = theirs.InceptionV3([theirs.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    for channels, size in KINDS:
        images = random_images(4, channels, size)
        with torch.no_grad():
            rgb = images.repeat(1, 3 // channels, 1, 1)
            expected = network(rgb.float() / 255)[0].flatten(1)
        found, _ = random_inception()(images)
        assert 0.1 < expected.square().mean().sqrt() < 10
        assert relative(found, expected) < 1e-5, (channels, size)
        each = (found - expected).norm(dim=1) / expected.norm(dim=1)
        assert each.max() < 1e-5, (channels, size)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")
def test_features_and_logits_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    """Its first layer is fed our floats: its own are resized as TensorFlow 1 does, / 128 - 1."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({**inception_state(), **counters(inception_state())}, tmp_path / "weights.pth")
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
    )
    for channels, size in KINDS:
        images = random_images(4, channels, size)
        hook = network.Conv2d_1a_3x3.register_forward_pre_hook(
            lambda _, inputs, images=images: (preprocessed(images),)
        )
        with torch.no_grad():
            expected = network(torch.zeros(4, 3, 299, 299, dtype=torch.uint8))
        hook.remove()
        for a, b in zip(random_inception()(images), expected, strict=True):
            assert relative(a, b) < 1e-5, (channels, size)


@pytest.mark.data
def test_committed_classifier_of_fashion_mnist() -> None:
    network = load_features("classifier", "fashion_mnist")
    assert isinstance(network, ClassifierFeatures)
    dataset = load_dataset("fashion_mnist")
    logits = torch.cat([network(images)[1] for images in dataset.test_images.split(500)])
    accuracy = (logits.argmax(1) == dataset.test_labels).double().mean().item()
    assert accuracy >= 0.93
    assert abs(accuracy - network.accuracy) < 2e-4  # what is stated, but for rounding
    assert network.classes == dataset.classes


def test_committed_classifiers_are_plain_and_small() -> None:
    """Where there are any: a checkout has them."""
    for path in support.features.PRETRAINED.glob("classifier-*.pt"):
        network = load_classifier(path)
        assert 0 < network.accuracy <= 1
        assert len(network.classes) == 10
        assert path.stat().st_size < 1_000_000
