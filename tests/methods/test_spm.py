import copy
import math

import pipelines
import pytest
import torch
from prompted import ids, lent, subject, text
from torch.func import functional_call
from watched import forbid_copies, moved, raw, watch

from unlearn.data import Resident, Split
from unlearn.errors import BadData, Mismatch
from unlearn.methods.spm import SPM, Membrane, adaptable, nearby, transplanted
from unlearn.ops.erasure import chosen
from unlearn.ops.freezing import only
from unlearn.ops.low_rank import beside
from unlearn.patch import changed
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects._pipelines import Drawing, subject_of
from unlearn.subjects.text_to_image import TextToImage, components

CONCEPT, ANCHOR = [(2,), (3, 2)], [(5,), (6, 7)]
FEW = {"iterations": 3, "batch_size": 2, "pool": 4, "anchors": 3, "lr": 1e-2}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def point(n=2, seed=3):
    return torch.randn(n, 1, 8, 8, generator=rng(seed)).double(), torch.tensor([40, 600, 900])[:n]


def batch(*rows):
    return next(lent(rows, rows).concept.batches(64))


def erased(s=None, seed=0, concept=CONCEPT, **knobs):
    return SPM(**{**FEW, **knobs}).unlearn(s or subject(), lent(concept, [()] * len(concept)), Run(seed))


def merged(s, scales):
    """The weights of the denoiser with the adapters of a subject added to them, by name."""
    weights = {n: p.detach().clone() for n, p in s.denoiser.named_parameters()}
    for adapter, scale in zip(s.adapters(), scales, strict=True):
        for name, low in adapter.maps.items():
            at = name.removeprefix("unet/").replace("/", ".") + ".weight"
            product = torch.einsum("or,r...->o...", low.up.detach().flatten(1), low.down.detach())
            weights[at] = weights[at] + scale * product
    return weights


def with_weights(s, weights, z, t, states):
    return functional_call(s.denoiser, weights, (z, t), {"encoder_hidden_states": states}).sample


class TestStableDiffusion:
    """Counts on the denoiser of Stable Diffusion 1.4, without its weights."""

    @pytest.fixture
    def large(self):
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            net = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        return TextToImage(
            components(net, torch.nn.Linear(1, 1)), None, torch.zeros(1), torch.zeros(1), (4, 64, 64)
        )

    def test_adapters(self, large):
        maps = beside(large.module, adaptable(large), 1, rng())
        assert len(maps) == 192 and sum(p.numel() for p in maps.parameters()) == 423_936

    @pytest.mark.parametrize(
        ("train", "count"),
        [("full", 859_520_964), ("x", 43_962_560), ("strict", 19_169_280), ("u", 813_495_680)],
    )
    def test_selections(self, large, train, count):
        """u is all but 2,050,560 of time, 640 and 11,524 of the output, and x."""
        with only(large.module, chosen(large, train)) as params:
            assert sum(p.numel() for p in params) == count


def membrane(s, concept=CONCEPT, **knobs):
    prompts = torch.tensor([ids(*r) for r in concept])
    return Membrane([prompts], torch.nn.ModuleDict(), SPM(**knobs), s.empty)


