"""Probe of this machine: what `doctor` shows and what `fit` estimates speed from."""
