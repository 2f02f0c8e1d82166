"""Sort Google's Noto emoji (64 x 64 pixels) into one folder per category, for --dataset folder.

    npm pack emoji-datasource-google@16.0.0
    python tools/emoji.py emoji-datasource-google-16.0.0.tgz emoji
    python cdcgan.py --dataset folder --data_dir emoji --config configs/cdcgan_emoji.json

The skin-tone variants and the category Component (the five skin tones) are left out, so that no
test image is a skin-tone variant of a training image. Variants of person, man and woman remain.
Version 16.0.0 has 1,906 images in nine categories. The licence of the images is Apache 2.0
(Google); the package is MIT-licensed.
"""

import argparse
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.command import InputError, exit_on_input_error

from support.files import new_folder

IMAGES, LIST = "package/img/google/64/", "package/emoji.json"


def read_package(path: Path) -> dict[str, bytes]:
    """Return the PNG files of the npm package `path` by category and name ("activities/ski.png").

    Raise InputError if the file is missing, damaged or another package.
    """
    wanted = {}
    try:
        with tarfile.open(path, "r:gz") as package:
            for member in package:
                if member.isfile() and (member.name == LIST or member.name.startswith(IMAGES)):
                    file: Any = package.extractfile(member)
                    wanted[member.name] = file.read()
        images = {}
        for emoji in json.loads(wanted[LIST]):
            category = Path(emoji["category"]).name.lower().replace(" & ", "-")
            if category in ("", ".", ".."):
                raise ValueError("no name of a folder")
            if category != "component":
                name = f"{category}/{Path(emoji['image']).stem}.png"
                images[name] = wanted[IMAGES + emoji["image"]]
        if not images:
            raise ValueError("no images")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception:  # a damaged archive can raise any error
        hint = "make the file with: npm pack emoji-datasource-google@16.0.0"
        raise InputError(f"{path} is not the emoji package, or is damaged: {hint}") from None
    return images


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, help="the .tgz file that npm pack writes")
    parser.add_argument("out", type=Path, help="new folder, with one subfolder per category")
    args = parser.parse_args(argv)
    images = read_package(args.package)
    with new_folder(args.out) as folder:
        for name, content in images.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    categories = sorted({Path(name).parent.name for name in images})
    print(f"{args.out}: {len(images):,} images in {len(categories)} categories: ", end="")
    print(", ".join(categories))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
