"""whylogs: one profile of all columns."""

import warnings

import pandas as pd
import whylogs
from data import LABEL, NUMBERS, WORDS, measure


def work(reference: pd.DataFrame, current: pd.DataFrame) -> None:
    """The current profile; that of the reference is kept."""
    del reference
    whylogs.log(current[[*NUMBERS, *WORDS, LABEL]]).view().to_pandas()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    measure(work)
