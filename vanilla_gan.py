"""Vanilla GAN: two networks that learn from each other (Goodfellow et al., 2014, arXiv:1406.2661).

A generator G turns noise z into an image. A discriminator D estimates the probability that an image
comes from the data and not from G. D learns to tell the two apart. G learns to make images that D
calls real. At the solution, D is 1/2 everywhere and G draws from the distribution of the data.

    min_G max_D  V = E_x[log D(x)] + E_z[log(1 - D(G(z)))]                                 (Eq. 1)

Both networks are multilayer perceptrons. Both treat an image as a vector, so they do not know which
pixels are neighbours.

    what                   in the paper (*: in its code)       here
    layers of G            ReLU and sigmoid; 1,200 and 1,200*  leaky ReLU, tanh; 128 256 512 1,024
    layers of D            maxout; 240 and 240*                leaky ReLU; 512 and 256
    dropout in D           0.5, and 0.2 at the input*          0.3 after each hidden layer
    optimiser              gradient descent with momentum      Adam
    loss of G              log(1 - D(G(z))); -log D(G(z))*     -log D(G(z)) (Sec. 3)
    update of G            new z (Alg. 1); z of D's update*    z of the last update of D
    target of real images  1                                   0.9 (label smoothing)
    samples                from G                              from the EMA of G's weights

Run:     python vanilla_gan.py --dataset fashion_mnist
Result:  FCD 2.046 (fid.py, 10,000 samples, seed 0) after 100 epochs, 38 minutes on one core
"""

from support.processes import training_command  # first, so Ctrl-C during imports prints one line

import argparse
import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Batches, load_dataset
from support.device import autocast_for, pick_device
from training.flags import SWITCH, argument_parser, parse_run_args
from training.run import Run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__file__, __doc__)
    model = parser.add_argument_group("model")
    model.add_argument("--z_dim", type=int, default=100, help="latent dimension, the length of z")
    ngf = "width of G's first hidden layer; each next layer is twice as wide"
    model.add_argument("--ngf", type=int, default=128, help=ngf)
    ndf = "width of D's last hidden layer; each earlier layer is twice as wide as the next"
    model.add_argument("--ndf", type=int, default=256, help=ndf)
    dropout = "fraction of D's hidden features that dropout sets to 0 (Sec. 5)"
    model.add_argument("--dropout", type=float, default=0.3, help=dropout)
    optim = parser.add_argument_group("optimisation")
    optim.add_argument("--epochs", type=int, default=100, help="passes over the training images")
    optim.add_argument("--batch_size", type=int, default=64, help="images per update (m in Alg. 1)")
    d_steps = "updates of D per update of G (k in Alg. 1; the paper uses 1)"
    optim.add_argument("--d_steps", type=int, default=1, help=d_steps)
    optim.add_argument("--lr_g", type=float, default=4e-4, help="learning rate of G")
    optim.add_argument("--lr_d", type=float, default=4e-4, help="learning rate of D")
    decay = "last fraction of the run, in which learning rates fall to 0 (DCGAN's MNIST code: 0.5)"
    optim.add_argument("--lr_decay", type=float, default=0.0, help=decay)
    optim.add_argument("--beta1", type=float, default=0.5, help="Adam beta1 (DCGAN Sec. 4: 0.5)")
    optim.add_argument("--beta2", type=float, default=0.999, help="Adam beta2 (usual: 0.999)")
    ema = "decay of the moving average (EMA) of G's weights (Yazici et al. 2019); 0 turns it off"
    optim.add_argument("--ema", type=float, default=0.999, help=ema)
    labels = parser.add_argument_group("targets of the discriminator (real or generated)")
    smoothing = "D's target for real images is 1 minus this (Salimans et al. 2016 Sec. 3.4)"
    labels.add_argument("--label_smoothing", type=float, default=0.1, help=smoothing)
    noise = "fraction of D's targets (real or generated) to swap at random (ganhacks, tip 6)"
    labels.add_argument("--label_noise", type=float, default=0.0, help=noise)
    flip = "replace each target t in both losses by 1 - t, which changes the sign of D's logit"
    labels.add_argument("--flip_labels", **SWITCH, help=flip)
    return parse_run_args(parser, argv)


