"""Unified concept editing (UCE)."""

from __future__ import annotations

from typing import ClassVar, Literal

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.closed_form import erasure, factor, multiply
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import CrossAttends


@methods.register("uce")
class UCE(Method[CrossAttends]):
    """Rewrites the keys and values of cross-attention so that a concept is read as its anchor.

    With c_e the text states of what is erased, c_g those of its anchor (the empty prompt or another concept)
    and c_p those of what must stay, each key and value map W₀ becomes

        W = (λ W₀ + e Σ W₀ c_g c_eᵀ + p Σ W₀ c_p c_pᵀ) (λ I + e Σ c_e c_eᵀ + p Σ c_p c_pᵀ)⁻¹,

    which minimises e Σ ‖W c_e − W₀ c_g‖² + p Σ ‖W c_p − W₀ c_p‖² + λ ‖W − W₀‖². Nothing is trained, no image is
    read, and no other weight changes. Variants of a concept, such as "a photo of it", are prompts like others.

    References:
        Gandikota et al., 2024, Unified concept editing in diffusion models, arXiv:2308.14761

    Differences from the authors' released code:
        The maps share one Cholesky factorisation in float64; theirs inverts in float32 for each.
        With `tokens="all"` the tokens at equal positions of the two prompts belong together, the begin token
        included. Their first script, which the preset `paper` follows in its numbers, shifts the prompts so
        that the last tokens of both subjects meet, leaves out what is before them, and holds the empty prompt
        beside those that must stay: neither is offered, but the empty prompt may be one of `preserve`.
        Its technique "tensor", which takes away the projection on the old value instead of replacing it, is not
        offered, and neither is the option of the later script that adds templates around each concept.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"concept", "anchor", "preserve"})
    deterministic: ClassVar[bool] = True
    presets: ClassVar = {
        "released": Preset(
            "authors' uce_sd_erase.py, Stable Diffusion 1.4",
            {"erase": 1.0, "keep": 1.0, "ridge": 0.5, "tokens": "last"},
        ),
        "paper": Preset(
            "authors' first script, train_erase.py, Stable Diffusion 1.4",
            {"erase": 1.0, "keep": 0.1, "ridge": 0.5, "tokens": "all"},
        ),
    }
    expected_failures: ClassVar = {
        "concept": "Only what the last token of a prompt says is edited; those behind it say it as well, and a third of the drawings still shows it.",
    }

    erase: float = knob(1.0, "weight e of what is erased", gt=0, search=(0.1, 10.0))
    keep: float = knob(1.0, "weight p of what must stay", ge=0, search=(0.1, 10.0))
    ridge: float = knob(0.5, "weight λ of staying near the original maps", gt=0, search=(0.01, 10.0))
    tokens: Literal["last", "all"] = knob(
        "last", "edit the last token of the subject alone, or all tokens of the prompt"
    )

    def unlearn(self, subject: CrossAttends, data: Split, run: Run) -> CrossAttends:
        """See `Method.unlearn`."""
        edit = erasure(subject, data, self.erase, self.keep, self.tokens)
        multiply(subject.projections(), factor(edit, self.ridge))
        return subject
