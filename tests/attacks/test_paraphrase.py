"""Other wordings: which are tried, and which the embedded scenario knows."""

import pytest
import torch
from tiny_case import case, ids

from unlearn.attacks.paraphrase import Paraphrase
from unlearn.errors import Mismatch
from unlearn.ops.wording import misspelt, reworded, turns
from unlearn.scenario import parse

REWORDED = [[ids(w, 2), ids(2, w), ids(2, 2, w)] for w in (10, 11, 12)]


def test_wordings_come_in_order_for_the_prompts_that_are_left():
    one, tried = case(reworded=REWORDED), []
    for rows, cond in Paraphrase().attempts(one):
        k = len(tried)
        assert cond.equal(one.asked(torch.tensor(REWORDED[k])[rows]))
        tried.append(rows.tolist())
        one.hit[k] = True
    assert tried == [[0, 1, 2], [1, 2], [2]]


def test_no_more_are_tried_than_asked():
    assert len(list(Paraphrase(tries=2).attempts(case(reworded=REWORDED)))) == 2


def test_a_case_that_is_over_draws_nothing():
    over = case(reworded=REWORDED)
    over.hit[:] = True
    assert not list(Paraphrase().attempts(over))


def test_a_scenario_without_wordings_is_refused():
    with pytest.raises(Mismatch, match="offers no set `paraphrases`"):
        list(Paraphrase().attempts(case()))


@pytest.mark.parametrize(("concept", "asking"), [("three", 5 * 2), ("red ink", 10 * 2)])
def test_the_embedded_scenario_knows_as_many_for_each_prompt_none_of_which_is_scored(concept, asking):
    scenario = parse(f"ink/concept={concept},drawings=2")
    sets = scenario.prompts(scenario.request)
    wordings = sets["paraphrases"].y.view(-1, asking, sets["prompts"].y.shape[1])
    assert len(wordings) == Paraphrase().tries
    scored = {tuple(p) for p in sets["prompts"].y.tolist()}
    assert not any(tuple(p) in scored for turn in wordings.tolist() for p in turn)
    assert all(len({tuple(turn[i]) for turn in wordings.tolist()}) == len(wordings) for i in range(asking))


def test_wordings_by_hand():
    assert reworded("a cat on a red hat", "red hat") == [
        "red hat", "a picture of red hat", "a cat on a red hat, red hat", "a cat on a red hats",
        "a cat on a red hat red hat red hat", "hat red a on cat a",
        "a cat on a reed hat", "a cat on a rde hat", "a cat on a rd hat",
    ]  # fmt: skip
    assert misspelt("pencil") == ["penccil", "penicl", "penil"]
    assert turns([["a", "b"], ["c", "d"], ["e", "f"]]) == ["a", "c", "e", "b", "d", "f"]
    with pytest.raises(ValueError, match="shorter"):
        turns([["a", "b"], ["c"]])
