import copy
import gc
import time
from dataclasses import replace

import pytest
import torch

from unlearn.data import Resident, Split
from unlearn.errors import BadData, BadValue, Mismatch, OutOfTime
from unlearn.methods.esd import ESD, away
from unlearn.ops.erasure import Original, chosen, encoded, joined, latents, spread, taken
from unlearn.ops.freezing import only
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.text_to_image import TextToImage
from unlearn.testing.tiny import specimen

ENDS = ("conv_out.", "conv_norm_out.", "time_embedding.")
SELECTIONS = {
    "x": lambda n: ".attn2." in n,
    "strict": lambda n: ".attn2.to_k." in n or ".attn2.to_v." in n,
    "u": lambda n: ".attn2." not in n and not n.startswith(ENDS),
    "layers": lambda n: ".attn2." not in n and "norm" not in n,
    "selfattn": lambda n: ".attn1." in n,
    "full": lambda n: True,
}
PROMPTS = torch.tensor([[0, 2, *[1] * 6], [0, 5, 2, *[1] * 5], [0, 7, *[1] * 6]])


def subject(dtype=torch.float32):
    """A private denoiser, in float64 where asked; the text encoder stays as it is."""
    spec = specimen("unet").copy().subject
    spec.denoiser.to(dtype)
    return spec


def split(ids=PROMPTS):
    concept = Resident(Arrays(torch.zeros(len(ids), 0), ids))
    return Split(None, None, None, None, None, concept=concept)


def words(s, ids=PROMPTS):
    """Text states of prompts, by the text encoder itself."""
    with torch.no_grad():
        return s.text(input_ids=ids).last_hidden_state


def noise(s, ids, guided, net, z, t, eta):
    """Text-book guidance with two separate forward passes, and no code of the package."""
    with torch.no_grad():
        e_0 = net(z, t, encoder_hidden_states=words(s, s.empty.expand(len(z), -1)).to(z)).sample
        e_p = net(z, t, encoder_hidden_states=words(s, ids).to(z)).sample
    return e_0 + guided * eta * (e_p - e_0)


def point(s, seed=0):
    """Fixed latents and times, one for each prompt, in the type of the denoiser."""
    z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return z.to(next(s.denoiser.parameters())), torch.tensor([17, 500, 999])


def state(s):
    return {n: p.detach().clone() for n, p in s.denoiser.named_parameters()}


