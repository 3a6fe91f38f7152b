"""Several concepts: at once or one after another, what methods are lent, and what is still a neighbour."""

import pytest
import torch
from pipelines import loaded, pipe_of, split

import unlearn
from unlearn.concepts import asked, merged
from unlearn.data import Resident, Split
from unlearn.errors import BadValue
from unlearn.gallery import Gallery
from unlearn.in_place import _prompts
from unlearn.methods.spm import SPM
from unlearn.methods.uce import UCE
from unlearn.ops import hub
from unlearn.ops.names import concepts_of, ids_of, names
from unlearn.ops.naming import Naming
from unlearn.patch import changed
from unlearn.request import parse, request_dict, request_from
from unlearn.runtime import Run
from unlearn.scenario import parse as scenario
from unlearn.scenarios.ink import _load
from unlearn.sources import Arrays

pytestmark = pytest.mark.xdist_group("several")


def test_concepts_joined_by_and_are_one_request():
    both = parse("concept=three&concept=red ink")
    assert both.together and [s.concept for s in both.steps] == ["three", "red ink"]
    assert str(both) == "concept=three&concept=red ink" and request_from(request_dict(both)) == both
    assert not parse("concept=three+concept=red ink").together
    old = {"kind": "sequence", "steps": [{"kind": "class", "label": "3"}]}
    assert str(request_from(old)) == "class=3", "as reports before have it"
    with pytest.raises(BadValue, match="class=5 cannot be forgotten at once"):
        parse("concept=three&class=5")


def test_what_is_lent_is_joined_and_what_is_erased_does_not_stay():
    def prompts(**words):
        return {n: Arrays(torch.zeros(len(y), 0), torch.tensor(y)) for n, y in words.items()}

    one = prompts(concept=[[0, 3]], anchor=[[0, 8]], preserve=[[0, 5], [0, 7]])
    two = prompts(concept=[[0, 5]], anchor=[[0, 1]], preserve=[[0, 3], [0, 7]])
    found = {n: s.y.tolist() for n, s in merged([one, two]).items()}
    assert found == {"concept": [[0, 3], [0, 5]], "anchor": [[0, 8], [0, 1]], "preserve": [[0, 7]]}
    assert {n: s.y.tolist() for n, s in merged([one]).items()} == {n: s.y.tolist() for n, s in one.items()}


def test_a_gallery_without_some_concepts():
    whole = Gallery(
        ("a b", "c b", "a d"), {"object": torch.tensor([0, 1, 0]), "style": torch.tensor([0, 0, 1])},
        {"object": ("a", "c"), "style": ("b", "d")}, {}, "object", 1,
    )  # fmt: skip
    assert whole.without(["d", "unknown"]).tolist() == [True, True, False]
    left = whole.take(whole.without(["d"]))
    assert left.captions == ("a b", "c b") and left.asks.tolist() == [False, True]
    assert left.asked["style"].tolist() == [0, 0]


def test_each_of_several_concepts_keeps_its_name():
    """What prompts of both digits share, such as `a`, names neither."""
    digits = scenario("ink/concept=three&concept=seven,drawings=1")
    empty, words = digits.original().empty, _load("pipeline").ids(["three", "seven"])
    prompts = Resident(asked(digits, 0)[0]["concept"])
    parts = concepts_of(prompts)
    assert torch.equal(torch.cat(parts), ids_of(prompts)) and set(
        names([torch.cat(parts)], empty)[0].tolist()
    )
    wanted = [sorted(set(row) - set(empty.tolist())) for row in words.tolist()]
    assert [n.tolist() for n in names(parts, empty)] == wanted
    alone = Resident(asked(scenario("ink/concept=three,drawings=1"), 0)[0]["concept"])
    assert [n.tolist() for n in names(concepts_of(alone), empty)] == wanted[:1]


@pytest.mark.parametrize(("joint", "gone"), [("+", [set(), {"three"}]), ("&", [{"chalk"}, {"three"}])])
def test_other_erased_concepts_are_neither_target_nor_neighbour(joint, gone):
    s = scenario(f"ink/concept=three{joint}concept=chalk,drawings=1")
    alone = [scenario(f"ink/concept={name},drawings=1") for name in ("three", "chalk")]
    for step, (one, others) in enumerate(zip(alone, gone, strict=True)):
        sets, gallery = asked(s, step)
        before, whole = asked(one, 0)
        kept = torch.tensor([not any(word in c for word in others) for c in whole.captions])
        assert gallery.captions == tuple(c for c, k in zip(whole.captions, kept, strict=True) if k)
        assert gallery.concept == whole.concept and sets["prompts"].y.equal(before["prompts"].y[kept])
        wordings = before["paraphrases"].y.unflatten(0, (-1, int(whole.asks.sum())))[:, kept[whole.asks]]
        assert sets["paraphrases"].y.equal(wordings.flatten(0, 1))
    concepts = [len(a.prompts(a.request)["concept"].y) for a in alone]
    assert len(sets["concept"].y) == (sum(concepts) if joint == "&" else concepts[1])


def test_a_tuple_of_names_is_erased_at_once_in_place():
    hub.quiet()
    pipe, other, found = pipe_of("sd1"), pipe_of("sd1"), loaded("sd1")
    unlearn.erase(pipe, [("cat", "dog")], "uce")
    texts = ("cat", "a picture of cat", "dog", "a picture of dog")
    UCE().unlearn(found.subject, split(found, texts, ("",) * 4, ("",)), Run())
    assert all(
        torch.equal(p, found.subject.denoiser.get_parameter(n)) for n, p in pipe.unet.named_parameters()
    )
    unlearn.erase(other, ["cat", "dog"], "uce")
    assert not all(torch.equal(p, other.unet.get_parameter(n)) for n, p in pipe.unet.named_parameters())


def test_adapters_for_several_concepts_come_back_from_their_tensors():
    hub.quiet()
    found = loaded("sd1")
    sets = merged([_prompts(found, Naming(name)) for name in ("cat", "dog")])
    lent = Split(
        None, None, None, None, None, *(Resident(sets[n]) for n in ("concept", "anchor", "preserve"))
    )
    method = SPM(iterations=2, batch_size=1, pool=2, transport="tokens")
    done = method.unlearn(found.subject.clone(), lent, Run())
    again = method.restore(
        found.subject.clone(), changed(found.subject.module.state_dict(), done.module.state_dict())
    )
    names_ = [[n.tolist() for n in s.adapters()[0].names] for s in (done, again)]
    assert names_[0] == names_[1] == [found.ids([w])[0, 1:2].tolist() for w in ("cat", "dog")]
    assert all(torch.equal(t, again.module.state_dict()[n]) for n, t in done.module.state_dict().items())
