"""WGAN-GP: a critic with a gradient norm near 1 (Gulrajani et al., 2017, arXiv:1704.00028).

A critic f gives each image a score. The score difference is the mean score of the data minus the
mean score of samples of a generator G. Over all f whose gradient with respect to the image has norm
at most 1, the largest score difference is the Wasserstein-1 distance (Arjovsky et al., 2017,
arXiv:1701.07875, Eq. 2). It gives G a useful gradient even if no sample looks like the data. The
optimal f has gradient norm 1 on lines between images and samples paired by optimal transport (Sec.
2.3). These pairs are unknown. A penalty keeps the norm near 1 at points x^ between random pairs:

    critic:     minimise  E_z[f(G(z))] - E_x[f(x)] + lambda E_x^[(|grad f(x^)| - 1)^2]     (Eq. 3)
    generator:  minimise  -E_z[f(G(z))]

    what                   in the paper (*: in its code)       here
    n_critic               5                                   1
    Adam                   1e-4, 2e-4*; betas 0 or 0.5*, 0.9   0.0016, betas 0, 0.9
    z                      128 dimensions*                     100 dimensions
    networks               several                             of dcgan.py; f has no local features
    critic normalisation   none*, or layer (Sec. 4)            layer
    initial weights        He, Glorot or std 0.02*             std 0.02 (DCGAN)
    samples                from G                              from the EMA of G's weights

With n_critic 1, the score difference no longer estimates the distance. The penalty forbids batch
norm in the critic, because batch norm makes each score depend on the other images (Sec. 4). With
--weight_clip C, a clip of the weights to [-C, C] replaces the penalty, and RMSprop replaces Adam.

Run:     python wgan_gp.py --dataset fashion_mnist
Result:  FCD 1.357 (fid.py, 10,000 samples, seed 0) after 50 epochs, 75 minutes on one core
"""

from support.processes import training_command  # first, so Ctrl-C during imports prints one line

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from data import Batches, load_dataset
from support.device import autocast_for, pick_device
from support.layers import conv_block, convs_3x3
from training.flags import SWITCH, argument_parser, parse_run_args
from training.run import Run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__file__, __doc__)
    model = parser.add_argument_group("model")
    model.add_argument("--z_dim", type=int, default=100, help="length of z (authors' code: 128)")
    ngf = "channels of G's last hidden layer (DCGAN's code: 128, for MNIST 64)"
    model.add_argument("--ngf", type=int, default=64, help=ngf)
    ndf = "channels of the critic's first layer (DCGAN's code: 128, for MNIST 64)"
    model.add_argument("--ndf", type=int, default=32, help=ndf)
    depth = "number of 3 x 3 convolutions added per feature map, in both networks (DCGAN has 0)"
    model.add_argument("--depth", type=int, default=0, help=depth)
    norms = ("layer", "instance", "none", "batch")
    norm = "normalisation of the critic (Sec. 4: layer); batch only with --weight_clip"
    model.add_argument("--norm", choices=norms, default="layer", help=norm)
    dropout = "fraction of the critic's features that dropout sets to 0 (Goodfellow et al. 2014)"
    model.add_argument("--dropout", type=float, default=0.0, help=dropout)
    conditional = "give the class to both networks, as in cdcgan.py"
    model.add_argument("--conditional", **SWITCH, help=conditional)
    optim = parser.add_argument_group("optimisation")
    optim.add_argument("--epochs", type=int, default=50, help="passes over the training images")
    optim.add_argument("--batch_size", type=int, default=64, help="images per update (WGAN: 64)")
    n_critic = "updates of the critic per update of G (Alg. 1: 5)"
    optim.add_argument("--n_critic", type=int, default=1, help=n_critic)
    optim.add_argument("--lambda_gp", type=float, default=10.0, help="penalty weight (Alg. 1: 10)")
    clip = "clip the critic's weights to [-C, C], with RMSprop and no penalty (WGAN: 0.01)"
    optim.add_argument("--weight_clip", type=float, metavar="C", help=clip)
    optim.add_argument("--lr_g", type=float, default=1.6e-3, help="G's learning rate (paper: 1e-4)")
    lr_d = "learning rate of the critic (Alg. 1: 1e-4; WGAN: 5e-5)"
    optim.add_argument("--lr_d", type=float, default=1.6e-3, help=lr_d)
    decay = "last fraction of the run, in which learning rates fall to 0 (DCGAN's MNIST code: 0.5)"
    optim.add_argument("--lr_decay", type=float, default=0.0, help=decay)
    optim.add_argument("--beta1", type=float, default=0.0, help="Adam beta1 (Alg. 1: 0)")
    beta2 = "Adam beta2, or the decay alpha of RMSprop (Alg. 1: 0.9)"
    optim.add_argument("--beta2", type=float, default=0.9, help=beta2)
    ema = "decay of the moving average (EMA) of G's weights (Yazici et al. 2019); 0 turns it off"
    optim.add_argument("--ema", type=float, default=0.99, help=ema)
    args = parse_run_args(parser, argv)
    if args.norm == "batch" and not args.weight_clip:
        why = "the penalty is on the gradient of each score alone, and batch norm mixes the images"
        parser.error(f"--norm batch needs --weight_clip: {why} (Sec. 4)")
    return args


