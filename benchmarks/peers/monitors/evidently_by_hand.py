"""By hand: pandas, and Evidently's presets of drift and classification."""

import warnings

import pandas as pd
from data import ANSWER, LABEL, NUMBERS, WORDS, measure
from evidently import BinaryClassification, DataDefinition, Dataset, Report
from evidently.presets import ClassificationPreset, DataDriftPreset


def work(reference: pd.DataFrame, current: pd.DataFrame) -> None:
    """Both reports, as data."""
    task = BinaryClassification(
        target=LABEL, prediction_labels=ANSWER, prediction_probas="probability", pos_label="1"
    )
    definition = DataDefinition(
        numerical_columns=NUMBERS, categorical_columns=[*WORDS, LABEL, ANSWER], classification=[task]
    )
    sets = []
    for frame in (current, reference):
        named = frame[[*NUMBERS, *WORDS, LABEL, ANSWER]].astype({LABEL: str, ANSWER: str})
        sets.append(Dataset.from_pandas(named, definition))
    for preset in (DataDriftPreset(), ClassificationPreset()):
        Report([preset]).run(*sets).dict()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    measure(work)
