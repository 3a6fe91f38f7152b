"""Plants broken plugins for the length of a test and says which checks caught them."""

from __future__ import annotations

from contextlib import contextmanager

from unlearn.testing import checks_for


@contextmanager
def planted(cls, registry, like):
    """Registers a class for a while; it gets the docstring of `like` unless it has its own."""
    before = dict(registry._live)
    if "__doc__" not in cls.__dict__ or cls.__doc__ is None:
        cls.__doc__ = like.__doc__
    try:
        yield registry.register(f"planted-{cls.__name__.lower()}")(cls)
    finally:
        registry._live = before


def failed(checks):
    """Sentence of each check that fails, by its name."""
    found = {}
    for name, check in checks:
        try:
            check()
        except AssertionError as err:
            found[name] = str(err)
    return found


def failures(cls, on="mlp"):
    """Failed checks of a class and of its cell on one tiny subject, by their name without that subject's."""
    split = ((name.partition("["), check) for name, check in checks_for(cls))
    return failed((base, check) for (base, _, rest), check in split if rest in ("", f"{on}]"))
