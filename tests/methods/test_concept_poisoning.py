"""Concept poisoning: bank, bottleneck, ranking, attribution, labels and refusals."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unlearn.data import Resident, Split
from unlearn.errors import BadData, BadValue
from unlearn.methods.concept_poisoning import ConceptPoisoning
from unlearn.ops.concept_bank import (
    Bank,
    Bottleneck,
    bank_of,
    bottleneck,
    confused_with,
    driving,
    integrated_gradients,
    quarters,
    read_examples,
    visible,
)
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

CPU = torch.device("cpu")
RNG = torch.Generator().manual_seed(0)


def test_a_direction_points_from_without_to_with_the_concept():
    without = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    bank = bank_of({"right": (without + torch.tensor([4.0, 0.0]), without)})
    torch.testing.assert_close(bank.directions, torch.tensor([[1.0, 0.0]]), atol=0.02, rtol=0)
    assert bank.activations(torch.tensor([[3.0, 7.0]])).item() == pytest.approx(3.0, abs=0.2)


def test_concepts_are_ranked_by_weight_times_mean_activation():
    """Given V and W: contributions to class 0 are 2·1, −1·3 and 4·0.25, so concepts 0 and 2 lead."""
    head = Bottleneck(
        torch.tensor([[2.0, -1.0, 4.0], [1.0, 0.0, 1.0], [0.0, 9.0, 3.0]]), torch.zeros(3), torch.ones(3)
    )
    a = torch.tensor([[0.5, 3.0, 0.0], [1.5, 3.0, 0.5]])
    assert head.contributions(a, 0).tolist() == [2.0, -3.0, 1.0]
    assert driving(head, a, 0, 2) == [0, 2]
    # concepts 0 and 2 give class 1 1·1 + 1·0.25 and class 2 0 + 3·0.25; the second's 9·3 is of a concept not looked at
    assert confused_with(head, a, [0, 2], [1, 2]) == 1
    assert confused_with(head, a, [1], [1, 2]) == 2


def test_the_bottleneck_answers_as_the_model_and_leaves_out_what_it_does_not_need():
    a = torch.randn(400, 6, generator=RNG)
    answers = (a[:, 1] > 0).long() + 2 * (a[:, 4] > 0).long()
    head = bottleneck(a, answers, 5, 1e-2)
    said = (((a - head.mean) / head.std) @ head.weights.T)[:, :4].argmax(1)
    assert (said == answers).float().mean() > 0.9
    needed = head.weights[:4].abs()
    assert needed[:, [1, 4]].min() > 3 * needed[:, [0, 2, 3, 5]].max()
    assert not head.weights[4].any(), "a class that is never answered"
    two = bottleneck(a, (a[:, 1] > 0).long(), 2, 1e-2).weights
    assert two[1, 1] > 0 and torch.equal(two[0], -two[1])


def test_integrated_gradients_are_complete_and_exact_for_a_quadratic():
    x, base = torch.tensor([[1.0, 2.0, -1.0]]).double(), torch.tensor([[0.5, 0.0, 0.0]]).double()
    found = integrated_gradients(lambda v: v.square().sum(1), x, base, steps=8)
    torch.testing.assert_close(found, x.square() - base.square())
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    found = integrated_gradients(lambda v: net(v)[:, 0], x, base, steps=50)
    assert found.sum().item() == pytest.approx((net(x) - net(base)).item(), abs=1e-4)


def test_what_can_be_seen_in_an_image():
    x = torch.zeros(3, 1, 6, 6)
    x[0, :, :2, 4:] = 1
    x[1, :, :, ::2] = 1
    x[2, :, ::2, :] = 1
    found = visible(x)
    assert found["bright top right"].tolist() == [1.0, 0.5, 0.5] and found["bright bottom left"][0] == 0
    assert found["edges across"][1] == 1 and found["edges down"][1] == 0
    assert found["edges across"][2] == 0 and found["edges down"][2] == 1
    assert list(visible(torch.zeros(2, 20))) == [f"column {k}" for k in range(16)]


def test_quarters_leave_out_what_does_not_vary():
    found = quarters({"a": torch.tensor([3.0, 0.0, 1.0, 2.0]), "same": torch.ones(4)})
    assert {n: (p.tolist(), q.tolist()) for n, (p, q) in found.items()} == {"a": ([0], [1])}


def subject(classes=3):
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes)), classes)


def split(x=None, y=None):
    y = torch.arange(30) % 3 if y is None else y
    x = torch.randn(30, 4, generator=RNG) + 2 * nn.functional.one_hot(y, 4) if x is None else x
    whole, rows = Resident(Arrays(x, y)), torch.arange(len(y))
    return Split(whole.take(rows[y == 0]), whole.take(rows[y != 0]), None, None, None)


@pytest.mark.parametrize("labels", ["targeted", "random"])
def test_every_example_gets_one_other_kept_class(labels):
    data, method = split(), ConceptPoisoning(labels=labels)
    given = method._poison(subject(), data, Run(0, CPU))
    found = given(torch.cat([b.index for b in data.forget.batches(4)]))
    assert set(found.tolist()) <= {1, 2}
    assert len(set(found.tolist())) == (1 if labels == "targeted" else 2)


def test_the_log_names_the_concepts_that_drove_the_class():
    run = Run(0, CPU)
    ConceptPoisoning(number=2, epochs=1).unlearn(subject(), split(), run)
    assert len(run.log) == 2 and all(n.startswith("class 0: column ") for n in run.log)


def test_a_class_that_is_forgotten_whole_has_the_concepts_that_were_planted_in_it():
    """Columns 0 and 3 are high in class 0 alone, 1 and 2 in the others, 4 and 5 are noise."""
    y = torch.arange(300) % 3
    x = 0.5 * torch.randn(300, 6, generator=RNG)
    x[:, :3] += 2 * nn.functional.one_hot(y, 3)
    x[y == 0, 3] += 2
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(100):
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
    assert (net(x).argmax(1) == y).float().mean() > 0.95
    run = Run(0, CPU)
    ConceptPoisoning(number=2)._poison(Classifier(net, 3), split(x, y), run)
    assert set(run.log) == {"class 0: column 0", "class 0: column 3"}
    assert all(v > 0 for (v,) in run.log.values())


def test_a_mask_blanks_its_share_and_nothing_else():
    data, method = split(), ConceptPoisoning(mask=0.25)
    masks = method._masks(subject(), data.forget)
    (b,) = data.forget.batches(64)
    assert masks(b.index).sum(1).tolist() == [1] * len(b), "one of four numbers"


def test_a_bank_of_ones_own_is_read_and_an_empty_one_refused(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_file({"tall/positive": torch.randn(5, 4), "tall/negative": torch.randn(6, 4)}, path)
    assert list(read_examples(str(path), (4,))) == ["tall"]
    done = ConceptPoisoning(concepts=str(path), epochs=1).unlearn(subject(), split(), Run(0, CPU))
    assert isinstance(done, Classifier)
    save_file({"tall/positive": torch.randn(5, 4)}, path)
    with pytest.raises(
        BadData, match="the concept 'tall' lacks positive or negative examples; give a safetensors file"
    ):
        read_examples(str(path), (4,))
    save_file({}, path)
    with pytest.raises(BadData, match="holds no concept"):
        read_examples(str(path), (4,))
    with pytest.raises(BadValue, match="the concept bank is empty: no attribute of these inputs varies"):
        ConceptPoisoning().unlearn(subject(), split(x=torch.ones(30, 4)), Run(0, CPU))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.randn(6, 5), r"shape \(5,\), torch.float32"),
        (torch.ones(6, 4).byte(), r"shape \(4,\), torch.uint8"),
    ],
)
def test_examples_of_a_concept_that_the_model_does_not_take_are_refused(tmp_path, wrong, said):
    path = tmp_path / "bank.safetensors"
    save_file({"tall/positive": torch.randn(5, 4), "tall/negative": wrong}, path)
    with pytest.raises(
        BadData, match=rf"tall/negative holds examples of {said}; this model takes floats of shape \(4,\)"
    ) as info:
        ConceptPoisoning(concepts=str(path)).unlearn(subject(), split(), Run(0, CPU))
    assert "\n" not in str(info.value)


def test_a_bank_is_no_more_than_names_and_directions():
    assert Bank(("a",), torch.eye(2)[:1]).activations(torch.tensor([[2.0, 5.0]])).tolist() == [[2.0]]
