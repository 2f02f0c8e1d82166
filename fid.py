"""Frechet distance of two sets of images, from scratch (Heusel et al., 2017, arXiv:1706.08500).

    python fid.py fashion_mnist:test runs/RUN              # a data set's split, samples of a run
    python fid.py pictures/real pictures/fake              # folders of images
    python fid.py fashion_mnist:train --save_stats s.npz   # and later: python fid.py s.npz ...

Through a feature network (support/features.py), each set becomes a Gaussian with its mean and
covariance; the distance is that between the Gaussians (Frechet 1957; Dowson & Landau 1982):

    d^2 = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

It is FID through FID's Inception, and called FCD (Frechet classifier distance) through a data set's
classifier. Both are biased by the number of images: compare only at equal numbers. The distance is
the same both ways; for --prdc, the first set is the real one and the second is judged.
"""

from support.command import InputError, exit_on_input_error, say, shown

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from support.arrays import check_arrays, npz_statistics, write_npz

CHUNK = 500  # features compared with all others at a time: bounds memory


@dataclass
class Gaussian:
    """A mean (d,) and a root R (d, r) of the covariance, R R' = S, in float64; from n features."""

    mean: Tensor
    root: Tensor
    n: int | None  # None where statistics were saved without it

    @classmethod
    def of(cls, mean: Tensor, cov: Tensor, n: int | None) -> "Gaussian":
        """Cholesky's root where it exists; else the eigenvectors', rounded-off negatives as 0.

        InputError where an eigenvalue is too negative for rounding: then `cov` is no covariance.
        """
        root, failed = torch.linalg.cholesky_ex(cov)
        if failed:
            values, vectors = torch.linalg.eigh(cov)
            if values[0] < -1e-5 * values[-1].abs():
                raise InputError(f"not a covariance: it has the eigenvalue {float(values[0]):.3g}")
            root = vectors * values.clamp(min=0).sqrt()
        return cls(mean, root, n)

    @property
    def cov(self) -> Tensor:
        return self.root @ self.root.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), in float64.

    The square roots of the eigenvalues of S1 S2 are the singular values of R1' R2: nothing turns
    complex where S1 S2 is singular, and with r < d columns (few images) it costs less.
    """
    cross = torch.linalg.svdvals(a.root.T @ b.root).sum()
    traces = a.root.square().sum() + b.root.square().sum()
    distance = float((a.mean - b.mean).square().sum() + traces - 2 * cross)
    # By definition the distance is at least 0. The terms are rounded by up to 1e-15 of the traces,
    # so equal sets come to a tiny number of either sign: it counts as 0. NaN stays NaN.
    return 0.0 if distance < 1e-14 * float(traces) else distance


class Statistics:
    """Mean and covariance (ddof = 1) of features that come in batches, in O(d^2) memory.

    Up to d features are kept as they are, which says the same in less; then their sums are.
    """

    def __init__(self, dim: int) -> None:
        self.n, self.dim = 0, dim
        self.rows: list[Tensor] | None = []

    def update(self, features: Tensor) -> None:
        """Take in features (B, d). InputError if one is not finite."""
        device = "cpu" if features.device.type == "mps" else features.device
        features = features.detach().to(device).double()  # float64, which MPS does not have
        if not features.isfinite().all():
            raise InputError("a feature is NaN or infinite: the images or the network are broken")
        self.n += len(features)
        if self.rows is not None:
            self.rows.append(features)
            if self.n <= self.dim:
                return
            features, self.rows = torch.cat(self.rows), None
            # Sums of x - origin: far from 0, those of x would lose the covariance's digits.
            self.origin = features.mean(dim=0)
            self.sum, self.products = torch.tensor(0.0), features.new_zeros(self.dim, self.dim)
        centred = features - self.origin
        self.sum = self.sum + centred.sum(dim=0)
        self.products.addmm_(centred.T, centred)

    def gaussian(self) -> Gaussian:
        """InputError for fewer than two features: they have no covariance."""
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
    """Kernel Inception Distance (Binkowski et al., 2018, arXiv:1801.01401), of features (N, d).

    The unbiased squared MMD with the kernel (x.y / d + 1)^3, a mean over random subsets. It may be
    slightly negative. InputError for fewer than two features.
    """
    size = min(size, len(real), len(fake))
    if size < 2:
        raise InputError("KID needs at least 2 images on either side")
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
    """The distance from each of (N, d) to its k-th nearest other, (N,), less a hair.

    A ball is open: what lies on its edge, as that neighbour's own copy does, is outside of it, and
    the hair keeps it there whichever way the two distances were rounded.
    """
    if len(x) <= k:
        raise InputError(f"{len(x)} images: {k} neighbours of each need at least {k + 1}")
    # k + 1 of them: the nearest of all is the point itself.
    radii = [torch.cdist(part, x).kthvalue(k + 1).values for part in x.split(CHUNK)]
    return torch.cat(radii) * (1 - 1e-9)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019, arXiv:1904.06991), of (N, d).

    Precision: the share of fakes inside any real image's ball, which reaches to its k-th
    neighbour. Recall: the share of reals inside any fake's.
    """
    real, fake = real.double(), fake.double()

    def share(points: Tensor, centres: Tensor) -> float:
        radii = neighbour_radii(centres, k)
        inside = [(torch.cdist(p, centres) < radii).any(dim=1) for p in points.split(CHUNK)]
        return torch.cat(inside).double().mean().item()

    return share(fake, real), share(real, fake)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al., 2020, arXiv:2002.09797, Eq. 3 and 4), of (N, d).

    Density: how many real balls a fake lies in, over k. Coverage: the share of real balls with a
    fake in them.
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
    """`mu` and `sigma` of an .npz as pytorch-fid writes it; `n` and `features` where fid.py did.

    InputError for anything else, and for statistics made through another network than `features`.
    """
    mean, cov, n = npz_statistics(path, features)
    try:
        return Gaussian.of(mean, (cov + cov.T) / 2, n)
    except InputError as error:
        raise InputError(f"{path}: sigma is {error}") from None