class TestTransport:
    def test_share_of_tokens_by_hand(self):
        """Two names of two tokens and one: the largest share counts; begin, end and padding do not."""
        s = subject()
        asked = torch.tensor([ids(3, 4), ids(9, 3), ids(5, 3, 3), ids(8), ids(9), ids()])
        m = membrane(s, [(3, 4), (5,)], transport="tokens")
        states = torch.ones(6, 8, 16)
        assert m(states, asked, states[:2]).tolist() == [1.0, 0.5, 1.0, 0.0, 0.0, 0.0]

    def test_tokens_that_all_prompts_share_are_the_name(self):
        s = subject()
        asked = torch.tensor([ids(2), ids(3), ids(3, 9, 2), ids(9)])
        assert membrane(s, transport="tokens")(
            torch.ones(4, 8, 16), asked, torch.ones(2, 8, 16)
        ).tolist() == [1, 0, 1, 0]

    def test_cosine_of_flattened_states_by_hand(self):
        """(1, 0, 0, 1) and (1, 1, 0, 0) have the cosine 1/2; (3, 0, 0, 3) has 1 with the first."""
        s, own = subject(), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        asked = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 0.0]]])
        none = torch.tensor([ids(9)] * 3)
        for knobs, wanted in (({}, [0.5, 1.0, 0.0]), ({"squared": True}, [0.25, 1.0, 0.0])):
            got = membrane(s, transport="cosine", **knobs)(asked, none, own)
            assert got.tolist() == pytest.approx(wanted, abs=1e-6)
        other = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
        assert membrane(s, transport="cosine")(
            asked, none, torch.cat([own, other])
        ).tolist() == pytest.approx([0.5**0.5, 1.0, 1.0])

    def test_the_larger_of_both_and_always(self):
        s, own = subject(), torch.tensor([[[1.0, 0.0]]])
        asked, rows = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]), torch.tensor([ids(9), ids(3, 4)])
        got = membrane(s, [(3, 5)], transport="both")(asked, rows, own)
        assert got.tolist() == pytest.approx([0.5**0.5, 0.5])
        assert membrane(s, [(3, 5)], transport="always")(asked, rows, own).tolist() == [1.0, 1.0]

    def test_a_prompt_without_the_name_is_drawn_as_before_and_one_with_it_is_not(self):
        before, done = subject(), erased(transport="tokens", lr=0.1)
        for s_rows, kept in (([(9,), (3, 8)], True), ([(2,), (7, 2)], False)):
            b = batch(*s_rows)
            left, right = (s.sample(b, rng(1)) for s in (before, done))
            assert all(torch.equal(x, y) == kept for x, y in zip(left, right, strict=True))

    def test_predictions_are_those_of_the_weights_with_gamma_u_d(self):
        done = erased(transport="both", lr=0.1)
        b, (z, t) = batch((9, 3), (4,)), point()
        gamma = done.encode(b)[1][:, 0]
        assert float(gamma.min()) > 0 and float(gamma[0]) != float(gamma[1])
        got, states = done.predict(z, t, done.encode(b)), text(done, (9, 3), (4,))
        for i in range(2):
            wanted = with_weights(done, merged(done, [gamma[i]]), z[i : i + 1], t[i], states[i : i + 1])
            assert torch.allclose(got[i : i + 1], wanted, rtol=0, atol=1e-10)

    def test_a_whole_trajectory_goes_by_the_strength_for_its_prompt(self):
        """The empty prompt shares no token with the concept, yet its row is adapted as much as the other."""
        done = erased(transport="tokens", lr=0.1)
        plain = subject()
        plain.denoiser.load_state_dict(merged(done, [1.0]))
        got, wanted = (s.sample(batch((2,)), rng(1)) for s in (done, plain))
        assert torch.allclose(got, wanted, rtol=0, atol=1e-8)
        assert not torch.allclose(subject().sample(batch((2,)), rng(1)), got, rtol=0, atol=1e-6)


