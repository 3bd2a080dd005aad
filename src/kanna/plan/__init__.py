"""Plans: which tensor gets which encoding and method."""

from kanna.plan.types import Substitution, TensorPlan

__all__ = ["Substitution", "TensorPlan"]
