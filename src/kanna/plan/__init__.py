"""Plans: which tensor gets which encoding and method."""

from kanna.plan.file import Plan, RuleModel, load
from kanna.plan.resolve import Resolved, resolve
from kanna.plan.types import Substitution, TensorPlan

__all__ = ["Plan", "Resolved", "RuleModel", "Substitution", "TensorPlan", "load", "resolve"]
