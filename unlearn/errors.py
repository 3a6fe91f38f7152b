"""What can go wrong, one class for each kind; the command line maps each to its exit code."""

from __future__ import annotations


class UnlearnError(Exception):
    """Base of every error a user can cause; the message is one line and says what to do.

    Attributes:
        exit_code: Status with which the command line ends.
    """

    exit_code = 2


class UnknownName(UnlearnError, LookupError):
    """No plugin, preset, field or class goes by this name."""


class BadValue(UnlearnError, ValueError):
    """A hyper-parameter, request or option is out of its range or of the wrong type."""


class BadData(UnlearnError, ValueError):
    """Data that cannot be used: wrong shape, NaN, labels out of range, unreadable."""


class BadWeights(UnlearnError, ValueError):
    """Weights that cannot be read safely or do not fit the model."""


class Mismatch(UnlearnError, TypeError):
    """The subject lacks a verb that a method or a metric needs."""


class NoEffect(UnlearnError, RuntimeError):
    """A method changed nothing, so that nothing can have been forgotten."""


class Exhausted(UnlearnError, RuntimeError):
    """Deletions left nothing of a sliced model that may be used: it must be retrained."""


class SealedError(UnlearnError, RuntimeError):
    """A method touched data it had not declared."""


class StoreError(UnlearnError, OSError):
    """The store cannot be read or written."""


class OutOfMemory(UnlearnError, MemoryError):
    """The device has too little memory for the run."""


class OutOfTime(UnlearnError, TimeoutError):
    """The run's deadline passed."""
