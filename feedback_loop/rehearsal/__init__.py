"""Rehearsals: the loop played over a history by a simulated clock, in a store and a registry of its own."""

from feedback_loop.rehearsal.history import History, read_history
from feedback_loop.rehearsal.play import load_history, rehearse
from feedback_loop.rehearsal.plots import plot_losses
from feedback_loop.rehearsal.sandbox import fresh_folder, own_loop
from feedback_loop.rehearsal.strategies import Strategy, compare, losses_by_turn, mean_losses
from feedback_loop.rehearsal.turn import take_turn
from feedback_loop.rehearsal.words import closing_words

__all__ = [
    "History",
    "Strategy",
    "closing_words",
    "compare",
    "fresh_folder",
    "load_history",
    "losses_by_turn",
    "mean_losses",
    "own_loop",
    "plot_losses",
    "read_history",
    "rehearse",
    "take_turn",
]
