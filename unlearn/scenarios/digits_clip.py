"""The embedded scenario of image and text encoders: digit scans with captions, and a small CLIP."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from unlearn.knobs import knob
from unlearn.networks import seeded
from unlearn.ops.adamw import AdamW
from unlearn.ops.ink import OBJECTS, caption
from unlearn.provenance import digest
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenario import Material, Part, Scenario
from unlearn.scenarios.digits import Digits
from unlearn.sources import Relabeled
from unlearn.subjects.dual_encoder import DualEncoder

TEMPLATES = (
    "a photo of {a}", "a scan of {a}", "a drawing of {a}", "the digit {o}", "the number {o}", "{a}", "{a} in ink",
    "{a} on paper",
)  # fmt: skip
UNINFORMED = ("a photo of something", "a scan of something", "something in ink", "something on paper")
BEGIN, END = 0, 1


@scenarios.register("digits-clip")
class DigitsClip(Scenario):
    """Scans of handwritten digits with captions such as "a photo of a three", and a small CLIP.

    The scans and their division are those of `digits`. Each scan has one of eight captions; the bank holds all eighty, and
    those of one digit say the same. Words are tokens. Images and texts are brought together by training from nothing.

    References:
        Alpaydin and Kaynak, 1998, Optical recognition of handwritten digits, UCI repository
        Radford et al., 2021, Learning transferable visual models from natural language supervision, arXiv:2103.00020
    """

    default_request: ClassVar[str] = "class=three"
    modules: ClassVar[tuple[str, ...]] = (
        "unlearn.subjects.dual_encoder",
        "unlearn.scenarios.digits",
        "unlearn.ops.ink",
    )
    epochs: int = knob(40, "training epochs of original and oracle", ge=1)

    def material(self) -> Material:
        """See `Scenario.material`."""
        found = Digits(request=self.request).clean()
        train, held = captioned(found.train), (found.validation, found.fit, found.test)
        validation, fit, test = map(captioned, held)
        content = digest([found.content, TEMPLATES])
        return Material(train, validation, fit, test, content, found.transform)

    def subject(self, rng: Generator) -> DualEncoder:
        """See `Scenario.subject`."""
        texts = [caption(t, o) for o in OBJECTS for t in TEMPLATES]
        says = torch.arange(len(OBJECTS)).repeat_interleave(len(TEMPLATES))
        recipe = AdamW(epochs=self.epochs, lr=4e-3, weight_decay=0.05)
        return DualEncoder(seeded(network, rng), tokens(texts), tokens(UNINFORMED), says, recipe, network)


def captioned(part: Part) -> Part:
    """The same scans with the tokens of a caption each as their targets, in turn by position."""
    digits = part.source.y
    texts = tokens(
        [caption(TEMPLATES[k % len(TEMPLATES)], OBJECTS[d]) for k, d in enumerate(digits.tolist())]
    )
    labels = Labels(digits[part.rows], OBJECTS)
    return Part(Relabeled(part.source, texts), part.rows, labels)


@functools.cache
def words() -> dict[str, int]:
    """Every word of the captions with its token; 0 begins a text, and 1 ends and fills it."""
    texts = [*UNINFORMED, *(caption(t, o) for o in OBJECTS for t in TEMPLATES)]
    return {w: k for k, w in enumerate(sorted({w for t in texts for w in t.split()}), 2)}


def tokens(texts: Any) -> Tensor:
    """Token ids of texts (N, L), L that of the longest caption.

    Example:
        >>> tokens(["the digit three", "a photo of a three"]).shape
        torch.Size([2, 7])
    """
    longest = max(len(t.split()) for t in TEMPLATES) + 1  # {a} is two words
    rows = [[BEGIN, *(words()[w] for w in t.split())] for t in texts]
    return torch.tensor([row + [END] * (longest + 2 - len(row)) for row in rows])


def network() -> nn.Module:
    """An untrained CLIP of 0.2 million weights for grey images of 8 x 8 pixels."""
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": len(words()) + 2, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": BEGIN, "eos_token_id": END,
            "pad_token_id": END}  # fmt: skip
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_channels": 1, "image_size": 8, "patch_size": 2}  # fmt: skip
    net: nn.Module = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    return net
