"""Attacks on unlearned models, one file each."""
