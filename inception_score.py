"""Inception Score, from scratch (Salimans et al., 2016, arXiv:1606.03498, Sec. 4).

    python inception_score.py runs/RUN                      # samples of a run
    python inception_score.py fashion_mnist:test --json     # what real images get

    IS = exp( E_x KL( p(y|x) || p(y) ) )

High where every image is clearly of one class and all classes are there; at most the number of
classes. It never sees a real image, and one perfect image a class already gets the most. Through a
data set's own classifier it is called classifier score here, not IS.
"""

from support.command import InputError, exit_on_input_error, shown

import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from support.arrays import check_arrays


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and population standard deviation of the score over `splits` parts of logits (N, K).

    Part i is i*N//splits : (i+1)*N//splits, with a marginal p(y) of its own, after a shuffle by
    `seed`: parts of class-sorted images would be of one class each, and score 1. In float64, from
    log-probabilities: p log p would be NaN at p = 0. InputError for fewer images than splits, or
    where a logit is not finite.
    """
    n = len(logits)
    if not 1 <= splits <= n:
        raise InputError(f"--splits {splits}: give a number from 1 to that of the images, {n}")
    if not logits.isfinite().all():
        raise InputError("a logit is NaN or infinite: the images or the network are broken")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    log_p = logits.double().cpu()[order].log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        log_marginal = part.logsumexp(dim=0) - math.log(len(part))
        # Where p is 0, p log p is 0: exp(-inf) times -inf would be NaN.
        terms = torch.where(part.exp() > 0, part.exp() * (part - log_marginal), 0.0)
        scores.append(terms.sum(dim=1).mean().exp())
    result = torch.stack(scores)
    return result.mean().item(), result.std(correction=0).item()


def main(argv: Sequence[str] | None = None) -> None:
    # Here, because the formulas above need nothing but torch.
    from support.image_sets import SOURCES, features_of, metric_parser, network_for

    parser = metric_parser(__doc__)
    parser.add_argument("source", help=f"what to score: {SOURCES}")
    parser.add_argument("--splits", type=int, default=10, help="parts to score apart (default 10)")
    parser.set_defaults(sources=[])  # there is nothing that samples are compared with
    args = parser.parse_args(argv)
    if args.splits < 1:
        raise InputError(f"--splits {args.splits}: give a number from 1 to that of the images")
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
