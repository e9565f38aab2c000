"""What people may ask of their data: that it is erased, wherever it is."""

from feedback_loop.privacy.erasure import Eraser, Erasure, erased_key

__all__ = ["Eraser", "Erasure", "erased_key"]
