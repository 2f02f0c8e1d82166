"""data.py and sources.py: where files come from, what is refused, folders, and batches."""

from support.command import InputError, exit_on_input_error

import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST, ImageFolder

import support.download
import support.features
from data import Batches, class_index, labels_as_in, load_dataset
from support import folders
from support.features import classifier_for
from support.files import user_cache
from support.images import to_float, to_uint8
from tests.stand_ins import Payload


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No mirror, no system copy, no apt and a private cache folder, unless a test brings one."""
    monkeypatch.setattr(MNIST, "mirrors", [])
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setattr(support.download, "SYSTEM_FOLDERS", {})
    monkeypatch.setattr(support.download.shutil, "which", lambda command: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# ---- IDX files ----


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def idx_files(seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (40, 20):
        arrays.append(rng.integers(0, 256, (n, 28, 28), np.uint8))
        arrays.append((np.arange(n) % 10).astype(np.uint8))
    arrays[1][0] = seed  # the label files of two sets differ, as the real ones do
    return dict(zip(support.download.IDX_FILES, map(idx, arrays), strict=True))


FILES = {"mnist": idx_files(1), "fashion_mnist": idx_files(2)}


def digests_of(sets: dict[str, dict[str, bytes]]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(hashlib.sha256(content).hexdigest() for content in contents.values())
        for name, contents in sets.items()
    }


@pytest.fixture(autouse=True)
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support.download, "IDX_SHA256", digests_of(FILES))


def write_idx(folder: Path, name: str = "mnist", gz: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in FILES[name].items():
        if gz:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)
    return folder


def expected_images(name: str) -> torch.Tensor:
    content = bytearray(FILES[name]["train-images-idx3-ubyte"][16:])
    return torch.frombuffer(content, dtype=torch.uint8).view(-1, 1, 28, 28)


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw"])
def test_idx_files_are_found_in_every_layout(tmp_path: Path, place: str, gz: bool) -> None:
    write_idx(tmp_path / place, gz=gz)
    dataset = load_dataset("mnist", tmp_path)
    assert torch.equal(dataset.train_images, expected_images("mnist"))
    assert dataset.train_labels.tolist() == [1] + [i % 10 for i in range(1, 40)]
    assert dataset.train_labels.dtype == torch.int64
    assert dataset.test_images.shape == (20, 1, 28, 28) and dataset.test_labels.shape == (20,)
    assert (dataset.channels, dataset.image_size) == (1, 28)
    assert dataset.classes == tuple("0123456789")


def test_data_dir_goes_before_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = write_idx(tmp_path / "system", "fashion_mnist")
    monkeypatch.setattr(support.download, "SYSTEM_FOLDERS", {"fashion_mnist": system})
    assert len(load_dataset("fashion_mnist", tmp_path / "none").train_images) == 40
    broken = tmp_path / "dir" / "train-images-idx3-ubyte.gz"
    broken.parent.mkdir()
    broken.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(InputError, match="dir/train-images.*corrupt.*replace"):
        load_dataset("fashion_mnist", tmp_path / "dir")


@pytest.mark.parametrize("damage", ["cut", "flipped", "raw cut", "empty"])
def test_a_corrupt_file_is_an_error_and_not_skipped(tmp_path: Path, damage: str) -> None:
    write_idx(tmp_path / "mnist")  # a good copy in a later place does not hide it
    file = write_idx(tmp_path, gz=damage != "raw cut") / "t10k-images-idx3-ubyte"
    file = file if file.exists() else file.with_suffix(".gz")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    file.write_bytes(b"" if damage == "empty" else content[:-9] if "cut" in damage else content)
    with pytest.raises(InputError, match=str(file)):
        load_dataset("mnist", tmp_path)


def test_the_other_sets_files_in_data_dir_are_absent(tmp_path: Path) -> None:
    write_idx(tmp_path, "fashion_mnist")
    write_idx(tmp_path / "mnist", "mnist")
    assert torch.equal(load_dataset("mnist", tmp_path).train_images, expected_images("mnist"))
    write_idx(tmp_path / "mnist", "fashion_mnist")  # but in a folder named mnist they are wrong
    with pytest.raises(InputError, match="corrupt"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"\0\0\x09\x01\0\0\0\x01x", b"\0\0\x08\x01\0\0\0\x02x", b"\0\0\x08\x01\0\0\0\x01xx"],
    ids=["type", "too short", "too long"],
)
def test_idx_header_must_fit_its_data(content: bytes) -> None:
    with pytest.raises(InputError, match="IDX"):
        support.download._parse_idx(content)
    assert support.download._parse_idx(b"\0\0\x08\x01\0\0\0\x01x").tolist() == [ord("x")]


def test_classes_are_kept_and_relabelled_in_order(tmp_path: Path) -> None:
    write_idx(tmp_path, "fashion_mnist")
    dataset = load_dataset("fashion_mnist", tmp_path, classes="bag, TROUSER,8,3")
    assert dataset.classes == ("Trouser", "Dress", "Bag")
    assert dataset.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    whole = load_dataset("fashion_mnist", tmp_path)
    assert torch.equal(dataset.test_images, whole.test_images[[1, 3, 8, 11, 13, 18]])
    with pytest.raises(InputError, match="'sofa'.*9 Ankle boot"):
        load_dataset("fashion_mnist", tmp_path, classes="bag,sofa")


def test_image_size_resizes_and_keeps_the_mean(tmp_path: Path) -> None:
    write_idx(tmp_path)
    native, large = load_dataset("mnist", tmp_path), load_dataset("mnist", tmp_path, 64)
    assert large.train_images.shape == (40, 1, 64, 64) and large.train_images.dtype == torch.uint8
    assert large.image_size == 64
    assert abs(large.train_images.float().mean() - native.train_images.float().mean()) < 1
    with pytest.raises(InputError, match="--image_size 30.*28, 32, 64, 128"):
        load_dataset("mnist", tmp_path, 30)


def test_unknown_data_set_lists_the_known() -> None:
    with pytest.raises(InputError, match="mnist, fashion_mnist, cifar10, folder"):
        load_dataset("imagenet")


def test_class_index() -> None:
    assert class_index(("b", "a"), "A") == 1
    assert class_index(("b", "a"), 0) == 0
    assert class_index(("1", "0"), "0") == 1, "a name goes before a number"
    assert class_index(("a", "A"), "A") == 1, "the exact spelling goes first"
    assert class_index((" b", "b"), " b") == 0, "blanks may belong to it"
    for wrong in ("c", "2", "-1", "", "1.0", "9" * 5000):
        with pytest.raises(InputError, match="0 b, 1 a"):
            class_index(("b", "a"), wrong)
    with pytest.raises(InputError, match="no classes"):
        class_index((), "0")


def test_input_error_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info, exit_on_input_error():
        raise InputError("first\nsecond")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: first second\n"


# ---- mirrors ----


@pytest.fixture
def serve() -> Iterator[Callable[[Callable], str]]:
    """Start a server whose GET is the given function; returns its address."""
    servers = []

    def start(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            do_GET = respond

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


BODIES = {f"{file}.gz": gzip.compress(content) for file, content in FILES["mnist"].items()}


def mirror_good(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = BODIES[handler.path.strip("/")]
    reply(handler, body, len(body))


def mirror_half(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = BODIES[handler.path.strip("/")]
    reply(handler, body[: len(body) // 2], len(body))


def mirror_promises_half(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = BODIES[handler.path.strip("/")]
    reply(handler, body, len(body) // 2)


def mirror_half_without_length(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = BODIES[handler.path.strip("/")]
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])


def mirror_half_in_chunks(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"100\r\n" + BODIES[handler.path.strip("/")][:100])
    handler.close_connection = True


def mirror_resets(handler: http.server.BaseHTTPRequestHandler) -> None:
    reply(handler, b"\x1f\x8b", 1000)
    no_goodbye = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_goodbye)
    handler.connection.close()


def mirror_stalls(handler: http.server.BaseHTTPRequestHandler) -> None:
    reply(handler, b"\x1f\x8b", 1000)
    time.sleep(1)


def mirror_drips(handler: http.server.BaseHTTPRequestHandler) -> None:
    reply(handler, b"\x1f", 1000)
    try:
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        pass  # given up: what is asked for


def mirror_refuses(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_error(403)


def mirror_wrong(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = gzip.compress(b"<html>moved</html>")
    reply(handler, body, len(body))


every_failure = pytest.mark.parametrize(
    "bad",
    [
        *(mirror_half, mirror_promises_half, mirror_half_without_length, mirror_half_in_chunks),
        *(mirror_resets, mirror_stalls, mirror_drips, mirror_refuses, mirror_wrong),
    ],
)


@every_failure
def test_a_bad_mirror_leaves_nothing_and_the_next_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable, bad: Callable
) -> None:
    monkeypatch.setattr(support.download, "TIMEOUT", 0.3)
    address = serve(bad)
    monkeypatch.setattr(MNIST, "mirrors", [address])
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        load_dataset("mnist", tmp_path)
    assert time.monotonic() - start < 3, "given up, and not asked for each of the four files"
    message = str(error.value)
    assert address in message and "put train-images-idx3-ubyte" in message
    assert "\n" not in message
    assert list((tmp_path / "mnist").iterdir()) == []

    monkeypatch.setattr(MNIST, "mirrors", [address, serve(mirror_good)])
    assert torch.equal(load_dataset("mnist", tmp_path).train_images, expected_images("mnist"))
    names = sorted(path.name for path in (tmp_path / "mnist").iterdir())
    assert names == sorted(f"{file}.gz" for file in support.download.IDX_FILES)
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert len(load_dataset("mnist", tmp_path).train_images) == 40, "found there afterwards"


def test_only_what_is_missing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable
) -> None:
    asked = []

    def good(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        mirror_good(handler)

    monkeypatch.setattr(MNIST, "mirrors", [serve(good)])
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    load_dataset("mnist", tmp_path)
    assert asked == ["/t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_dir_that_cannot_be_written_is_a_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.*--data_dir"):
        load_dataset(name, tmp_path / "file" / "data")


# ---- Debian's package ----


def write_apt(folder: Path, script: str) -> Path:
    """A stand-in for the command apt-get, alone in a folder of its own."""
    command = folder / "bin" / "apt-get"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n" + script)
    command.chmod(0o755)
    return command


def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder = write_apt(tmp_path, script).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(support.download.shutil, "which", REAL_WHICH)


def build_package(folder: Path) -> Path:
    """Debian's package with the small Fashion-MNIST in it."""
    tree = folder / "tree"
    write_idx(tree / "usr/share/datasets/fashion-mnist", "fashion_mnist")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Test <test@example.org>\nDescription: test\n"
    )
    built = folder / "dataset-fashion-mnist_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, built], check=True, capture_output=True)
    return built


