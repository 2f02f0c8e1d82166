"""Vanilla GAN: two networks that learn from each other (Goodfellow et al., 2014, arXiv:1406.2661).

A generator G turns noise z into an image; a discriminator D says how probable it is that an image
came from the data and not from G. D learns to tell them apart, G to be mistaken for the data.

    min_G max_D  V = E_x[log D(x)] + E_z[log(1 - D(G(z)))]                                 (Eq. 1)

Both are multilayer perceptrons, for which an image is a list of numbers: nothing in them knows that
pixels have neighbours. Where the paper has maxout, sigmoids and momentum, these have leaky ReLUs, a
tanh and Adam; real counts as 0.9; G's weights are averaged over the steps for the pictures.

Run:     python vanilla_gan.py --dataset fashion_mnist --epochs 35
Result:  FCD 2.52 ± 0.10 on Fashion-MNIST after 35 epochs (3 seeds), 14 min on one CPU core
"""

from support.processes import training_command  # first: it prepares the command

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Batches, load_dataset
from support.device import autocast_for, pick_device
from training.flags import COUNT, RATE, SHARE, SWITCH, WIDTH, argument_parser, number
from training.flags import parse_args as parse_run_args
from training.run import Run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__file__, __doc__)
    add = parser.add_argument_group("model").add_argument
    add("--z_dim", type=WIDTH, default=100, help="length of z")
    add("--ngf", type=WIDTH, default=128, help="width of G's first layer; each next has twice it")
    add("--ndf", type=WIDTH, default=256, help="width of D's last layer; each before has twice it")
    add("--dropout", type=SHARE, default=0.3, help="share of D's features dropped (Sec. 5)")
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=COUNT, default=50, help="passes over the training images")
    add("--batch_size", type=COUNT, default=64, help="images a step (m in Alg. 1)")
    add("--d_steps", type=COUNT, default=1, help="updates of D for each of G (k in Alg. 1: 1)")
    add("--lr_g", type=RATE, default=4e-4, help="Adam's step for G")
    add("--lr_d", type=RATE, default=4e-4, help="the same for D (two rates: Heusel et al. 2017)")
    add("--beta1", type=SHARE, default=0.5, help="Adam's beta1 (usual: 0.9)")
    add("--beta2", type=SHARE, default=0.999, help="Adam's beta2")
    ema = "decay of the average of G's weights; 0: no average (Yazici et al. 2019)"
    add("--ema", type=SHARE, default=0.999, help=ema)
    add = parser.add_argument_group("labels of the discriminator").add_argument
    smoothing = "real is 1 minus this, for D only (Salimans et al. 2016 Sec. 3.4)"
    add("--label_smoothing", type=number("[0, 0.5]"), default=0.1, help=smoothing)
    noise = "share of D's labels swapped (Chintala et al. 2016, How to Train a GAN, tip 6)"
    add("--label_noise", type=number("[0, 1]"), default=0.0, help=noise)
    add("--flip_labels", **SWITCH, help="real = 0, fake = 1 throughout (Chintala et al., tip 2)")
    return parse_run_args(parser, argv)


class Generator(nn.Module):
    """z (B, z_dim) -> images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(self, z_dim: int, ngf: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.shape = (channels, image_size, image_size)
        hidden = 4 if channels == 1 else 5  # colour needs more
        widths = [z_dim, *(ngf * 2**i for i in range(hidden))]
        layers: list[nn.Module] = []
        for before, width in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, width), nn.LeakyReLU(0.2, True)]
        layers.append(nn.Linear(widths[-1], channels * image_size**2))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        images = self.layers(z).float().tanh()  # in bfloat16 black is -1 to the bit: no slope
        return images.view(len(z), *self.shape)


class Discriminator(nn.Module):
    """Images (B, channels, image_size, image_size) -> logits (B,): real or not."""

    def __init__(self, ndf: int, channels: int, image_size: int, dropout: float) -> None:
        super().__init__()
        hidden = 2 if channels == 1 else 3
        widths = [channels * image_size**2, *(ndf * 2**i for i in reversed(range(hidden)))]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, width in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, width), nn.LeakyReLU(0.2, True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(ndf, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1).float()


def targets(logits: Tensor, real: bool, smoothing: float, noise: float, flip: bool) -> Tensor:
    """What D should say, (B,): 1 - smoothing for real images, 0 for generated ones.

    A share `noise` of the images, drawn anew each time, gets the other kind's label. `flip` then
    mirrors everything: real = smoothing, generated = 1.
    """
    is_real = torch.full_like(logits, real, dtype=torch.bool)
    if noise:
        is_real ^= torch.rand_like(logits) < noise
    labels = is_real * (1 - smoothing)
    return 1 - labels if flip else labels


def discriminator_loss(
    real_logits: Tensor, fake_logits: Tensor, smoothing: float, noise: float, flip: bool
) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))] as cross-entropies with the targets above, of logits, not
    probabilities: log D(x) stays finite where sigmoid rounds to 0 or 1."""
    real = targets(real_logits, True, smoothing, noise, flip)
    fake = targets(fake_logits, False, smoothing, noise, flip)
    cross_entropy = F.binary_cross_entropy_with_logits
    return cross_entropy(real_logits, real) + cross_entropy(fake_logits, fake)


