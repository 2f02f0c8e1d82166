"""Compare the training speed of cdcgan.py with a plain training loop for the same networks.

    python benchmarks/speed.py                  # Fashion-MNIST, the script's defaults
    python benchmarks/speed.py --rounds 10 -- --ngf 32 --ndf 32

Both train on the same images, in turns, in one process. The times include data loading. The plain
implementation is a common first GAN script. A DataLoader transforms one PIL image at a time.
Training is in float32, with the default memory layout and without fused Adam or EMA. The update of
G also computes gradients of D's weights. The flags after `--` are for cdcgan.py.

The floating-point operations per second of cdcgan.py are compared with a large matrix product. The
last line gives this ratio for the time in matrix products and convolutions alone.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent.parent))
import cdcgan
from data import load_dataset
from support.device import autocast_for

# Operators of products and convolutions. Their times exclude the operators that they call.
KERNELS = {
    "aten::mm",
    "aten::addmm",
    "aten::_convolution",
    "aten::mkldnn_convolution",
    "aten::convolution_backward",
}


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """Transform one PIL image at a time, as the MNIST class of torchvision does."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * images.shape[1], (0.5,) * images.shape[1]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.images[index].permute(1, 2, 0).squeeze(2).numpy()
        return self.transform(Image.fromarray(pixels)), int(self.labels[index])


def plain_steps(args: argparse.Namespace, workers: int) -> Iterator[None]:
    """Train with the plain implementation without end, and yield after every step."""
    data = load_dataset(args.dataset, args.data_dir, args.image_size, args.classes)
    loader = DataLoader(
        PlainDataset(data.train_images, data.train_labels),
        args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )
    image_args = {
        "channels": data.channels,
        "image_size": data.image_size,
        "num_classes": len(data.classes),
    }
    generator = cdcgan.Generator(args.z_dim, args.ngf, **image_args)
    discriminator = cdcgan.Discriminator(args.ndf, **image_args, norm=args.norm, dropout=0.0)
    # Undo the channels_last layout of cdcgan.py, to use torch's default layout.
    generator.layers.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    for network in (generator, discriminator):
        cdcgan.init_weights(network)
    betas = (args.beta1, args.beta2)
    opt_g = torch.optim.Adam(generator.parameters(), args.lr_g, betas)
    opt_d = torch.optim.Adam(discriminator.parameters(), args.lr_d, betas)
    bce = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(args.batch_size), torch.zeros(args.batch_size)
    while True:
        for real, labels in loader:
            fake = generator(torch.randn(args.batch_size, args.z_dim), labels)
            opt_d.zero_grad()
            bce(discriminator(real, labels), ones * (1 - args.label_smoothing)).backward()
            bce(discriminator(fake.detach(), labels), zeros).backward()
            opt_d.step()
            opt_g.zero_grad()
            bce(discriminator(fake, labels), ones).backward()
            opt_g.step()
            yield


def measure(rounds: int, steps: int, workers: int, argv: list[str]) -> None:
    """Train cdcgan.py with the flags `argv` and the plain implementation in turns; print speeds."""
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    flops = 0

    class AlternatingRun(cdcgan.Run):
        """Alternate the steps of a run with plain steps."""

        def steps(self) -> Iterator[int]:
            nonlocal flops
            plain = plain_steps(self.args, workers)
            number = 0
            with FlopCounterMode(display=False) as counter:
                yield number
            flops = counter.get_total_flops()
            for turn in range(rounds + 1):  # the first turn warms up
                start = time.perf_counter()
                for _ in range(steps):
                    number += 1
                    yield number
                middle = time.perf_counter()
                for _ in range(steps):
                    next(plain)
                if turn:
                    seconds["ours"].append((middle - start) / steps)
                    seconds["plain"].append((time.perf_counter() - middle) / steps)
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                for _ in range(steps):
                    number += 1
                    yield number
            own = {row.key: row.self_cpu_time_total for row in profiler.key_averages()}
            kernels = sum(own.get(name, 0.0) for name in KERNELS) / steps / 1e6
            self.record.events.close()
            ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "plain"))
            ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
            batch = self.args.batch_size
            print(f"ours   {batch / ours:7,.0f} images/s  {1000 * ours:6.1f} ms per step")
            print(f"plain  {batch / theirs:7,.0f} images/s  {1000 * theirs:6.1f} ms per step")
            print(
                f"ours is {statistics.median(ratios):.2f} times as fast "
                f"({min(ratios):.2f} to {max(ratios):.2f} over {rounds} rounds of {steps} steps)"
            )
            rate, peak = flops / ours / 1e9, matmul_rate(self.autocast_dtype())
            print(
                f"ours: {flops / 1e9:.1f} GFLOP per step in products and convolutions, "
                f"{rate:.0f} GFLOP/s, {100 * rate / peak:.0f} % of a 4096 x 4096 matrix product"
            )
            print(
                f"products and convolutions alone take {1000 * kernels:.1f} ms per step, "
                f"at {100 * flops / kernels / 1e9 / peak:.0f} % of the matrix product's speed"
            )

        def autocast_dtype(self) -> torch.dtype:
            with autocast_for(self.device, self.args.precision)():
                enabled = torch.is_autocast_enabled(self.device.type)
            return torch.bfloat16 if enabled else torch.float32

    cdcgan.Run = AlternatingRun  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as out:
        cdcgan.main([*argv, "--out_dir", out, "--device", "cpu", "--features", "none"])


def matmul_rate(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a 4096 x 4096 matrix product.

    The result is written to existing memory, because new memory pages would take additional time.
    """
    a = torch.randn(4096, 4096).to(dtype)
    result = a @ a
    times: list[float] = []
    for _ in range(15):
        start = time.perf_counter()
        torch.mm(a, a, out=result)
        times.append(time.perf_counter() - start)
    return 2 * 4096**3 / statistics.median(times) / 1e9


def main() -> None:
    own: Any = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument(
        "--rounds", type=int, default=5, help="turns of each implementation (default: 5)"
    )
    own.add_argument("--steps", type=int, default=30, help="steps per turn (default: 30)")
    own.add_argument(
        "--workers", type=int, default=0, help="workers of the plain DataLoader (default: 0)"
    )
    own.add_argument("argv", nargs="*", help="flags of cdcgan.py, after --")
    args = own.parse_args()
    measure(args.rounds, args.steps, args.workers, args.argv)


if __name__ == "__main__":
    main()
