"""support/download.py: where published data sets come from, and what is refused on the way."""

from support.command import InputError

import gzip
import hashlib
import http.server
import io
import os
import shutil
import socket
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

import support.download
import support.features
from data import load_dataset
from tests.conftest import Serve, reply
from tests.stand_ins import (
    FILES,
    Payload,
    build_package,
    expected_images,
    write_apt,
    write_cifar,
    write_idx,
)

pytestmark = pytest.mark.usefixtures("offline")


# ---- IDX files ----


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


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    write_idx(tmp_path)
    zeros = gzip.compress(bytes(1 << 24))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(zeros * 640)  # 10 GB
    start = time.monotonic()
    with pytest.raises(InputError, match="train-images.*corrupt"):
        load_dataset("mnist", tmp_path)
    assert time.monotonic() - start < 10, "given up at the size that it should have"


# ---- mirrors ----


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, bad: Callable
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
        asked.append((handler.path, handler.headers["User-Agent"]))
        mirror_good(handler)

    def fails_at_labels(handler: http.server.BaseHTTPRequestHandler) -> None:
        (mirror_refuses if "labels" in handler.path else good)(handler)

    labels = [(f"/{file}.gz", "gan-scripts") for file in support.download.IDX_FILES[1::2]]
    monkeypatch.setattr(MNIST, "mirrors", [serve(good)])
    (write_idx(tmp_path / "lacks one") / "t10k-labels-idx1-ubyte.gz").unlink()
    load_dataset("mnist", tmp_path / "lacks one")
    assert asked == labels[1:]
    for file in (tmp_path / "lacks one").rglob("*.gz"):
        file.unlink()
    with pytest.raises(InputError, match="mnist is not in"):
        load_dataset("mnist", tmp_path / "lacks one", fetch=False)
    assert asked == labels[1:]
    # What one mirror gave is not asked of the next.
    monkeypatch.setattr(MNIST, "mirrors", [serve(fails_at_labels), serve(good)])
    load_dataset("mnist", tmp_path / "lacks all")
    names = [path for path, _ in asked[1:]]
    assert sorted(names) == sorted(f"/{file}.gz" for file in support.download.IDX_FILES)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_dir_that_cannot_be_written_is_a_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.*--data_dir"):
        load_dataset(name, tmp_path / "file" / "data")


# ---- Debian's package ----


REAL_WHICH = shutil.which


needs_dpkg = pytest.mark.skipif(REAL_WHICH("dpkg-deb") is None, reason="dpkg-deb is not here")


def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder = write_apt(tmp_path, script).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(support.download.shutil, "which", REAL_WHICH)


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
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == (1 if lists == "full" else 3)
    for call in calls:  # as another user, apt may not enter the folder
        assert "Acquire::http::Timeout=10 -o Acquire::Retries=0 -o APT::Sandbox::User=root" in call
    names = sorted(path.name for path in (tmp_path / "data/fashion_mnist").iterdir())
    assert names == sorted(f"{file}.gz" for file in support.download.IDX_FILES)


@needs_dpkg
def test_a_package_with_other_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt(tmp_path, monkeypatch, f"cp {build_package(tmp_path)} .")
    digests = support.download.IDX_SHA256["fashion_mnist"]
    monkeypatch.setitem(support.download.IDX_SHA256, "fashion_mnist", (*digests[:3], "another"))
    with pytest.raises(InputError, match="the package .*t10k-labels.*wrong checksum"):
        load_dataset("fashion_mnist", tmp_path / "data")
    assert not (tmp_path / "data/fashion_mnist/t10k-labels-idx1-ubyte.gz").exists()


@needs_dpkg
def test_failing_apt_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_apt(tmp_path, monkeypatch, 'echo "W: a warning"; echo "E: no such package" >&2; exit 100')
    with pytest.raises(InputError, match="E: no such package.*apt-get install") as error:
        load_dataset("fashion_mnist", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "data/fashion_mnist").iterdir()) == []


# ---- CIFAR-10 ----


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": [0, 1, 2, 3, 10]}, "a label is not between 0 and 9"),
        ({"labels": [0, 1, 2, 3]}, "reshape"),
        ({"data": np.zeros((5, 3072), np.float32)}, "Cannot cast"),
    ],
)
def test_cifar10_batches_that_are_none(
    changes: dict, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"data": np.zeros((5, 3072), np.uint8), "labels": [0, 1, 2, 3, 9]}
    write_cifar(tmp_path / "good" / CIFAR10.base_folder, monkeypatch, batch)
    assert load_dataset("cifar10", tmp_path / "good").train_labels[:5].tolist() == batch["labels"]
    write_cifar(tmp_path / "bad" / CIFAR10.base_folder, monkeypatch, batch | changes)
    with pytest.raises(InputError, match=f"data_batch_1 is no CIFAR-10 batch .*{says}"):
        load_dataset("cifar10", tmp_path / "bad")


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
        assert tar.fileobj is not None
        tar.fileobj.write(entry.tobuf())  # addfile() would miss the content that it claims
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="cifar-10-python.tar.gz is not CIFAR-10's archive"):
        load_dataset("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("downloaded", [True, False])
def test_cifar10_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, downloaded: bool
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
        (target / CIFAR10.filename).write_bytes(body[:-1] + b"x")
        with pytest.raises(InputError, match="cifar-10-python.tar.gz is corrupt or cut short"):
            load_dataset("cifar10", target)
        assert [path.name for path in target.iterdir()] == [CIFAR10.filename]
        (target / CIFAR10.filename).write_bytes(body)
    fetch = downloaded  # what lies there is unpacked without
    if downloaded:
        with pytest.raises(InputError, match="cifar10 is not in"):
            load_dataset("cifar10", target, fetch=False)
        assert not target.exists()
    dataset = load_dataset("cifar10", target, fetch=fetch)
    assert np.array_equal(dataset.train_images[:5].numpy(), first)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, bad: Callable
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
