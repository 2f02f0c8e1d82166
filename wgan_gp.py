"""WGAN-GP: a critic whose slope is kept near 1 (Gulrajani et al., 2017, arXiv:1704.00028).

A critic f scores images; over all f of slope at most 1, the largest difference of mean scores is
the Wasserstein-1 distance of data and samples (Arjovsky et al., 2017, arXiv:1701.07875, Eq. 2). It
has a slope wherever G stands, and falls as the pictures get better. Alg. 1 holds the slope by a
penalty at points between real and generated images:

    min_G max_f  E_x[f(x)] - E_z[f(G(z))] - lambda E_x^[(|grad f(x^)| - 1)^2]

With --weight_clip c it is Arjovsky et al.'s WGAN: no penalty, every weight of the critic in [-c,
c], RMSprop, small steps (--weight_clip 0.01 --norm batch --n_critic 5 --lr_g 5e-5 --lr_d 5e-5; at
the default rates the critic learns little). With --conditional both networks are given the class.
They are dcgan.py's, but the critic has no local features, and layer norm: batch norm would make a
score depend on the batch's other images, while the penalty is on the slope of each by itself
(Gulrajani et al., Sec. 4). Both papers update the critic five times for each update of G, for an
estimate to trust; with the penalty, once, the default, gives better pictures a minute.

Run:     python wgan_gp.py --dataset fashion_mnist --epochs 8
Result:  FCD 1.83 ± 0.16 after 8 epochs (3 seeds, 10k samples, test set), 8 min, one AMX CPU core
"""

from support.processes import training_command  # first: it prepares the command

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from data import Batches, load_dataset
from support.device import autocast_for, pick_device
from support.layers import normalised
from training.flags import COUNT, RATE, SHARE, SWITCH, WIDTH, argument_parser, number
from training.flags import parse_args as parse_run_args
from training.run import Run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__file__, __doc__)
    add = parser.add_argument_group("model").add_argument
    add("--z_dim", type=WIDTH, default=100, help="length of z (DCGAN Fig. 1: 100)")
    add("--ngf", type=WIDTH, default=64, help="channels of G's last hidden layer (DCGAN: 128)")
    add("--ndf", type=WIDTH, default=32, help="channels of the critic's first layer")
    norms = ("layer", "instance", "none", "batch")
    norm = "the critic's (Sec. 4: layer); batch goes with --weight_clip only"
    add("--norm", choices=norms, default="layer", help=norm)
    add("--dropout", type=SHARE, default=0.0, help="share of the critic's last features dropped")
    add("--conditional", **SWITCH, help="give both networks the class")
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=COUNT, default=50, help="passes over the training images")
    add("--batch_size", type=COUNT, default=64, help="images a step (Arjovsky et al., Alg. 1: 64)")
    add("--n_critic", type=COUNT, default=1, help="updates of the critic for each of G (Alg. 1: 5)")
    weight = "weight of the gradient penalty (lambda in Alg. 1: 10)"
    add("--lambda_gp", type=number("[0, 1e6]"), default=10.0, help=weight)
    clip = "WGAN: keep the critic's weights within this, no penalty (Arjovsky et al.: 0.01)"
    add("--weight_clip", type=RATE, help=clip)
    add("--lr_g", type=RATE, default=1.6e-3, help="step of G's optimiser (Alg. 1: 0.0001)")
    add("--lr_d", type=RATE, default=1.6e-3, help="the same of the critic's (clipping: 0.00005)")
    add("--beta1", type=SHARE, default=0.0, help="Adam's beta1 (Alg. 1: 0)")
    add("--beta2", type=SHARE, default=0.9, help="Adam's beta2, RMSprop's smoothing (Alg. 1: 0.9)")
    ema = "decay of the average of G's weights; 0: no average (Yazici et al. 2019)"
    add("--ema", type=SHARE, default=0.99, help=ema)
    args = parse_run_args(parser, argv)
    if args.norm == "batch" and args.weight_clip is None:
        why = "the penalty is on the slope of each image by itself, which batch norm mixes"
        parser.error(f"--norm batch needs --weight_clip: {why} (Sec. 4)")
    return args


def channel_widths(image_size: int, width: int) -> tuple[int, list[int]]:
    """Return the smallest map's side (4, or 7 for 28 pixels), and channels from the image down.

    Every halving of the side doubles the channels, up to 8 * width (DCGAN Fig. 1).
    """
    halvings = {28: 2, 32: 3, 64: 4, 128: 5}[image_size]
    return image_size >> halvings, [width * min(2**i, 8) for i in range(halvings)]


class Generator(nn.Module):
    """z (B, z_dim), and labels (B,) if conditional -> images (B, channels, H, W) in [-1, 1]."""

    def __init__(
        self, z_dim: int, ngf: int, channels: int, image_size: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.first, widths = channel_widths(image_size, ngf)
        self.embed = nn.Embedding(num_classes, z_dim) if num_classes else None
        given = 2 * z_dim if num_classes else z_dim
        self.project = nn.Linear(given, widths[-1] * self.first**2, bias=False)
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

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None and labels is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        x = self.project(z)
        # Channels last, the layout that convolutions are fastest in, costs nothing from here on.
        x = x.view(len(z), self.first, self.first, -1).permute(0, 3, 1, 2)
        return self.layers(x).float().tanh()  # in bfloat16 black is -1 to the bit: no slope


class Critic(nn.Module):
    """Images (B, channels, H, W), and labels (B,) if conditional -> scores (B,): any number."""

    def __init__(
        self,
        ndf: int,
        channels: int,
        image_size: int,
        norm: str,
        dropout: float,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        first, widths = channel_widths(image_size, ndf)
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False)):
            # DCGAN Sec. 3: no normalisation of the layer that sees the image.
            kind = "none" if i == 0 else norm
            layers += normalised(nn.Conv2d(before, width, 4, stride=2, padding=1), kind)
            layers += [nn.LeakyReLU(0.2, True)]
        self.layers = nn.Sequential(*layers)
        # Dense, as InfoGAN's (Chen et al. 2016, App. C.1): what is where in the whole image counts.
        dense = nn.Linear(widths[-1] * first**2, 8 * ndf)
        self.hidden = nn.Sequential(dense, nn.LeakyReLU(0.2, True), nn.Dropout(dropout))
        self.linear = nn.Linear(8 * ndf, 1)
        self.embed = nn.Embedding(num_classes, 8 * ndf) if num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.layers(images).permute(0, 2, 3, 1)  # channels last, as they are: no copy
        features = self.hidden(maps.flatten(1))  # (B, 8 * ndf)
        scores = self.linear(features).squeeze(1)
        if self.embed is not None and labels is not None:
            scores = scores + (self.embed(labels) * features).sum(dim=1)
        return scores.float()


