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

    The ids in y are those of the first tokenizer; the second splits prompts alike and differs in its padding alone. A
    conditioning is a dict: `states` (B, L, D) of both encoders side by side, `pooled` (B, P) of the second, and
    `time_ids` (B, 6), which tell the UNet the size of the image and that nothing is cut off. The concept is in the
    pooled vector, too, which no cross-attention reads.

    Attributes:
        module: Holds `unet`, `text_encoder` and `text_encoder_2`.
        padding: What the second encoder reads behind the end of a prompt.
        pixels: Height and width of an image.
        blank_is_zero: Whether guidance leads away from zeros instead of the empty prompt, as the released
            pipelines have it.

    References:
        Podell et al., 2023, SDXL: improving latent diffusion models for high-resolution image synthesis,
        arXiv:2307.01952
    """

    padding: int = 0
    pixels: tuple[int, int] = (1024, 1024)
    blank_is_zero: bool = True

    @property
    def text(self) -> nn.Module:
        """What encodes prompts: both encoders."""
        return nn.ModuleList(self.module.get_submodule(n) for n in ("text_encoder", "text_encoder_2"))

    def words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `TextToImage.words`."""
        return self._states(self._said(batch.y)), (self._ends(batch.y) - 1).clamp_min(0)

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
        """See `TextToImage.encode_embedded`; each encoder reads its own columns, and the second its own padding."""
        encoders = list(self.text.children())
        one, two = embedded.split([embedding_of(e).shape[1] for e in encoders], 2)
        two = torch.where(self._behind(ids)[..., None], embedding_of(encoders[1])[self.padding], two)
        told = zip(encoders, (one, two), (ids, self._padded(ids)), strict=True)
        return self._told(self._joined(read_embedded(*each) for each in told), ids)

    def _predicted(self, z: Tensor, t: Tensor, said: Said) -> Tensor:
        states, pooled, time_ids = (said[k].to(z.dtype) for k in ("states", "pooled", "time_ids"))
        more = {"text_embeds": pooled, "time_ids": time_ids}
        out: Tensor = self.denoiser(z, t, encoder_hidden_states=states, added_cond_kwargs=more).sample
        return out

    def _said(self, ids: Tensor) -> Said:
        told = zip(self.text.children(), (ids, self._padded(ids)), strict=True)
        return self._joined(read(*each) for each in told)

    def _ends(self, ids: Tensor) -> Tensor:
        return ends(next(self.text.children()), ids)

    def _behind(self, ids: Tensor) -> Tensor:
        """Which tokens stand behind the end of their prompt, with shape (B, L)."""
        return torch.arange(ids.shape[1], device=ids.device) > self._ends(ids)[:, None]

    def _padded(self, ids: Tensor) -> Tensor:
        """Prompts (B, L) as the second tokenizer has them."""
        return ids.masked_fill(self._behind(ids), self.padding)

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
