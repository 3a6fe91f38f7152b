"""Low-rank factors of an edit, and the file in which `load_lora_weights` of diffusers looks for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unlearn.errors import BadValue
from unlearn.patch import LORA_A, LORA_B

FILE = "pytorch_lora_weights.safetensors"
TOLERANCE = 1e-3  # largest share of a difference, in Frobenius norm, that its factors may miss
IN_TEXT_ENCODERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # diffusers reads no others
Factors = tuple[Tensor, Tensor]


def factorised(differences: Mapping[str, Tensor], rank: int) -> dict[str, Factors]:
    """Factors B A of differences of weights.

    The rank of all of them is the smallest with which every difference is met up to `TOLERANCE`.

    Args:
        differences: New minus old value (O, I) or (O, I, H, W) by the name of the weight.
        rank: The largest rank allowed.

    Returns:
        A (R, I, ...) and B (O, R, ...) of each weight in single precision.

    Raises:
        BadValue: If a difference is of no linear layer, or needs a higher rank; with the rank and the error.
    """
    flat = [n for n, d in differences.items() if d.dim() < 2 or not n.endswith(".weight")]
    if flat:
        raise BadValue(
            f"the edit is no LoRA: it changes {flat[0]} ({len(flat)} such), and a LoRA holds weights of linear and convolution layers; give --as folder"
        )
    cuts = {n: torch.linalg.svd(d.double().flatten(1), full_matrices=False) for n, d in differences.items()}
    needed = {n: _rank(s) for n, (_, s, _) in cuts.items()}
    worst = max(needed, key=needed.__getitem__)
    if needed[worst] > rank:
        missed = _missed(cuts[worst][1])[rank]
        raise BadValue(
            f"the edit is not of rank {rank}: {worst} needs rank {needed[worst]} of {min(differences[worst].flatten(1).shape)} to be met up to {TOLERANCE:.1%}, and rank {rank} misses {missed:.1%}; give --as folder, or --rank {needed[worst]}"
        )
    return {n: _split(cut, differences[n], needed[worst]) for n, cut in cuts.items()}


def lora_state(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Tensors of a LoRA file in PEFT's layout, without alphas, so that W becomes W + B A.

    Factors of one component are padded with zeros to one rank, because readers differ in how they scale layers of
    other ranks than most have.

    Args:
        factors: A and B by the name of the weight, as in `factorised`.

    Raises:
        BadValue: If one is of a layer that diffusers would skip.
    """
    skipped = [
        n for n in factors if n.startswith("text_encoder") and n.split(".")[-2] not in IN_TEXT_ENCODERS
    ]
    if skipped:
        raise BadValue(
            f"the edit is no LoRA that diffusers reads: it changes {skipped[0]}, and in text encoders only {', '.join(IN_TEXT_ENCODERS)} are read; give --as folder"
        )
    ranks: dict[str, int] = {}
    for name, (a, _) in factors.items():
        component = name.partition(".")[0]
        ranks[component] = max(ranks.get(component, 0), len(a))
    made = {}
    for name, (a, b) in factors.items():
        module, lacking = name.removesuffix(".weight"), ranks[name.partition(".")[0]] - len(a)
        made[module + LORA_A] = torch.cat([a, a.new_zeros(lacking, *a.shape[1:])])
        made[module + LORA_B] = torch.cat([b, b.new_zeros(len(b), lacking, *b.shape[2:])], 1)
    return made


def _missed(values: Tensor) -> Tensor:
    """Share of a matrix in Frobenius norm that its first 0, 1, ... singular values leave out."""
    tail = torch.cat([values.square().flip(0).cumsum(0).flip(0), values.new_zeros(1)])
    return (tail / tail[0].clamp_min(torch.finfo(tail.dtype).tiny)).sqrt()


def _rank(values: Tensor) -> int:
    return int((_missed(values) > TOLERANCE).sum())


def _split(cut: tuple[Tensor, Tensor, Tensor], difference: Tensor, rank: int) -> Factors:
    u, s, v = (t[..., :rank] if k < 2 else t[:rank] for k, t in enumerate(cut))
    root = s.sqrt()
    a = (root[:, None] * v).view(-1, *difference.shape[1:])
    b = (u * root).view(len(difference), -1, *(1,) * (difference.dim() - 2))
    return a.float(), b.float()
