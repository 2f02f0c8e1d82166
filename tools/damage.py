"""Damage a file at random, in ways that depend on the file format, for corrupt_inputs.py."""

import gzip
import io
import json
import os
import random
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

BOMB, CHUNK = (1 << 30) + (1 << 27), bytes(1 << 24)  # size of an unpacked bomb; 16 MB of zeros


class Payload:
    """Create the folder `path` when a pickle of this object is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@dataclass
class Case:
    """Hold the folder of one case, for copies of inputs in `good`. If `harm`, `rng` damages one."""

    folder: Path
    good: Path
    rng: random.Random
    harm: bool = True
    did: list[str] = field(default_factory=list)  # the damage, in words
    obeys_modes: bool = False  # True: permissions also restrict root

    def take(self, name: str, to: str | None = None) -> Path:
        """Copy a valid input into the case's folder; return the path of the copy."""
        path = self.folder / (to or name)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = self.good / name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
        return path

    def one_of(self, folder: Path, pattern: str) -> Path:
        """Choose a random file below `folder` with a name that matches `pattern`."""
        return self.rng.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))


def spoil(case: Case, path: Path) -> None:
    """Damage the bytes of a file, or the content that the bytes encode."""
    if not case.harm:
        return
    by_kind: dict[str, list[Callable[[Case, Path], str]]] = {
        ".pt": [torch_tree, torch_tree, torch_payload, zip_member, archive_bomb],
        ".npz": [npz_array, npz_array, npz_payload, npz_header, zip_member, archive_bomb],
        ".json": [json_tree, json_tree],
        ".png": [png_header, image_bomb],
        ".gz": [gzip_bomb],
        ".csv": [csv_field, csv_field],
    }
    way = case.rng.choice([spoil_bytes, *by_kind.get(path.suffix, [])])
    case.did.append(f"{path.name}: {way(case, path)}")


def spoil_bytes(case: Case, path: Path) -> str:
    content, way = changed(case.rng, path.read_bytes())
    path.write_bytes(content)
    return way


