"""Backtest: another policy on the same log, look by look, and what would have followed."""

from feedback_loop.decisions.backtest.candidates import candidates_of
from feedback_loop.decisions.backtest.replay import (
    Aftermath,
    Answer,
    Backtest,
    Candidate,
    CohortLoss,
    Look,
    Past,
    Reign,
    Replayed,
    Standing,
    aftermath_of,
    change_of,
    delay_of,
    made_looks,
    reign_at,
    reigns_of,
    replay,
)

__all__ = [
    "Aftermath",
    "Answer",
    "Backtest",
    "Candidate",
    "CohortLoss",
    "Look",
    "Past",
    "Reign",
    "Replayed",
    "Standing",
    "aftermath_of",
    "candidates_of",
    "change_of",
    "delay_of",
    "made_looks",
    "reign_at",
    "reigns_of",
    "replay",
]
