"""Layers of a model in an executor: their encodings measured, their values chosen."""
