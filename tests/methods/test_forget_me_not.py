import copy

import pipelines
import pytest
import torch
from prompted import ids, lent, prompts, subject, text
from watched import forbid_copies, moved, raw, watch

from unlearn.data import Resident, Split
from unlearn.errors import BadData
from unlearn.methods.forget_me_not import ForgetMeNot, resteering
from unlearn.ops.cross_attention import recorded
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects._pipelines import Drawing, subject_of

CONCEPT = [(2,), (3, 2)]
SHOWN = [(2,), (5, 2), (6, 7, 2)]


def split(shown=SHOWN, concept=CONCEPT):
    """Three images of the concept with their prompts, and prompts that name it."""
    y = torch.tensor([ids(*r) for r in shown])
    x = torch.randn(len(y), 1, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    both = lent(concept, concept)
    return Split(Resident(Arrays(x, y), lambda v, _g: v), None, None, None, None, both.concept)


def point(n=2, seed=0):
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    return z, torch.tensor([30, 700, 900])[:n]


def by_hand(net, z, t, states):
    """Softmax of q k / √d of each cross-attention, from what its query and key maps give out."""
    layers = [m for n, m in net.named_modules() if n.endswith(".attn2")]
    caught = {}
    hooks = [
        getattr(m, k).register_forward_hook(lambda _m, _i, out, at=(i, k): caught.__setitem__(at, out))
        for i, m in enumerate(layers)
        for k in ("to_q", "to_k")
    ]
    raw(net, z, t, states)
    for h in hooks:
        h.remove()
    found = []
    for i in dict.fromkeys(i for i, _ in caught):  # in the order in which they ran
        m = layers[i]
        q, k = (caught[i, n].unflatten(-1, (m.heads, -1)).transpose(1, 2) for n in ("to_q", "to_k"))
        found.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
    return found


class TestAttention:
    def test_it_is_the_softmax_of_queries_and_keys(self):
        s, (z, t) = subject(), point()
        states = text(s, (2,), (5, 6))
        got, wanted = s.attention(z, t, states), by_hand(s.denoiser, z, t, states)
        assert len(got) == len(wanted) > 1
        for a, b in zip(got, wanted, strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-12)

    def test_what_it_records_changes_no_prediction_and_is_undone(self):
        s, (z, t) = subject(), point()
        layers = list(s.parts()["cross-attention"].children())
        before, processors = s.predict(z, t, text(s, (2,), (3,))), [m.processor for m in layers]
        with pytest.raises(RuntimeError, match="stop"), recorded(layers) as seen:
            during = s.predict(z, t, text(s, (2,), (3,)))
            raise RuntimeError("stop")
        assert len(seen) == len(layers) and torch.allclose(before, during, rtol=0, atol=1e-10)
        assert [m.processor for m in layers] == processors


class TestLoss:
    def test_by_hand(self):
        """Layers with 3, 4 and 5, 12 in the concept's columns: norms 5 and 13, together √(25 + 169)."""
        first = torch.tensor([[[[3.0, 9.0, 4.0]]]])
        second = torch.tensor([[[[5.0, 9.0, 0.0], [0.0, 9.0, 12.0]]]])
        columns = torch.tensor([[True, False, True]])
        assert float(resteering([first, second], columns, "layers")) == pytest.approx(18)
        assert float(resteering([first, second], columns, "joint")) == pytest.approx(194**0.5)

    def test_it_is_the_mean_over_examples_each_with_its_own_columns(self):
        a = torch.tensor([[[[3.0, 4.0]]], [[[6.0, 8.0]]], [[[1.0, 1.0]]]])
        columns = torch.tensor([[True, True], [False, True], [False, False]])
        assert float(resteering([a], columns, "layers")) == pytest.approx((5 + 8 + 0) / 3)

    def test_an_example_without_the_name_has_no_gradient_and_no_nan(self):
        a = torch.full((2, 1, 1, 2), 0.5, requires_grad=True)
        for norm in ("layers", "joint"):
            (g,) = torch.autograd.grad(
                resteering([a], torch.tensor([[True, False], [False, False]]), norm), a
            )
            assert g.tolist() == [[[[0.5, 0.0]]], [[[0.0, 0.0]]]]


def plain(s, calls, method, marked):
    """The loop with attention computed by hand, on the points that the run met."""
    net = copy.deepcopy(s.denoiser)
    rows = {
        tuple(c.flatten().tolist()): torch.tensor(ids(*r))
        for c, r in zip(text(s, *SHOWN), SHOWN, strict=True)
    }
    params = [p for n, p in net.named_parameters() if method.train == "full" or ".attn2." in n]
    opt, losses = torch.optim.AdamW(params, method.lr), []
    for call in calls:
        y = torch.stack([rows[tuple(c.flatten().tolist())] for c in call.cond])
        loss = 0.0
        for i in range(len(y)):
            columns = [k for k, token in enumerate(y[i].tolist()) if token in marked]
            squares = [a[i][..., columns].square().sum() for a in by_hand(net, call.z, call.t, call.cond)]
            loss = loss + (sum(squares) ** 0.5 if method.norm == "joint" else sum(v**0.5 for v in squares))
        loss = loss / len(y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return net, losses


@pytest.mark.parametrize(
    ("knobs", "marked"),
    [({}, [2]), ({"ends": True}, [2, 1]), ({"norm": "joint", "train": "full"}, [2])],
)
def test_losses_and_weights_are_those_of_the_plain_loop(knobs, marked, monkeypatch):
    s, run = subject(), Run()
    before, calls = copy.deepcopy(s), watch(monkeypatch)
    forbid_copies(monkeypatch)
    method = ForgetMeNot(iterations=4, batch_size=2, lr=1e-3, **knobs)
    method.unlearn(s, split(), run)
    assert [len(c.z) for c in calls] == [2, 1, 2, 1] and all(c.grad for c in calls)
    net, losses = plain(before, calls, method, marked)
    assert run.log["loss"] == pytest.approx(losses, rel=1e-8)
    named = dict(net.named_parameters())
    assert all(torch.allclose(p, named[n], rtol=0, atol=1e-6) for n, p in s.denoiser.named_parameters())
    assert moved(before.denoiser, s.denoiser) >= {n for n in named if "attn2.to_q" in n or "attn2.to_k" in n}


@pytest.mark.parametrize("blank", [False, True])
def test_images_are_noised_as_in_training_or_replaced_by_nothing(blank, monkeypatch):
    s, data = subject(), split()
    calls, seen, real = watch(monkeypatch), [], type(s).noised
    monkeypatch.setattr(type(s), "noised", lambda self, x, t, e: (seen.append(x), real(self, x, t, e))[1])
    ForgetMeNot(iterations=1, batch_size=3, blank=blank).unlearn(s, data, Run())
    x = next(data.forget.batches(3)).x
    assert torch.equal(seen[0].sort(0).values, torch.zeros_like(x) if blank else x.sort(0).values)
    assert not torch.allclose(calls[0].z, seen[0])


def test_it_marks_the_tokens_that_the_first_encoder_of_two_reads():
    """Ids for the second encoder stand after those for the first; attention has one column for each position."""
    sdxl = subject_of(pipelines.build("sdxl"), Drawing(3, 2.0, 16))
    ids, run = sdxl.ids(["a cat", "cat"]), Run()
    x = torch.randn(2, *sdxl.subject.shape, generator=torch.Generator().manual_seed(0))
    images = Resident(Arrays(x, ids), lambda v, _g: v)
    ForgetMeNot(iterations=1).unlearn(sdxl.subject, Split(images, *[None] * 4, images), run)
    assert 0 < run.log["loss"][0] < float("inf")


def test_attention_leaves_the_concept():
    s, (z, t) = subject(), point(3, seed=8)
    states, columns = text(s, *SHOWN), torch.tensor([ids(*r) for r in SHOWN]) == 2

    def looked():
        with torch.no_grad():
            return float(resteering(s.attention(z, t, states), columns, "layers"))

    first = looked()
    ForgetMeNot(lr=3e-3, iterations=60).unlearn(s, split(), Run())
    assert looked() < 0.7 * first


def test_what_cannot_be_marked_is_refused():
    with pytest.raises(BadData, match="no prompt of an image has a token that names the concept"):
        ForgetMeNot().unlearn(subject(), split(shown=[(5,), (6,)]), Run())
    with pytest.raises(BadData, match="no prompt names the concept; give at least one"):
        ForgetMeNot().unlearn(subject(), split(concept=[]), Run())
    with pytest.raises(BadData, match="a prompt that should name the concept is empty"):
        ForgetMeNot().unlearn(subject(), split(concept=[()]), Run())


def test_the_paper_preset_is_the_authors_configuration():
    method = ForgetMeNot.preset("paper")
    assert (method.iterations, method.lr, method.batch_size) == (35, 2e-6, 1)
    assert (method.train, method.norm, method.ends, method.blank) == ("full", "joint", True, False)
    assert len(prompts(*CONCEPT)) == 2
