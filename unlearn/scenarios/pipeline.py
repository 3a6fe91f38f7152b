"""Your own text-to-image pipeline, and prompts without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator

from unlearn.errors import BadValue
from unlearn.gallery import Gallery
from unlearn.knobs import knob
from unlearn.ops.naming import TEMPLATES, Naming
from unlearn.ops.seeing import Judge, load_judge
from unlearn.ops.wording import reworded, turns
from unlearn.patch import weights_hash
from unlearn.provenance import digest
from unlearn.registry import scenarios
from unlearn.request import ForgetConcept, Labels, Request
from unlearn.scenario import Material, Part, Scenario
from unlearn.scenario import steps as in_turn
from unlearn.scenarios._diffusion import Loaded, load_pipeline
from unlearn.sources import Arrays, Source
from unlearn.subject import Subject

JOINT = "|"


@scenarios.register("pipeline")
class Pipeline(Scenario):
    """Your own text-to-image pipeline, which must forget a concept that a prompt can name.

    `model` is a folder of diffusers or a hub name: Stable Diffusion 1 and 2, XL, 3, or FLUX.1. There are no images,
    so methods that read some are refused, and no training recipe, so there is no oracle. Every name is put into
    each of the `templates`; the concept's prompts are sent to those of `anchor`, and those of `preserve` must stay,
    or the empty prompt where nothing is named.

    All models draw the same prompts from the same noise. Without a `judge` a person has to look at the pairs; with
    one, an image classifier whose labels include the names, the scores of `erasure` are known. It sees one of its
    labels in every drawing, unless one of them is called "nothing".
    """

    default_request: ClassVar[str] = "concept=Van Gogh"
    modules: ClassVar[tuple[str, ...]] = ("unlearn.scenarios._diffusion", "unlearn.ops.seeing")

    model: str = knob("", "folder of a diffusers pipeline, or hub name")
    preserve: str = knob("", "names that must stay, joined by |")
    anchor: str = knob("", "name that takes the concept's place; empty for the empty prompt")
    templates: str = knob(JOINT.join(TEMPLATES), "prompts around a name, joined by |")
    judge: str = knob("", "folder or hub name of an image classifier that knows the names; empty for none")
    steps: int = knob(0, "sampling steps of a drawing; 0 for the pipeline's own", ge=0)
    guidance: float = knob(0.0, "scale of guidance in drawings; 0 for the pipeline's own", ge=0)
    size: int = knob(0, "side of a drawing, in pixels; 0 for the pipeline's own", ge=0)
    drawings: int = knob(2, "drawings of each prompt", ge=1)

    def material(self) -> Material:
        """See `Scenario.material`."""
        asked = [self._naming(_concept(request)) for request in in_turn(self.request)]
        texts = {n.concept: n.sets()["concept"] for n in asked}
        texts |= {"what must stay": asked[0].sets()["preserve"]}
        source = self._texts([text for some in texts.values() for text in some])
        y = torch.tensor([k for k, some in enumerate(texts.values()) for _ in some])
        parts = [Part(source, rows, Labels(y[rows], tuple(texts))) for rows in (torch.arange(len(y)), y[:0])]
        seen = [weights_hash(self._judge.net.state_dict())] if self._judge else []
        content = digest([*self._loaded.content(), weights_hash({"y": source.y}), *seen])
        return Material(parts[0], parts[1], parts[1], parts[1], content, prompts_only=True)

    def subject(self, rng: Generator) -> Subject:
        """The pipeline: how it was trained is not known."""
        return self.original()

    def original(self) -> Subject:
        """See `Scenario.original`."""
        found: Subject = self._loaded.subject
        return found

    def prompts(self, request: Request) -> Mapping[str, Source]:
        """See `Scenario.prompts`."""
        naming = self._naming(_concept(request))
        self._loaded.check(naming)
        drawn = self._drawn(naming)
        others = turns([reworded(text, name) for text, name, _ in drawn if name == naming.concept])
        texts = {**naming.sets(), "prompts": [text for text, _, _ in drawn], "paraphrases": others}
        return {name: self._texts(some) for name, some in texts.items()}

    def gallery(self, request: Request) -> Gallery:
        """See `Scenario.gallery`; an axis that nobody judges tells the drawings of a name apart."""
        naming = self._naming(_concept(request))
        captions, names, numbers = zip(*self._drawn(naming), strict=True)
        known = self._judge.names if self._judge else (naming.concept, *naming.preserve)

        def place(name: str) -> int:
            return self._judge.place(name) if self._judge else known.index(name)

        asked = {"concept": torch.tensor([place(n) for n in names]), "drawing": torch.tensor(numbers)}
        axes = {"concept": known, "drawing": tuple(str(k + 1) for k in range(max(numbers) + 1))}
        judges = {"concept": self._judge} if self._judge else {}
        return Gallery(captions, asked, axes, judges, "concept", place(naming.concept))

    @cached_property
    def _loaded(self) -> Loaded:
        return load_pipeline(self.model, self.steps, self.guidance, self.size)

    @cached_property
    def _judge(self) -> Judge | None:
        erased = (_concept(request) for request in in_turn(self.request))
        return load_judge(self.judge, [*erased, *_words(self.preserve)]) if self.judge else None

    def _naming(self, concept: str) -> Naming:
        """The names of one request.

        Raises:
            BadValue: If there is no model, or the names are of no use.
        """
        if not self.model:
            raise BadValue(
                "pipeline: there is no model; name a folder of diffusers or a hub name with --model, or with model= in the scenario"
            )
        kept = tuple(dict.fromkeys(_words(self.preserve)))
        return Naming(concept, kept, self.anchor, tuple(_words(self.templates)))

    def _drawn(self, naming: Naming) -> list[tuple[str, str, int]]:
        """Prompt, name, and number among the drawings of the name, of every drawing."""
        return [
            (text, name, self.drawings * k + d)
            for name in (naming.concept, *naming.preserve)
            for k, text in enumerate(naming.prompts(name))
            for d in range(self.drawings)
        ]

    def _texts(self, texts: Sequence[str]) -> Arrays:
        return Arrays(torch.zeros(len(texts), 0), self._loaded.ids(texts))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(JOINT) if word.strip()]


def _concept(request: Request) -> str:
    """The concept that a request names.

    Raises:
        BadValue: If it names something else.
    """
    if not isinstance(request, ForgetConcept):
        raise BadValue(f"{request}: a pipeline has no labelled data; name a concept, as in concept=Van Gogh")
    return request.concept
