import subprocess
import sys

import pytest

from unlearn import registry
from unlearn.errors import Mismatch, UnknownName, UnlearnError
from unlearn.method import Method, requires
from unlearn.registry import load_file, methods, metrics, offers, protocol, protocols, scenarios, subjects

PLUGIN = '''
from unlearn import Method, knob, methods
from unlearn.subject import HasLoss


@methods.register("{name}")
class Mine(Method[HasLoss]):
    """Does it my way.

    References:
        Me, 2026.
    """

    lr: float = knob(0.1, "step size", gt=0)

    def unlearn(self, subject: HasLoss, data, run) -> HasLoss:
        return subject
'''


@pytest.fixture
def plugin(tmp_path):
    def make(name):
        path = tmp_path / "mine.py"
        path.write_text(PLUGIN.format(name=name))
        return path

    yield make
    methods._live.pop("mine", None)


def test_a_plugin_file_registers_a_method(plugin):
    load_file(plugin("mine"))
    assert methods.get("mine").__doc__.startswith("Does it my way.")
    listing = methods.listing("mine")
    assert (listing.summary, listing.needs, listing.reference) == ("Does it my way.", "HasLoss", "Me, 2026.")
    assert "mine" in methods.names()


def test_loading_a_file_twice_is_harmless(plugin):
    path = plugin("mine")
    assert load_file(path) is load_file(path)


def test_the_name_of_a_built_in_is_taken(plugin):
    with pytest.raises(
        UnlearnError, match="method 'ssd' is taken by a built-in; register Mine under another name"
    ):
        load_file(plugin("ssd"))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownName, match="no method called 'sallun'; did you mean 'salun'"):
        methods.get("sallun")


def test_missing_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(UnlearnError, match="no Python file at"):
        load_file(tmp_path / "absent.py")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UnlearnError, match="cannot be imported: ZeroDivisionError: division by zero"):
        load_file(tmp_path / "broken.py")


@pytest.mark.parametrize("kind", [methods, metrics, scenarios, subjects], ids=lambda k: k.kind)
def test_listings_equal_what_is_imported(kind):
    for name in kind.names():
        listing, cls = kind.listing(name), kind.get(name)
        assert cls.name == name if hasattr(cls, "name") else True
        assert listing.summary == (cls.__doc__ or "").strip().splitlines()[0]
        assert listing.summary.endswith(".")
        if kind is methods:
            assert listing.needs == requires(cls).__name__
            assert set(listing.uses) == set(cls.uses)


def test_a_method_that_does_not_say_what_it_unlearns_is_refused_in_words():
    class Vague(Method):
        def unlearn(self, subject, data, run):
            return subject

    with pytest.raises(Mismatch, match=r"Vague.unlearn does not say what it unlearns; annotate `subject`"):
        requires(Vague)


def test_the_compatibility_matrix_equals_what_protocols_say():
    for name in subjects.names():
        cls = subjects.get(name)
        has = set(dir(cls)) | set(getattr(cls, "__dataclass_fields__", ()))
        true = {p for p, members in protocols().items() if members <= has}
        assert offers(name) == true
        assert all(isinstance(protocol(p), type) for p in true)


def test_listing_imports_no_torch():
    code = (
        "import sys; from unlearn import registry as r;"
        "[k.listings() for k in (r.methods, r.metrics, r.scenarios, r.subjects)];"
        "[r.offers(s) for s in r.subjects.names()];"
        "sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sections_of_a_docstring():
    doc = "Does it.\n\nReferences:\n    A, 2020.\n    B, 2021.\n\nMore words."
    assert registry.section(doc, "References") == "A, 2020. B, 2021."
    assert registry.section(doc, "Absent") == ""


def test_a_file_finds_modules_beside_it(tmp_path):
    (tmp_path / "beside_my_plugin.py").write_text("VALUE = 7")
    (tmp_path / "uses_it.py").write_text("from beside_my_plugin import VALUE")
    assert load_file(tmp_path / "uses_it.py").VALUE == 7
