"""Attacks that try to bring an erased concept back; one file each."""