REAL_WHICH = shutil.which
needs_dpkg = pytest.mark.skipif(REAL_WHICH("dpkg-deb") is None, reason="dpkg-deb is not here")


@needs_dpkg
@pytest.mark.parametrize("lists", ["full", "empty"])
def test_debian_package_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: str
) -> None:
    built = build_package(tmp_path)
    # With empty lists, apt-get finds the package only after an update of lists of our own.
    fake_apt(
        tmp_path,
        monkeypatch,
        f'echo "$*" >> {tmp_path}/calls\n'
        'case "$*" in\n'
        "*update*) exit 0 ;;\n"
        f'*) if [ {lists} = empty ]; then case "$*" in *Dir::State*) ;;\n'
        '*) echo "E: Unable to locate package"; exit 100 ;; esac; fi\n'
        f"cp {built} . ;;\nesac\n",
    )
    dataset = load_dataset("fashion_mnist", tmp_path / "data")
    assert torch.equal(dataset.train_images, expected_images("fashion_mnist"))
    assert len((tmp_path / "calls").read_text().splitlines()) == (1 if lists == "full" else 3)
    names = sorted(path.name for path in (tmp_path / "data/fashion_mnist").iterdir())
    assert names == sorted(f"{file}.gz" for file in support.download.IDX_FILES)


