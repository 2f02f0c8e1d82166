"""Conditional DCGAN: a picture of the class you ask for (Mirza & Osindero, 2014, arXiv:1411.1784).

A generator G turns noise z and a class y into an image; a discriminator D sees an image and a class
and says whether they came from the data. Both are given y, so D can refuse the right picture under
the wrong name, and G must draw what it was asked for.

    min_G max_D  E_{x,y}[log D(x|y)] + E_{z,y}[log(1 - D(G(z|y)|y))]

The networks are DCGAN's (Radford et al., 2016, arXiv:1511.06434) with half the channels. D has
spectral norm instead of batch norm, and a layer more, of two kinds of features; Adam no momentum,
and four (G) and eight (D) times the paper's rate, falling to 0; real counts as 0.9; G's weights
are averaged; z is 16 normal numbers, not 100 uniform ones. Mirza & Osindero give both a one-hot y;
here G gets a learnt vector, and D a projection (Miyato & Koyama, 2018, arXiv:1802.05637).

Run:     python cdcgan.py --dataset fashion_mnist --epochs 50
Result:  FCD 0.05 ± 0.01 after 50 epochs (3 seeds, 10k samples, test set), 40 min, one AMX CPU core
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
from torch.nn.utils import parametrize

from data import Batches, load_dataset
from support.device import autocast_for, pick_device
from support.layers import normalised, spectral_norm
from training.flags import COUNT, RATE, SHARE, SWITCH, WIDTH, argument_parser, number
from training.flags import parse_args as parse_run_args
from training.run import Run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__file__, __doc__)
    add = parser.add_argument_group("model").add_argument
    add("--z_dim", type=WIDTH, default=16, help="length of z (DCGAN Fig. 1: 100)")
    add("--ngf", type=WIDTH, default=64, help="channels of G's last hidden layer (DCGAN: 128)")
    add("--ndf", type=WIDTH, default=32, help="channels of D's first layer (DCGAN's code: 64)")
    norms = ("spectral", "batch", "instance", "layer", "none")
    add("--norm", choices=norms, default="spectral", help="D's (Miyato et al. 2018; DCGAN: batch)")
    add("--dropout", type=SHARE, default=0.0, help="share of D's last features (Goodfellow 2014)")
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=COUNT, default=50, help="passes over the training images")
    add("--batch_size", type=COUNT, default=128, help="images a step (DCGAN Sec. 4: 128)")
    add("--lr_g", type=RATE, default=8e-4, help="Adam's step for G (DCGAN Sec. 4: 0.0002)")
    add("--lr_d", type=RATE, default=1.6e-3, help="the same for D (two rates: Heusel et al. 2017)")
    add("--lr_decay", type=SHARE, default=0.5, help="rates fall to 0 in this last share (Zhu 2017)")
    add("--beta1", type=SHARE, default=0.0, help="Adam's beta1 (DCGAN: 0.5; Gulrajani 2017: 0)")
    add("--beta2", type=SHARE, default=0.9, help="Adam's beta2 (DCGAN: 0.999; Gulrajani: 0.9)")
    ema = "decay of the average of G's weights; 0: no average (Yazici et al. 2019)"
    add("--ema", type=SHARE, default=0.99, help=ema)
    matching = "G's loss: match the mean of D's features (Salimans et al. 2016 Sec. 3.1)"
    add("--feature_matching", **SWITCH, help=matching)
    add = parser.add_argument_group("labels of the discriminator").add_argument
    smoothing = "real is 1 minus this, for D only (Salimans et al. 2016 Sec. 3.4)"
    add("--label_smoothing", type=number("[0, 0.5]"), default=0.1, help=smoothing)
    noise = "share of D's labels swapped (Chintala et al. 2016, How to Train a GAN, tip 6)"
    add("--label_noise", type=number("[0, 1]"), default=0.0, help=noise)
    add("--flip_labels", **SWITCH, help="real = 0, fake = 1 throughout (Chintala et al., tip 2)")
    return parse_run_args(parser, argv)


def channel_widths(image_size: int, width: int) -> tuple[int, list[int]]:
    """Return the smallest map's side (4, or 7 for 28 pixels), and channels from the image down.

    Every halving of the side doubles the channels, up to 8 * width (DCGAN Fig. 1).
    """
    halvings = {28: 2, 32: 3, 64: 4, 128: 5}[image_size]
    return image_size >> halvings, [width * min(2**i, 8) for i in range(halvings)]


class Generator(nn.Module):
    """z (B, z_dim) and labels (B,) -> images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(
        self, z_dim: int, ngf: int, channels: int, image_size: int, num_classes: int
    ) -> None:
        super().__init__()
        self.first, widths = channel_widths(image_size, ngf)
        # Drawn small, by init_weights: with torch's N(0, 1), y is as loud as z and G varies little.
        self.embed = nn.Embedding(num_classes, z_dim)
        self.project = nn.Linear(2 * z_dim, widths[-1] * self.first**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.ReLU(True)]
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            # Kernel 4, stride 2: equally many weights reach each pixel; uneven, they draw checkers.
            layers += [
                nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(True),
            ]
        layers.append(nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = self.project(torch.cat([z, self.embed(labels)], dim=1))
        # Channels last, the layout that convolutions are fastest in, costs nothing from here on.
        x = x.view(len(z), self.first, self.first, -1).permute(0, 3, 1, 2)
        return self.layers(x).float().tanh()  # in bfloat16 black is -1 to the bit: no slope


class Discriminator(nn.Module):
    """Images (B, channels, image_size, image_size) and labels (B,) -> logits (B,): real or not."""

    def __init__(
        self, ndf: int, channels: int, image_size: int, num_classes: int, norm: str, dropout: float
    ) -> None:
        super().__init__()
        first, widths = channel_widths(image_size, ndf)
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False)):
            # DCGAN Sec. 3: no normalisation of the layer that sees the image.
            kind = "none" if i == 0 and norm != "spectral" else norm
            layers += normalised(nn.Conv2d(before, width, 4, stride=2, padding=1), kind)
            layers += [nn.LeakyReLU(0.2, True)]
        self.layers = nn.Sequential(*layers)
        # local: textures, wherever they are; dense: what is where (cf. InfoGAN, Chen et al. 2016).
        wide = widths[-1]
        self.local = nn.Sequential(*normalised(nn.Conv2d(wide, wide, 3, padding=1), norm))
        self.dense = nn.Linear(wide * first**2, 8 * ndf)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8 * ndf + wide, 1)
        self.embed = nn.Embedding(num_classes, 8 * ndf + wide)
        if norm == "spectral":
            for layer in (self.dense, self.linear, self.embed):
                spectral_norm(layer)

    def features(self, images: Tensor) -> Tensor:
        """(B, features): what the last layer sees."""
        maps = self.layers(images)
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # channels last, as they are: no copy
        dense = F.leaky_relu(self.dense(flat), 0.2)
        local = F.leaky_relu(self.local(maps), 0.2).sum(dim=(2, 3))
        return self.dropout(torch.cat([dense, local], dim=1))

    def judge(self, features: Tensor, labels: Tensor) -> Tensor:
        # Projection (Miyato & Koyama 2018, Eq. 3): how real it is, plus how much it is a y.
        matches = (self.embed(labels) * features).sum(dim=1)
        return (self.linear(features).squeeze(1) + matches).float()

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.judge(self.features(images), labels)


