"""What methods and metrics may ask of a trained model: protocols of one to four verbs.

The annotation of `subject` in a method's signature names one of these, and that is the whole declaration
of what the method fits. A method that needs two names an intersection, at the end of this file.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

from torch import Generator, Tensor, nn

from unlearn.data import Batch, Handle
from unlearn.modes import mode as mode
from unlearn.runtime import Run


@runtime_checkable
class Subject(Protocol):
    """A trained model.

    Attributes:
        module: Holds the parameters that may change.
    """

    module: nn.Module

    def clone(self) -> Self:
        """A copy of what may change; a frozen rest is shared."""
        ...


@runtime_checkable
class HasLoss(Subject, Protocol):
    """Knows its training loss."""

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Training loss of each example, with shape (B,); `rng` where the loss draws noise."""
        ...


@runtime_checkable
class Relabels(HasLoss, Protocol):
    """Can be asked for a loss against a target that carries no knowledge of the example."""

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Loss of each example against an uninformed target, with shape (B,)."""
        ...


@runtime_checkable
class Predicts(Subject, Protocol):
    """Maps inputs to outputs."""

    def outputs(self, batch: Batch) -> Tensor:
        """Logits of a classifier, values of a regressor, with shape (B, K)."""
        ...


@runtime_checkable
class Classifies(HasLoss, Predicts, Protocol):
    """Predicts one of a fixed list of classes; outputs are logits.

    Attributes:
        classes: Number of classes C.
    """

    classes: int


@runtime_checkable
class Regresses(HasLoss, Predicts, Protocol):
    """Predicts values, standardised or not; `unit` names what they are measured in, or is empty."""

    unit: str

    def in_unit(self, values: Tensor) -> Tensor:
        """Outputs or targets, with shape (B, K), in that unit."""
        ...


@runtime_checkable
class Matches(HasLoss, Predicts, Protocol):
    """Brings images and texts together; outputs are how well each of the bank's `texts`, ids (M, L), fits."""

    texts: Tensor

    def cosines(self, batch: Batch) -> Tensor:
        """Cosine of each image and its own text, with shape (B,)."""
        ...

    def meant(self, ids: Tensor) -> Tensor:
        """Which texts of the bank say the same as each of some texts (N, L), as a mask of shape (N, M)."""
        ...


@runtime_checkable
class Embeds(Subject, Protocol):
    """Has features: what enters the last layer."""

    def features(self, batch: Batch) -> Tensor:
        """Penultimate features, with shape (B, D)."""
        ...

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, D) and outputs (B, K) of one forward pass."""
        ...


@runtime_checkable
class Layers(HasLoss, Protocol):
    """Knows the order of its layers."""

    def layers(self, batch: Batch) -> list[nn.Module]:
        """Modules with weights in the order in which a forward pass over `batch` enters them."""
        ...


@runtime_checkable
class Fresh(Subject, Protocol):
    """Can be had untrained."""

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        ...


@runtime_checkable
class Trains(Fresh, Protocol):
    """Can be trained by the recipe that made it.

    Attributes:
        recipe: The recipe, or None where it is unknown; then there is no oracle.
    """

    recipe: Any

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place on the set; raises Mismatch where the recipe is unknown."""
        ...


