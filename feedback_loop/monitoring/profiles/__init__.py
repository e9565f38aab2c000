"""Profiles: mergeable, subtractable statistics of rows, from which metrics and drift of any window follow."""

from feedback_loop.monitoring.profiles.blocks import (
    ABOVE,
    BELOW,
    HASHES,
    MISSING,
    NEW,
    NON_FINITE,
    RARE,
    SIDE,
    Block,
    Loss,
    Moment,
    Rows,
    float_bin_values,
    float_bins,
    score_bin_edges,
    score_bins,
)
from feedback_loop.monitoring.profiles.fold import TIME, Cell, fold, fold_outcomes, fold_predictions, merge
from feedback_loop.monitoring.profiles.layout import (
    Layout,
    NumberLayout,
    WordLayout,
    make_layout,
    profiled_columns,
)
from feedback_loop.monitoring.profiles.profile import Mean, Profile
from feedback_loop.monitoring.profiles.tally import Ints, Tally, total
from feedback_loop.monitoring.profiles.tree import LossTree

__all__ = [
    "ABOVE",
    "BELOW",
    "HASHES",
    "MISSING",
    "NEW",
    "NON_FINITE",
    "RARE",
    "SIDE",
    "TIME",
    "Block",
    "Cell",
    "Ints",
    "Layout",
    "Loss",
    "LossTree",
    "Mean",
    "Moment",
    "NumberLayout",
    "Profile",
    "Rows",
    "Tally",
    "WordLayout",
    "float_bin_values",
    "float_bins",
    "fold",
    "fold_outcomes",
    "fold_predictions",
    "make_layout",
    "merge",
    "profiled_columns",
    "score_bin_edges",
    "score_bins",
    "total",
]