@needs_dpkg
def test_failing_apt_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_apt(tmp_path, monkeypatch, 'echo "W: a warning"; echo "E: no such package" >&2; exit 100')
    with pytest.raises(InputError, match="E: no such package.*apt-get install") as error:
        load_dataset("fashion_mnist", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "data/fashion_mnist").iterdir()) == []


# ---- CIFAR-10 ----


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its str, which is how CIFAR-10's files were made."""

    def save_bytes(self, obj: bytes) -> None:
        self.write(pickle.BINSTRING + len(obj).to_bytes(4, "little") + obj)  # type: ignore

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}  # type: ignore


def python2_pickle(batch: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(batch)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, first: object = None) -> np.ndarray:
    """Six batches of 5 images, their checksums made the known ones; returns the first images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 3072), np.uint8)
    listing = []
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {"data": images[i], "labels": [i] * 5}
        content = python2_pickle(first if first is not None and i == 0 else batch)
        (folder / name).write_bytes(content)
        listing.append([name, hashlib.md5(content).hexdigest()])
    monkeypatch.setattr(CIFAR10, "train_list", listing[:5])
    monkeypatch.setattr(CIFAR10, "test_list", listing[5:])
    return images[0].reshape(5, 3, 32, 32)


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py", "."])
def test_cifar10_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    first = write_cifar(tmp_path / "data" / place, monkeypatch)
    dataset = load_dataset("cifar10", tmp_path / "data")
    assert dataset.train_images.shape == (25, 3, 32, 32) and dataset.channels == 3
    assert np.array_equal(dataset.train_images[:5].numpy(), first)
    assert dataset.train_labels.tolist() == [i for i in range(5) for _ in range(5)]
    assert dataset.test_labels.tolist() == [5] * 5
    assert dataset.classes[0] == "airplane" and len(dataset.classes) == 10


def test_cifar10_payload_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder, monkeypatch, {"data": Payload(tmp_path / "ran"), "labels": []})
    with pytest.raises(InputError, match="data_batch_1.*mkdir"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_cifar10_checksum_and_missing_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder, monkeypatch)
    with open(folder / "data_batch_3", "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="data_batch_3.*checksum"):
        load_dataset("cifar10", tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(InputError, match="data_batch_3 is missing"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "lacking", "link", "huge"])
def test_cifar10_archive_with_a_forged_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        name = "elsewhere" if damage == "lacking" else "data_batch_1"
        entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
        entry.type = tarfile.SYMTYPE if damage == "link" else tarfile.REGTYPE
        entry.size, entry.linkname = {"huge": 1 << 40, "cut": 100}.get(damage, 0), "/etc/passwd"
        tar.addfile(entry)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="cifar-10-python.tar.gz is not CIFAR-10's archive"):
        load_dataset("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    write_idx(tmp_path)
    zeros = gzip.compress(bytes(1 << 24))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(zeros * 640)  # 10 GB
    start = time.monotonic()
    with pytest.raises(InputError, match="train-images.*corrupt"):
        load_dataset("mnist", tmp_path)
    assert time.monotonic() - start < 10, "given up at the size that it should have"


@pytest.mark.parametrize("downloaded", [True, False])
def test_cifar10_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable, downloaded: bool
) -> None:
    source = tmp_path / "source" / "cifar-10-batches-py"
    first = write_cifar(source, monkeypatch)
    (source / "unexpected").write_text("not asked for")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(source, source.name)
    body = buffer.getvalue()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(body).hexdigest())
    target = tmp_path / "data"
    if downloaded:
        address = serve(lambda handler: reply(handler, body, len(body)))
        monkeypatch.setattr(CIFAR10, "url", address + CIFAR10.filename)
    else:
        target.mkdir()
        (target / CIFAR10.filename).write_bytes(body)
    assert np.array_equal(load_dataset("cifar10", target).train_images[:5].numpy(), first)
    files = {path.name for path in (target / "cifar-10-batches-py").iterdir()}
    assert files == {*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"}


def test_cifar10_unpacked_by_two_runs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source" / CIFAR10.base_folder, tmp_path / "target"
    write_cifar(source, monkeypatch)
    target.mkdir()
    with tarfile.open(target / CIFAR10.filename, "w:gz") as tar:
        tar.add(source, source.name)
    archive = (target / CIFAR10.filename).read_bytes()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive).hexdigest())
    tar_open = tarfile.open

    def open_when_the_other_is_done(path: Path) -> tarfile.TarFile:
        shutil.copytree(source, target / source.name)
        return tar_open(path)

    monkeypatch.setattr(support.download.tarfile, "open", open_when_the_other_is_done)
    assert len(load_dataset("cifar10", target).train_images) == 25
    assert {path.name for path in target.iterdir()} == {CIFAR10.filename, source.name}


@every_failure
def test_a_bad_server_leaves_no_archive_and_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable, bad: Callable
) -> None:
    monkeypatch.setattr(support.download, "TIMEOUT", 0.3)
    source, target = tmp_path / "source" / CIFAR10.base_folder, tmp_path / "target"
    first = write_cifar(source, monkeypatch)
    with tarfile.open(tmp_path / CIFAR10.filename, "w:gz") as tar:
        tar.add(source, source.name)
    archive = (tmp_path / CIFAR10.filename).read_bytes()
    weights = target / "cache" / support.features.INCEPTION_URL.rpartition("/")[2]
    monkeypatch.setitem(BODIES, CIFAR10.filename, archive)
    monkeypatch.setitem(BODIES, weights.name, archive)  # any bytes with the known checksum
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(support.features, "INCEPTION_SHA256", hashlib.sha256(archive).hexdigest())
    for respond in (bad, mirror_good):
        address = serve(respond)
        monkeypatch.setattr(CIFAR10, "url", address + CIFAR10.filename)
        monkeypatch.setattr(support.features, "INCEPTION_URL", address + weights.name)
        if respond is bad:
            with pytest.raises(InputError, match=f"cannot be fetched.*{address}"):
                load_dataset("cifar10", target)
            with pytest.raises(InputError, match=f"cannot be fetched.*{address}"):
                support.features.fetch_inception(weights)
            assert [path for path in target.rglob("*") if path != weights.parent] == []
    assert np.array_equal(load_dataset("cifar10", target).train_images[:5].numpy(), first)
    support.features.fetch_inception(weights)
    assert weights.read_bytes() == archive


def test_cifar10_without_a_source_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cifar10 is not in.*refused.*cifar-10-batches-py there"):
        load_dataset("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- folders ----


def save(path: Path, colour: object = 100, mode: str = "L", size: tuple = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]
    return path


def flat(folder: Path, count: int = 20, kind: str = "png", **options: object) -> Path:
    for i in range(count):
        save(folder / f"{i:02}.{kind}", **options)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("size", [28, 32, 64, 128, None])
def test_flat_folder_at_every_size(tmp_path: Path, size: int | None) -> None:
    dataset = load_dataset("folder", flat(tmp_path), size)
    assert dataset.train_images.shape == (18, 1, size or 64, size or 64)
    assert dataset.test_images.shape == (2, 1, size or 64, size or 64)
    assert dataset.train_images.unique().tolist() == [100]
    assert dataset.classes == () and dataset.train_labels.tolist() == [0] * 18


def test_one_colour_image_makes_three_channels(tmp_path: Path) -> None:
    flat(tmp_path, 3)
    assert load_dataset("folder", tmp_path, 28).channels == 1
    save(tmp_path / "z.png", (255, 0, 0), "RGB")
    dataset = load_dataset("folder", tmp_path, 28)
    images = torch.cat([dataset.train_images, dataset.test_images])
    pixels = sorted(image[:, 0, 0].tolist() for image in images)
    assert pixels == [[100] * 3] * 3 + [[255, 0, 0]]


def test_class_folders(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "dog" / f"{i}.png", 10)
        save(tmp_path / "cat" / "deeper" / f"{i}.jpg", 20)
        save(tmp_path / "ant" / f"{i}.bmp", 30)
    dataset = load_dataset("folder", tmp_path, 32)
    assert dataset.classes == ("ant", "cat", "dog")
    assert len(dataset.train_images) == 27 and len(dataset.test_images) == 3
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert torch.equal(30 - 10 * labels, images[:, 0, 0, 0].long())
    some = load_dataset("folder", tmp_path, 32, classes="dog,0")
    assert some.classes == ("ant", "dog")
    assert len(some.train_images) + len(some.test_images) == 20
    assert torch.equal(30 - 20 * some.train_labels, some.train_images[:, 0, 0, 0].long())
    with pytest.raises(InputError, match="'cow'.*0 ant, 1 cat, 2 dog"):
        load_dataset("folder", tmp_path, classes="cow")


def test_each_class_is_on_both_sides(tmp_path: Path) -> None:
    """A tenth of each is held out, of a small one an image, and of a single image nothing."""
    for name, number in (("a", 30), ("b", 2), ("c", 1)):
        flat(tmp_path / name, number)
    dataset = load_dataset("folder", tmp_path, 28)
    assert dataset.train_labels.bincount().tolist() == [27, 1, 1]
    assert dataset.test_labels.bincount(minlength=3).tolist() == [3, 1, 0]


def test_a_class_is_parted_alike_whatever_others_there_are(tmp_path: Path) -> None:
    for name, colour in (("a", 0), ("b", 100)):
        for i in range(20):
            save(tmp_path / name / f"{i:02}.png", colour + i)
    both, one = (load_dataset("folder", tmp_path, 28, classes=c) for c in (None, "b"))
    alike = both.test_images[both.test_labels == 1]
    assert len(alike) == 2 and torch.equal(alike, one.test_images)


def test_class_names_with_commas_and_blanks(tmp_path: Path) -> None:
    """They cannot be told apart in --classes; a checkpoint's list of them can."""
    names = (" c", "cats, dogs")
    for name in (*names, "other"):
        flat(tmp_path / name, 2)
    assert load_dataset("folder", tmp_path, 28, classes=names).classes == names


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", os.fsdecode(b"\xff")])
def test_class_names_are_text(tmp_path: Path, name: str) -> None:
    """They are printed, drawn and sent to browsers."""
    flat(tmp_path / "plain", 2)
    flat(tmp_path / name, 2)
    with pytest.raises(InputError, match="give it a name of plain text"):
        load_dataset("folder", tmp_path, 28)


