"""scikit-learn to ONNX, in double precision from the first operator to the last."""

from feedback_loop.inference.conversion.convert import CantConvert, Converted, convert

__all__ = ["CantConvert", "Converted", "convert"]