class TestAnchors:
    def test_one_at_a_time_they_are_those_of_the_written_algorithm(self):
        """Draw a direction, accept it with the chance 1 − cos, then draw the norm."""
        c = torch.randn(1, 2, 2, generator=rng(1))
        tried = 0
        for seed in range(60):
            g = rng(seed)
            while True:
                noise = torch.randn(1, 4, generator=g)
                tried += 1
                cosine = (noise * c.view(1, 4)).sum() / noise.norm() / c.norm()
                if float(torch.rand(1, generator=g)) < 1 - float(cosine):
                    break
            wanted = noise / noise.norm() * c.norm() * (0.8 + 0.4 * torch.rand(1, generator=g))
            assert torch.allclose(nearby(c, rng(seed)), wanted.view(1, 2, 2), atol=1e-6)
        assert tried > 70

    def test_their_cosine_and_norm(self):
        """In the plane angles have the density min(1, 1 − cos) / (2π − 2), so cos has the mean −π / (4π − 4).

        Its square has the mean (π − 4/3) / (2π − 2).
        """
        c = torch.tensor([[[3.0, 4.0]]]).expand(4000, 1, 2)
        drawn = nearby(c, rng())
        size = drawn.flatten(1).norm(dim=1)
        cosine = (drawn * c).sum((1, 2)) / size / 5
        mean, square = -math.pi / (4 * math.pi - 4), (math.pi - 4 / 3) / (2 * math.pi - 2)
        assert abs(float(cosine.mean()) - mean) < 5 * ((square - mean**2) / 4000) ** 0.5
        assert float(size.min()) >= 4 - 1e-5 and float(size.max()) <= 6 + 1e-5
        assert abs(float(size.mean()) - 5) < 5 * (1 / 3 / 4000) ** 0.5

    def test_of_a_conditioning_in_parts_only_the_text_is_drawn(self):
        cond = {
            "states": torch.ones(3, 2, 4),
            "pooled": torch.ones(3, 5),
            "time_ids": torch.full((3, 6), 64.0),
        }
        got = nearby(cond, rng())
        assert torch.equal(got["time_ids"], cond["time_ids"])
        for name in ("states", "pooled"):
            ratio = got[name].flatten(1).norm(dim=1) / cond[name].flatten(1).norm(dim=1)
            assert got[name].shape == cond[name].shape and bool(((ratio >= 0.8) & (ratio <= 1.2)).all())


def test_the_two_terms_by_hand():
    """ε*(a) = 1, ε*(c) = 3, η = 2: the goal is −3; the anchor's rows count apart."""
    off, on = torch.tensor([[3.0], [7.0], [9.0]]), torch.tensor([[2.0], [8.0], [12.0]])
    got = SPM(eta=2.0).terms(on, off, torch.tensor([[1.0]]))
    assert [float(v) for v in got] == [25.0, 5.0]


