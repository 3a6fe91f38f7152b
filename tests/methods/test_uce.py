import pytest
import torch
from prompted import ids, lent, naive, others, pairs, subject, text, weights

from unlearn.data import Batch
from unlearn.errors import BadData, BadValue
from unlearn.methods.uce import UCE
from unlearn.ops.closed_form import Terms, factor, multiply, terms
from unlearn.runtime import Run

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CONCEPTS, ANCHORS, KEPT = [(2,), (3, 4)], [(), (5,)], [(6,), (7, 8), ()]


def last(states, rows):
    """The state before the first end of text of each prompt: its number of words."""
    return torch.stack([s[len(r)] for s, r in zip(states, rows, strict=True)])


def vectors(seed, n, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edited(data, **knobs):
    return UCE(**knobs).unlearn(subject(), data, Run())


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize(("e", "p", "ridge"), [(1.0, 1.0, 0.5), (0.7, 0.1, 0.02), (1.0, 0.0, 3.0)])
def test_every_map_equals_the_formula(tokens, e, p, ridge):
    """Sums in a loop over vectors and a plain inverse; one concept has the empty prompt for its anchor."""
    before = subject()
    c, g, k = (text(before, *rows) for rows in (CONCEPTS, ANCHORS, KEPT))
    if tokens == "last":
        c, g, k = last(c, CONCEPTS), last(g, ANCHORS), last(k, KEPT)
    wanted = [naive(w, pairs(c, g), k.flatten(0, -2), e, p, ridge) for w in weights(before)]
    done = edited(lent(CONCEPTS, ANCHORS, KEPT), erase=e, keep=p, ridge=ridge, tokens=tokens)
    moved = 0.0
    for new, want, old in zip(weights(done), wanted, weights(before), strict=True):
        torch.testing.assert_close(new, want, **CLOSE)
        moved = max(moved, (want - old).abs().max().item())
    assert moved > 0.01


def test_more_prompts_than_one_pass_of_the_encoder_holds(monkeypatch):
    data = lent(CONCEPTS * 2, ANCHORS * 2, KEPT)
    whole = weights(edited(data))
    monkeypatch.setattr("unlearn.ops.closed_form.PROMPTS", 3)
    for a, b in zip(whole, weights(edited(data)), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_worked_value():
    """e = 3, λ = 1, c = (1, 0), g = (0, 1): W c goes three quarters of the way to W0 g, W (0, 1) stays."""
    layer = torch.nn.Linear(2, 1, bias=False).double()
    layer.weight = torch.nn.Parameter(torch.tensor([[8.0, 4.0]], dtype=torch.float64))
    multiply([layer], factor(terms(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 3.0), 1.0))
    assert layer.weight.tolist() == [[8 / 4 + 4 * 3 / 4, 4.0]]


def test_the_factor_is_the_identity_to_the_bit_where_every_goal_is_its_own():
    c = vectors(0, 9)
    assert torch.equal(factor(terms(c, c, 2.0), 1e-3), torch.eye(5, dtype=torch.float64))


def test_edits_compose_by_adding_terms():
    c, g, k = vectors(1, 4), vectors(2, 4), vectors(3, 3)
    one, two, held = terms(c[:1], g[:1], 0.7), terms(c[1:], g[1:], 0.7), terms(k, k, 0.2)
    both = one + two + held
    whole = terms(c, g, 0.7)
    torch.testing.assert_close(both.shift, whole.shift, **CLOSE)
    torch.testing.assert_close(both.gram, whole.gram + held.gram, **CLOSE)
    w0 = vectors(4, 3)
    torch.testing.assert_close(w0 @ factor(both, 0.3), naive(w0, pairs(c, g), k, 0.7, 0.2, 0.3), **CLOSE)
    assert isinstance(both, Terms) and torch.equal(held.shift, torch.zeros(5, 5, dtype=torch.float64))


def test_only_the_projections_change():
    before = subject()
    done = edited(lent(CONCEPTS, ANCHORS, KEPT))
    left, right = others(before), others(done)
    assert left.keys() == right.keys() and len(left) > 50
    assert all(torch.equal(t, right[n]) for n, t in left.items())
    assert not any(torch.equal(a, b) for a, b in zip(weights(before), weights(done), strict=True))


def test_one_concept_goes_to_its_anchor_but_for_a_known_share():
    """A⁻¹c = c / (λ + e|c|²), so W c - W0 g = λ / (λ + e|c|²) · W0 (c - g), for any ridge."""
    before = subject()
    (c,), (g,) = (last(text(before, row), [row]) for row in ((2,), (3, 4)))
    for ridge in (1e-6, 0.5):
        done = edited(lent([(2,)], [(3, 4)]), erase=2.0, ridge=ridge)
        share = ridge / (ridge + 2 * c.dot(c))
        for w0, w in zip(weights(before), weights(done), strict=True):
            torch.testing.assert_close(w @ c - w0 @ g, share * (w0 @ (c - g)), rtol=1e-6, atol=1e-12)


def test_several_concepts_go_to_their_anchors_up_to_a_bound():
    """With C and G as rows, W Cᵀ - W0 Gᵀ = W0 (C - G)ᵀ λ (λ + e C Cᵀ)⁻¹, whose Frobenius norm is at most
    λ / (λ + e σ²) |W0 (C - G)ᵀ| with σ the least singular value of C."""
    before, ridge = subject(), 1e-4
    c, g = (last(text(before, *rows), rows) for rows in (CONCEPTS, ANCHORS))
    least = torch.linalg.svdvals(c)[-1] ** 2
    done = edited(lent(CONCEPTS, ANCHORS), ridge=ridge)
    for w0, w in zip(weights(before), weights(done), strict=True):
        bound = ridge / (ridge + least) * (w0 @ (c - g).T).norm()
        assert bound < 1e-3 * (w0 @ g.T).norm()
        assert (w @ c.T - w0 @ g.T).norm() <= bound * (1 + 1e-6)


def test_a_preserved_state_moves_less_by_a_known_factor():
    """By Sherman and Morrison, its movement shrinks by 1 + p kᵀA⁻¹k with A without the preserve term."""
    before = subject()
    (c,), (k,) = (last(text(before, row), [row]) for row in ((2,), (6,)))
    loose, held = edited(lent([(2,)], [(3,)])), edited(lent([(2,)], [(3,)], [(6,)]), keep=4.0)
    a = 0.5 * torch.eye(len(c), dtype=c.dtype) + torch.outer(c, c)
    shrink = 1 + 4 * k.dot(torch.linalg.solve(a, k))
    assert shrink > 2
    for w0, w, v in zip(weights(before), weights(loose), weights(held), strict=True):
        torch.testing.assert_close((v - w0) @ k, (w - w0) @ k / shrink, **CLOSE)


def test_the_type_of_the_weights_is_kept_and_one_rounding_to_it_is_all_that_is_lost():
    """Half a unit in the last of 24 binary places."""
    single = subject()
    single.denoiser.float()
    before = [w.double() for w in weights(single)]
    c, g = (last(text(single, *rows), rows) for rows in (CONCEPTS, ANCHORS))
    done = UCE().unlearn(single, lent(CONCEPTS, ANCHORS), Run())
    for w0, w in zip(before, weights(done), strict=True):
        assert w.dtype == torch.float32
        wanted = naive(w0, pairs(c, g), [], 1.0, 1.0, 0.5)
        torch.testing.assert_close(w.double(), wanted, rtol=2**-24, atol=1e-10)


def test_concepts_that_equal_their_anchors_are_refused_and_nothing_changes():
    s = subject()
    before = weights(s)
    with pytest.raises(BadData, match=r"every concept equals its anchor.*give the empty prompt or another"):
        UCE().unlearn(s, lent(CONCEPTS, CONCEPTS, KEPT), Run())
    assert all(torch.equal(a, b) for a, b in zip(before, weights(s), strict=True))
    UCE().unlearn(s, lent(CONCEPTS, [CONCEPTS[0], (5,)], KEPT), Run())


@pytest.mark.parametrize("anchors", [[(3,)], []])
def test_every_concept_needs_an_anchor(anchors):
    with pytest.raises(BadData, match=f"2 prompts name.*and {len(anchors)} what.*one anchor for each"):
        UCE().unlearn(subject(), lent(CONCEPTS, anchors), Run())


def test_a_ridge_that_is_lost_in_rounding_is_refused():
    with pytest.raises(BadValue, match=r"a ridge of 1e-30 is lost .* raise it"):
        edited(lent(CONCEPTS, ANCHORS), ridge=1e-30)


class TestWords:
    def batch(self, *rows):
        y = torch.tensor(rows)
        return Batch(torch.zeros(len(y), 0), y, torch.arange(len(y)))

    def test_the_token_before_the_first_end(self):
        s, full = subject(), [0, *range(2, 9)]  # no room for an end of text
        rows = (ids(2), ids(3, 4, 5), ids(), full)
        states, where = s.words(self.batch(*rows))
        assert where.tolist() == [1, 3, 0, 7]
        torch.testing.assert_close(states, s.text(input_ids=torch.tensor(rows)).last_hidden_state)
        assert torch.equal(states[2:3], s.null(1))

    def test_old_configurations_say_two_and_mean_the_highest_id(self):
        """Of Stable Diffusion 1, whose end of text is 49407 whatever the configuration says."""
        from transformers import CLIPTextConfig, CLIPTextModel

        s = subject()
        s.module["text_encoder"] = CLIPTextModel(
            CLIPTextConfig(**{**s.text.config.to_dict(), "eos_token_id": 2})
        ).eval()
        rows = ([0, 2, 5, 19, 19, 19, 19, 19], [0, 19, *[19] * 6], [0, 7, 19, *[0] * 5])
        assert s.words(self.batch(*rows))[1].tolist() == [2, 0, 1]

    def test_projections_are_keys_and_values_in_the_order_of_the_modules(self):
        s = subject()
        names = {id(m): n for n, m in s.module.named_modules()}
        found = [names[id(m)] for m in s.projections()]
        assert found == [n for n in names.values() if n.endswith(("attn2.to_k", "attn2.to_v"))]
        assert len(found) == 8


def test_the_empty_preserve_set_is_allowed():
    """The same as no weight on what must stay."""
    a = edited(lent(CONCEPTS, ANCHORS))
    b = edited(lent(CONCEPTS, ANCHORS, KEPT), keep=0.0)
    for v, w in zip(weights(a), weights(b), strict=True):
        torch.testing.assert_close(v, w, **CLOSE)