def changed(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    way = rng.choice(["cut", "flipped", "magic", "empty", "text", "zeros", "longer", "inserted"])
    at, out = rng.randrange(max(1, len(content))), bytearray(content)
    if way == "flipped" and content:
        for _ in range(rng.choice([1, 8, 100])):
            at = rng.randrange(rng.choice([min(64, len(out)), len(out)]))
            out[at] ^= 1 << rng.randrange(8)
    elif way == "zeros":
        out[at : at + 64] = bytes(min(64, len(out) - at))
    elif way == "inserted":
        out[at:at] = rng.randbytes(9)
    others = {
        "cut": content[:at],
        "magic": rng.randbytes(4) + content[4:],
        "empty": b"",
        "text": b"<html>404 Not Found</html>",
        "longer": content + rng.randbytes(100),
    }
    return others.get(way, bytes(out)), f"{way} at {at} of {len(content)}"


def tree_damage(rng: random.Random, tree: Any, junk: list[Any]) -> str:
    """Replace, rename or drop one entry of nested dicts and lists, at any depth."""
    where = ""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = rng.choice(keys)
        where += f"/{key}"
        deeper = tree[key]
        if isinstance(deeper, dict | list) and deeper and rng.random() < 0.7:
            tree = deeper
            continue
        way = rng.choice(["drop", "rename", "junk", "junk", "junk", "junk"])
        value = tree.pop(key) if way != "junk" or isinstance(tree, list) else deeper
        if way == "rename" and isinstance(tree, dict):
            tree[rng.choice(["other", "", "x y", "\ud800", "help"])] = value
        elif way == "junk":
            value = rng.choice(junk)
            value = value(deeper) if callable(value) else value
            tree.insert(key, value) if isinstance(tree, list) else tree.update({key: value})
            way = f"{type(value).__name__} {value!r:.40}"
        return f"{where} {way}"


JUNK: list[Any] = [None, True, -1, 0, 7, 2**40, 10**400, 1e308, float("nan"), float("inf")]
JUNK += ["", "\u00e4\0", "\ud800", "os", "a" * 100_000, [], {}, [[]], {"a": [None]}, ["x"] * 3]


def of_tensor(change: Callable[[torch.Tensor], Any]) -> Callable[[Any], Any]:
    return lambda value: change(value if isinstance(value, torch.Tensor) else torch.ones(3, 4))


TENSOR_JUNK = [
    *JUNK,
    of_tensor(lambda x: x.double() * float("nan")),
    of_tensor(lambda x: x.to(torch.float16)),
    of_tensor(lambda x: x.to(torch.complex64)),
    of_tensor(lambda x: x.to(torch.bool)),
    of_tensor(lambda x: x.flatten()[:0]),
    of_tensor(lambda x: x.unsqueeze(0)),
    of_tensor(lambda x: torch.zeros(1).expand(1 << 16, 1 << 16)),  # claims 16 GB, holds 4 bytes
    of_tensor(lambda x: x.flatten()[:1].expand(x.numel()).view(x.shape)),
    of_tensor(lambda x: torch.empty(x.shape, device="meta")),
    of_tensor(lambda x: torch.ones(3, 3).to_sparse()),
]


def torch_tree(case: Case, path: Path) -> str:
    tree = torch.load(path, weights_only=True)
    args = tree.get("generator_args") if isinstance(tree, dict) else None
    if args and case.rng.random() < 0.2:  # ask for a huge network, with few weights
        args[case.rng.choice(list(args))] = value = case.rng.choice([3000, 10**6, 2**62])
        way = f"generator_args {value}"
    else:
        way = tree_damage(case.rng, tree, TENSOR_JUNK)
    torch.save(tree, path, _use_new_zipfile_serialization=case.rng.random() < 0.8)
    return way


def torch_payload(case: Case, path: Path) -> str:
    tree = torch.load(path, weights_only=True)
    tree[case.rng.choice(list(tree))] = Payload(case.folder.parent / "ran")
    torch.save(tree, path, _use_new_zipfile_serialization=case.rng.random() < 0.5)
    return "payload"


def zip_member(case: Case, path: Path) -> str:
    """Damage one member of an archive, and write correct checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = case.rng.choice([name for name in members if name.endswith(".pkl")] + list(members))
    members[name], way = changed(case.rng, members[name])
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return f"{name} {way}"


def archive_bomb(case: Case, path: Path) -> str:
    kind = "statistics" if path.name.startswith("statistics") else path.suffix[1:]
    shutil.copy(case.good / f"bombs/{kind}", path)
    return "bomb"


def npz_array(case: Case, path: Path) -> str:
    with np.load(path) as archive:
        arrays = dict(archive)
    name = case.rng.choice(list(arrays))
    x = arrays[name]
    values = [x.astype(kind) for kind in ("f2", "c8", "i8", "U5", "?") if x.dtype.kind != "U"]
    values += [x[None], x.reshape(-1), x.reshape(-1)[:1], np.zeros((0, 0)), np.array("text")]
    values += [np.full(x.shape, value) for value in (np.nan, np.inf, -1e300, 1e300)]
    values += [np.zeros((200, 200)), np.eye(3000)[:, ::-1], np.array(10**30, dtype=float)]
    arrays[name] = case.rng.choice(values)
    way = f"{name} {arrays[name].dtype} {arrays[name].shape}"
    if case.rng.random() < 0.2:
        way = f"without {name}"
        del arrays[name]
    np.savez_compressed(path, **arrays)
    return way


def npz_payload(case: Case, path: Path) -> str:
    with np.load(path) as archive:
        arrays = dict(archive)
    objects = np.empty(4, dtype=object)
    objects[:] = [Payload(case.folder.parent / "ran")] * 4
    arrays[case.rng.choice(list(arrays))] = objects
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return "payload"


def npz_header(case: Case, path: Path) -> str:
    """Write arrays with headers that promise more bytes than the file has."""
    shape = case.rng.choice([(1 << 40,), (1 << 20, 1 << 10, 3), (0, 1 << 62), (-1, 3), (1 << 63,)])
    names = zipfile.ZipFile(path).namelist()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, npy_header(shape, "|u1") + bytes(100))
    return f"header {shape}"


def json_tree(case: Case, path: Path) -> str:
    if case.rng.random() < 0.1:
        path.write_text("[" * 100_000)
        return "deep"
    tree = json.loads(path.read_text())
    way = tree_damage(case.rng, tree, JUNK)
    path.write_text(json.dumps(tree))
    return way


def csv_field(case: Case, path: Path) -> str:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row = case.rng.choice(rows)
    at = case.rng.randrange(len(row))
    row[at] = case.rng.choice(["nan", "inf", "-1e308", "1e308", "", "x", '"', "1,2", "\0", "$\\q$"])
    path.write_text("\n".join(map(",".join, rows)))
    return f"{at} {row[at]!r}"


def png_header(case: Case, path: Path) -> str:
    """Change the size, depth or colour type in a PNG header, and correct the checksum."""
    content = bytearray(path.read_bytes())
    size = case.rng.choice([0, 1, 1000, 30_000, 65_535, (1 << 31) - 1])
    content[16:20] = size.to_bytes(4, "big")
    if case.rng.random() < 0.5:
        content[20:24] = size.to_bytes(4, "big")
    if case.rng.random() < 0.5:
        content[24], content[25] = case.rng.choice([1, 8, 16]), case.rng.randrange(8)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return f"header {size}"


def image_bomb(case: Case, path: Path) -> str:
    """Replace the image and two others, because threads decode images at the same time."""
    bomb = case.one_of(case.good / "bombs", "*.bomb")
    for other in (path, *sorted(path.parent.glob("*.png"))[:2]):
        shutil.copy(bomb, other)
    return bomb.name


def gzip_bomb(case: Case, path: Path) -> str:
    path.write_bytes((case.good / "bombs/gz").read_bytes())
    return "bomb"


def inflating(path: Path, members: dict[str, bytes], bomb: str, head: bytes = b"") -> None:
    """Write an archive of `members` and of a member named `bomb`: `head`, then BOMB zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        with archive.open(bomb, "w") as file:
            file.write(head)
            for _ in range(BOMB // len(CHUNK)):
                file.write(CHUNK)


def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def make_bombs(folder: Path) -> None:
    """Make files of 1 to 6 MB that inflate to 1.2 GB, and images near the limit on pixels."""
    folder.mkdir()
    (folder / "gz").write_bytes(gzip.compress(CHUNK) * (BOMB // len(CHUNK)))
    Image.new("RGBA", (8100, 8100)).save(folder / "clear.bomb", "PNG")
    Image.new("L", (13_000, 13_000)).save(folder / "grey.bomb", "PNG")
    Image.new("RGB", (9000, 7000)).save(folder / "colour.bomb", "JPEG", progressive=True)
    inflating(folder / "npz", {}, "images.npy", npy_header((BOMB // 784, 28, 28), "|u1"))
    mean = npy_header((128,), "<f8") + bytes(1024)
    inflating(folder / "statistics", {"mu.npy": mean}, "sigma.npy", npy_header((BOMB // 8,), "<f8"))
    said = folder / "said.pt"
    with torch.serialization.skip_data():  # what torch.save would write, without the tensor
        torch.save({"ema": torch.empty(BOMB, dtype=torch.uint8)}, said)
    with zipfile.ZipFile(said) as archive:
        names = [name for name in archive.namelist() if not name.endswith("data/0")]
        members = {name: archive.read(name) for name in names}
    said.unlink()
    inflating(folder / "pt", members, "said/data/0")
