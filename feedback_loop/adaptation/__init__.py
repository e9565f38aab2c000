"""What a champion's answers learn from outcomes between retrainings: heads on them, a pool, guards, revisions."""

from feedback_loop.adaptation import states
from feedback_loop.adaptation.adapter import Adapter, Basis, Look, LookRecord
from feedback_loop.adaptation.anticipation import Anticipation
from feedback_loop.adaptation.birth import begin, decides_by_chance, outcomes_of, why_refused
from feedback_loop.adaptation.feeding import Cohort, cohort_length, cohorts, mistrusted, read_look
from feedback_loop.adaptation.guards import LONG_HOLD
from feedback_loop.adaptation.replay import FED, Replayed, fed_with, replay, state_at
from feedback_loop.adaptation.what_if import WhatIf, what_if

__all__ = [
    "FED",
    "LONG_HOLD",
    "Adapter",
    "Anticipation",
    "Basis",
    "Cohort",
    "Look",
    "LookRecord",
    "Replayed",
    "WhatIf",
    "begin",
    "cohort_length",
    "cohorts",
    "decides_by_chance",
    "fed_with",
    "mistrusted",
    "outcomes_of",
    "read_look",
    "replay",
    "state_at",
    "states",
    "what_if",
    "why_refused",
]
