"""Worked values and scipy for what logits say of an example."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from unlearn.ops.membership import SIGNALS
from unlearn.ops.signals import (
    entropies,
    log_complements,
    log_probabilities,
    losses,
    modified_entropies,
    modified_entropies_salun,
)

P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
Y = torch.tensor([0, 2])


@pytest.fixture
def logits():
    return 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


def test_entropy_of_the_worked_example():
    assert entropies(P.log()).tolist() == pytest.approx([0.8018185, 0.6390318], rel=1e-6)


def test_modified_entropy_of_the_worked_example():
    assert modified_entropies(P.log(), Y).tolist() == pytest.approx([0.1621673, 0.0657008], rel=1e-6)


def test_modified_entropy_as_salun_released_it():
    assert modified_entropies_salun(P.log(), Y).tolist() == pytest.approx([2.5012167, 2.3472137], rel=1e-6)


def test_salun_form_depends_on_the_other_labels_of_the_batch():
    alone = modified_entropies_salun(P[:1].log(), Y[:1])
    assert float(alone) != pytest.approx(2.5012167, rel=1e-3)


def test_entropy_equals_scipys(logits):
    expected = scipy_entropy(softmax(logits.double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropies(log_probabilities(logits)).numpy(), expected, rtol=1e-10)


def test_modified_entropy_equals_its_definition_term_by_term(logits):
    y = torch.arange(50) % 7
    p = softmax(logits.double().numpy(), axis=1)
    expected = [
        -(1 - row[c]) * math.log(row[c]) - sum(q * math.log(1 - q) for j, q in enumerate(row) if j != c)
        for row, c in zip(p, y.tolist(), strict=True)
    ]
    np.testing.assert_allclose(modified_entropies(log_probabilities(logits), y).numpy(), expected, rtol=1e-9)


def test_losses_equal_the_cross_entropy(logits):
    y = torch.arange(50) % 7
    expected = torch.nn.functional.cross_entropy(logits.double(), y, reduction="none")
    torch.testing.assert_close(losses(log_probabilities(logits), y), expected)


def test_certainty_does_not_saturate():
    log_p = log_probabilities(torch.tensor([[60.0, 0.0, 0.0]]))
    assert float(log_p.exp()[0, 0]) == 1.0
    assert float(log_complements(log_p)[0, 0]) == pytest.approx(math.log(2) - 60, rel=1e-12)
    wrong = modified_entropies(log_p, torch.tensor([1]))
    assert float(wrong) == pytest.approx(60 + 60 - math.log(2), rel=1e-9)


def test_a_class_that_is_masked_out_adds_nothing():
    log_p = log_probabilities(torch.tensor([[1.0, 2.0, -torch.inf]]))
    two = log_probabilities(torch.tensor([[1.0, 2.0]]))
    assert float(entropies(log_p)) == float(entropies(two))
    for y in (0, 1):
        label = torch.tensor([y])
        assert float(modified_entropies(log_p, label)) == pytest.approx(float(modified_entropies(two, label)))


def test_larger_signals_mean_members():
    sure, unsure = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.3]])
    y = torch.tensor([0])
    for name, of in SIGNALS.items():
        if name != "m-entropy@salun":
            assert float(of(log_probabilities(sure), y)) > float(of(log_probabilities(unsure), y)), name
