"""What people write by hand: FastAPI, Pydantic, pandas, scikit-learn. Started by uvicorn.

`def`, not `async def`, as FastAPI's documents say for work that keeps a processor busy. Classes come from the
probabilities: asking the model twice would halve its speed.
"""

from __future__ import annotations

import os
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(os.environ["MODEL"])


class Body(BaseModel):
    """The same body that MLflow takes."""

    dataframe_records: list[dict[str, float | str]]


@app.post("/invocations")
def invocations(body: Body) -> dict[str, Any]:
    """A class and probabilities per row."""
    probabilities = model.predict_proba(pd.DataFrame.from_records(body.dataframe_records))
    classes = model.classes_[probabilities.argmax(axis=1)]
    return {"predictions": classes.tolist(), "probabilities": probabilities.tolist()}