def init_weights(network: nn.Module) -> None:
    """Draw weights, or what spectral norm makes them of, from N(0, 0.02) (DCGAN Sec. 4)."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.02)


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
    """-E[log D(G(z))], non-saturating (Goodfellow et al. 2014, Sec. 3); labels neither noisy nor
    smoothed: both are there to hold back D."""
    real = targets(fake_logits, True, smoothing=0.0, noise=0.0, flip=flip)
    return F.binary_cross_entropy_with_logits(fake_logits, real)


def feature_matching_loss(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """|E f(x) - E f(G(z))|^2 (Salimans et al. 2016, Sec. 3.1) for features (B, d) of D."""
    real_mean, fake_mean = real_features.float().mean(dim=0), fake_features.float().mean(dim=0)
    return (real_mean.detach() - fake_mean).square().sum()  # detach: only G learns from it


def decay_rates(done: float, decay: float, *optimisers: torch.optim.Optimizer) -> None:
    """Leave the rates as given until the last share `decay` of a run; over it, let them fall
    linearly to 0 (Zhu et al., 2017, Sec. 4). `done` is the share of the run that is over."""
    factor = min(1.0, (1 - done) / decay) if decay else 1.0
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * optimiser.defaults["lr"]


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
    dataset.require_classes("dcgan.py learns without them")
    images, labels = dataset.train_images, dataset.train_labels
    batches = Batches(images, labels, args.batch_size, args.seed, device, args.hflip, shared=True)

    size, classes = dataset.image_size, len(dataset.classes)
    image_args = dict(channels=dataset.channels, image_size=size, num_classes=classes)
    generator_args = dict(z_dim=args.z_dim, ngf=args.ngf, **image_args)
    generator = Generator(**generator_args)
    discriminator = Discriminator(args.ndf, **image_args, norm=args.norm, dropout=args.dropout)
    for network in (generator, discriminator):
        init_weights(network)
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
    labels_of_d = dict(smoothing=args.label_smoothing, noise=args.label_noise, flip=flip)
    clean = partial(discriminator_loss, smoothing=0.0, noise=0.0, flip=flip)
    run.evaluate_with(clean, partial(generator_loss, flip=flip), real_sign=-1 if flip else 1)
    averages = ema_pairs(ema, generator)
    autocast = autocast_for(device, args.precision)

    for step in run.steps():
        decay_rates(step / run.total_steps, args.lr_decay, opt_g, opt_d)
        real, labels = batches[step]  # (B, channels, H, W) in [-1, 1], (B,)
        z = batches.noise(args.z_dim)

        # D's step: tell real images from generated ones of the same classes. Two passes: in one
        # batch, batch norm would mix the statistics of real and fake and give the answer away.
        with autocast(), parametrize.cached():  # one spectral norm for both passes
            fake = generator(z, labels)
            real_logits = discriminator(real, labels)
            fake_logits = discriminator(fake.detach(), labels)  # detach: G learns nothing here
        d_loss = discriminator_loss(real_logits, fake_logits, **labels_of_d)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()

        # G's step: make D, as it now is, call them real. D's own weights need no gradients here.
        discriminator.requires_grad_(False)
        with autocast(), parametrize.cached():
            fake_features = discriminator.features(fake)
            fake_logits_after = discriminator.judge(fake_features, labels)
            if args.feature_matching:
                g_loss = feature_matching_loss(discriminator.features(real), fake_features)
            else:
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
