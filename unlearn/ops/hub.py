"""The hub's client and the libraries on it, which would bury our one line under theirs."""

from __future__ import annotations


def quiet() -> None:
    """Silences what they announce (retries, missing extras, bars of their own); what they raise is still raised."""
    from diffusers.utils import logging as diffusers
    from huggingface_hub.utils import logging as client
    from transformers.utils import logging as transformers

    for logging in (client, diffusers, transformers):
        logging.set_verbosity_error()
    for logging in (diffusers, transformers):
        logging.disable_progress_bar()