def init_weights(network: nn.Module) -> None:
    """Draw weights, or what spectral norm makes them of, from N(0, 0.02) (DCGAN Sec. 4)."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.02)


def wasserstein_estimate(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """E[f(x)] - E[f(G(z))], which the critic makes as large as it can. It falls as G learns, if the
    critic is near its best (--n_critic 5)."""
    return real_scores.mean() - fake_scores.mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, *labels: Tensor) -> Tensor:
    """E[(|grad f(x^)| - 1)^2] over the batch (Alg. 1, lines 5 to 7); a number, with a gradient.

    real, fake: (B, C, H, W). x^ lies at random between an image and a sample, one alpha for each
    pair; the norm is that of the whole slope of one image, so it is taken image by image, in
    float32. The layers' derivatives, second ones too, may be bfloat16: the penalty's gradient
    then has a cosine of 0.9999 with float32's (measured over the first 40 steps).
    """
    alpha = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    x_hat = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
    scores = critic(x_hat, *labels)
    # The sum of the scores: its slope in x_hat[i] is that of the i-th score alone.
    (slope,) = torch.autograd.grad(scores.sum(), x_hat, create_graph=True)
    # Of a norm of 0, the derivative is infinite; the epsilon makes it 0.
    norm = (slope.flatten(1).square().sum(dim=1) + 1e-16).sqrt()  # (B,)
    return (norm - 1).square().mean()


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
    if args.conditional:
        dataset.require_classes("leave out --conditional")
    images, labels = dataset.train_images, dataset.train_labels
    batches = Batches(images, labels, args.batch_size, args.seed, device, args.hflip, shared=True)

    image_args = dict(channels=dataset.channels, image_size=dataset.image_size)
    if args.conditional:
        image_args["num_classes"] = len(dataset.classes)
    generator_args = dict(z_dim=args.z_dim, ngf=args.ngf, **image_args)
    generator = Generator(**generator_args)
    critic = Critic(args.ndf, **image_args, norm=args.norm, dropout=args.dropout)
    for network in (generator, critic):
        init_weights(network)
        network.to(device).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    opt_g: torch.optim.Optimizer
    opt_d: torch.optim.Optimizer
    if args.weight_clip:
        opt_g = torch.optim.RMSprop(generator.parameters(), args.lr_g, alpha=args.beta2)
        opt_d = torch.optim.RMSprop(critic.parameters(), args.lr_d, alpha=args.beta2)
    else:
        betas = (args.beta1, args.beta2)
        opt_g = torch.optim.Adam(generator.parameters(), args.lr_g, betas, fused=True)
        opt_d = torch.optim.Adam(critic.parameters(), args.lr_d, betas, fused=True)

    steps = max(1, len(batches) // args.n_critic)  # of G, an epoch
    state = dict(generator=generator, critic=critic, ema=ema, opt_g=opt_g, opt_d=opt_d)
    run = Run(Path(__file__).stem, args, dataset, steps, generator_args, **state)
    run.evaluate_with(lambda real, fake: -wasserstein_estimate(real, fake), lambda x: -x.mean(), 0)
    averages = ema_pairs(ema, generator)
    autocast = autocast_for(device, args.precision)
    penalty = torch.zeros((), device=device)

    for step in run.steps():
        # The critic's steps: bring the difference of mean scores near the distance (Alg. 1).
        for k in range(args.n_critic):
            real, labels = batches[step * args.n_critic + k]  # (B, channels, H, W), (B,)
            given = (labels,) if args.conditional else ()
            z = batches.noise(args.z_dim)
            with autocast():
                with torch.no_grad():
                    fake = generator(z, *given)
                estimate = wasserstein_estimate(critic(real, *given), critic(fake, *given))
                if not args.weight_clip:
                    penalty = gradient_penalty(critic, real, fake, *given)
            d_loss = -estimate + args.lambda_gp * penalty
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()
            if args.weight_clip:
                with torch.no_grad():
                    for weight in critic.parameters():
                        weight.clamp_(-args.weight_clip, args.weight_clip)

        # G's step: raise its images' scores. The critic's own weights need no gradients here.
        critic.requires_grad_(False)
        z = batches.noise(args.z_dim)
        with autocast():
            g_loss = -critic(generator(z, *given), *given).mean()
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        critic.requires_grad_(True)

        # While young, G improves too fast for a long memory: start with a short one.
        update_ema(averages, min(args.ema, (1 + step) / (10 + step)))

        run.log(d_loss=d_loss, g_loss=g_loss, wasserstein=estimate, penalty=penalty)


if __name__ == "__main__":
    with training_command():
        main()
