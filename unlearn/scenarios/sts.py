"""Similarity of sentences: a regression on text."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlearn.errors import BadData
from unlearn.knobs import knob
from unlearn.ops.adamw import AdamW
from unlearn.registry import scenarios
from unlearn.scenarios._values import Examples, Values

HASHED = 8192
"""Numbers that words are hashed to; 0 is padding."""
COLUMNS = ("score", "sentence1", "sentence2")

Words = Callable[[str], list[int]]


@scenarios.register("sts")
class Sts(Values):
    """How alike two sentences are, from 0 to 5, told by a small transformer that reads each by itself.

    `data` is a table with tabs between the columns score, sentence1 and sentence2, such as the pairs of SemEval 2012 to
    2016, or a folder with one. Words become numbers by a hash, so that nothing of the sentences enters a vocabulary that
    original and oracle would share; `tokenizer` names a folder with a tokenizer of transformers, or with the vocabulary and
    the merges of GPT-2, instead. The encoder is a BERT from a configuration, with weights drawn anew.

    References:
        Agirre et al., 2016, SemEval-2016 task 1: semantic textual similarity, Proceedings of SemEval
        Reimers and Gurevych, 2019, Sentence-BERT, arXiv:1908.10084 (two encodings, their difference, one output)
    """

    default_request: ClassVar[str] = "range=0:2"
    unit: ClassVar[str] = "points"
    data: str = knob("", "a table of scores and pairs of sentences, or a folder with one")
    tokenizer: str = knob("", "folder of a tokenizer; empty to hash words")
    length: int = knob(24, "tokens of a sentence that are read", ge=2)
    width: int = knob(64, "hidden size of the encoder; a multiple of 4", ge=4)
    layers: int = knob(1, "layers of the encoder", ge=1)
    limit: int = knob(0, "pairs to use, always the same ones drawn at random; 0 for all", ge=0)
    epochs: int = knob(4, "training epochs of original and oracle", ge=1)
    lr: float = knob(2e-3, "peak learning rate of original and oracle", gt=0)

    def examples(self) -> Examples:
        """See `Values.examples`.

        Raises:
            BadData: If there is no such table or tokenizer, or it cannot be read.
        """
        scores, *sentences = _table(self.data)
        ids = torch.stack([_numbers(texts, self._words[0], self.length) for texts in sentences], 1)
        y = torch.tensor([float(s) for s in scores])
        if not 0 < self.limit < len(y):
            return Examples(ids, y)
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[: self.limit].sort().values
        return Examples(ids[rows], y[rows])

    def build(self) -> nn.Module:
        """See `Values.build`."""
        return Siamese(self._words[1], self.width, self.layers, self.length)

    def recipe_of_training(self) -> AdamW:
        """See `Values.recipe_of_training`."""
        return AdamW(epochs=self.epochs, lr=self.lr, batch_size=64)

    @property
    def _words(self) -> tuple[Words, int]:
        """What makes numbers of a sentence, and how many different ones there are."""
        return _tokenizer(Path(self.tokenizer).expanduser()) if self.tokenizer else (hashed, HASHED)


class Siamese(nn.Module):
    """Encodes two sentences alike, and tells a value from |u − v| and u v.

    Args:
        words: Numbers of tokens; 0 is padding.
        width: Hidden size.
        layers: Of the encoder.
        length: Tokens of a sentence.
    """

    def __init__(self, words: int, width: int, layers: int, length: int) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=2 * width, max_position_embeddings=length, type_vocab_size=1, pad_token_id=0,
        )  # fmt: skip
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Values (B, 1) of pairs of token numbers (B, 2, L)."""
        ids = x.flatten(0, 1)
        mask = (ids > 0).long()
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(states)
        means = (states * weight).sum(1) / weight.sum(1).clamp_min(1)
        u, v = means.unflatten(0, (-1, 2)).unbind(1)
        value: Tensor = self.head(torch.cat([(u - v).abs(), u * v], 1))
        return value


def hashed(text: str) -> list[int]:
    """The words and marks of a sentence as numbers from 1 to `HASHED` − 1, without a vocabulary.

    Example:
        >>> hashed("A dog runs.") == hashed("a DOG runs ."), min(hashed("One word")) > 0
        (True, True)
    """
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return [1 + zlib.crc32(w.encode()) % (HASHED - 1) for w in words]


def _numbers(texts: Sequence[str], words: Words, length: int) -> Tensor:
    """Token numbers, cut or padded with 0, with shape (N, L)."""
    rows = [words(t)[:length] for t in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long)


def _table(where: str) -> list[list[str]]:
    """The columns of the table."""
    path = Path(where).expanduser()
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not where or len(files) != 1 or not files[0].is_file():
        raise BadData(
            f"sts: {where or 'nothing'!r} is no table and no folder with one; give scored pairs of sentences with data=PATH"
        )
    with files[0].open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [r for r in rows if r.get("score")]
    if missing := [n for n in COLUMNS if not rows or rows[0].get(n) is None]:
        raise BadData(
            f"sts: {files[0]} has no column {missing[0]!r}; the columns, with tabs between them, are {', '.join(COLUMNS)}"
        )
    return [[r[n] or "" for r in rows] for n in COLUMNS]


def _tokenizer(folder: Path) -> tuple[Words, int]:
    """A tokenizer of transformers, or the vocabulary and merges of GPT-2; its numbers are moved by one for the padding."""
    vocabulary, merges = sorted(folder.glob("*vocab.json")), sorted(folder.glob("*merges.txt"))
    try:
        if vocabulary and merges and not (folder / "tokenizer_config.json").is_file():
            from tokenizers import ByteLevelBPETokenizer

            found: Any = ByteLevelBPETokenizer(str(vocabulary[0]), str(merges[0]), add_prefix_space=True)
            return lambda text: [1 + i for i in found.encode(text).ids], 1 + found.get_vocab_size()
        from transformers import AutoTokenizer

        if not folder.is_dir():
            raise OSError("there is no such folder")
        known: Any = AutoTokenizer.from_pretrained(str(folder))
    except Exception as err:
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise BadData(
            f"sts: no tokenizer in {folder}: {said}; give a folder that transformers saved, or one with *vocab.json and *merges.txt of GPT-2, or leave tokenizer out"
        ) from err
    return lambda text: [1 + i for i in known(text, add_special_tokens=False)["input_ids"]], 1 + len(known)
