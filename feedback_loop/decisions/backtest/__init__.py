"""Backtest: another policy on the same log, look by look, and what would have followed."""

from feedback_loop.decisions.backtest.candidates import Policy, candidates_of, policy_of
from feedback_loop.decisions.backtest.injection import Injection
from feedback_loop.decisions.backtest.log import SharedReader, Versions
from feedback_loop.decisions.backtest.plots import BLUE, FORMATS, GREY, RED, YELLOW, draw_promotions, plot_policies
from feedback_loop.decisions.backtest.replay import Replayed
from feedback_loop.decisions.backtest.result import Aftermath, Backtest, delay_of
from feedback_loop.decisions.backtest.run import run_backtest
from feedback_loop.decisions.backtest.tenures import looks_until, made_looks, tenures_of

__all__ = [
    "BLUE",
    "FORMATS",
    "GREY",
    "RED",
    "YELLOW",
    "Aftermath",
    "Backtest",
    "Injection",
    "Policy",
    "Replayed",
    "SharedReader",
    "Versions",
    "candidates_of",
    "delay_of",
    "draw_promotions",
    "looks_until",
    "made_looks",
    "plot_policies",
    "policy_of",
    "run_backtest",
    "tenures_of",
]