def test_class_names_of_any_language(tmp_path: Path) -> None:
    names = ("a b", "x" * 255, "\u5168\u3000\u89d2")  # the last with a full-width space
    for name in names:
        flat(tmp_path / name, 2)
    dataset = load_dataset("folder", tmp_path, 28, classes=f"{names[2]},{names[0]}")
    assert dataset.classes == (names[0], names[2])


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    flat(tmp_path / "all" / "cat", 3)
    flat(tmp_path / "all" / "dog", 3)
    (tmp_path / "all" / "cat" / "more").symlink_to(tmp_path / "all" / "dog")
    dataset = load_dataset("folder", tmp_path / "all", 28)
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    assert labels.bincount().tolist() == [6, 3]


def test_one_class_folder_is_one_class(tmp_path: Path) -> None:
    flat(tmp_path / "train" / "cat", 3)  # "train" alone is a split, so its folder is the class
    assert load_dataset("folder", tmp_path).classes == ("cat",)
    flat(tmp_path / "bus", 3)  # beside another name, "train" is a class
    assert load_dataset("folder", tmp_path).classes == ("bus", "train")


def test_classes_of_a_flat_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no classes"):
        load_dataset("folder", flat(tmp_path, 3), classes="0")


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_train_and_test_folders_are_the_splits(held_out: str, tmp_path: Path) -> None:
    for name, colour in (("a", 10), ("b", 20)):
        for i in range(3):
            save(tmp_path / "train" / name / f"{i}.png", colour)
        save(tmp_path / held_out / name / "0.png", colour + 100)
    dataset = load_dataset("folder", tmp_path, 28)
    assert dataset.train_images[:, 0, 0, 0].tolist() == [10] * 3 + [20] * 3
    assert dataset.train_labels.tolist() == [0] * 3 + [1] * 3
    assert dataset.test_images[:, 0, 0, 0].tolist() == [110, 120]
    save(tmp_path / held_out / "c" / "0.png")
    with pytest.raises(InputError, match="different classes.*c"):
        load_dataset("folder", tmp_path, 28)