def channel_widths(image_size: int, width: int) -> tuple[int, list[int]]:
    """Return the side of the smallest feature map, and the channels of all maps."""
    halvings = {28: 2, 32: 3, 64: 4, 128: 5}[image_size]  # down to 7 or 4 pixels
    return image_size >> halvings, [width * min(2**i, 8) for i in range(halvings)]  # DCGAN Fig. 1


class Generator(nn.Module):
    """Turn z (B, z_dim), and labels (B,) if conditional, into images in [-1, 1]."""

    def __init__(
        self,
        z_dim: int,
        ngf: int,
        channels: int,
        image_size: int,
        num_classes: int = 0,
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.side, widths = channel_widths(image_size, ngf)  # 7, [64, 128] for 28 x 28 pixels
        self.embed = nn.Embedding(num_classes, z_dim) if num_classes else None
        input_dim = 2 * z_dim if num_classes else z_dim
        self.project = nn.Linear(input_dim, widths[-1] * self.side**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
        layers += convs_3x3(widths[-1], depth)
        for before, width in pairwise(reversed(widths)):
            # Kernel 4 is a multiple of stride 2: fewer checkerboard artifacts (Odena et al. 2016).
            conv = nn.ConvTranspose2d(before, width, 4, stride=2, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += convs_3x3(width, depth)
        layers.append(nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None and labels is not None:
            z = torch.cat([z, self.embed(labels)], dim=1)
        x = self.project(z)  # (B, 7 * 7 * 128) for 28 x 28 pixels
        # Channels come last in memory, because convolutions are fastest in this layout.
        x = x.view(len(z), self.side, self.side, -1).permute(0, 3, 1, 2)  # (B, 128, 7, 7)
        x = self.layers(x)  # (B, 64, 14, 14), then (B, channels, 28, 28)
        # tanh is in float32, because bfloat16 rounds black pixels to -1, where the gradient is 0.
        return x.float().tanh()


class Critic(nn.Module):
    """Turn images, and labels (B,) if conditional, into unbounded scores (B,)."""

    def __init__(
        self,
        ndf: int,
        channels: int,
        image_size: int,
        norm: str,
        dropout: float,
        num_classes: int = 0,
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
        dense = nn.Linear(widths[-1] * side**2, 8 * ndf)
        self.hidden = nn.Sequential(dense, nn.LeakyReLU(0.2, inplace=True), nn.Dropout(dropout))
        self.linear = nn.Linear(8 * ndf, 1)
        self.embed = nn.Embedding(num_classes, 8 * ndf) if num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        maps = self.layers(images)  # (B, 64, 7, 7) for 28 x 28 pixels
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # (B, 7 * 7 * 64), without a copy
        features = self.hidden(flat)  # (B, 256)
        scores = self.linear(features).squeeze(1)
        if self.embed is not None and labels is not None:  # projection, as in cdcgan.py
            scores = scores + (self.embed(labels) * features).sum(dim=1)
        return scores.float()


def init_weights(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02^2) (DCGAN Sec. 4); biases keep the initial values of torch."""
    for parameter in network.parameters():
        if parameter.ndim > 1:  # skip biases and the parameters of norm layers
            nn.init.normal_(parameter, 0.0, 0.02)


def critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Return E[f(G(z))] - E[f(x)], the negative of the Wasserstein estimate.

    The estimate needs a critic near its optimum, as with --n_critic 5 --lr_g 4e-4 --lr_d 4e-4. With
    --weight_clip, the scale of the estimate is unknown.
    """
    return fake_scores.mean() - real_scores.mean()


def generator_loss(fake_scores: Tensor) -> Tensor:
    """Return -E[f(G(z))]."""
    return -fake_scores.mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, *labels: Tensor) -> Tensor:
    """Return E[(|grad f(x^)| - 1)^2] over the batch (Alg. 1, lines 4, 6, 7), a 0-d tensor.

    real, fake: (B, C, H, W); labels: (B,) if conditional. alpha (epsilon in Alg. 1) is drawn once
    per pair of images. The norm is taken per sample, over all pixels, in float32. Under autocast,
    convolutions and dense layers compute their first and second derivatives in bfloat16.
    """
    alpha = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    x_hat = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
    scores = critic(x_hat, *labels)
    # The gradient of the sum with respect to x_hat[i] is the gradient of the i-th score alone.
    (gradient,) = torch.autograd.grad(scores.sum(), x_hat, create_graph=True)
    # The derivative of sqrt is infinite at 0. Adding 1e-16 prevents NaN.
    norm = (gradient.flatten(1).square().sum(dim=1) + 1e-16).sqrt()  # (B,)
    return (norm - 1).square().mean()


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
    if args.conditional:
        dataset.require_classes("leave out --conditional")
    images, labels = dataset.train_images, dataset.train_labels
    batches = Batches(images, labels, args.batch_size, args.seed, device, args.hflip, shared=True)

    image_args = dict(channels=dataset.channels, image_size=dataset.image_size, depth=args.depth)
    if args.conditional:
        image_args["num_classes"] = len(dataset.classes)
    generator_args = dict(z_dim=args.z_dim, ngf=args.ngf, **image_args)
    generator = Generator(**generator_args)
    critic = Critic(args.ndf, **image_args, norm=args.norm, dropout=args.dropout)
    for network in (generator, critic):
        init_weights(network)
        network.to(device).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    adam = partial(torch.optim.Adam, betas=(args.beta1, args.beta2), fused=True)
    rmsprop = partial(torch.optim.RMSprop, alpha=args.beta2)  # for WGAN
    optimiser = rmsprop if args.weight_clip else adam
    opt_g = optimiser(generator.parameters(), lr=args.lr_g)
    opt_d = optimiser(critic.parameters(), lr=args.lr_d)

    steps = max(1, len(batches) // args.n_critic)  # updates of G per epoch
    state = dict(generator=generator, critic=critic, ema=ema, opt_g=opt_g, opt_d=opt_d)
    run = Run(Path(__file__).stem, args, dataset, steps, generator_args, **state)
    run.evaluate_with(critic_loss, generator_loss, real_sign=0)  # 0: scores have no threshold
    pairs = zip(ema.state_dict().values(), generator.state_dict().values(), strict=True)
    ema_pairs = [(average, value) for average, value in pairs if value.is_floating_point()]
    autocast = autocast_for(device, args.precision)
    penalty = torch.zeros((), device=device)  # stays 0 with --weight_clip

    for step in run.steps():
        decay_lr(step / run.total_steps, args.lr_decay, opt_g, opt_d)
        # (1) Update the critic: minimise E[f(G(z))] - E[f(x)] + lambda * penalty (Alg. 1).
        for k in range(args.n_critic):
            real, labels = batches[step * args.n_critic + k]  # (B, channels, H, W), (B,)
            condition = (labels,) if args.conditional else ()
            z = batches.noise(args.z_dim)  # (B, z_dim)
            with autocast():
                with torch.no_grad():  # d_loss must not reach G
                    fake = generator(z, *condition)
                loss = critic_loss(critic(real, *condition), critic(fake, *condition))
                if not args.weight_clip:
                    penalty = gradient_penalty(critic, real, fake, *condition)
            d_loss = loss + args.lambda_gp * penalty
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()
            if args.weight_clip:
                with torch.no_grad():
                    for weight in critic.parameters():
                        weight.clamp_(-args.weight_clip, args.weight_clip)

        # (2) Update G: minimise -E[f(G(z))] with the updated critic, on new z and the last labels.
        critic.requires_grad_(False)  # gradients pass through f, but not into its weights
        z = batches.noise(args.z_dim)
        with autocast():
            g_loss = generator_loss(critic(generator(z, *condition), *condition))
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        critic.requires_grad_(True)

        # Only samples and metrics use the EMA. The decay of the EMA grows from 0.1 to --ema,
        # because G changes fast at the start (as num_updates does in TensorFlow).
        update_ema(ema_pairs, min(args.ema, (1 + step) / (10 + step)))

        run.log(d_loss=d_loss, g_loss=g_loss, wasserstein=-loss, penalty=penalty)


if __name__ == "__main__":
    with training_command():
        main()
