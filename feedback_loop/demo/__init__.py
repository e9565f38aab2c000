"""`feedback-loop demo`: the loop on a year of real flights. It uses the package as any user would."""

from feedback_loop.demo.play import DemoOptions, fresh_folder, play
from feedback_loop.demo.screen import Screen
from feedback_loop.demo.summary import closing_words

__all__ = ["DemoOptions", "Screen", "closing_words", "fresh_folder", "play"]
