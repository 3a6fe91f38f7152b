"""The tiny text-to-image model in float64, with sets of prompts, for edits of its cross-attention."""

import torch

from unlearn.data import Resident, Split
from unlearn.sources import Arrays
from unlearn.testing.tiny import specimen


def subject():
    """A private copy whose denoiser and text encoder are float64."""
    found = specimen("unet").copy().subject
    found.module.double()
    return found


def ids(*words):
    """Token ids of one prompt of eight tokens: begin, words, end, padding."""
    return [0, *words, *[1] * (7 - len(words))]


def prompts(*rows):
    """A set of prompts, given by their words."""
    y = torch.tensor([ids(*r) for r in rows]).reshape(len(rows), 8)
    return Resident(Arrays(torch.zeros(len(rows), 0), y))


def lent(concept, anchor, preserve=()):
    """A split that lends three sets of prompts and nothing else."""
    return Split(None, None, None, None, None, prompts(*concept), prompts(*anchor), prompts(*preserve))


def text(subject, *rows):
    """Text states (N, 8, D) of prompts, straight from the encoder."""
    with torch.no_grad():
        return subject.text(input_ids=torch.tensor([ids(*r) for r in rows])).last_hidden_state


def weights(subject):
    """Copies of the key and value maps, found by name."""
    named = subject.module.named_parameters()
    return [p.detach().clone() for n, p in named if "attn2.to_k" in n or "attn2.to_v" in n]


def others(subject):
    """Copies of all other weights and buffers, by name."""
    named = subject.module.state_dict().items()
    return {n: t.clone() for n, t in named if "attn2.to_k" not in n and "attn2.to_v" not in n}


def naive(w0, erased, kept, e, p, ridge):
    """The edit of one map as the paper writes it: sums over a loop, and an inverse."""
    left, right = ridge * w0, ridge * torch.eye(w0.shape[1], dtype=w0.dtype)
    for c, g in erased:
        left = left + e * torch.outer(w0 @ g, c)
        right = right + e * torch.outer(c, c)
    for c in kept:
        left = left + p * torch.outer(w0 @ c, c)
        right = right + p * torch.outer(c, c)
    return left @ torch.linalg.inv(right)


def pairs(c, g):
    """Vectors of equal place in two tensors (*, D)."""
    return list(zip(c.flatten(0, -2), g.flatten(0, -2), strict=True))
