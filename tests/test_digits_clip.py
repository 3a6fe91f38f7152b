"""Captioned digits: tokens, texts that say the same, and what a request of a class forgets."""

import pytest
import torch

from unlearn.request import parse as parse_request
from unlearn.scenario import parse
from unlearn.scenarios.digits_clip import BEGIN, END, TEMPLATES, network, tokens, words


def test_words_are_tokens_and_the_end_fills_a_text():
    known = {k: w for w, k in words().items()}
    (row,) = tokens(["the digit eight"]).tolist()
    assert (
        row[0] == BEGIN
        and [known[k] for k in row[1:4]] == ["the", "digit", "eight"]
        and set(row[4:]) == {END}
    )
    assert sorted(known) == list(range(2, 2 + len(known)))


def test_every_scan_has_a_caption_of_its_digit():
    scenario = parse("digits-clip")
    material, plain = scenario.material(), parse("digits").material()
    known = {k: w for w, k in words().items()}
    for part, bare in ((material.train, plain.train), (material.test, plain.test)):
        assert torch.equal(part.rows, bare.rows) and torch.equal(part.labels.y, bare.labels.y)
        ids, digits = part.source.y[part.rows], part.labels.y.tolist()
        said = [[known[k] for k in row if k > END] for row in ids.tolist()]
        assert all(part.labels.classes[d] in text for d, text in zip(digits, said, strict=True))
        assert len({tuple(row) for row in ids[part.labels.y == 3].tolist()}) == len(TEMPLATES)
        assert torch.equal(part.source.fetch(part.rows[:4]), bare.source.fetch(bare.rows[:4]))
    assert material.content != plain.content


def test_the_bank_holds_every_caption_and_those_of_a_digit_say_the_same():
    scenario = parse("digits-clip")
    subject, part = scenario.subject(torch.Generator().manual_seed(0)), scenario.material().train
    assert len(subject.texts.unique(dim=0)) == 80
    meant = subject.meant(part.source.y[part.rows])
    assert torch.equal(meant.nonzero()[:, 1].view(-1, 8) // 8, part.labels.y[:, None].expand(-1, 8))
    assert not subject.meant(subject.anchors).any()


def test_a_digit_goes_by_its_name_or_number():
    labels = parse("digits-clip").material().train.labels
    rows = [parse_request(t).rows(labels, torch.Generator()) for t in ("class=three", "class=3")]
    assert torch.equal(*rows) and set(labels.y[rows[0]].tolist()) == {3}


def test_the_text_tower_reads_a_text_up_to_its_end():
    net = network().eval()
    a, b = tokens(["a three", "the digit three"])
    with torch.no_grad():
        first, second = (net.get_text_features(input_ids=t[None]).pooler_output for t in (a, b))
        cut = net.get_text_features(input_ids=a[None, :4]).pooler_output
    assert not torch.allclose(first, second)
    assert first.tolist()[0] == pytest.approx(cut.tolist()[0], abs=1e-5)