def test_images_are_upright_on_white_and_cropped_to_the_centre(tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    picture = Image.new("RGB", (60, 40))  # stored sideways: its left half, red, belongs on top
    picture.paste((255, 0, 0), (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    train.mkdir()
    picture.save(train / "0-exif.png", exif=exif)
    save(train / "1-clear.png", (0, 0, 0, 0), "RGBA")
    wide = Image.new("RGB", (300, 100), (0, 0, 255))
    wide.paste((0, 255, 0), (100, 0, 200, 100))
    wide.save(train / "2-wide.png")
    Image.fromarray(np.full((9, 9), 0x8000, np.uint16)).save(train / "3-deep.png")
    save(train / "4-palette.gif", 3, "P")
    save(test / "0.png")
    images = load_dataset("folder", tmp_path, 28).train_images
    # clockwise by 90 degrees, the left half comes to lie on top
    assert images[0, 0, 3, 14] > 250 and images[0, 0, 25, 14] < 5
    assert images[1].unique().tolist() == [255]
    assert images[2, :, 14, 5].tolist() == images[2, :, 14, 22].tolist() == [0, 255, 0]
    assert images[3].unique().tolist() == [128]
    assert len(images) == 5


def test_large_jpeg_is_close_to_its_full_decoding(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 800).astype(np.uint8), (800, 1))
    for name in ("a.jpg", "b.png"):
        Image.fromarray(ramp).save(tmp_path / name)
    dataset = load_dataset("folder", tmp_path, 28)
    difference = dataset.train_images.float() - dataset.test_images.float()
    assert difference.abs().max() <= 3


def test_cache_is_used_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = folders._decode

    def counting(path: Path, channels: int, size: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, channels, size)

    monkeypatch.setattr(folders, "_decode", counting)
    images, cache = flat(tmp_path / "images", 5), user_cache()
    first = load_dataset("folder", images, 28)
    assert len(decoded) == 5 and len(list(cache.iterdir())) == 1
    again = load_dataset("folder", images, 28)
    assert len(decoded) == 5, "read from the cache"
    assert torch.equal(first.train_images, again.train_images)
    again.train_images.zero_()  # a private map: the file does not change
    assert torch.equal(first.train_images, load_dataset("folder", images, 28).train_images)
    load_dataset("folder", images, 32)
    assert len(decoded) == 10 and len(list(cache.iterdir())) == 2, "another size"
    os.utime(images / "03.png", ns=(1, 1))
    load_dataset("folder", images, 28)
    assert len(decoded) == 15, "a file's time changed"
    save(images / "new.png", 7)
    assert len(load_dataset("folder", images, 28).train_images) == 5
    assert len(decoded) == 21, "a file more"
    assert len(list(cache.iterdir())) == 2, "caches of files that have changed are removed"
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    load_dataset("folder", images, 28)
    assert len(decoded) == 27, "a cache file that is cut is made again"
    assert sorted(path.suffix for path in images.rglob("*")) == [".png"] * 6


def repack(folder: Path, colour: int) -> None:
    """Overwrite the images of a folder from an archive that keeps names, sizes and times."""
    archive = folder.parent / f"{colour}.tar"
    flat(folder.parent / str(colour), 10, colour=colour, kind="bmp")
    with tarfile.open(archive, "w") as tar:
        for path in sorted((folder.parent / str(colour)).iterdir()):
            os.utime(path, (1e9, 1e9))
            tar.add(path, path.name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def test_files_that_keep_their_sizes_and_times_are_decoded_again(tmp_path: Path) -> None:
    """By an archive that is unpacked over them, by rsync -a, or by a change of names."""
    folder = tmp_path / "images"
    repack(folder, 0)
    assert load_dataset("folder", folder, 28).train_images.unique().tolist() == [0]
    repack(folder, 255)
    assert load_dataset("folder", folder, 28).train_images.unique().tolist() == [255]
    path = folder / "04.bmp"
    before, state = path.read_bytes(), path.stat()
    path.write_bytes(before[:-600] + bytes(600))  # in place, and its time set back
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    dataset = load_dataset("folder", folder, 28)
    assert min(int(x.min()) for x in (dataset.train_images, dataset.test_images)) < 255

    classes = tmp_path / "classes"
    for name, colour in (("dark", 10), ("light", 200)):
        flat(classes / name, 4, colour=(colour,) * 3, kind="ppm", mode="RGB")
        for path in (classes / name).iterdir():
            os.utime(path, (1e9, 1e9))
    for dark in (10, 200):  # the second time, the two have changed places
        dataset = load_dataset("folder", classes, 28)
        seen = dataset.train_images[dataset.train_labels == 0].unique().tolist()
        assert seen == [dark]
        for old, new in (("dark", "x"), ("light", "dark"), ("x", "light")):
            (classes / old).rename(classes / new)


def test_folders_of_equal_names_sizes_and_times_do_not_meet(tmp_path: Path) -> None:
    for colour in (7, 9):
        folder = flat(tmp_path / str(colour) / "images", 3, colour=colour, kind="bmp")
        for path in folder.iterdir():
            os.utime(path, (1e9, 1e9))
    for colour in (7, 9, 7):
        dataset = load_dataset("folder", tmp_path / str(colour) / "images", 28)
        assert dataset.train_images.unique().tolist() == [colour]


def test_nothing_is_written_into_the_users_folder(tmp_path: Path) -> None:
    """torchvision's ImageFolder, which takes every folder for a class, reads it as before."""
    for name in "ab":
        flat(tmp_path / "images" / name, 6)
    before = sorted((tmp_path / "images").rglob("*"))
    dataset = load_dataset("folder", tmp_path / "images", 28)
    classifier_for(dataset, tmp_path / "images", torch.device("cpu"))
    assert sorted((tmp_path / "images").rglob("*")) == before
    assert len(ImageFolder(tmp_path / "images")) == 12


def test_without_a_cache_folder_images_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    images = flat(tmp_path / "images", 3)
    assert load_dataset("folder", images, 28).train_images.unique().tolist() == [100]
    assert "the next run decodes" in capsys.readouterr().err
    monkeypatch.setattr(folders, "IN_MEMORY", 1000)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        load_dataset("folder", images, 28)


def test_hidden_and_system_files_are_ignored(tmp_path: Path) -> None:
    flat(tmp_path, 3)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_text("no image")
    (tmp_path / ".hidden").mkdir()
    assert len(load_dataset("folder", tmp_path, 28).train_images) == 2


def damaged_text(folder: Path) -> None:
    (folder / "culprit.txt").write_text("a text")


def damaged_image(folder: Path) -> None:
    (folder / "culprit.png").write_text("a text")


def damaged_cut(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "culprit.png")
    content = (folder / "culprit.png").read_bytes()
    (folder / "culprit.png").write_bytes(content[: len(content) // 2])


def damaged_link(folder: Path) -> None:
    (folder / "culprit.png").symlink_to(save(folder.parent / "outside" / "a.png"))


def damaged_link_to_folder(folder: Path) -> None:
    (folder / "culprit").symlink_to(flat(folder.parent / "outside"))


def damaged_links_that_lead_to_each_other(folder: Path) -> None:
    for name, other in (("culprit", "second"), ("second", "culprit")):
        flat(folder / name)
        (folder / name / "deeper").symlink_to(folder / other)
    for file in folder.glob("*.png"):
        file.unlink()


def damaged_dangling(folder: Path) -> None:
    (folder / "culprit.png").symlink_to("nowhere.png")


def damaged_floats(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(folder / "culprit.tif")


def damaged_whole_numbers(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(folder / "culprit.tif")


def damaged_mixed(folder: Path) -> None:
    flat(folder / "class")
    (folder / "01.png").rename(folder / "00culprit.png")
    (folder / "00.png").unlink()


def damaged_empty_class(folder: Path) -> None:
    shutil.rmtree(folder)
    flat(folder / "class")
    (folder / "culprit").mkdir()


@pytest.mark.parametrize("damage", [f for n, f in list(globals().items()) if "damaged_" in n])
def test_bad_folders_name_the_culprit(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = flat(tmp_path / "pictures", 3)
    damage(folder)
    with pytest.raises(InputError, match="culprit"):
        load_dataset("folder", folder, 28)
    assert not list(user_cache().rglob("*.*")), "nothing half done stays"


@pytest.mark.parametrize("size", [(8193, 8192), (30_000, 30_000)])
def test_decompression_bomb_is_an_error(tmp_path: Path, size: tuple[int, int]) -> None:
    flat(tmp_path, 3, mode="RGB")
    content = bytearray((tmp_path / "00.png").read_bytes())  # its header says another size
    content[16:24] = b"".join(side.to_bytes(4, "big") for side in size)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "culprit.png").write_bytes(content)
    with pytest.raises(InputError, match="culprit.*(pixels, more than 67,108,864|bomb)"):
        load_dataset("folder", tmp_path, 28)


def test_large_pictures_are_decoded_as_well(tmp_path: Path) -> None:
    flat(tmp_path, 2)
    save(tmp_path / "large.png", size=(4200, 4000))
    images = load_dataset("folder", tmp_path, 28).train_images
    assert images.shape == (2, 1, 28, 28) and images.unique().tolist() == [100]


def test_missing_empty_and_single(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        load_dataset("folder", tmp_path / "none")
    with pytest.raises(InputError, match="holds no images"):
        load_dataset("folder", tmp_path)
    with pytest.raises(InputError, match="a single image, and none is left to test on"):
        load_dataset("folder", flat(tmp_path, 1))
    assert len(load_dataset("folder", flat(tmp_path, 2)).test_images) == 1


# ---- batches ----


def numbered(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose first row tells their number and whose columns tell left from right."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 4, 4)
    images[:, :, 1:, 0] = 255
    return images, torch.arange(count)


def test_an_epoch_shows_every_image_once() -> None:
    batches = Batches(*numbered(50), 10, seed=0, device="cpu")
    assert len(batches) == 5 and len(Batches(*numbered(50), 12, 0, "cpu")) == 4
    for epoch in range(2):
        labels = torch.cat([batches[epoch * 5 + i][1] for i in range(5)])
        assert sorted(labels.tolist()) == list(range(50))


def test_images_and_labels_stay_together() -> None:
    images, labels = Batches(*numbered(), 16, 0, "cpu")[7]
    assert images.shape == (16, 3, 4, 4) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (16,) and labels.dtype == torch.int64
    assert torch.equal(to_uint8(images)[:, 2, 0, 3].long(), labels)


@pytest.mark.parametrize("hflip", [False, True])
def test_a_batch_is_a_function_of_seed_and_number(hflip: bool) -> None:
    def make(seed: int = 3) -> Batches:
        return Batches(*numbered(), 10, seed, "cpu", hflip)

    batches = make()
    forward = [batches[i] for i in range(15)]
    batches = make()
    for i in (14, 2, 7, 3, 0, 14):
        images, labels = batches[i]
        assert torch.equal(images, forward[i][0]) and torch.equal(labels, forward[i][1])
    orders = [tuple(forward[i][1].tolist()) for i in (0, 5, 10)]
    orders += [tuple(make(seed)[0][1].tolist()) for seed in (4, 2**32 + 3, 2**40)]
    assert len(set(orders)) == len(orders), "every epoch and every seed has its own order"
    with pytest.raises(IndexError):
        make()[-1]


def test_global_random_state_is_untouched() -> None:
    state = torch.get_rng_state()
    Batches(*numbered(), 10, 0, "cpu", hflip=True)[3]
    assert torch.equal(torch.get_rng_state(), state)


def test_hflip_mirrors_about_half() -> None:
    images, labels = numbered(2)
    images, labels = images.repeat(500, 1, 1, 1), labels.repeat(500)
    flipped, flipped_labels = Batches(images, labels, 1000, 0, "cpu", hflip=True)[0]
    plain, plain_labels = Batches(images, labels, 1000, 0, "cpu")[0]
    mirrored = flipped[:, 0, 1, 3] == 1
    assert 420 < int(mirrored.sum()) < 580  # 5 standard deviations
    assert torch.equal(flipped[mirrored], plain[mirrored].flip(3))
    assert torch.equal(flipped[~mirrored], plain[~mirrored])
    assert torch.equal(flipped_labels, plain_labels), "the order does not depend on hflip"


@pytest.mark.parametrize("batch_size", [51, 0, -1])
def test_batch_size_must_fit(batch_size: int) -> None:
    with pytest.raises(InputError, match=f"--batch_size {batch_size} .*50"):
        Batches(*numbered(50), batch_size, 0, "cpu")


def test_scaling_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    scaled = to_float(every)
    assert scaled.dtype == torch.float32
    assert (scaled.min(), scaled.max()) == (-1, 1)
    torch.testing.assert_close(scaled.double(), every.double() / 127.5 - 1, atol=1e-7, rtol=0)
    assert torch.equal(to_uint8(scaled), every)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_labels_in_proportion() -> None:
    equal = torch.arange(30) % 10
    assert torch.equal(labels_as_in(equal.sort().values, 25), torch.arange(25) % 10)
    uneven = torch.tensor([0] * 60 + [2] * 20 + [3] * 20)  # none of 1
    assert labels_as_in(uneven, 5).tolist() == [0, 0, 2, 3, 0]
    assert labels_as_in(uneven, 10_000).bincount().tolist() == [6000, 0, 2000, 2000]
    for number in range(1, 100):  # never more than one from where it should be
        found = labels_as_in(uneven, number).bincount(minlength=4)
        assert (found - number * torch.tensor([0.6, 0, 0.2, 0.2])).abs().max() < 1


# ---- the real thing ----


@pytest.mark.data
def test_real_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real checksums and the system's copy
    dataset = load_dataset("fashion_mnist", tmp_path)
    assert dataset.train_images.shape == (60000, 1, 28, 28)
    assert dataset.test_images.shape == (10000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [6000] * 10
    assert dataset.test_labels.bincount().tolist() == [1000] * 10
    assert abs(dataset.train_images.float().mean() / 255 - 0.2860) < 1e-4
    assert dataset.classes[dataset.train_labels[0]] == "Ankle boot"
