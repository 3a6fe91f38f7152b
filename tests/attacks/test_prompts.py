"""Where the concept's word is, and room for words beside it."""

import pytest
import torch

from unlearn.errors import Mismatch
from unlearn.ops.prompts import prefixed, trimmed, word_of

OTHERS = torch.tensor([[0, 5, 4, 6, 1, 1], [0, 7, 6, 1, 1, 1]])


@pytest.mark.parametrize(
    ("prompts", "at"),
    [
        ([[0, 5, 3, 6, 1, 1], [0, 3, 1, 1, 1, 1]], [2, 1]),
        ([[0, 3, 5, 3, 1, 1]], [3]),
        ([[0, 3, 8, 6, 1, 1], [0, 8, 3, 6, 1, 1]], [2, 2]),
        ([[0, 9, 3, 1, 1, 1], [0, 3, 6, 1, 1, 1]], [2, 1]),
    ],
    ids=[
        "one token",
        "the last of several",
        "the last token of a name",
        "what not all share is not the word",
    ],
)
def test_the_word_is_the_last_token_that_all_share_and_no_other_has(prompts, at):
    assert word_of(torch.tensor(prompts), OTHERS).tolist() == at


def test_prompts_that_nothing_names_are_refused():
    with pytest.raises(Mismatch, match="share no token"):
        word_of(torch.tensor([[0, 5, 6, 1]]), OTHERS)
    with pytest.raises(Mismatch, match="share no token"):
        word_of(torch.tensor([[0, 8, 1, 1], [0, 9, 1, 1]]), OTHERS)


def test_room_is_made_behind_the_begin_token_and_the_end_stays_last():
    ids = torch.tensor([[0, 5, 3, 6, 1, 1, 1, 1], [0, 5, 3, 6, 4, 7, 2, 1]])
    assert prefixed(ids, 2).tolist() == [[0, 0, 0, 5, 3, 6, 1, 1], [0, 0, 0, 5, 3, 6, 4, 1]]
    assert prefixed(ids, 0).equal(ids)


@pytest.mark.parametrize(
    ("prompts", "kept"),
    [
        ([[0, 5, 1, 1, 1, 1]], [[0, 5, 1]]),
        ([[0, 5, 1, 9, 9, 9], [0, 1, 9, 9, 9, 9]], [[0, 5, 1, 9], [0, 1, 9, 9]]),
        ([[0, 5, 3, 6, 4, 1], [0, 5, 1, 1, 1, 1]], [[0, 5, 3, 6, 4, 1], [0, 5, 1, 1, 1, 1]]),
        ([[0, 1, 1, 1, 1, 1]], [[0, 1]]),
    ],
    ids=["end of text", "other padding", "one prompt is full", "empty"],
)
def test_padding_that_all_prompts_share_is_cut_off_but_for_one_token(prompts, kept):
    assert trimmed(torch.tensor(prompts)).tolist() == kept
