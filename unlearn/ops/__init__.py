"""Numerics that methods and metrics share."""
