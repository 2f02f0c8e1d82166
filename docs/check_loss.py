"""Check your own discriminator_loss(real_logits, fake_logits), for exercise 2 of exercises.md.

    python docs/check_loss.py my_loss.py       # my_loss.py defines discriminator_loss

The logits are tensors (B,), and D = sigmoid(logit). The loss is a 0-d tensor:

    -E[log D(x)] - E[log(1 - D(G(z)))]

The checks end at the first one that fails. It prints a hint, and the exit code is 1.
"""

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def load(path: Path) -> Loss:
    """Return discriminator_loss() of a Python file. The file is executed."""
    if not path.is_file():
        raise SystemExit(f"error: there is no file {path}")
    spec = importlib.util.spec_from_file_location("my_loss", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: the name {path} does not end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "discriminator_loss"):
        raise SystemExit(f"error: {path} defines no function discriminator_loss")
    loss: Loss = module.discriminator_loss
    return loss


def checks(loss: Loss) -> Iterator[tuple[str, bool, str]]:
    """Yield the name of each check, whether the loss passes, and a hint for a loss that fails."""
    value = loss(torch.zeros(8), torch.zeros(8))
    is_number = isinstance(value, Tensor) and value.ndim == 0
    yield "the loss is a 0-d tensor", is_number, "return a tensor, the mean over the batch"
    hint = f"it is {float(value):.4f}; each of the two terms should be the mean of -log(1/2)"
    yield "at logits 0 it is 2 log 2", math.isclose(float(value), math.log(4), rel_tol=1e-5), hint

    sure = torch.full((8,), 3.0)
    hint = "it should be small for D(x) near 1 and D(G(z)) near 0; compare both targets and signs"
    yield "it is smaller if D is right", bool(loss(sure, -sure) < loss(-sure, sure)), hint

    real, fake = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    found = loss(real, fake)
    hint = "compute it from the logits, without detach, item or torch.no_grad"
    yield "it has a gradient", found.requires_grad, hint
    expected = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    hint = f"it is {float(found.detach()):.4f} instead of {float(expected.detach()):.4f}"
    yield "at random logits it is the formula", torch.allclose(found.float(), expected), hint

    gradients = torch.autograd.grad(found, (real, fake), allow_unused=True)
    exact = (real.sigmoid() - 1) / 8, fake.sigmoid() / 8
    same = all(
        g is not None and torch.allclose(g, e) for g, e in zip(gradients, exact, strict=True)
    )
    hint = "it should be (D(x) - 1) / B for real and D(G(z)) / B for generated images"
    yield "its gradient is the derivative of the formula", same, hint

    real, fake = (torch.full((8,), v, requires_grad=True) for v in (-200.0, 200.0))
    found = loss(real, fake)
    hint = f"it is {float(found.detach()):.4g}, because sigmoid rounds to 0 or 1 in float32; "
    hint += "compute the loss from the logits, for example with torch.nn.functional.softplus"
    yield (
        "at logits of -200 and 200 it is 400",
        math.isclose(float(found.detach()), 400, rel_tol=1e-5),
        hint,
    )
    gradients = torch.autograd.grad(found, (real, fake), allow_unused=True)
    same = all(g is not None and abs(g.sum().abs() - 1) < 1e-5 for g in gradients)
    yield "the gradients there have size 1", same, "without a gradient, D cannot learn"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="Python file that defines discriminator_loss")
    loss = load(parser.parse_args(argv).path)
    torch.manual_seed(0)
    for name, passed, hint in checks(loss):
        print(f"{'ok' if passed else 'FAILED':<6}  {name}")
        if not passed:
            print(f"        {hint}")
            sys.exit(1)
    print("discriminator_loss is correct")


if __name__ == "__main__":
    main()
