"""Attribution from models that saw an example or not, against plain loops and scikit-learn, in float64."""

import pytest
import torch
from sklearn.linear_model import Ridge

from unlearn.errors import BadValue, Mismatch, UnknownName
from unlearn.ops import attribution
from unlearn.ops.attribution import Removal, difference, file_of, named, ridge
from unlearn.ops.peers import places

M, N, K = 8, 5, 3


@pytest.fixture
def known():
    """Who saw what, and what the models said: every example is in some training sets and not in others."""
    rng = torch.Generator().manual_seed(1)
    seen = torch.rand(M, N, generator=rng) < 0.5
    assert all(0 < n < M for n in seen.sum(0).tolist())
    return seen, torch.randn(M, K, generator=rng, dtype=torch.float64)


def by_loops(seen, outputs, i, k):
    """Mean output of the models that saw an example, less that of the others."""
    saw = [float(outputs[m, k]) for m in range(len(seen)) if seen[m, i]]
    others = [float(outputs[m, k]) for m in range(len(seen)) if not seen[m, i]]
    return sum(saw) / len(saw) - sum(others) / len(others)


def test_difference_is_that_of_two_means(known):
    seen, outputs = known
    rows = torch.tensor([4, 0, 2])
    wanted = [[by_loops(seen, outputs, i, k) for k in range(K)] for i in rows.tolist()]
    torch.testing.assert_close(difference(seen, rows, outputs), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("penalty", [0.1, 2.0])
def test_ridge_is_that_of_scikit_learn(known, penalty):
    seen, outputs = known
    z = seen.double()
    square = float((z - z.mean(0)).square().sum(1).mean())
    model = Ridge(alpha=penalty * square).fit(z.numpy(), outputs.numpy())
    rows = torch.tensor([3, 1])
    torch.testing.assert_close(ridge(seen, rows, outputs, penalty), torch.tensor(model.coef_.T[rows.numpy()]))


def test_ridge_finds_what_examples_add_where_outputs_are_their_sum():
    rng = torch.Generator().manual_seed(2)
    seen = torch.rand(400, N, generator=rng) < 0.5
    adds = torch.randn(N, K, generator=rng, dtype=torch.float64)
    outputs = 7 + seen.double() @ adds
    torch.testing.assert_close(ridge(seen, torch.arange(N), outputs, 1e-9), adds, rtol=1e-6, atol=1e-6)
    assert (difference(seen, torch.arange(N), outputs) - adds).abs().max() < 0.5


@pytest.mark.parametrize("numbers", [2**24, 3])
def test_a_removal_sums_over_the_forgotten_in_the_shape_of_the_outputs(known, monkeypatch, numbers):
    """Whether all columns are held at once or one after another."""
    monkeypatch.setattr(attribution, "NUMBERS", numbers)
    seen, outputs = known
    said = torch.stack([outputs, 2 * outputs + 1], 1)  # (M, B, K)
    found = Removal(difference, seen, torch.tensor([0, 3]))(said)
    wanted = [[by_loops(seen, said[:, b], 0, k) + by_loops(seen, said[:, b], 3, k) for k in range(K)]
              for b in range(2)]  # fmt: skip
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(("value", "where"), [(True, "all"), (False, "none")])
def test_an_example_that_all_or_no_models_saw_is_refused(known, value, where):
    seen, _ = known
    seen[:, 2] = value
    with pytest.raises(
        BadValue, match=f"1 of 2 forgotten .* all {M} models .* training set of {where}, .* --models"
    ):
        Removal(difference, seen, torch.tensor([1, 2]))


def test_an_example_outside_the_training_set_is_refused():
    ids = torch.tensor([7, 3, 5])
    for lost in (4, 8):
        with pytest.raises(Mismatch, match=f"example {lost} is no training example of the models"):
            places(ids, torch.tensor([5, lost]))


def test_one_of_the_users_own_is_called_by_file_and_name(tmp_path, known):
    """Twice the difference, by a function in a file."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def twice(seen, rows, outputs):\n"
        "    z = seen[:, rows].to(outputs)\n"
        "    return 2 * ((z / z.sum(0)).T @ outputs - ((1 - z) / (1 - z).sum(0)).T @ outputs)\n"
    )
    own, rows = named(f"{file}:twice", 1.0), torch.tensor([1, 4])
    seen, outputs = known
    torch.testing.assert_close(own(seen, rows, outputs), 2 * difference(seen, rows, outputs))
    assert file_of(f"{file}:twice") == file and file_of("ridge") is None
    with pytest.raises(BadValue, match=r"mine.py has no function 'thrice'; define it"):
        named(f"{file}:thrice", 1.0)


def test_unknown_attributions_and_files_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'ridge'"):
        named("rigde", 1.0)
    with pytest.raises(BadValue, match=r"no file 'nowhere\.py'"):
        named("nowhere.py:build", 1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda seen, rows, outputs: outputs[: len(rows), :1], r"returned \(2, 1\), not"),
        (lambda seen, rows, outputs: outputs[: len(rows)] / 0, "returned values that are not finite"),
    ],
)
def test_what_an_attribution_returns_is_checked(known, wrong, said):
    seen, outputs = known
    with pytest.raises(BadValue, match=said):
        Removal(wrong, seen, torch.tensor([0, 1]))(outputs)


@pytest.mark.parametrize("group", [64, 2])
def test_own_entries_are_the_diagonal_where_an_example_is_forgotten(known, monkeypatch, group):
    monkeypatch.setattr(attribution, "GROUP", group)
    seen, outputs = known
    at = torch.tensor([3, 1, 0, 4])
    said = torch.stack([(k + 1) * outputs for k in range(len(at))], 1)  # (M, B, K)
    found = Removal(difference, seen, torch.tensor([0, 3, 4])).own(said, at)
    wanted = [
        [by_loops(seen, said[:, b], i, k) if i != 1 else 0.0 for k in range(K)]
        for b, i in enumerate(at.tolist())
    ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_a_batch_of_retained_examples_has_no_own_entries(known):
    seen, outputs = known
    removal = Removal(difference, seen, torch.tensor([0, 3, 4]))
    assert removal.own(outputs[:, None], torch.tensor([1])).tolist() == [[0.0] * K]


@pytest.mark.parametrize(("forgotten", "models"), [(4, 64), (40, 32)])
def test_the_noise_of_a_sum_is_what_the_method_says_of_it(forgotten, models):
    """2 √(n_f / M) times the spread of outputs, where nothing adds anything; own entries have that of one example."""
    rng = torch.Generator().manual_seed(5)
    half = torch.rand(models // 2, 400, generator=rng).argsort(1) < 200
    seen = torch.cat([half, ~half])
    outputs = torch.randn(models, 3000, generator=rng, dtype=torch.float64)
    removal = Removal(difference, seen, torch.arange(forgotten))
    noise = 2 * (forgotten / models) ** 0.5
    assert float(removal(outputs).std()) == pytest.approx(noise, rel=0.35)
    some = outputs[:, : 50 * forgotten].reshape(models, forgotten, 50)
    own = removal.own(some, torch.arange(forgotten))
    assert float(own.square().mean().sqrt()) == pytest.approx(2 / models**0.5, rel=0.2)
