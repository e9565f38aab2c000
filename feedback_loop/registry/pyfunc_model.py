"""Models of any library, as an object of MLflow's `PythonModel` holds one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

EXAMPLE_ROWS = 100
"""By its answers to so many rows the signature is made."""


def is_pyfunc(model: Any) -> bool:
    """Whether it is such an object."""
    from mlflow.pyfunc import PythonModel

    return isinstance(model, PythonModel)


def write_pyfunc(model: Any, path: Path, features: Any, module: Path, home: Path) -> None:
    """Writes it to a folder in MLflow's format, with the `module` of its class, if that is of the folder `home`.

    No row is kept with it as an example: it would be people's.
    """
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    rows = features.head(EXAMPLE_ROWS)
    code = [str(home / module.relative_to(home).parts[0])] if module.is_relative_to(home) else None
    signature = infer_signature(rows, model.predict(None, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no example
        mlflow.pyfunc.save_model(str(path), python_model=model, signature=signature, code_paths=code)
