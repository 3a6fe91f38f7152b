"""Sources, handles, crops and what is sealed, counted and paced."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import pad

from unlearn.data import Counted, Resident, Sealed, Stream, handle, paced
from unlearn.errors import BadData, SealedError
from unlearn.ops.pictures import Frame, Pictures, Taken, decode
from unlearn.ops.together import matched
from unlearn.sources import Arrays, Items, Pixels, Relabeled, as_float, random_crop, random_flip


def gen(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def images(n=23, side=9, channels=3):
    return torch.randint(0, 256, (n, channels, side, side), generator=gen(7), dtype=torch.uint8)


def source(n=23):
    return Arrays(images(n), torch.arange(n) % 5)


PIXELS = Pixels(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), pad=2, flip=True)


def reference_crop(x, pad_by, shifts):
    """Crops by slicing one padded image at a time."""
    h, w = x.shape[2:]
    wide = pad(x, (pad_by,) * 4)
    return torch.stack([i[:, a : a + h, b : b + w] for i, (a, b) in zip(wide, shifts.tolist(), strict=True)])


# ---- handles


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("augment", [False, True])
def test_resident_and_stream_cannot_be_told_apart(device, workers, shuffled, augment):
    rows = torch.tensor([3, 1, 4, 15, 9, 2, 6, 5, 8, 22])
    one = Resident(source(), PIXELS, rows, device)
    two = Stream(source(), PIXELS, rows, device, workers)
    assert len(one) == len(two) == 10
    assert torch.equal(one.y.cpu(), two.y.cpu())
    rngs = [gen(3, device) if shuffled or augment else None for _ in range(2)]
    passes = [list(h.batches(4, r, augment=augment)) for h, r in zip((one, two), rngs, strict=True)]
    assert [len(b) for b in passes[0]] == [4, 4, 2]
    for a, b in zip(*passes, strict=True):
        for field in ("x", "y", "index"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field
        assert a.x.device.type == device.type


def test_batches_hold_the_examples_that_their_index_names():
    made = Resident(source(), PIXELS)
    plain = Pixels(PIXELS.mean, PIXELS.std)(images(), None)
    seen = []
    for b in made.batches(8, gen()):
        assert torch.equal(b.x, plain[b.index])
        assert torch.equal(b.y, b.index % 5)
        seen += b.index.tolist()
    assert sorted(seen) == list(range(23))
    assert seen != list(range(23))


def test_without_a_generator_the_order_is_that_of_the_rows():
    made = Resident(source(), PIXELS, torch.tensor([5, 2, 9]))
    assert torch.cat([b.index for b in made.batches(2)]).tolist() == [5, 2, 9]


def test_other_rows_and_other_labels_share_the_memory():
    whole = Resident(source())
    some = whole.take(torch.tensor([1, 2]))
    other = whole.relabeled(torch.full((23,), 4))
    assert some.source.x.data_ptr() == whole.source.x.data_ptr() == other.source.x.data_ptr()
    assert other.y.tolist() == [4] * 23
    assert whole.y.tolist() == [i % 5 for i in range(23)]


def test_the_budget_decides_between_resident_and_stream():
    size = images().nbytes
    assert isinstance(handle(source(), budget=size), Resident)
    assert isinstance(handle(source(), budget=size - 1), Stream)


@pytest.mark.parametrize("lead", [5, 12])
def test_paced_shows_every_example_of_the_lead_once_and_cycles_the_other(lead):
    first, second = Resident(source(lead)), Resident(source(7))
    pairs = list(paced(first, second, 3, gen()))
    assert sorted(i for a, _ in pairs for i in a.index.tolist()) == list(range(lead))
    follow = [b.index.tolist() for _, b in pairs]
    assert [len(f) for f in follow] == list(itertools.islice(itertools.cycle([3, 3, 1]), len(pairs)))
    if lead == 12:
        assert sorted(itertools.chain(*follow[:3])) == list(range(7))
        assert follow[3] != follow[0], "it is newly shuffled each time around"


@pytest.mark.parametrize("follow", [1, 2, 7, 12, 40])
@pytest.mark.parametrize("sealed", ["", "spy"])
def test_matched_puts_as_many_of_the_other_beside_every_batch(follow, sealed):
    """A pass over 13 in batches of 5 reads 13 of the other, each of them ⌊13 / n⌋ or ⌈13 / n⌉ times, in rounds."""
    first, second = Resident(source(13)), Resident(source(follow))
    pairs = list(matched(first, Counted(second, 0, sealed, "forget"), 5, gen()))
    assert sorted(i for a, _ in pairs for i in a.index.tolist()) == list(range(13))
    assert [len(b) for _, b in pairs] == [len(a) for a, _ in pairs] == [5, 5, 3]
    order = [i for _, b in pairs for i in b.index.tolist()]
    for k in range(0, 13, follow):
        assert len(set(order[k : k + follow])) == len(order[k : k + follow]), "each round has each once"
    assert follow != 7 or order[7:] != order[:6], "it is newly shuffled each time around"
    for _, b in pairs:
        assert torch.equal(b.x, next(Resident(source(follow), rows=b.index).batches(5)).x)
        if sealed:
            with pytest.raises(SealedError, match=r"spy read 'forget\.y'"):
                len(b.y)
        else:
            assert torch.equal(b.y, b.index % 5)


# ---- sealed and counted


@pytest.mark.parametrize(
    "use",
    [
        len,
        list,
        lambda s: s[0],
        lambda s: s.batches(2),
        lambda s: next(iter(s)),
        lambda s: torch.zeros(2) + s,
        lambda s: torch.nn.functional.cross_entropy(torch.zeros(2, 3), s),
        lambda s: torch.stack([s]),
    ],
)
def test_any_use_of_what_is_sealed_raises(use):
    with pytest.raises(SealedError, match="spy read 'retain' but does not declare it"):
        use(Sealed("retain", "spy"))


def test_what_is_read_is_counted_as_it_is_read():
    counted = Counted(Resident(source()))
    reading = counted.batches(10)
    assert counted.read == 0
    next(reading)
    assert counted.read == 10
    list(reading)
    list(counted.batches(23))
    assert counted.read == 46
    assert len(counted) == 23


def test_a_method_that_declares_no_targets_gets_none():
    (batch,) = Counted(Resident(source()), unlabeled="blind", name="forget").batches(23)
    assert batch.x.shape == (23, 3, 9, 9)
    with pytest.raises(SealedError, match=r"blind read 'forget\.y'"):
        batch.y.unique()


def test_a_choice_of_a_counted_set_counts_for_the_whole_and_stays_sealed():
    counted = Counted(Resident(source(), rows=torch.arange(3, 20)), unlabeled="blind", name="forget")
    part = counted.only(torch.tensor([19, 5, 2, 4])).only(torch.tensor([4, 19, 6]))
    (batch,) = part.batches(10)
    assert batch.index.tolist() == [4, 19]  # 2 and 6 are not in both
    assert (part.read, counted.read) == (2, 2)
    with pytest.raises(SealedError, match=r"blind read 'forget\.y'"):
        batch.y.unique()


# ---- sources


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(2), "differ in length: 3 and 2"),
        (
            torch.tensor([[0.0], [torch.nan], [torch.inf]]),
            torch.zeros(3),
            "in 2 of 3 rows, the first is row 1",
        ),
        (torch.zeros(2, 2), torch.tensor([0.0, torch.inf]), "targets hold NaN or infinite values in 1 of 2"),
    ],
)
def test_arrays_refuse_what_cannot_be_used(x, y, words):
    with pytest.raises(BadData, match=words):
        Arrays(x, y)


def test_items_are_read_as_pairs():
    pairs = [(torch.full((2,), float(i)), i % 3) for i in range(6)]
    made = Items(pairs)
    assert made.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert made.fetch(torch.tensor([4, 1])).tolist() == [[4.0, 4.0], [1.0, 1.0]]


def test_relabeled_changes_targets_alone():
    made = Relabeled(source(), torch.zeros(23, dtype=torch.long))
    assert torch.equal(made.fetch(torch.tensor([2])), images()[2:3])
    assert made.y.sum() == 0


@pytest.mark.parametrize("form", ["path", "bytes", "dict", "array", "pil"])
def test_pictures_decode_every_form_to_the_same_pixels(tmp_path, form):
    pixels = images(1)[0].permute(1, 2, 0).numpy()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    raw = path.read_bytes()
    item = {"path": path, "bytes": raw, "dict": {"bytes": raw, "path": None}, "array": pixels,
            "pil": Image.fromarray(pixels)}[form]  # fmt: skip
    assert torch.equal(decode(item, Frame()), images(1)[0])
    assert decode(item, Frame(channels=1)).shape == (1, 9, 9)
    assert decode(item, Frame((4, 6))).shape == (3, 4, 6)
    assert decode(item, Frame((8, 8), shortest=12)).shape == (3, 8, 8)


def test_pictures_that_cannot_be_used_are_refused(tmp_path):
    sizes = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
    with pytest.raises(BadData, match=r"\(3, 4, 4\) in row 0, \(3, 5, 4\) in row 1"):
        Pictures(Taken(sizes), torch.zeros(2), Frame()).fetch(torch.arange(2))
    with pytest.raises(BadData, match="image 1 cannot be decoded"):
        Pictures(Taken([sizes[0], b"no image"]), torch.zeros(2), Frame()).fetch(torch.arange(2))


# ---- transforms


def test_pixels_are_normalised_as_the_formula_says():
    x = images()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (PIXELS.mean, PIXELS.std))
    wanted = (x.double() / 255 - mean) / std
    torch.testing.assert_close(PIXELS(x, None).double(), wanted, rtol=0, atol=2e-6)
    already = Pixels(PIXELS.mean, PIXELS.std)((x / 255), None)
    torch.testing.assert_close(already.double(), wanted, rtol=0, atol=2e-6)


def test_without_a_generator_nothing_is_augmented():
    x = images()
    assert torch.equal(PIXELS(x, None), Pixels(PIXELS.mean, PIXELS.std)(x, None))


@pytest.mark.parametrize("side", [8, 9, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pad_by", [1, 4])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_crops_are_windows_of_the_padded_image(side, channels, pad_by, kind):
    x = images(50, side, channels).to(kind)
    shifts = torch.randint(0, 2 * pad_by + 1, (2, 50), generator=gen(5)).T
    assert torch.equal(random_crop(x, pad_by, gen(5)), reference_crop(x, pad_by, shifts))


def test_crops_take_every_shift_equally_often():
    x = torch.zeros(20_000, 1, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 4] = 1
    where = random_crop(x, 1, gen()).flatten(1).float().argmax(1)
    counts = where.bincount(minlength=81)
    near = counts.view(9, 9)[3:6, 3:6].flatten().double()
    assert near.sum() == 20_000
    chi2 = ((near - 20_000 / 9) ** 2 / (20_000 / 9)).sum()
    assert chi2 < 26.1  # 0.999 quantile of chi-square with 8 degrees of freedom


def test_flips_mirror_about_half_of_the_images():
    x = images(4000, 8)
    out = random_flip(x, gen())
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    same = (out == x).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert abs(int(mirrored.sum()) - 2000) < 4 * 4000**0.5 / 2


def test_the_same_generator_augments_in_the_same_way():
    x = images()
    assert torch.equal(PIXELS(x, gen(1)), PIXELS(x, gen(1)))
    assert not torch.equal(PIXELS(x, gen(1)), PIXELS(x, gen(2)))


def test_ready_made_inputs_become_float32_and_ids_stay_ids():
    assert as_float(torch.zeros(2, dtype=torch.float64), None).dtype == torch.float32
    assert as_float(torch.zeros(2, dtype=torch.long), None).dtype == torch.long
    assert " at 0x" not in repr(as_float), "the transform's text enters addresses"
