"""Scales and norms that learn from the original."""
