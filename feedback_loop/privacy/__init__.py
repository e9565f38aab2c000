"""Erasure of a key on request, wherever its rows are."""

from feedback_loop.privacy.erasure import Eraser, Erasure, erased_key

__all__ = ["Eraser", "Erasure", "erased_key"]