def save_statistics(gaussian: Gaussian, path: Path, features: str) -> None:
    mu, sigma = gaussian.mean.numpy(), gaussian.cov.numpy()
    write_npz(path, mu=mu, sigma=sigma, n=gaussian.n or 0, features=features)


def main(argv: Sequence[str] | None = None) -> None:
    # Here, because the formulas above need nothing but torch.
    from support.image_sets import SOURCES, features_of, metric_parser, network_for

    parser = metric_parser(__doc__)
    add = parser.add_argument
    add("sources", nargs="+", metavar="A", help=f"real, then fake: {SOURCES}; or statistics")
    add("--save_stats", metavar="FILE", help="write the statistics of one source to an .npz")
    add("--kid", action="store_true", help="Kernel Inception Distance as well")
    add("--prdc", action="store_true", help="precision, recall, density, coverage of the 2nd set")
    args = parser.parse_args(argv)
    if len(args.sources) != (1 if args.save_stats else 2):
        raise InputError("give two sets of images, or one and --save_stats FILE")
    if args.save_stats and not args.save_stats.endswith(".npz"):
        raise InputError(f"--save_stats {args.save_stats}: give a name that ends in .npz")
    saved, keep = check_arrays(args.sources), args.kid or args.prdc
    if saved and keep:
        raise InputError("--kid and --prdc need images on both sides, not saved statistics")
    network = network_for(args.sources, args)
    gaussians, kept = [], []
    for source in args.sources:
        if source in saved:
            gaussians.append(load_statistics(Path(source), network.name))
            if (dim := len(gaussians[-1].mean)) != network.dim:
                raise InputError(f"{source}: of {dim} features, not {network.dim}")
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
        say(f"warning: {of_a} against {of_b} images: the distance depends on N")
    if min(n or network.dim for n in (n_a, n_b)) < network.dim:
        say(f"warning: fewer images than the {network.dim} dimensions")
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
