"""A GAN in two dimensions: watch D's output, mode collapse, and two cures.

The data are Gaussians on a ring (Metz et al., 2017, arXiv:1611.02163). Both networks are multilayer
perceptrons with two hidden layers. If G learns much faster than D, G puts all samples where D's
output is highest, which is one point. D then lowers its output there, and G moves to another mode.

Blue shows D's output (darker is higher), grey shows real points, and orange shows samples of G. A
sample has high quality if its nearest mode is at most 3 standard deviations away. A mode is covered
if at least one of 2,500 samples has high quality and lies nearest to this mode. Both definitions
are from Srivastava et al. (2017, arXiv:1705.07761).

Run:     python docs/toy.py --lr_d 1e-4                      (collapse)
         python docs/toy.py                                  (cure: D learns as fast as G)
         python docs/toy.py --loss wasserstein --d_steps 5   (cure: WGAN-GP, five critic updates)
Result:  0 to 1 of 8 modes (collapse), 8 of 8 (both cures); 3 seeds; at most 40 s on one CPU core
"""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

RADIUS, STD, Z_DIM, BATCH_SIZE = 2.0, 0.1, 2, 128
AXIS = torch.linspace(-3, 3, 60)  # D's output is drawn on a grid with these coordinates
Frame = tuple[str, Tensor, Tensor]  # title, samples (2500, 2), D's output on the grid (60, 60)
LAMBDA_GP = 1.0  # weight of the gradient penalty (Gulrajani et al. 2017 use 10 for images)
LOSSES = ("non-saturating", "saturating", "wasserstein")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message}\n")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    add = parser.add_argument
    add("--loss", choices=LOSSES, default=LOSSES[0], help="loss of both networks (%(default)s)")
    add("--modes", type=int, default=8, help="number of Gaussians on the ring (%(default)s)")
    add("--steps", type=int, default=2000, help="number of updates of G (%(default)s)")
    add("--d_steps", type=int, default=1, help="updates of D per update of G (%(default)s)")
    add("--lr_g", type=float, default=1e-3, help="learning rate of G (%(default)s)")
    add("--lr_d", type=float, default=1e-3, help="learning rate of D (%(default)s)")
    add("--seed", type=int, default=0, help="seed of weights, data and z (%(default)s)")
    path = "output: .gif for an animation, .png for a row of five frames (%(default)s)"
    add("--save_path", type=Path, default=Path("toy.gif"), help=path)
    args = parser.parse_args(argv)
    ranges = {"modes": (1, 100), "steps": (1, 100_000), "d_steps": (1, 100), "seed": (0, 2**32 - 1)}
    for name, (low, high) in {**ranges, "lr_g": (1e-8, 0.1), "lr_d": (1e-8, 0.1)}.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} {getattr(args, name)} is not between {low} and {high}")
    if args.save_path.suffix not in (".gif", ".png"):
        parser.error(f"--save_path {args.save_path} must end in .gif or .png")
    if not os.access(args.save_path.parent, os.W_OK) or args.save_path.is_dir():
        parser.error(f"--save_path {args.save_path} cannot be written")
    return args


def ring(modes: int) -> Tensor:
    """Return the means of the Gaussians, (modes, 2)."""
    angles = 2 * math.pi * torch.arange(modes) / modes
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


def draw_real(number: int, means: Tensor) -> Tensor:
    """Draw points of the mixture of Gaussians, (number, 2)."""
    return means[torch.randint(len(means), (number,))] + STD * torch.randn(number, 2)


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers of 128 units."""
    hidden = [nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(128, outputs))


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (||gradient|| - 1)^2 at random points between real and fake points."""
    alpha = torch.rand(len(real), 1)
    x_hat = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
    norm = (gradient.square().sum(dim=1) + 1e-16).sqrt()  # sqrt has no derivative at 0
    return (norm - 1).square().mean()


