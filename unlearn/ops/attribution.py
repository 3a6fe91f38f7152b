"""How much each training example adds to what a model says, from models that saw it or not.

An attribution is a function of three things: which of M models saw which of N training examples, Z (M, N); the positions
of f of these examples; and outputs O (M, K) of the models. It returns A (f, K), what each of the examples adds to each
output, and looks at each column of O by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unlearn.errors import BadValue
from unlearn.ops.user_file import UserFile
from unlearn.registry import unknown

Attribution = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Called with Z, positions and O."""
NUMBERS = 2**24  # of A that are held at once
GROUP = 64  # examples whose effect on themselves is looked up at once


def difference(seen: Tensor, rows: Tensor, outputs: Tensor) -> Tensor:
    """Mean output of the models that saw an example, less that of the others, with shape (f, K).

    A = Zᵀ O / n₁ − (1 − Z)ᵀ O / n₀, in one product, with n₁ models that saw the example of a row and n₀ that did not.

    Args:
        seen: Z, bool with shape (M, N).
        rows: Positions of examples, with shape (f,).
        outputs: O, with shape (M, K).

    Example:
        >>> seen = torch.tensor([[True], [True], [False], [False]])
        >>> difference(seen, torch.tensor([0]), torch.tensor([[5.0], [3.0], [1.0], [1.0]]))
        tensor([[3.]])
    """
    z = seen[:, rows].to(outputs)
    n = z.sum(0)
    return (z / n - (1 - z) / (len(z) - n)).T @ outputs


def ridge(seen: Tensor, rows: Tensor, outputs: Tensor, penalty: float = 1.0) -> Tensor:
    """Coefficients of a ridge regression of the outputs on who saw what (datamodels), with shape (f, K).

    A = Zᵀ (Z Zᵀ + λ I)⁻¹ O for Z and O less their means over models, and λ = `penalty` times the mean square length of a
    row of that Z. With far fewer models than examples the coefficients are shrunk by about the ratio of both.

    Args:
        seen: Z, bool with shape (M, N).
        rows: Positions of examples, with shape (f,).
        outputs: O, with shape (M, K).
        penalty: Of the coefficients.

    References:
        Ilyas et al., 2022, Datamodels: predicting predictions from training data, arXiv:2202.00622 (with LASSO)
    """
    z = seen.to(outputs)
    z = z - z.mean(0)
    gram = z @ z.T
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    dual: Tensor = torch.linalg.solve(gram, outputs - outputs.mean(0))
    return z[:, rows].T @ dual


def named(text: str, penalty: float) -> Attribution:
    """The attribution of a name: `difference`, `ridge`, or `FILE.py:FUNCTION` for one of the user's own.

    Raises:
        UnknownName: If there is none.
        BadValue: If the file is missing, or what it names is no function.
    """
    known: dict[str, Attribution] = {
        "difference": difference,
        "ridge": functools.partial(ridge, penalty=penalty),
    }
    if text in known:
        return known[text]
    if (path := file_of(text)) is None:
        raise unknown("attribution", text, [*known, "FILE.py:FUNCTION"])
    file = UserFile(text)
    if (own := file.function_named(file.function)) is None:
        raise BadValue(
            f"{path.name} has no function {file.function!r}; define it with arguments (seen, rows, outputs), or name another as FILE.py:FUNCTION"
        )
    return own


def file_of(text: str) -> Path | None:
    """The user's file that an attribution names, or None where it is one of ours."""
    head = text.rpartition(":")[0] or text
    return Path(head).expanduser() if head.endswith(".py") else None


@dataclass(frozen=True, slots=True)
class Removal:
    """What some training examples add together.

    Attributes:
        attribution: Says what each adds.
        seen: Which of M models saw which of N training examples, as bool with shape (M, N).
        rows: Positions of the examples, with shape (f,).

    Raises:
        BadValue: If one of them is in the training set of every model, or of none.
    """

    attribution: Attribution
    seen: Tensor
    rows: Tensor

    def __post_init__(self) -> None:
        n = self.seen[:, self.rows].sum(0)
        alike = (n == 0) | (n == len(self.seen))
        if bool(alike.any()):
            first = "none" if int(n[alike][0]) == 0 else "all"
            raise BadValue(
                f"{int(alike.sum())} of {len(self.rows)} forgotten examples are alike in all {len(self.seen)} models that were lent, the first in the training set of {first}, so nothing tells what they add; ask for more with --models"
            )

    def __call__(self, outputs: Tensor) -> Tensor:
        """Σ_{i ∈ F} A[i] of outputs (M, B, *), with shape (B, *).

        Raises:
            BadValue: If the attribution returns something of another shape, or that is not finite.
        """
        flat = outputs.flatten(1)
        width = max(1, NUMBERS // len(self.rows))
        parts = [self._of(self.rows, columns).sum(0) for columns in flat.split(width, 1)]
        return torch.cat(parts).reshape(outputs.shape[1:])

    def own(self, outputs: Tensor, at: Tensor) -> Tensor:
        """What each example adds to its own outputs (M, B, *), where it is one of F, and else 0; with shape (B, *).

        Args:
            outputs: Of the models.
            at: Position of each example among the training examples, with shape (B,).

        Raises:
            BadValue: See `__call__`.
        """
        found = torch.zeros_like(outputs[0])
        mine = torch.isin(at, self.rows).nonzero().flatten()
        for some in mine.split(GROUP) if len(mine) else ():
            each = self._of(at[some], outputs[:, some].flatten(1)).reshape(len(some), len(some), -1)
            found[some] = each.diagonal().T.reshape(found[some].shape)
        return found

    def _of(self, rows: Tensor, columns: Tensor) -> Tensor:
        found = self.attribution(self.seen, rows, columns)
        wanted = (len(rows), columns.shape[1])
        if tuple(found.shape) != wanted or not bool(found.isfinite().all()):
            what = f"{tuple(found.shape)}" if tuple(found.shape) != wanted else "values that are not finite"
            raise BadValue(
                f"the attribution returned {what}, not finite numbers of shape {wanted}: one row for each forgotten example, one column for each of outputs"
            )
        return found.to(columns)
