"""Smaller, faster versions of a model, tried against an accuracy budget."""

from feedback_loop.inference.optimizing.measuring import Measured
from feedback_loop.inference.optimizing.optimize import Optimization, optimize
from feedback_loop.inference.optimizing.shrinking import Variant

__all__ = ["Measured", "Optimization", "Variant", "optimize"]