@pytest.mark.parametrize("knobs", [{"warmup": 5, "cycles": 3}, {"warmup": 0, "cycles": 1}])
def test_the_step_size_is_that_of_the_library(knobs):
    from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

    method = SPM(iterations=40, **knobs)
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_with_hard_restarts_schedule_with_warmup(opt, knobs["warmup"], 40, knobs["cycles"])
    for step in range(40):
        assert method.pace(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        opt.step()
        theirs.step()
    assert {SPM().pace(k) for k in range(100)} == {1.0}


def plain(s, maps, calls, method):
    """The loop on merged weights, with a frozen copy for the targets, on the points that the run met."""
    teacher, net = copy.deepcopy(s.denoiser), copy.deepcopy(s.denoiser).requires_grad_(False)
    weights = dict(net.named_parameters())
    factors = {
        n: (m.down.detach().clone().requires_grad_(), m.up.detach().clone().requires_grad_())
        for n, m in maps.items()
    }
    opt, losses = torch.optim.AdamW([p for pair in factors.values() for p in pair], method.lr), []
    for neutral, off, on in zip(calls[::3], calls[1::3], calls[2::3], strict=True):
        assert [c.grad for c in (neutral, off, on)] == [False, False, True] and torch.equal(on.z, off.z)
        b, z, t = len(neutral.z), on.z, on.t
        now = dict(weights)
        for name, (down, up) in factors.items():
            at = name.removeprefix("unet/").replace("/", ".") + ".weight"
            now[at] = now[at] + torch.einsum("or,r...->o...", up.flatten(1), down)
        with torch.no_grad():
            e_n, e_p, held = (raw(teacher, x, u, c) for x, u, c in (
                (z[:b], t[:b], neutral.cond), (z[:b], t[:b], on.cond[:b]), (z[b:], t[b:], on.cond[b:])
            ))  # fmt: skip
        call = {"encoder_hidden_states": on.cond}
        out = functional_call(net, now, (z, t), call).sample
        erasing = ((out[:b] - (e_n - method.eta * (e_p - e_n))) ** 2).mean()
        anchoring = ((out[b:] - held) ** 2).mean()
        opt.zero_grad()
        (erasing + method.hold * anchoring).backward()
        opt.step()
        losses.append([erasing.item(), anchoring.item()])
    return factors, losses


class TestTraining:
    @pytest.mark.parametrize("sampling", ["base", "student"])
    def test_adapters_and_losses_are_those_of_the_plain_loop(self, sampling, monkeypatch):
        s, run = subject(), Run()
        method = SPM(**FEW, eta=1.5, hold=3.0, sampling=sampling)
        start = beside(s.module, adaptable(s), 1, Run().rng)
        calls = watch(monkeypatch)
        forbid_copies(monkeypatch)
        before = copy.deepcopy(s)
        done = method.unlearn(s, lent(CONCEPT, ANCHOR), run)
        factors, losses = plain(before, start, calls, method)
        assert run.log["erasing"] == pytest.approx([a for a, _ in losses], rel=1e-8)
        assert run.log["anchoring"] == pytest.approx([b for _, b in losses], rel=1e-6, abs=1e-16)
        assert losses[0][1] < 1e-25 < losses[-1][1]
        for name, low in done.adapters()[0].maps.items():
            assert all(
                torch.allclose(p, q, rtol=0, atol=1e-7)
                for p, q in zip((low.down, low.up), factors[name], strict=True)
            )

    def test_points_neutral_prompts_and_targets_belong_together(self, monkeypatch):
        s = subject()
        calls = watch(monkeypatch)
        SPM(**FEW).unlearn(s, lent(CONCEPT, ANCHOR), Run())
        concept, anchor = text(s, *CONCEPT), text(s, *ANCHOR)
        for neutral, on in zip(calls[::3], calls[2::3], strict=True):
            rows = [int((concept == c).flatten(1).all(1).nonzero()) for c in on.cond[:2]]
            assert torch.equal(neutral.cond, anchor[rows]) and torch.equal(neutral.z, on.z[:2])
            assert torch.equal(on.z[2:], on.z[[0, 1, 0]]) and torch.equal(on.t[2:], on.t[[0, 1, 0]])
            assert len(on.cond) == 5 and int(on.t.max()) < 999

    def test_the_weights_stay_and_the_adapter_goes_with_them(self):
        s = subject()
        before = copy.deepcopy(s)
        done = erased(s)
        assert not moved(before.denoiser, done.denoiser) and not moved(before.text, done.text)
        new = changed(before.module.state_dict(), done.module.state_dict())
        assert set(new) == {n for n in done.module.state_dict() if n.startswith("adapters.0.")}
        assert all(p.requires_grad and p.grad is None for p in done.denoiser.parameters())

    def test_more_weight_on_random_states_holds_them_better(self):
        held = []
        for hold in (0.0, 100.0):
            run = Run()
            SPM(iterations=30, lr=1e-2, hold=hold).unlearn(subject(), lent(CONCEPT, [(), ()]), run)
            held.append(run.log["anchoring"][-1])
        assert held[1] < held[0] / 5


class TestSeveral:
    def test_each_is_trained_as_if_alone_and_they_add_up(self):
        first = erased(lr=0.1, transport="always")
        both = erased(first, seed=1, concept=[(4,)], lr=0.1, transport="always")
        alone = erased(seed=1, concept=[(4,)], lr=0.1)
        pairs = zip(both.adapters()[1].maps.parameters(), alone.adapters()[0].maps.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
        (z, t), b = point(), batch((9,), (4,))
        wanted = with_weights(both, merged(both, [1.0, 1.0]), z, t, text(both, (9,), (4,)))
        assert torch.allclose(both.predict(z, t, both.encode(b)), wanted, rtol=0, atol=1e-10)

    def test_each_acts_on_its_own_concept(self):
        first = erased(transport="tokens")
        both = erased(first, seed=1, concept=[(4,)], transport="tokens")
        assert both.encode(batch((2,), (4,), (4, 2), (9,)))[1].tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]

    @pytest.mark.parametrize("earlier", [False, True])
    def test_it_is_restored_from_what_was_added(self, earlier):
        base = erased(seed=5, concept=[(4,)]) if earlier else subject()
        before, method = copy.deepcopy(base), SPM(**FEW, squared=True)
        done = method.unlearn(base, lent(CONCEPT, ANCHOR), Run())
        state = changed(before.module.state_dict(), done.module.state_dict())
        again = method.restore(before.clone(), state)
        assert again.module.state_dict().keys() == done.module.state_dict().keys()
        assert all(torch.equal(v, done.module.state_dict()[n]) for n, v in again.module.state_dict().items())
        (z, t), b = point(), batch((2,), (3, 9))
        assert torch.equal(done.encode(b)[1], again.encode(b)[1])
        assert torch.equal(done.predict(z, t, done.encode(b)), again.predict(z, t, again.encode(b)))


class TestMoving:
    def another(self, seed=1):
        """A model of the same architecture with other weights, as a further training would leave it."""
        other = subject()
        with torch.no_grad():
            for p in other.module.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=rng(seed)))
        return other

    def test_adapters_move_to_another_model(self):
        done, other = erased(lr=0.1), self.another()
        there = transplanted(done, other)
        (z, t), b = point(), batch((2,), (9,))
        own = there.encode(b)[1]
        assert not torch.allclose(own, done.encode(b)[1])  # its own text encoder judges
        for i in range(2):
            states = text(other, (2,), (9,))[i : i + 1]
            wanted = with_weights(there, merged(there, [own[i, 0]]), z[i : i + 1], t[i], states)
            assert torch.allclose(there.predict(z, t, there.encode(b))[i : i + 1], wanted, rtol=0, atol=1e-10)
        assert not other.adapters()

    def test_the_copy_is_independent(self):
        done = erased()
        there = transplanted(done, self.another())
        with torch.no_grad():
            next(there.adapters()[0].maps.parameters()).zero_()
        assert next(done.adapters()[0].maps.parameters()).any()

    def test_another_architecture_is_refused(self):
        from diffusers import UNet2DConditionModel

        done, config = erased(), dict(subject().denoiser.config)
        net = UNet2DConditionModel.from_config({**config, "block_out_channels": (8, 24)})
        other = copy.copy(subject())
        other.module = components(net, other.text)
        with pytest.raises(
            Mismatch, match=r"the adapter of unet/.* move adapters between models of one architecture"
        ):
            transplanted(done, other)