def generator_loss(fake_logits: Tensor, flip: bool) -> Tensor:
    """-E[log D(G(z))], the non-saturating loss (Sec. 3); labels neither noisy nor smoothed.

    Eq. 1 would have G minimise E[log(1 - D(G(z)))]. Early on D is sure: D(G(z)) is near 0, and so
    is the slope of that loss in the logit, -D(G(z)): nothing to learn from. The slope of this one
    is D(G(z)) - 1, there at its steepest; the fixed point is the same.
    """
    real = targets(fake_logits, True, smoothing=0.0, noise=0.0, flip=flip)
    return F.binary_cross_entropy_with_logits(fake_logits, real)


def ema_pairs(ema: nn.Module, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Pair each weight and each running statistic of batch norm with its average in `ema`."""
    pairs = zip(ema.state_dict().values(), network.state_dict().values(), strict=True)
    return [(average, value) for average, value in pairs if value.is_floating_point()]


@torch.no_grad()
def update_ema(pairs: list[tuple[Tensor, Tensor]], decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * network, for all pairs of ema_pairs()."""
    for average, value in pairs:
        average.lerp_(value, 1 - decay)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    dataset = load_dataset(args.dataset, args.data_dir, args.image_size, args.classes)
    images, labels = dataset.train_images, dataset.train_labels
    batches = Batches(images, labels, args.batch_size, args.seed, device, args.hflip, shared=True)

    image_args = dict(channels=dataset.channels, image_size=dataset.image_size)
    generator_args = dict(z_dim=args.z_dim, ngf=args.ngf, **image_args)
    generator = Generator(**generator_args)
    discriminator = Discriminator(args.ndf, **image_args, dropout=args.dropout)
    for network in (generator, discriminator):
        network.to(device)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    betas = (args.beta1, args.beta2)
    opt_g = torch.optim.Adam(generator.parameters(), args.lr_g, betas, fused=True)
    opt_d = torch.optim.Adam(discriminator.parameters(), args.lr_d, betas, fused=True)

    steps = max(1, len(batches) // args.d_steps)  # of G, an epoch
    state = dict(
        generator=generator, discriminator=discriminator, ema=ema, opt_g=opt_g, opt_d=opt_d
    )
    run = Run(Path(__file__).stem, args, dataset, steps, generator_args, **state)
    flip = args.flip_labels
    labels_of_d = dict(smoothing=args.label_smoothing, noise=args.label_noise, flip=flip)
    clean = partial(discriminator_loss, smoothing=0.0, noise=0.0, flip=flip)
    run.evaluate_with(clean, partial(generator_loss, flip=flip), real_sign=-1 if flip else 1)
    averages = ema_pairs(ema, generator)
    autocast = autocast_for(device, args.precision)

    for step in run.steps():
        # D's steps: tell real images from generated ones (Alg. 1, the inner loop).
        for k in range(args.d_steps):
            real, _ = batches[step * args.d_steps + k]  # (B, channels, H, W) in [-1, 1]
            z = batches.noise(args.z_dim)
            with autocast():
                fake = generator(z)
                real_logits = discriminator(real)
                fake_logits = discriminator(fake.detach())  # detach: G learns nothing here
            d_loss = discriminator_loss(real_logits, fake_logits, **labels_of_d)
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()

        # G's step: make D, as it now is, call them real. D's own weights need no gradients here.
        discriminator.requires_grad_(False)
        with autocast():
            fake_logits_after = discriminator(fake)
        g_loss = generator_loss(fake_logits_after, flip)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        discriminator.requires_grad_(True)

        # While young, G improves too fast for a long memory: start with a short one.
        update_ema(averages, min(args.ema, (1 + step) / (10 + step)))

        # For the curves: D(x), D(G(z)) before and after D's step, and how often D is right.
        run.log(real_logits, fake_logits, fake_logits_after, d_loss=d_loss, g_loss=g_loss)


if __name__ == "__main__":
    with training_command():
        main()