def discriminator_loss(loss: str, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return two cross-entropies (softplus(l) = -log(1 - sigmoid(l))), or the WGAN-GP loss."""
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    if loss == "wasserstein":
        penalty = LAMBDA_GP * gradient_penalty(discriminator, real, fake)
        return fake_logits.mean() - real_logits.mean() + penalty
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(loss: str, fake_logits: Tensor) -> Tensor:
    """Return the mean of log(1 - D(G(z))), of -log D(G(z)), or of minus the critic's output."""
    if loss == "saturating":
        return -F.softplus(fake_logits).mean()
    return F.softplus(-fake_logits).mean() if loss == "non-saturating" else -fake_logits.mean()


def count_modes(samples: Tensor, means: Tensor) -> tuple[int, float]:
    """Return the number of covered modes and the fraction of samples with high quality."""
    distance, nearest = torch.cdist(samples, means).min(dim=1)
    good = distance <= 3 * STD
    return len(nearest[good].unique()), good.double().mean().item()


def train(args: argparse.Namespace) -> list[Frame]:
    """Train both networks, print the counts, and return one frame per 200 updates of G."""
    torch.manual_seed(args.seed)
    means = ring(args.modes)
    generator, discriminator = perceptron(Z_DIM, 2), perceptron(2, 1)
    betas = (0.0, 0.9) if args.loss == "wasserstein" else (0.5, 0.999)  # as WGAN-GP and DCGAN
    opt_g = torch.optim.Adam(generator.parameters(), args.lr_g, betas, fused=True)
    opt_d = torch.optim.Adam(discriminator.parameters(), args.lr_d, betas, fused=True)
    fixed_z, grid, frames = torch.randn(2500, Z_DIM), torch.cartesian_prod(AXIS, AXIS), []
    for step in range(args.steps + 1):
        if step % 200 == 0 or step == args.steps:
            with torch.no_grad():
                samples, surface = generator(fixed_z), discriminator(grid).view(60, 60).T
            covered, good = count_modes(samples, means)
            title = f"step {step}: modes {covered} of {args.modes}, high quality {good:.1%}"
            print(title, flush=True)
            frames.append((title, samples, surface))
        for _ in range(args.d_steps):
            with torch.no_grad():  # this update must not reach G
                fake = generator(torch.randn(BATCH_SIZE, Z_DIM))
            real = draw_real(BATCH_SIZE, means)
            d_loss = discriminator_loss(args.loss, discriminator, real, fake)
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()
        fake = generator(torch.randn(BATCH_SIZE, Z_DIM))
        g_loss = generator_loss(args.loss, discriminator(fake))
        opt_g.zero_grad()
        g_loss.backward()  # also fills D's gradients, which the next update of D sets to zero
        opt_g.step()
    return frames


def draw(ax: Axes, frame: Frame, real: Tensor) -> None:
    title, samples, surface = frame
    ax.clear()
    ax.contourf(AXIS, AXIS, surface.nan_to_num(), levels=8, cmap="Blues")
    ax.scatter(real[:, 0], real[:, 1], s=3, color="grey", linewidths=0)
    ax.scatter(samples[:500, 0], samples[:500, 1], s=4, color="darkorange", linewidths=0)
    ax.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal", anchor="S")
    ax.set_title(title.replace(": ", "\n").replace(", ", "\n"), fontsize=8)


def save(frames: list[Frame], path: Path, real: Tensor) -> None:
    """Write an animation or a row of frames. A failed or stopped write leaves no file behind."""
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    panels = 1 if path.suffix == ".gif" else min(5, len(frames))
    figure = Figure(figsize=(2 * panels, 2.45), layout="constrained")
    (axes,) = figure.subplots(1, panels, squeeze=False)
    try:
        if path.suffix == ".gif":
            animation = FuncAnimation(figure, lambda f: draw(axes[0], f, real), frames)
            animation.save(unfinished, PillowWriter(fps=2), dpi=100)
        else:
            chosen = torch.linspace(0, len(frames) - 1, panels).round().int().tolist()
            for ax, index in zip(axes, chosen, strict=True):
                draw(ax, frames[index], real)
            figure.savefig(unfinished, dpi=100)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)  # a second thread slows down tensors of this size
    frames = train(args)
    try:
        save(frames, args.save_path, draw_real(500, ring(args.modes)))
    except OSError as error:
        Parser().error(f"--save_path {args.save_path} cannot be written ({error.strerror})")
    print(args.save_path)


if __name__ == "__main__":
    main()
