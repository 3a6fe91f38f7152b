import pytest

from unlearn import provenance
from unlearn.provenance import code_version, digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of this one: a uses b, c stands alone."""
    root = tmp_path / "unlearn"
    root.mkdir()
    files = {
        "__init__": "",
        "a": '"""A."""\nfrom unlearn.b import f\n\n\ndef g():\n    """Doc."""\n    return f()\n',
        "b": "def f():\n    return 1\n",
        "c": "X = 1\n",
    }
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    monkeypatch.setattr(provenance, "ROOT", root)
    provenance._source.cache_clear()
    yield root
    provenance._source.cache_clear()


def version(*names):
    provenance._source.cache_clear()
    return code_version(names)


def test_code_counts_with_what_it_imports(package):
    before = version("unlearn.a")
    (package / "b.py").write_text("def f():\n    return 2\n")
    assert version("unlearn.a") != before


def test_code_elsewhere_does_not_count(package):
    before = version("unlearn.a")
    (package / "c.py").write_text("X = 2\n")
    assert version("unlearn.a") == before


def test_words_do_not_count(package):
    before = version("unlearn.a")
    (package / "a.py").write_text(
        '"""B."""\nfrom unlearn.b import f\n\n\ndef g():  # why\n    """Other."""\n    return f()\n'
    )
    assert version("unlearn.a") == before


def test_modules_outside_the_package_are_left_to_the_recipe(package):
    assert version("unlearn.a", "json") == version("unlearn.a")


def test_digest_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError, match="Out of range float"):
        digest({"x": float("nan")})


def test_environment_names_versions():
    found = provenance.environment()
    assert found["packages"]["torch"]
    assert found["unlearn"]
