"""Compute the Inception Score of images (Salimans et al., 2016, arXiv:1606.03498, Sec. 4).

    python inception_score.py runs/RUN                      # samples of a run
    python inception_score.py fashion_mnist:test --json     # the score of real images

    IS = exp( E_x KL( p(y|x) || p(y) ) )

The score is high if every image clearly belongs to one class and all classes are equally frequent.
The score lies between 1 and the number of classes. It does not use real images, and one perfect
image per class, repeated, reaches the maximum. With the classifier of a data set, the
score is called classifier score here, not IS.
"""

from support.command import InputError, exit_on_input_error, shown

import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from support.arrays import check_arrays


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Return mean and population standard deviation of the score over parts of logits (N, K).

    Part i is i*N//splits : (i+1)*N//splits of the shuffled logits, with a separate marginal p(y).
    The shuffle (by `seed`) is needed, because sorted images would give parts of one class, with
    score 1. The computation uses log-probabilities in float64.
    Raises InputError for fewer images than splits, or if a logit is not finite.
    """
    n = len(logits)
    if not 1 <= splits <= n:
        raise InputError(f"--splits {splits}: give a number from 1 to {n}, the number of images")
    if not logits.isfinite().all():
        raise InputError("a logit is NaN or infinite: the images or the network are broken")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    log_p = logits.double().cpu()[order].log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        log_marginal = part.logsumexp(dim=0) - math.log(len(part))
        # p log p is 0 at p = 0. torch.where is needed, because 0 * -inf would be NaN.
        terms = torch.where(part.exp() > 0, part.exp() * (part - log_marginal), 0.0)
        scores.append(terms.sum(dim=1).mean().exp())
    result = torch.stack(scores)
    return result.mean().item(), result.std(correction=0).item()


def main(argv: Sequence[str] | None = None) -> None:
    # This import stands here, because training imports only the formula above.
    from support.image_sets import SOURCES, features_of, metric_parser, network_for

    parser = metric_parser(__doc__)
    parser.add_argument("source", metavar="SET", help=f"the images to score: {SOURCES}")
    splits = "parts that are scored separately (default: 10, Salimans et al. 2016)"
    parser.add_argument("--splits", type=int, default=10, help=splits)
    parser.set_defaults(sources=[])  # no real set whose class frequencies the samples take
    args = parser.parse_args(argv)
    if args.splits < 1:
        raise InputError(f"--splits {args.splits}: give a number from 1 to the number of images")
    check_arrays([args.source])
    network = network_for([args.source], args)
    logits = torch.cat([logits.cpu() for _, logits in features_of(args.source, network, args)])
    mean, std = inception_score(logits, args.splits)
    if args.json:
        result = {"mean": mean, "std": std, "n": len(logits), "features": network.name}
        print(json.dumps(result | {"splits": args.splits}))
        return
    found = f"{shown(mean, '.4f')} +- {shown(std, '.4f')}"
    print(f"{network.score} {found} over {args.splits} splits")
    print(f"{len(logits)} images through {network.name}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
