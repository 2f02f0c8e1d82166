"""DCGAN: a GAN of strided convolutions (Radford et al., 2016, arXiv:1511.06434), modernised.

A generator G turns noise z into an image. Each strided transposed convolution doubles the side of
the feature map, and the last one outputs the image. A discriminator D halves the side with strided
convolutions, and decides whether an image comes from the data.

    min_G max_D  E_x[log D(x)] + E_z[log(1 - D(G(z)))]

    what                   in the paper (*: in its code)       here
    z                      100 dimensions, uniform             16 dimensions, N(0, 1)
    kernels; channels      5x5; MNIST*: G 128->64, D 64->128   4x4; G 128->64, D 32->64
    dense hidden layers    none (Sec. 3); for MNIST* 1,024     256 units in D
    other features of D    none                                3x3 conv, summed over positions
    norm of D              batch                               spectral (Miyato et al. 2018)
    Adam                   0.0002, betas 0.5, 0.999*           G 0.0008, D 0.0016, betas 0, 0.9
    learning-rate decay    none*; MNIST*: in the second half   in the second half
    weight decay           1e-5*; for MNIST* 2.5e-5            none
    updates                each batch updates D or G*          D and G, with the same z
    target of real images  1                                   0.9 (label smoothing)
    samples                from G                              from the EMA of G's weights

Run:     python dcgan.py --dataset fashion_mnist
Result:  FCD 0.285 (fid.py, 10,000 samples, seed 0) after 70 epochs, 76 minutes on one core
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
from torch.nn.utils import parametrize

from data import Batches, load_dataset
from support.device import autocast_for, pick_device
from support.layers import conv_block, convs_3x3, spectral_norm
from training.flags import SWITCH, argument_parser, parse_run_args
from training.run import Run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__file__, __doc__)
    model = parser.add_argument_group("model")
    model.add_argument("--z_dim", type=int, default=16, help="latent dimension (DCGAN: 100)")
    ngf = "channels of G's last hidden layer (DCGAN's code: 128, for MNIST 64)"
    model.add_argument("--ngf", type=int, default=64, help=ngf)
    ndf = "channels of D's first layer (DCGAN's code: 128, for MNIST 64)"
    model.add_argument("--ndf", type=int, default=32, help=ndf)
    depth = "number of 3 x 3 convolutions added per feature map, in both networks (DCGAN has 0)"
    model.add_argument("--depth", type=int, default=0, help=depth)
    norms = ("spectral", "batch", "instance", "layer", "none")
    norm = "normalisation of D (DCGAN: batch; spectral: Miyato et al. 2018)"
    model.add_argument("--norm", choices=norms, default="spectral", help=norm)
    dropout = "fraction of D's last features that dropout sets to 0 (Goodfellow et al. 2014)"
    model.add_argument("--dropout", type=float, default=0.0, help=dropout)
    optim = parser.add_argument_group("optimisation")
    optim.add_argument("--epochs", type=int, default=70, help="passes over the training images")
    optim.add_argument("--batch_size", type=int, default=128, help="images per step (DCGAN: 128)")
    optim.add_argument("--lr_g", type=float, default=8e-4, help="G's learning rate (DCGAN: 2e-4)")
    optim.add_argument("--lr_d", type=float, default=1.6e-3, help="D's learning rate (DCGAN: 2e-4)")
    decay = "last fraction of the run, in which learning rates fall to 0 (DCGAN's MNIST code: 0.5)"
    optim.add_argument("--lr_decay", type=float, default=0.5, help=decay)
    optim.add_argument("--beta1", type=float, default=0.0, help="Adam beta1 (DCGAN Sec. 4: 0.5)")
    optim.add_argument("--beta2", type=float, default=0.9, help="Adam beta2 (usual: 0.999)")
    ema = "decay of the moving average (EMA) of G's weights (Yazici et al. 2019); 0 turns it off"
    optim.add_argument("--ema", type=float, default=0.99, help=ema)
    matching = "train G to match D's mean features of real images (Salimans et al. 2016 Sec. 3.1)"
    optim.add_argument("--feature_matching", **SWITCH, help=matching)
    labels = parser.add_argument_group("targets of the discriminator (real or generated)")
    smoothing = "D's target for real images is 1 minus this (Salimans et al. 2016 Sec. 3.4)"
    labels.add_argument("--label_smoothing", type=float, default=0.1, help=smoothing)
    noise = "fraction of D's targets (real or generated) to swap at random (ganhacks, tip 6)"
    labels.add_argument("--label_noise", type=float, default=0.0, help=noise)
    flip = "replace each target t in both losses by 1 - t, which changes the sign of D's logit"
    labels.add_argument("--flip_labels", **SWITCH, help=flip)
    return parse_run_args(parser, argv)


def channel_widths(image_size: int, width: int) -> tuple[int, list[int]]:
    """Return the side of the smallest feature map, and the channels of all maps."""
    halvings = {28: 2, 32: 3, 64: 4, 128: 5}[image_size]  # down to 7 or 4 pixels
    return image_size >> halvings, [width * min(2**i, 8) for i in range(halvings)]  # DCGAN Fig. 1


class Generator(nn.Module):
    """Turn z (B, z_dim) into images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(
        self, z_dim: int, ngf: int, channels: int, image_size: int, depth: int = 0
    ) -> None:
        super().__init__()
        self.side, widths = channel_widths(image_size, ngf)  # 7, [64, 128] for 28 x 28 pixels
        self.project = nn.Linear(z_dim, widths[-1] * self.side**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
        layers += convs_3x3(widths[-1], depth)
        for before, width in pairwise(reversed(widths)):
            # Kernel 4 is a multiple of stride 2: fewer checkerboard artifacts (Odena et al. 2016).
            conv = nn.ConvTranspose2d(before, width, 4, stride=2, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += convs_3x3(width, depth)
        layers.append(nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)
        init_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z)  # (B, 7 * 7 * 128) for 28 x 28 pixels
        # Channels come last in memory, because convolutions are fastest in this layout.
        x = x.view(len(z), self.side, self.side, -1).permute(0, 3, 1, 2)  # (B, 128, 7, 7)
        x = self.layers(x)  # (B, 64, 14, 14), then (B, channels, 28, 28)
        # tanh is in float32, because bfloat16 rounds black pixels to -1, where the gradient is 0.
        return x.float().tanh()


class Discriminator(nn.Module):
    """Turn images (B, channels, image_size, image_size) into the logits of D(x), (B,)."""

    def __init__(
        self,
        ndf: int,
        channels: int,
        image_size: int,
        norm: str,
        dropout: float,
        depth: int = 0,
    ) -> None:
        super().__init__()
        side, widths = channel_widths(image_size, ndf)  # 7, [32, 64] for 28 x 28 pixels
        layers: list[nn.Module] = []
        kind = "none"  # no norm layer after the first convolution (DCGAN Sec. 3)
        for before, width in pairwise([channels, *widths]):
            layers += conv_block(nn.Conv2d(before, width, 4, stride=2, padding=1), kind)
            kind = norm
            for _ in range(depth):
                layers += conv_block(nn.Conv2d(width, width, 3, padding=1), norm)
        self.layers = nn.Sequential(*layers)
        # `dense` sees layout, because it has a weight per position, as in DCGAN's MNIST code.
        # `local` sees texture, because it sums the outputs of one convolution at all positions.
        last = widths[-1]
        self.local = nn.Sequential(*conv_block(nn.Conv2d(last, last, 3, padding=1), norm))
        self.dense = nn.Linear(last * side**2, 8 * ndf)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8 * ndf + last, 1)
        init_weights(self)
        if norm == "spectral":
            spectral_norm(self)  # last, because it estimates singular values of the weights

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the last layer (B, 8 * ndf + channels of the last maps)."""
        maps = self.layers(images)  # (B, 64, 7, 7) for 28 x 28 pixels
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # (B, 7 * 7 * 64), without a copy
        dense = F.leaky_relu(self.dense(flat), 0.2)  # (B, 256)
        local = self.local(maps).sum(dim=(2, 3))  # (B, 64)
        return self.dropout(torch.cat([dense, local], dim=1))

    def logits_from_features(self, features: Tensor) -> Tensor:
        return self.linear(features).squeeze(1).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_from_features(self.features(images))


def init_weights(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02^2) (DCGAN Sec. 4); biases keep the initial values of torch."""
    for parameter in network.parameters():
        if parameter.ndim > 1:  # skip biases and the parameters of norm layers
            nn.init.normal_(parameter, 0.0, 0.02)


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

    G has no label noise and no label smoothing, because both only regularise D.
    """
    real = targets(fake_logits, True, smoothing=0.0, noise=0.0, flip=flip)
    return F.binary_cross_entropy_with_logits(fake_logits, real)


def feature_matching_loss(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Return |E f(x) - E f(G(z))|^2 for features (B, d) of D (Salimans et al. 2016, Sec. 3.1)."""
    real_mean, fake_mean = real_features.float().mean(dim=0), fake_features.float().mean(dim=0)
    return (real_mean.detach() - fake_mean).square().sum()  # detach: a fixed target


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

    image_args = dict(channels=dataset.channels, image_size=dataset.image_size, depth=args.depth)
    generator_args = dict(z_dim=args.z_dim, ngf=args.ngf, **image_args)
    generator = Generator(**generator_args)
    discriminator = Discriminator(args.ndf, **image_args, norm=args.norm, dropout=args.dropout)
    for network in (generator, discriminator):
        network.to(device).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    betas = (args.beta1, args.beta2)
    opt_g = torch.optim.Adam(generator.parameters(), args.lr_g, betas, fused=True)
    opt_d = torch.optim.Adam(discriminator.parameters(), args.lr_d, betas, fused=True)

    state = dict(
        generator=generator, discriminator=discriminator, ema=ema, opt_g=opt_g, opt_d=opt_d
    )
    run = Run(Path(__file__).stem, args, dataset, len(batches), generator_args, **state)
    flip = args.flip_labels
    run.evaluate_with(discriminator_loss, generator_loss, real_sign=-1 if flip else 1)
    label_options = dict(smoothing=args.label_smoothing, noise=args.label_noise, flip=flip)
    pairs = zip(ema.state_dict().values(), generator.state_dict().values(), strict=True)
    ema_pairs = [(average, value) for average, value in pairs if value.is_floating_point()]
    autocast = autocast_for(device, args.precision)

    for step in run.steps():
        decay_lr(step / run.total_steps, args.lr_decay, opt_g, opt_d)
        real, _ = batches[step]  # (B, channels, H, W) in [-1, 1]
        z = batches.noise(args.z_dim)  # (B, z_dim)

        # (1) Update D: minimise -E[log D(x)] - E[log(1 - D(G(z)))]. D sees the two batches apart,
        # because one pass with --norm batch would mix their statistics.
        with autocast(), parametrize.cached():  # compute spectral norm once for both passes
            fake = generator(z)
            real_logits = discriminator(real)
            fake_logits = discriminator(fake.detach())  # detach: d_loss must not reach G
        d_loss = discriminator_loss(real_logits, fake_logits, **label_options)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()

        # (2) Update G: minimise -E[log D(G(z))] with the updated D, on the same generated images.
        discriminator.requires_grad_(False)  # gradients pass through D, but not into its weights
        with autocast(), parametrize.cached():
            fake_features = discriminator.features(fake)
            fake_logits_after = discriminator.logits_from_features(fake_features)
            if args.feature_matching:
                g_loss = feature_matching_loss(discriminator.features(real), fake_features)
            else:
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
