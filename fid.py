"""Compute the Frechet distance of two sets of images (Heusel et al., 2017, arXiv:1706.08500).

    python fid.py fashion_mnist:test runs/RUN              # split of a data set, samples of a run
    python fid.py images/real images/fake                  # folders of images
    python fid.py fashion_mnist:train --save_stats s.npz   # then, for example: fid.py s.npz fakes

A feature extractor (support/features.py) turns each set into features with mean mu and covariance
S. The result is the squared distance of two Gaussians (Dowson & Landau 1982):

    d^2 = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

The distance is called FID with FID's Inception network, and FCD (Frechet classifier distance) with
the classifier of a data set. Both depend on the number of images: compare only equal numbers.
"""

from support.command import InputError, exit_on_input_error, say, shown

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from support.arrays import check_arrays, npz_statistics, write_npz

CHUNK = 500  # features per block of the distance matrix, which limits memory


@dataclass
class Gaussian:
    """Hold the mean (d,) and a root R (d, r) of the covariance S = R R', in float64."""

    mean: Tensor
    root: Tensor
    n: int | None  # number of features; None if a file of statistics does not contain it

    @classmethod
    def of(cls, mean: Tensor, cov: Tensor, n: int | None) -> "Gaussian":
        """Return the Gaussian of n features with a mean (d,) and a covariance (d, d).

        R is the Cholesky factor or, if `cov` is singular, made of the eigenvectors. Eigenvalues
        just below 0 count as 0. Raises InputError for one that is too negative for rounding.
        """
        root, failed = torch.linalg.cholesky_ex(cov)
        if failed:
            values, vectors = torch.linalg.eigh(cov)
            if values[0] < -1e-5 * values[-1].abs():
                raise InputError(f"not a covariance: one eigenvalue is {float(values[0]):.3g}")
            root = vectors * values.clamp(min=0).sqrt()
        return cls(mean, root, n)

    @property
    def cov(self) -> Tensor:
        return self.root @ self.root.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), computed in float64.

    The last trace is the sum of the singular values of R1' R2. Singular values are always real, and
    cheap if a root has r < d columns (few images).
    """
    cross = torch.linalg.svdvals(a.root.T @ b.root).sum()
    traces = a.root.square().sum() + b.root.square().sum()
    distance = float((a.mean - b.mean).square().sum() + traces - 2 * cross)
    # Rounding errors give equal sets a tiny value of either sign, which counts as 0. NaN stays NaN.
    return 0.0 if distance < 1e-14 * float(traces) else distance


class Statistics:
    """Collect mean and covariance (ddof = 1) of batches of features (B, d), in O(d^2) memory."""

    def __init__(self, dim: int) -> None:
        self.n, self.dim = 0, dim
        self.rows: list[Tensor] | None = []  # up to d features; None if running sums replace them

    def update(self, features: Tensor) -> None:
        """Add features (B, d). Raises InputError if a feature is NaN or infinite."""
        device = "cpu" if features.device.type == "mps" else features.device
        features = features.detach().to(device).double()  # MPS has no float64
        if not features.isfinite().all():
            raise InputError("a feature is NaN or infinite: the images or the network are broken")
        self.n += len(features)
        if self.rows is not None:
            self.rows.append(features)
            if self.n <= self.dim:
                return
            features, self.rows = torch.cat(self.rows), None
            # Sum x - origin, because sums of x lose digits of the covariance if the mean is large.
            self.origin = features.mean(dim=0)
            self.sum, self.products = torch.tensor(0.0), features.new_zeros(self.dim, self.dim)
        centred = features - self.origin
        self.sum = self.sum + centred.sum(dim=0)
        self.products.addmm_(centred.T, centred)

    def gaussian(self) -> Gaussian:
        """Return the Gaussian of all features. Raises InputError for fewer than two features."""
        if self.n < 2:
            raise InputError(f"{self.n} image(s): a covariance needs at least 2")
        if self.rows is not None:
            features = torch.cat(self.rows).cpu()
            mean = features.mean(dim=0)
            return Gaussian(mean, (features - mean).T / (self.n - 1) ** 0.5, self.n)
        shift = self.sum / self.n
        cov = (self.products - self.n * torch.outer(shift, shift)) / (self.n - 1)
        return Gaussian.of((self.origin + shift).cpu(), cov.cpu(), self.n)


def kid(real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    """Return the Kernel Inception Distance of features (N, d) and (M, d).

    KID is the unbiased squared MMD with the kernel (x.y / d + 1)^3, a mean over random subsets
    (Binkowski et al., 2018, arXiv:1801.01401). KID may be negative. Raises InputError for N < 2.
    """
    size = min(size, len(real), len(fake))
    if size < 2:
        raise InputError("KID needs at least 2 images in each set")
    real, fake, d = real.double(), fake.double(), real.shape[1]
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(subsets):
        x = real[torch.randperm(len(real), generator=generator)[:size]]
        y = fake[torch.randperm(len(fake), generator=generator)[:size]]
        xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        total += float(within - 2 * xy.mean())
    return total / subsets


def neighbour_radii(x: Tensor, k: int) -> Tensor:
    """Return the distance of each point (N, d) to its k-th neighbour, times 1 - 1e-9, as (N,).

    Kynkaanniemi et al. (2019) and their code use closed balls (<=). The balls here are open (<), as
    in the prdc project of Naeem et al. (2020). The factor keeps a copy of the k-th neighbour
    outside the ball in spite of rounding. Raises InputError for k or fewer points.
    """
    if len(x) <= k:
        raise InputError(f"{len(x)} images: {k} neighbours of each need at least {k + 1}")
    # k + 1, because each point is the nearest point to itself.
    radii = [torch.cdist(part, x).kthvalue(k + 1).values for part in x.split(CHUNK)]
    return torch.cat(radii) * (1 - 1e-9)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Return precision and recall (Kynkaanniemi et al., 2019, arXiv:1904.06991), in [0, 1].

    Precision is the fraction of `fake` (M, d) inside at least one ball of `real` (N, d); recall is
    the reverse. A ball has the radius of neighbour_radii(). The balls in the paper are closed.
    """
    real, fake = real.double(), fake.double()

    def fraction_inside(points: Tensor, centres: Tensor) -> float:
        radii = neighbour_radii(centres, k)
        inside = [(torch.cdist(p, centres) < radii).any(dim=1) for p in points.split(CHUNK)]
        return torch.cat(inside).double().mean().item()

    return fraction_inside(fake, real), fraction_inside(real, fake)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Return density and coverage (Naeem et al., 2020, arXiv:2002.09797, Eq. 3 and 4).

    Density is the mean number of balls of `real` that contain a feature of `fake`, divided by k.
    Coverage is the fraction of the balls with at least one feature of `fake` inside.
    """
    real, fake = real.double(), fake.double()
    radii = neighbour_radii(real, k)
    balls, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for part in fake.split(CHUNK):
        inside = torch.cdist(part, real) < radii
        balls += int(inside.sum())
        covered |= inside.any(dim=0)
    return balls / (k * len(fake)), covered.double().mean().item()


def load_statistics(path: Path, features: str) -> Gaussian:
    """Load `mu` and `sigma` from an .npz of pytorch-fid, or of fid.py with `n` and `features`.

    Raises InputError for any other file, and for statistics of another network than `features`.
    """
    mean, cov, n = npz_statistics(path, features)
    try:
        return Gaussian.of(mean, (cov + cov.T) / 2, n)
    except InputError as error:
        raise InputError(f"{path}: sigma is {error}") from None


def save_statistics(gaussian: Gaussian, path: Path, features: str) -> None:
    """Write an .npz that load_statistics() reads; `features` is the name of the network."""
    mu, sigma = gaussian.mean.numpy(), gaussian.cov.numpy()
    write_npz(path, mu=mu, sigma=sigma, n=gaussian.n or 0, features=features)


def main(argv: Sequence[str] | None = None) -> None:
    # This import stands here, because training imports only the formulas above.
    from support.image_sets import SOURCES, features_of, metric_parser, network_for

    parser = metric_parser(__doc__)
    sources = f"the real set, then the generated set, each {SOURCES}, or saved statistics"
    parser.add_argument("sources", nargs="+", metavar="SET", help=sources)
    parser.add_argument("--save_stats", metavar="FILE", help="write statistics of one set as .npz")
    parser.add_argument("--kid", action="store_true", help="print KID, too (Binkowski et al. 2018)")
    prdc = "print precision and recall (k = 3), density and coverage (k = 5), too (default: no)"
    parser.add_argument("--prdc", action="store_true", help=prdc)
    args = parser.parse_args(argv)
    if len(args.sources) != (1 if args.save_stats else 2):
        raise InputError("give two sets of images, or one set and --save_stats FILE")
    if args.save_stats and not args.save_stats.endswith(".npz"):
        raise InputError(f"--save_stats {args.save_stats}: give a name that ends in .npz")
    saved, keep = check_arrays(args.sources), args.kid or args.prdc
    if saved and keep:
        raise InputError("--kid and --prdc need two sets of images, not saved statistics")
    network = network_for(args.sources, args)
    gaussians, kept = [], []
    for source in args.sources:
        if source in saved:
            gaussians.append(load_statistics(Path(source), network.name))
            if (dim := len(gaussians[-1].mean)) != network.dim:
                raise InputError(f"{source} has {dim} features, not {network.dim}")
            continue
        statistics, parts = Statistics(network.dim), []
        for features, _ in features_of(source, network, args):
            statistics.update(features)
            parts += [features.cpu()] if keep else []
        try:
            gaussians.append(statistics.gaussian())
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        kept += [torch.cat(parts)] if keep else []
    if args.save_stats:
        save_statistics(gaussians[0], Path(args.save_stats), network.name)
        print(f"{gaussians[0].n or '?'} images through {network.name}: {args.save_stats}")
        return
    results = {network.distance.lower(): frechet_distance(*gaussians)}
    if args.kid:
        results["kid"] = kid(kept[0], kept[1], seed=args.seed)
    if args.prdc:
        results["precision"], results["recall"] = precision_recall(kept[0], kept[1])
        results["density"], results["coverage"] = density_coverage(kept[0], kept[1])
    n_a, n_b = (gaussian.n for gaussian in gaussians)
    of_a, of_b = (n or "an unknown number of" for n in (n_a, n_b))
    if n_a != n_b:
        say(f"warning: {of_a} against {of_b} images, but the distance depends on the number")
    if min(n or network.dim for n in (n_a, n_b)) < network.dim:
        say(f"warning: fewer images than the {network.dim} dimensions of the features")
    if args.json:
        about = {"n_a": n_a, "n_b": n_b, "features": network.name, "dim": network.dim}
        print(json.dumps(results | about))
        return
    for name, value in results.items():
        print(f"{name:<10}{shown(value, '12.4f')}")
    print(f"{of_a} and {of_b} images through {network.name}, {network.dim} features")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
