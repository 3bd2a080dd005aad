"""Scales and norms of an artefact tuned against the logits of the original."""
