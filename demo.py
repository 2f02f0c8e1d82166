"""Serve a web page that draws samples of a trained generator, and single images by URL.

    python demo.py                                     # the pretrained cdcgan.py: localhost:5000
    python demo.py --load_path runs/RUN --port 8080
    curl "http://localhost:5000/?generate_sample=Sneaker" > sneaker.png           # any Sneaker
    curl "http://localhost:5000/?generate_sample=Sneaker&seed=3" > sneaker.png    # a fixed Sneaker
    curl "http://localhost:5000/sample.png?class=Bag&seed=3&n=16" > bags.png

GET /sample.png draws a grid. The query may contain class, seed, n (1 to 64) and z_scale (0 to 2, a
factor of z). For an interpolation, the query contains to_seed, to_class and t (0 to 1), too.
GET /neighbours.png shows the training images nearest to one sample. The query has the same names,
and index, the number of the sample. A wrong query gives status 400 and one line.
"""

from support.command import InputError, exit_on_input_error

import argparse
import errno
import io
import math
import secrets
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flask import Flask, Response, jsonify, request
from PIL import Image
from torch import Tensor
from werkzeug.exceptions import HTTPException
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from data import class_index
from generate import PRETRAINED_GENERATOR, Neighbours
from support.checkpoints import load_generator
from support.device import autocast_for, pick_device
from support.drawing import draw_grid
from support.sampling import noise, sample_between, slerp

PAGE = Path(__file__).parent / "support" / "demo.html"
MOST_IMAGES, CLOSEST = 64, 8
REQUEST_KEYS = ("class", "seed", "n", "z_scale", "to_class", "to_seed", "t")
# The names that the query of each path may contain.
QUERY_NAMES = {
    "/": ("generate_sample", "seed"),
    "/classes": (),
    "/sample.png": REQUEST_KEYS,
    "/neighbours.png": (*REQUEST_KEYS, "index"),
}


@dataclass
class SampleRequest:
    """Hold the checked values of a query."""

    start: int | None  # index of a class; None: all classes in turn, or no classes
    end: int | None
    seed: int
    to_seed: int
    number: int
    z_scale: float
    t: float


class Model:
    """Load a generator, and draw for one request at a time.

    One thread draws for all requests, because torch keeps a pool of threads per calling thread.
    """

    def __init__(
        self, path: str, data_dir: str, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.generator, self.checkpoint = load_generator(path, device)
        self.generator.to(memory_format=torch.channels_last)
        args = self.checkpoint["generator_args"]
        self.z_dim = args["z_dim"]
        self.classes = list(self.checkpoint["classes"]) if "num_classes" in args else []
        self.all_classes = self.checkpoint["all_classes"]
        self.data_dir, self.device = data_dir, device
        self.autocast = autocast_for(device, precision)
        self.neighbours: Neighbours | None = None
        self.draw_executor, self.search_executor = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.images(SampleRequest(None, None, 0, 0, 16, 1.0, 0.0))  # the first call is slow

    def images(self, asked: SampleRequest) -> Tensor:
        """Return samples uint8 (N, C, H, W). The z of sample i depends on the seed, not on N."""
        z = noise(MOST_IMAGES, self.z_dim, asked.seed)[: asked.number]
        if asked.t:
            z = slerp(z, noise(MOST_IMAGES, self.z_dim, asked.to_seed)[: asked.number], asked.t)
        z = (asked.z_scale * z).to(self.device)
        start = end = None
        if self.classes:
            turns = torch.arange(asked.number) % len(self.classes)
            start, end = (
                (turns if index is None else torch.full_like(turns, index)).to(self.device)
                for index in (asked.start, asked.end)
            )
        t = torch.full((asked.number, 1), asked.t, device=self.device)
        return self.draw_executor.submit(self.draw, z, start, end, t).result()

    def draw(self, z: Tensor, start: Tensor | None, end: Tensor | None, t: Tensor) -> Tensor:
        """Return samples uint8 (N, C, H, W) for z (N, z_dim), with classes from start to end."""
        with self.autocast():
            return sample_between(self.generator, z, start, end, t)

    def closest(self, image: Tensor) -> Tensor:
        """Return the CLOSEST training images to one image (1, C, H, W), as (CLOSEST, C, H, W).

        Raises InputError if the data set is missing.
        """
        return self.search_executor.submit(self.search, image).result()

    def search(self, image: Tensor) -> Tensor:
        if self.neighbours is None:  # the first search reads the data set
            found = Neighbours(self.checkpoint, self.data_dir, self.device, prepare=False)
            self.neighbours = found
        return self.neighbours(image, CLOSEST)[0]


def check_query() -> None:
    """Raise InputError if the query contains an unknown name, or a name twice.

    Without this check, a misspelt name would be ignored, and the answer would be a wrong image.
    """
    known = QUERY_NAMES.get(request.path)
    if known is None:  # Flask answers with status 404
        return
    for name, values in request.args.lists():
        if name not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"unknown name {name[:40]!r}: {request.path} takes {names}")
        if len(values) > 1:
            raise InputError(f"{name} is given {len(values)} times: give it once")


def parse_number(name: str, default: float, low: float, high: float, kind: Any = float) -> Any:
    """Return the number called `name` in the query. Raise InputError outside [low, high]."""
    text = request.args.get(name, "") or default
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        a_number = "a whole number" if kind is int else "a number"
        raise InputError(f"{name}={str(text)[:40]}: give {a_number} from {low} to {high}")
    return value


