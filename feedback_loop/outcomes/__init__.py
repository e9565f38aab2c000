"""What really happened: taken in, revised, counted; when it may be judged."""

from feedback_loop.outcomes.coverage import is_matured, matured_until
from feedback_loop.outcomes.folder import FolderIntake, load_folder, read_outcomes
from feedback_loop.outcomes.intake import IntakeResult, OnError, record_outcomes

__all__ = [
    "FolderIntake",
    "IntakeResult",
    "OnError",
    "is_matured",
    "load_folder",
    "matured_until",
    "read_outcomes",
    "record_outcomes",
]