class Generator(nn.Module):
    """Turn z (B, z_dim) into images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(self, z_dim: int, ngf: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.shape = (channels, image_size, image_size)
        hidden = 4 if channels == 1 else 5  # one more layer for colour
        widths = [z_dim, *(ngf * 2**i for i in range(hidden))]
        layers: list[nn.Module] = []
        for before, width in pairwise(widths):
            layers += [nn.Linear(before, width), nn.LeakyReLU(0.2, inplace=True)]  # (B, width)
        layers.append(nn.Linear(widths[-1], channels * image_size**2))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        x = self.layers(z)  # (B, channels * image_size^2)
        # tanh is in float32, because bfloat16 rounds black pixels to -1, where the gradient is 0.
        return x.float().tanh().view(len(z), *self.shape)


class Discriminator(nn.Module):
    """Turn images (B, channels, image_size, image_size) into the logits of D(x), (B,)."""

    def __init__(self, ndf: int, channels: int, image_size: int, dropout: float) -> None:
        super().__init__()
        hidden = 2 if channels == 1 else 3
        widths = [channels * image_size**2, *(ndf * 2**i for i in reversed(range(hidden)))]
        layers: list[nn.Module] = [nn.Flatten()]  # (B, channels * image_size^2)
        for before, width in pairwise(widths):
            layers += [nn.Linear(before, width), nn.LeakyReLU(0.2, inplace=True)]  # (B, width)
            layers += [nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(ndf, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1).float()


def targets(logits: Tensor, real: bool, smoothing: float, noise: float, flip: bool) -> Tensor:
    """Return D's targets (B,): 1 - smoothing for real images, 0 for generated images.

    A random fraction `noise` gets the other target. `flip` replaces each target t by 1 - t.
    """
    is_real = torch.full_like(logits, real, dtype=torch.bool)
    if noise:
        swapped = torch.rand_like(logits) < noise
        is_real = torch.where(swapped, ~is_real, is_real)
    target = is_real * (1 - smoothing)
    return 1 - target if flip else target


def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    smoothing: float = 0.0,
    noise: float = 0.0,
    flip: bool = False,
) -> Tensor:
    """Return -E[log D(x)] - E[log(1 - D(G(z)))] by default. The options change the targets 1 and 0.

    The loss takes logits, because sigmoid rounds to 1 above 17. There log(1 - D) is infinite.
    """
    real = targets(real_logits, True, smoothing, noise, flip)
    fake = targets(fake_logits, False, smoothing, noise, flip)
    cross_entropy = F.binary_cross_entropy_with_logits
    return cross_entropy(real_logits, real) + cross_entropy(fake_logits, fake)


def generator_loss(fake_logits: Tensor, flip: bool = False) -> Tensor:
    """Return -E[log D(G(z))], the non-saturating loss (Goodfellow et al. 2014, Sec. 3).

    G has no label noise and no label smoothing, because both only regularise D. In Eq. 1, G
    minimises E[log(1 - D(G(z)))]. Early in training, D(G(z)) is near 0. The gradient of log(1 - D)
    with respect to the logit is -D(G(z)), so G would learn almost nothing. The gradient of the loss
    here is D(G(z)) - 1, which is near -1. Both losses have the same fixed point.
    """
    real = targets(fake_logits, True, smoothing=0.0, noise=0.0, flip=flip)
    return F.binary_cross_entropy_with_logits(fake_logits, real)


def decay_lr(done: float, decay: float, *optimisers: torch.optim.Optimizer) -> None:
    """Decay learning rates linearly to 0 in the last fraction `decay`. `done` goes from 0 to 1."""
    factor = min(1.0, (1 - done) / decay) if decay else 1.0
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * optimiser.defaults["lr"]


@torch.no_grad()
def update_ema(pairs: Sequence[tuple[Tensor, Tensor]], decay: float) -> None:
    """Set average to decay * average + (1 - decay) * value, for each pair (average, value)."""
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

    steps = max(1, len(batches) // args.d_steps)  # updates of G per epoch
    state = dict(
        generator=generator, discriminator=discriminator, ema=ema, opt_g=opt_g, opt_d=opt_d
    )
    run = Run(Path(__file__).stem, args, dataset, steps, generator_args, **state)
    flip = args.flip_labels
    run.evaluate_with(discriminator_loss, generator_loss, real_sign=-1 if flip else 1)
    label_options = dict(smoothing=args.label_smoothing, noise=args.label_noise, flip=flip)
    pairs = zip(ema.state_dict().values(), generator.state_dict().values(), strict=True)
    ema_pairs = [(average, value) for average, value in pairs if value.is_floating_point()]
    autocast = autocast_for(device, args.precision)

    for step in run.steps():
        decay_lr(step / run.total_steps, args.lr_decay, opt_g, opt_d)
        # (1) Update D: minimise -E[log D(x)] - E[log(1 - D(G(z)))] (Alg. 1, inner loop).
        for k in range(args.d_steps):
            real, _ = batches[step * args.d_steps + k]  # (B, channels, H, W) in [-1, 1]
            z = batches.noise(args.z_dim)  # (B, z_dim)
            with autocast():
                fake = generator(z)
                real_logits = discriminator(real)
                fake_logits = discriminator(fake.detach())  # detach: d_loss must not reach G
            d_loss = discriminator_loss(real_logits, fake_logits, **label_options)
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()

        # (2) Update G: minimise -E[log D(G(z))] with the updated D, on the same generated images.
        discriminator.requires_grad_(False)  # gradients pass through D, but not into its weights
        with autocast():
            fake_logits_after = discriminator(fake)
        g_loss = generator_loss(fake_logits_after, flip)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        discriminator.requires_grad_(True)

        # Only samples and metrics use the EMA. The decay of the EMA grows from 0.1 to --ema,
        # because G changes fast at the start (as num_updates does in TensorFlow).
        update_ema(ema_pairs, min(args.ema, (1 + step) / (10 + step)))

        # Log both losses, the mean D(x), and the mean D(G(z)) before and after D's update.
        run.log(real_logits, fake_logits, fake_logits_after, d_loss=d_loss, g_loss=g_loss)


if __name__ == "__main__":
    with training_command():
        main()