def start(method, s, run=None):
    """The first example of a run, before anything trains."""
    run, told = run or Run(), encoded(s, split().concept)
    if method.sampling == "base":
        return next(method._from_base(s, (told, told), 3, run))
    return next(method._from_student(s, (told, told), 3, Original(list(s.denoiser.parameters())), run))


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_the_target_is_guidance_away_from_the_concept(eta):
    """At float64 the two rows of one batch and two passes differ by rounding alone: 1e-12 of values near one."""
    s = subject(torch.float64)
    z, t = point(s)
    got = away(s, z, t, encoded(s, split().concept), eta)
    assert got.dtype == torch.float64 and not got.requires_grad
    assert torch.allclose(got, noise(s, PROMPTS, -1, s.denoiser, z, t, eta), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampling", ["base", "student"])
def test_erased_within_a_context_the_context_learns_the_target(sampling):
    """ε(a) − η (ε(c) − ε(∅)) at latents of the context a, by passes of their own."""
    s, context = subject(torch.float64), PROMPTS.flip(0)
    method = ESD(erase_from="anchor", sampling=sampling, eta=0.7, batch_size=4, iterations=2, pool=8)
    data = replace(split(), anchor=Resident(Arrays(torch.zeros(3, 0), context)))
    assert method.reads() == {"concept", "anchor"} and ESD().reads() == {"concept"}
    told = method._told(s, data)
    if sampling == "base":
        z, t, cond, goal = next(method._from_base(s, told, 3, Run()))
    else:
        z, t, cond, goal = next(method._from_student(s, told, 3, Original([]), Run()))
    row = torch.tensor([int((told[0] - c).abs().flatten(1).sum(1).argmin()) for c in cond])
    assert torch.equal(cond, told[0][row])
    with torch.no_grad():
        e_a = s.denoiser(z, t, encoder_hidden_states=words(s, context[row]).to(z)).sample
    guided = noise(s, PROMPTS[row], -1, s.denoiser, z, t, 0.7) - noise(
        s, PROMPTS[row], 0, s.denoiser, z, t, 0
    )
    assert torch.allclose(goal, e_a + guided, rtol=0, atol=1e-12)
    with pytest.raises(BadData, match="2 prompts give the context of 3 that name the concept; give one for"):
        method.unlearn(s, replace(data, anchor=Resident(Arrays(torch.zeros(2, 0), context[:2]))), Run())


def test_eta_is_that_of_the_newer_program_less_one():
    """Its target is e_p − η' (e_p − e_0): η' = 2 is our 1."""
    s = subject(torch.float64)
    z, t = point(s)
    e_p, e_0 = (noise(s, PROMPTS, 1, s.denoiser, z, t, eta) for eta in (1.0, 0.0))
    ours = away(s, z, t, encoded(s, split().concept), 1.0)
    assert torch.allclose(ours, e_p - 2 * (e_p - e_0), rtol=0, atol=1e-12)


def two_copies(s, examples, eta, lr):
    """The plain loop with two models: gradients and losses of each step, and the weights at the end."""
    frozen, net = copy.deepcopy(s.denoiser), copy.deepcopy(s.denoiser)
    params = {n: p for n, p in net.named_parameters() if ".attn2." in n}
    opt = torch.optim.Adam(params.values(), lr=lr)
    losses, grads = [], []
    for z, t, ids in examples:
        goal = noise(s, ids, -1, frozen, z, t, eta)
        out = net(z, t, encoder_hidden_states=words(s, ids).to(z)).sample
        loss = ((out - goal) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        losses.append(loss.item())
        grads.append({n: p.grad.clone() for n, p in params.items()})
        opt.step()
    return losses, grads, net


@pytest.mark.parametrize("sampling", ["base", "student"])
def test_losses_gradients_and_weights_are_those_of_the_plain_loop_with_two_copies(sampling, monkeypatch):
    """In float64, on the latents that the run met; 1e-9 of a gradient leaves six digits for Adam's quotient."""
    s, seen, grads = subject(torch.float64), [], []
    plain, real = copy.deepcopy(s), TextToImage.predict

    def predict(self, z, t, cond):
        assert not any(m.training for m in self.denoiser.modules())
        if torch.is_grad_enabled():
            ids = PROMPTS[[int((words(s) == c.to(words(s))).flatten(1).all(1).nonzero()) for c in cond]]
            seen.append((z.clone(), t.clone(), ids))
        return real(self, z, t, cond)

    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    s.denoiser.get_parameter(name).register_post_accumulate_grad_hook(lambda p: grads.append(p.grad.clone()))
    monkeypatch.setattr(TextToImage, "predict", predict)
    s.denoiser.train()
    run = Run()
    ESD(iterations=4, batch_size=3, lr=1e-3, eta=1.5, sampling=sampling, pool=7).unlearn(s, split(), run)
    losses, expected, net = two_copies(plain, seen, 1.5, 1e-3)
    assert run.log["loss"] == pytest.approx(losses, rel=1e-9)
    for got, want in zip(grads, expected, strict=True):
        assert want[name].abs().max() > 0
        assert torch.allclose(got, want[name], rtol=1e-9, atol=1e-9 * float(want[name].abs().max()))
    assert all(
        torch.allclose(p, net.get_parameter(n), rtol=0, atol=1e-6) for n, p in s.denoiser.named_parameters()
    )


@pytest.mark.parametrize("sampling", ["base", "student"])
@pytest.mark.parametrize("train", SELECTIONS)
def test_what_trains_and_that_the_rest_keeps_its_bits(train, sampling):
    s = subject()
    before = state(s)
    ESD(train=train, sampling=sampling, iterations=2, batch_size=2).unlearn(s, split(), Run())
    moved = {n for n, p in s.denoiser.named_parameters() if not torch.equal(p, before[n])}
    allowed = {n for n in before if SELECTIONS[train](n)}
    assert moved == allowed
    assert all(p.grad is None and p.requires_grad for p in s.denoiser.parameters())


def test_the_names_that_train():
    s = subject()
    names = {}
    for train, wanted in SELECTIONS.items():
        with only(s.denoiser, chosen(s, train)) as params:
            ids = {id(p) for p in params}
        names[train] = {n for n, p in s.denoiser.named_parameters() if id(p) in ids}
        assert names[train] == {n for n in state(s) if wanted(n)}
    assert names["strict"] < names["x"]
    assert {n.partition(".")[0] + "." for n in names["full"] - names["x"] - names["u"]} == set(ENDS)


@pytest.mark.parametrize("train", SELECTIONS)
def test_the_loss_at_a_fixed_point_halves(train):
    """A pool of one latent is a fixed x_t, t and target."""
    run = Run()
    ESD(train=train, pool=1, batch_size=1, iterations=100, lr=3e-4).unlearn(subject(), split(), run)
    assert run.log["loss"][0] > 1e-6 and run.log["loss"][-1] < run.log["loss"][0] / 2


def test_the_loss_halves_at_points_that_no_run_has_seen():
    s = subject()
    z, t = point(s)
    cond = encoded(s, split().concept)
    goal = away(s, z, t, cond, 1.0)
    first = (s.predict(z, t, cond) - goal).square().mean()
    ESD(lr=1e-3).unlearn(s, split(), Run())
    assert first > 1e-6 and (s.predict(z, t, cond) - goal).square().mean() < first / 2


def test_both_samplers_agree_at_iteration_zero():
    """One latent: the same draws in the same order, so the same weights bit for bit."""
    a, b = subject(), subject()
    for s, sampling in ((a, "base"), (b, "student")):
        ESD(sampling=sampling, iterations=1, batch_size=1).unlearn(s, split(), Run(3))
    assert all(torch.equal(p, state(b)[n]) for n, p in state(a).items())


def test_the_student_meets_latents_of_its_own_weights_and_the_base_does_not(monkeypatch):
    """Were the latents drawn by other weights, a trajectory with the same noise would end elsewhere."""
    who, real = [], TextToImage.trajectory
    s = subject()
    name = next(n for n in state(s) if SELECTIONS["strict"](n))
    original = s.denoiser.get_parameter(name).detach().clone()

    def trajectory(self, *args):
        who.append(torch.equal(self.denoiser.get_parameter(name), original))
        return real(self, *args)

    monkeypatch.setattr(TextToImage, "trajectory", trajectory)
    ESD(sampling="base", iterations=5, batch_size=2).unlearn(s, split(), Run())
    assert who and all(who)
    who.clear()
    s = subject()
    ESD(sampling="student", iterations=5, batch_size=2).unlearn(s, split(), Run())
    assert who == [True, False, False, False, False]


def test_the_teacher_of_a_student_run_is_always_the_original():
    s = subject()
    z, t = point(s)
    cond = encoded(s, split().concept)
    goal = away(s, z, t, cond, 1.0)
    original = Original([p for n, p in s.denoiser.named_parameters() if SELECTIONS["x"](n)])
    ESD(sampling="student", iterations=3).unlearn(s, split(), Run())
    trained = state(s)
    assert not torch.equal(away(s, z, t, cond, 1.0), goal)
    with original():
        assert torch.equal(away(s, z, t, cond, 1.0), goal)
    assert all(torch.equal(p, trained[n]) for n, p in state(s).items())
    with pytest.raises(RuntimeError, match="stop"), original():
        raise RuntimeError("stop")
    assert all(torch.equal(p, trained[n]) for n, p in state(s).items())


def held():
    """Bytes of all tensors that Python can reach and that are not frozen, by their storage."""
    gc.collect()
    tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


@pytest.mark.parametrize(("sampling", "copies"), [("base", 0), ("student", 1)])
def test_no_second_model_is_held(sampling, copies, monkeypatch):
    """Adam's two moments and, for a student, the values before: of what trains alone.

    Latents, targets and text states are small beside the model; the bytes are counted at each prediction.
    """
    s, most, real = subject(), [], TextToImage.predict
    size = {t: 4 * sum(p.numel() for n, p in state(s).items() if SELECTIONS[t](n)) for t in ("x", "full")}
    slack = size["full"] // 5
    assert 3 * size["x"] + slack < size["full"]

    def predict(self, z, t, cond):
        most.append(sum(n for at, n in held().items() if at not in before))
        return real(self, z, t, cond)

    def refuse(*args, **kwargs):
        raise AssertionError("a second model was made")

    monkeypatch.setattr(TextToImage, "predict", predict)
    monkeypatch.setattr(TextToImage, "clone", refuse)
    data, before = split(), held()
    gc.freeze()  # what was there before need not be looked at again
    try:
        ESD(sampling=sampling, iterations=3, batch_size=2).unlearn(s, data, Run())
    finally:
        gc.unfreeze()
    assert (2 + copies) * size["x"] <= max(most) <= (2 + copies) * size["x"] + slack


def test_numbers_of_steps_are_uniform_and_even():
    rng = torch.Generator().manual_seed(0)
    assert spread(12, 4, rng).bincount().tolist() == [3, 3, 3, 3]
    few = torch.stack([spread(3, 5, rng) for _ in range(4000)])
    counts = few[:, 0].bincount(minlength=5)
    assert (counts - 800).abs().max() < 5 * (4000 * 0.2 * 0.8) ** 0.5
    assert (few.sort(1).values.diff(dim=1) >= 1).all()  # five values in three strides of 5/3
    assert int(spread(7, 1, rng).max()) == 0


def test_latents_are_those_of_their_prompt_and_their_steps():
    """With one latent for each call, the same generator gives the same trajectory, in order of the steps."""
    s, told, run = subject(), encoded(subject(), split().concept), Run(1)
    row, until = torch.tensor([2, 0, 1]), torch.tensor([3, 0, 2])
    rng, got = torch.Generator().manual_seed(1), {}
    for some, z, t in latents(s, told, row, until, 3.0, run):
        got[int(some)] = z, t
    for i in (1, 2, 0):
        z, t = s.trajectory(words(s, PROMPTS[row[i]][None]), int(until[i]), 3.0, rng)
        assert torch.equal(got[i][0], z) and torch.equal(got[i][1], t)


@pytest.mark.parametrize(("pool", "batch", "iterations"), [(5, 2, 7), (100, 3, 2), (1, 4, 2), (3, 8, 1)])
def test_every_latent_of_the_pool_is_used_equally_often(pool, batch, iterations):
    s, told = subject(), encoded(subject(), split().concept)
    method = ESD(pool=pool, batch_size=batch, iterations=iterations)
    examples = list(method._from_base(s, (told, told), 3, Run()))
    assert [len(z) for z, *_ in examples] == [batch] * iterations
    uses = torch.cat([z.flatten(1) for z, *_ in examples]).unique(dim=0, return_counts=True)[1]
    assert len(uses) == min(pool, batch * iterations) and int(uses.max() - uses.min()) <= 1


@pytest.mark.parametrize("sampling", ["base", "student"])
def test_an_example_holds_the_target_of_its_own_latent_time_and_prompt(sampling):
    s = subject(torch.float64)
    z, t, cond, goal = start(ESD(sampling=sampling, batch_size=9, iterations=5), s)
    rows = torch.stack([(words(s) == c).flatten(1).all(1).nonzero()[0, 0] for c in cond])
    assert len(rows.unique()) > 1
    assert torch.allclose(goal, noise(s, PROMPTS[rows], -1, s.denoiser, z, t, 1.0), rtol=0, atol=1e-12)


def test_conditionings_of_several_tensors():
    a = {"text": torch.tensor([[1.0], [2.0]]), "more": (torch.tensor([3.0, 4.0]), None)}
    both = joined(a, taken(a, torch.tensor([1])))
    assert both["text"].tolist() == [[1.0], [2.0], [2.0]]
    assert both["more"][0].tolist() == [3.0, 4.0, 4.0] and both["more"][1] is None


def test_the_paper_preset_is_the_first_program():
    method = ESD.preset("paper")
    assert (method.iterations, method.lr, method.batch_size, method.sampling) == (1000, 1e-5, 1, "student")
    assert (method.eta, method.guidance, method.train, method.jitter) == (1.0, 3.0, "x", True)


@pytest.mark.parametrize("sampling", ["base", "student"])
def test_a_jittered_time_lies_before_the_step_that_is_reached(sampling):
    """Of 1,000 times and five steps, after k of them in 200 (4 − k) to 200 (5 − k) − 1; else the time reached."""
    s = replace(subject(), steps=5)
    times = {}
    for jitter in (False, True):
        told = encoded(s, split().concept)
        method = ESD(sampling=sampling, batch_size=1, iterations=100, pool=100, jitter=jitter)
        if sampling == "base":
            some = method._from_base(s, (told, told), 3, Run())
        else:
            some = method._from_student(s, (told, told), 3, Original([]), Run())
        times[jitter] = torch.cat([t for _, t, _, _ in some])
    reached = times[False].unique()
    assert reached.tolist() == [0, 200, 400, 600, 800] and len(times[True].unique()) > 80
    assert (times[True] // 200).bincount(minlength=5).tolist() == [20] * 5
    assert int(times[True].min()) >= 0 and int(times[True].max()) < 1000
    assert (times[True] % 200).double().mean() == pytest.approx(99.5, abs=5 * 57.7 / 10)


def test_a_jittered_example_keeps_the_latent_and_has_the_target_of_its_time():
    s = subject(torch.float64)
    z, t, cond, goal = start(ESD(batch_size=9, iterations=5, jitter=True), s)
    rows = torch.stack([(words(s) == c).flatten(1).all(1).nonzero()[0, 0] for c in cond])
    assert torch.allclose(goal, noise(s, PROMPTS[rows], -1, s.denoiser, z, t, 1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("names", "ours"),
    [(("xattn", "esd-x"), "x"), (("xattn-strict", "esd-x-strict"), "strict"), (("noxattn",), "u"),
     (("esd-u",), "layers"), (("selfattn",), "selfattn"), (("full", "esd-all"), "full")],
)  # fmt: skip
def test_the_names_of_both_programs_select_the_same(names, ours):
    def moved(train):
        s = subject()
        before = {n: p.clone() for n, p in s.denoiser.named_parameters()}
        ESD(train=train, iterations=1, batch_size=1, pool=1, lr=0.1).unlearn(s, split(), Run())
        return {n for n, p in s.denoiser.named_parameters() if not p.equal(before[n])}

    assert all(moved(name) == moved(ours) != set() for name in names)


class Without(TextToImage):
    """A denoiser whose parts are other ones."""

    def parts(self):
        return {"all": self.denoiser}


class Plain(TextToImage):
    """A denoiser that knows no times but those of its sampler."""

    between = None


def test_bad_input_is_refused_in_one_line():
    s, data = subject(), split()
    with pytest.raises(
        BadValue, match=r"train must be one of x, strict, u, layers, selfattn, full, xattn, .*, got 'cross'"
    ):
        ESD(train="cross")
    with pytest.raises(BadData, match="no prompt names the concept"):
        ESD().unlearn(s, split(PROMPTS[:0]), Run())
    fields = {n: getattr(s, n) for n in TextToImage.__dataclass_fields__}
    for train in ("x", "u", "layers", "selfattn"):
        with pytest.raises(Mismatch, match=f"train='{train}' selects no parameters.*parts are all; choose"):
            ESD(train=train).unlearn(Without(**fields), data, Run())
    with pytest.raises(Mismatch, match="TextToImage has steps = 0; give it"):
        ESD().unlearn(replace(s, steps=0), data, Run())
    with pytest.raises(
        Mismatch, match=r"a Plain does not say what lies between two steps.*; use jitter=false"
    ):
        ESD(jitter=True).unlearn(Plain(**fields), data, Run())


@pytest.mark.parametrize("sampling", ["base", "student"])
def test_the_deadline_ends_it_and_flags_are_put_back(sampling):
    s = subject()
    run = Run(deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTime):
        ESD(sampling=sampling).unlearn(s, split(), run)
    assert all(p.requires_grad and p.grad is None for p in s.denoiser.parameters())
    assert not any(m._forward_pre_hooks for m in s.denoiser.modules())


def test_bfloat16_stays_bfloat16():
    s = subject(torch.bfloat16)
    _, _, _, goal = start(ESD(iterations=1, batch_size=2), s)
    assert goal.dtype == torch.bfloat16
    ESD(iterations=2, batch_size=2).unlearn(s, split(), Run())
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in s.denoiser.parameters())
