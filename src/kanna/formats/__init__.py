"""Formats: containers that tensors are read from and streamed to.

Each folder is one, under its own name.
"""
