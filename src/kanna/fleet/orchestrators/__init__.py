"""Rollouts by what others have already: one file of this folder for each, found by name."""