def parse_seed(name: str, default: int) -> int:
    return parse_number(name, default, 0, 2**63 - 1, int)


def parse_request(model: Model) -> SampleRequest:
    """Return the values of the query. Raise InputError for an unknown class or a wrong number."""

    def index(name: str, default: int | None) -> int | None:
        wanted = request.args.get(name, "")
        if wanted and not model.classes:
            raise InputError(f"{name}: the generator has no classes")
        return class_index(model.classes, wanted, model.all_classes) if wanted else default

    seed = parse_seed("seed", 0)
    start = index("class", None)
    return SampleRequest(
        start=start,
        end=index("to_class", start),
        seed=seed,
        to_seed=parse_seed("to_seed", seed),
        number=parse_number("n", 16, 1, MOST_IMAGES, int),
        z_scale=parse_number("z_scale", 1.0, 0.0, 2.0),
        t=parse_number("t", 0.0, 0.0, 1.0),
    )


def png(picture: Image.Image) -> Response:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)  # level 1, because it is fast
    return Response(stream.getvalue(), mimetype="image/png")


def create_app(model: Model) -> Flask:
    app = Flask(__name__, static_folder=None)
    app.before_request(check_query)

    @app.get("/")
    def page() -> Response:
        wanted = request.args.get("generate_sample")
        seed = parse_seed("seed", secrets.randbelow(2**32))
        if wanted is not None:
            if not model.classes:
                raise InputError("generate_sample: the generator has no classes")
            index = class_index(model.classes, wanted, model.all_classes)
            if "text/html" not in request.headers.get("Accept", ""):
                one = SampleRequest(index, index, seed, seed, 1, 1.0, 0.0)
                return png(draw_grid(model.images(one), 1))
        return Response(PAGE.read_text(encoding="utf-8"), mimetype="text/html")

    @app.get("/classes")
    def classes() -> Response:
        about = f"{model.checkpoint['script']}.py on {model.checkpoint.get('dataset', 'its data')}"
        return jsonify(classes=model.classes, model=about)

    @app.get("/sample.png")
    def sample_png() -> Response:
        asked = parse_request(model)
        return png(draw_grid(model.images(asked), math.ceil(math.sqrt(asked.number))))

    @app.get("/neighbours.png")
    def neighbours_png() -> Response:
        asked = parse_request(model)
        index = request.args.get("index", "")
        if not (index.isdecimal() and len(index) < 3 and int(index) < asked.number):
            raise InputError(f"index={index[:40]}: give a number from 0 to {asked.number - 1}")
        image = model.images(asked)[int(index)].unsqueeze(0)
        return png(draw_grid(model.closest(image), CLOSEST // 2))

    @app.errorhandler(InputError)
    def refuse(error: InputError) -> Response:
        line = " ".join(str(error).split())  # one line, because the message may quote the query
        return Response(f"{line[:300]}\n", 400, mimetype="text/plain")

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Response:
        return Response(f"{error.code} {error.name}\n", error.code, mimetype="text/plain")

    return app


class QuietHandler(WSGIRequestHandler):
    """Log only failed requests, because one move of a slider sends hundreds of requests."""

    protocol_version = "HTTP/1.1"  # one connection serves many requests
    timeout = 2  # seconds until a silent connection is closed, so that Ctrl-C works

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code)[:1] not in "23":
            super().log_request(code, size)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    load_path = "checkpoint, or run folder with a last.pt (default: the pretrained cdcgan)"
    parser.add_argument("--load_path", default=PRETRAINED_GENERATOR, help=load_path)
    port = "port of the server, or 0 for any free port (default: 5000)"
    parser.add_argument("--port", type=int, default=5000, help=port)
    host = "address of the server; 0.0.0.0 admits other machines (default: 127.0.0.1, this machine)"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    data_dir = "folder with the training data, for the nearest training images (default: data)"
    parser.add_argument("--data_dir", default="data", help=data_dir)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    precision = "fp32, bf16, or auto: bf16 on devices with native bfloat16 (default: auto)"
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help=precision
    )
    args = parser.parse_args(argv)
    if not 0 <= args.port < 2**16:
        raise InputError(f"--port {args.port}: give a number from 0 (any free one) to 65535")
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # leave one core for the web server
    model = Model(args.load_path, args.data_dir, pick_device(args.device), args.precision)
    try:
        # Bind here, because werkzeug would report a failure in three lines and exit.
        listener = socket.create_server((args.host, args.port), backlog=128)
    except TypeError:  # the name cannot be encoded
        raise InputError(f"--host {args.host[:80]}: this is not a valid host name") from None
    except OSError as error:
        advice = "; try another --port" if error.errno == errno.EADDRINUSE else ""
        reason = f"{error.strerror or error}{advice}"
        raise InputError(f"--host {args.host} --port {args.port}: {reason}") from None
    with listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        server = ThreadedWSGIServer(args.host, port, create_app(model), handler=QuietHandler, fd=fd)
    server.daemon_threads = False  # after Ctrl-C, the current requests finish
    print(f"open http://{args.host}:{port} in a browser; stop with Ctrl-C", flush=True)
    server.serve_forever()  # until Ctrl-C
    print("stopped")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
