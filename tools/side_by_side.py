"""Draw several images side by side, each under its name, as the compositions in docs/.

python tools/side_by_side.py out.png "healthy=runs/A/samples/epoch_0006.png" "D wins=runs/B/..."
"""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.fonts import drawable, font

GAP, TITLE = 14, 26  # pixels between images, and above each


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("save_path", type=Path, help="file to write")
    parser.add_argument("pictures", nargs="+", metavar="NAME=FILE", help="a name and an image")
    parser.add_argument("--crop", type=int, help="show this many pixels per side of each image")
    args = parser.parse_args()
    names, paths = zip(*(picture.split("=", 1) for picture in args.pictures), strict=True)
    pictures = [Image.open(path).convert("RGB") for path in paths]
    if args.crop:
        pictures = [picture.crop((0, 0, args.crop, args.crop)) for picture in pictures]
    widths = [picture.width + GAP for picture in pictures]
    height = max(picture.height for picture in pictures) + TITLE + 2 * GAP
    canvas = Image.new("RGB", (sum(widths) + GAP, height), "white")
    draw = ImageDraw.Draw(canvas)
    shown = drawable(names, range(len(names)))
    for i, (name, picture) in enumerate(zip(shown, pictures, strict=True)):
        left = GAP + sum(widths[:i])
        draw.text((left, GAP), name, fill="black", font=font(16))
        canvas.paste(picture, (left, GAP + TITLE))
    canvas.save(args.save_path, optimize=True)


if __name__ == "__main__":
    main()
