"""Stable Diffusion XL: a UNet that two CLIP encoders and the size of the image speak to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.data import Batch
from unlearn.errors import Mismatch
from unlearn.ops.clip_text import Reading, embedding_of, ends, read, read_embedded
from unlearn.subjects.text_to_image import TextToImage

Said = dict[str, Tensor]


@dataclass(slots=True)
class SDXL(TextToImage):
    """Draws images of a prompt by diffusion, told by two encoders and the size of the image.

    The ids for both encoders lie one after the other in y. A conditioning is a dict: `states` (B, L, D) of both encoders side by side, `pooled` (B, P) of the second, and
    `time_ids` (B, 6), which tell the UNet the size of the image and that nothing is cut off. The concept is in the
    pooled vector, too, which no cross-attention reads.

    Attributes:
        module: Holds `unet`, `text_encoder` and `text_encoder_2`.
        lengths: Tokens of a prompt for each encoder.
        pixels: Height and width of an image.
        blank_is_zero: Whether guidance leads away from zeros instead of the empty prompt, as the released
            pipelines have it.

    References:
        Podell et al., 2023, SDXL: improving latent diffusion models for high-resolution image synthesis,
        arXiv:2307.01952
    """

    lengths: tuple[int, int] = (77, 77)
    pixels: tuple[int, int] = (1024, 1024)
    blank_is_zero: bool = True

    @property
    def text(self) -> nn.Module:
        """What encodes prompts: both encoders."""
        return nn.ModuleList(self.module.get_submodule(n) for n in ("text_encoder", "text_encoder_2"))

    def words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `TextToImage.words`; the first tokenizer says where a prompt ends."""
        first = ends(next(self.text.children()), batch.y[:, : self.lengths[0]])
        return self._states(self._said(batch.y)), (first - 1).clamp_min(0)

    def embeddings(self) -> Tensor:
        """Embeddings of all tokens, those of both encoders side by side, with shape (V, D).

        Raises:
            Mismatch: If the encoders do not share a vocabulary.
        """
        tables = [embedding_of(encoder) for encoder in self.text.children()]
        if len({len(table) for table in tables}) > 1:
            sizes = " and ".join(str(len(table)) for table in tables)
            raise Mismatch(
                f"the two text encoders have vocabularies of {sizes} tokens, so no token has one embedding for both; choose an attack on prompts"
            )
        return torch.cat(tables, 1)

    def encode_embedded(self, embedded: Tensor, ids: Tensor) -> Any:
        """See `TextToImage.encode_embedded`; each encoder reads its own positions and its own columns."""
        encoders = list(self.text.children())
        columns = embedded.split([embedding_of(e).shape[1] for e in encoders], 2)
        places = (c.split(self.lengths, 1)[k] for k, c in enumerate(columns))
        told = zip(encoders, places, ids.split(self.lengths, 1), strict=True)
        return self._told(self._joined(read_embedded(*each) for each in told), ids)

    def _predicted(self, z: Tensor, t: Tensor, said: Said) -> Tensor:
        states, pooled, time_ids = (said[k].to(z.dtype) for k in ("states", "pooled", "time_ids"))
        more = {"text_embeds": pooled, "time_ids": time_ids}
        out: Tensor = self.denoiser(z, t, encoder_hidden_states=states, added_cond_kwargs=more).sample
        return out

    def _said(self, ids: Tensor) -> Said:
        told = zip(self.text.children(), ids.split(self.lengths, 1), strict=True)
        return self._joined(read(*each) for each in told)

    def _states(self, said: Said) -> Tensor:
        return said["states"]

    def _free(self, n: int) -> Said:
        said: Said = self._repeated(self.empty, n)
        if self.blank_is_zero:
            said |= {k: torch.zeros_like(said[k]) for k in ("states", "pooled")}
        return said

    def _joined(self, readings: Iterable[Reading]) -> Said:
        first, second = readings
        states = torch.cat([first.before, second.before], 2)
        sizes = torch.tensor([*self.pixels, 0, 0, *self.pixels]).to(states)
        return {"states": states, "pooled": second.pooled, "time_ids": sizes.expand(len(states), -1)}