class TestXL:
    """Stable Diffusion XL: conditionings in parts, tokens of two tokenizers side by side."""

    @pytest.fixture
    def sdxl(self):
        return subject_of(pipelines.build("sdxl"), Drawing(3, 2.0, 16))

    def asked(self, sdxl, *texts):
        return Resident(Arrays(torch.zeros(len(texts), 0), sdxl.ids(texts)))

    def test_it_erases_one_prompt_and_leaves_the_other(self, sdxl):
        concept, anchor = self.asked(sdxl, "cat", "a cat"), self.asked(sdxl, "", "")
        data = Split(None, None, None, None, None, concept, anchor, None)
        before = sdxl.subject.clone()
        run = Run()
        done = SPM(**{**FEW, "lr": 0.1}, transport="tokens").unlearn(sdxl.subject, data, run)
        b = next(self.asked(sdxl, "the cat", "the dog").batches(2))
        assert done.encode(b)[1].tolist() == [[1.0], [0.0]]
        left, right = (s.sample(b, rng()) for s in (before, done))
        assert [torch.equal(x, y) for x, y in zip(left, right, strict=True)] == [False, True]
        assert run.log["anchoring"][-1] > 0


def test_concepts_that_equal_their_anchors_are_refused():
    with pytest.raises(BadData, match="every concept equals its anchor"):
        SPM().unlearn(subject(), lent(CONCEPT, CONCEPT), Run())


def test_a_nameless_concept_is_refused():
    with pytest.raises(BadData, match="a prompt that should name the concept is empty"):
        SPM().unlearn(subject(), lent([(2,), ()], [(3,), (3,)]), Run())


def test_the_paper_preset_is_the_authors_configuration():
    method = SPM.preset("paper")
    assert (method.iterations, method.lr, method.hold, method.anchors) == (3000, 1e-4, 1000.0, 4)
    assert (method.warmup, method.cycles, method.sampling, method.squared) == (500, 3, "student", False)