@runtime_checkable
class Denoises(Subject, Protocol):
    """A conditional diffusion or flow model seen through its prediction.

    A conditioning is a tensor, or a tuple, list or dict of tensors, with the examples along the first axis.

    Attributes:
        steps: Steps of a whole trajectory.
        guidance: Scale of classifier-free guidance in samples.
    """

    steps: int
    guidance: float

    def encode(self, batch: Batch) -> Any:
        """Conditioning of each example, opaque to methods."""
        ...

    def null(self, n: int) -> Any:
        """The empty conditioning for n examples."""
        ...

    def predict(self, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Predicted noise, velocity or flow at times `t` of shape (B,), with the shape of `z`."""
        ...

    def trajectory(self, cond: Any, until: int, guidance: float, rng: Generator) -> tuple[Tensor, Tensor]:
        """Latents denoised from pure noise for `until` steps, and the time (B,) that is reached."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Named parts that methods select: cross-attention, self-attention, `all` of the denoiser, text encoder."""
        ...


@runtime_checkable
class Noises(Denoises, Protocol):
    """Knows how examples become noise."""

    def times(self, n: int, rng: Generator) -> Tensor:
        """Times drawn as in training, with shape (n,)."""
        ...

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Examples x with noise of times t (B,), and what should be predicted there; both of the shape of x."""
        ...


@runtime_checkable
class Jitters(Denoises, Protocol):
    """Knows the times that lie between those of its sampler."""

    def between(self, until: Tensor, rng: Generator) -> Tensor:
        """Times (B,), each drawn between the ones that the sampler reaches after `until` (B,) steps and one less."""
        ...


@runtime_checkable
class Steers(Denoises, Protocol):
    """Can be held away from prompts while it samples, without a change of its weights."""

    def steered(self, guide: nn.Module) -> Self:
        """The same model with one more guide in its module.

        Samples then follow ε(∅) + g (ε(c) − ε(∅) − Σ d), with the d of each guide.

        Args:
            guide: Has a buffer `prompt`, the token ids of one prompt p as in a row of `Batch.y`. Called at step i,
                counted from 0, it gives the d of this step and the memory ν of the next, both of the shape of ε:
                `d, ν = guide(i, ε(∅), ε(c), ε(p), ν)`; ν is zero at first.
        """
        ...


@runtime_checkable
class Adapts(Denoises, Protocol):
    """Can carry low-rank maps beside its layers, as strong for each prompt as that prompt asks for.

    Attributes:
        empty: Token ids of the empty prompt, with shape (L,).
    """

    empty: Tensor

    def adapted(self, adapter: nn.Module) -> Self:
        """The same model with one more adapter in its module.

        Args:
            adapter: Has a buffer `prompts`, the token ids (P, L) of some prompts of its own as in `Batch.y`, and `maps`
                beside layers of the model's module, see `unlearn.ops.low_rank`. Called with text states (B, L, D) and
                ids of prompts, and with the text states of its own prompts (P, L, D), it says how strong its
                maps are for each prompt, (B,). A whole trajectory, ε(∅) too, goes by the strength for its prompt.
                Where `constant` is true, that is 1 for every prompt.

        Raises:
            Mismatch: If the maps are for another architecture.
        """
        ...

    def adapters(self) -> list[nn.Module]:
        """The adapters that it carries, oldest first."""
        ...

    def bare(self) -> Self:
        """The same model, with the same weights, without its adapters."""
        ...


@runtime_checkable
class Attends(Denoises, Protocol):
    """Shows where its cross-attention looks.

    Attributes:
        empty: Token ids of the empty prompt, with shape (L,): begin, end, and padding.
    """

    empty: Tensor

    def attention(self, z: Tensor, t: Tensor, cond: Any) -> list[Tensor]:
        """Attention of each cross-attention layer to each token while it predicts (see `predict`), with its gradient.

        Returns:
            Probabilities (B, heads, queries, L) for prompts of L tokens, which sum to one over the tokens.
        """
        ...


@runtime_checkable
class CrossAttends(Denoises, Protocol):
    """Reads its prompts, as text states, through linear keys and values of cross-attention."""

    def projections(self) -> list[nn.Module]:
        """The key and value maps without bias that read text states, in a fixed order."""
        ...

    def words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Text states (B, L, D) of each prompt, and the position (B,) of the last token of its subject.

        That is the token before the first end of text; in the empty prompt, the begin token at 0. A token's state
        depends on those before it alone, so prompts without the padding that they share serve as well.
        """
        ...

    def blank(self, n: int) -> Tensor:
        """Text states of the empty prompt for n examples, with shape (n, L, D)."""
        ...


@runtime_checkable
class Generates(Subject, Protocol):
    """Draws samples."""

    def sample(self, batch: Batch, rng: Generator) -> Tensor:
        """One sample for each row of `batch`, with shape (B, *)."""
        ...


@runtime_checkable
class Draws(Generates, Protocol):
    """Its samples can be seen as images."""

    def draw(self, batch: Batch, rng: Generator) -> Tensor:
        """An image for each row's prompt, with shape (B, 3, H, W), between 0 and 1."""
        ...


@runtime_checkable
class Prompted(Noises, Draws, Protocol):
    """Reads prompts as embedded tokens, which an attack may choose.

    Attributes:
        empty: Token ids of the empty prompt, with shape (L,): begin, end, and padding.
        vae: The frozen autoencoder between latents and images, shared by clones, or None.
    """

    empty: Tensor
    vae: Any

    def pictures(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) between 0 and 1 of finished latents."""
        ...

    def latents(self, images: Tensor) -> Tensor:
        """Latents of images (B, 3, H, W) between 0 and 1."""
        ...

    def embeddings(self) -> Tensor:
        """Embeddings of all tokens, with shape (V, D)."""
        ...

    def encode_embedded(self, embedded: Tensor, ids: Tensor) -> Any:
        """Conditionings of prompts given as embedded tokens (B, L, D), with a gradient to them.

        Their ids (B, L) say where a prompt ends.
        """
        ...

    def guided(self, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """What samples follow at times t (B,), with its gradient and the shape of z: guidance, less what is steered away.

        A guide counts steps from the sampler's nearest one and remembers none before it.
        """
        ...

    def noise(self, n: int, rng: Generator) -> Tensor:
        """The pure noise of n drawings, with shape (n, *); `draw` draws that of its whole batch, and nothing else."""
        ...

    def draw_from(self, cond: Any, noise: Tensor) -> Tensor:
        """What each conditioning becomes from its noise (B, *), as images (B, 3, H, W) between 0 and 1."""
        ...


@runtime_checkable
class NextToken(Subject, Protocol):
    """A language model seen through its next-token logits."""

    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position of ids (B, L), with shape (B, L, V)."""
        ...


@runtime_checkable
class AttendsToExamples(Noises, Attends, Protocol):
    """Shows where its cross-attention looks, in noisy examples: what resteering of attention needs."""


@runtime_checkable
class AttendsToDrawings(Prompted, CrossAttends, Attends, Protocol):
    """Shows where its cross-attention looks in what it draws, and its linear maps: what attention with masks needs."""


@runtime_checkable
class Distills(Predicts, Fresh, Protocol):
    """Predicts, and can be had untrained: what an incompetent teacher needs."""


@runtime_checkable
class FreshClassifier(Classifies, Fresh, Protocol):
    """A classifier that can be had untrained: what a comparison with ignorance needs."""


@runtime_checkable
class EmbedsClasses(Classifies, Embeds, Protocol):
    """A classifier with features: what feature-space methods need."""


@runtime_checkable
class TrainsInLayers(Layers, Trains, Protocol):
    """Knows its layers and its recipe: what exact re-training of the last ones needs."""


@runtime_checkable
class RegressesInLayers(Regresses, Layers, Trains, Protocol):
    """Predicts values, and knows its layers and its recipe: what copying an ignorant proxy layer by layer needs."""
