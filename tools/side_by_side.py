"""Draw several images side by side, each below a name, such as the figures in docs/.

python tools/side_by_side.py out.png "healthy=runs/A/samples/epoch_0006.png" "D wins=runs/B/..."
"""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.fonts import drawable, font

GAP, TITLE = 14, 26  # pixels between images, and for the name above an image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("save_path", type=Path, help="file to write")
    parser.add_argument("images", nargs="+", metavar="NAME=FILE", help="name and file of an image")
    parser.add_argument(
        "--crop",
        type=int,
        help="show only the top left N x N pixels of each image (default: all)",
        metavar="N",
    )
    args = parser.parse_args()
    names, paths = zip(*(image.split("=", 1) for image in args.images), strict=True)
    images = [Image.open(path).convert("RGB") for path in paths]
    if args.crop:
        images = [image.crop((0, 0, args.crop, args.crop)) for image in images]
    widths = [image.width + GAP for image in images]
    height = max(image.height for image in images) + TITLE + 2 * GAP
    canvas = Image.new("RGB", (sum(widths) + GAP, height), "white")
    draw = ImageDraw.Draw(canvas)
    shown = drawable(names, range(len(names)))
    for i, (name, image) in enumerate(zip(shown, images, strict=True)):
        left = GAP + sum(widths[:i])
        draw.text((left, GAP), name, fill="black", font=font(16))
        canvas.paste(image, (left, GAP + TITLE))
    canvas.save(args.save_path, optimize=True)


if __name__ == "__main__":
    main()
