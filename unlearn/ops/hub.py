"""The hub's client, which would bury our one line under its own."""

from __future__ import annotations


def quiet() -> None:
    """Silences the retries that the hub's client announces; what it raises in the end still says what went wrong."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
