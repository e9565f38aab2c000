"""The one way to MLflow: imported on first use, its telemetry off, its errors in our words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from feedback_loop.config import keep_telemetry_off
from feedback_loop.errors import NotFound, Unavailable
from feedback_loop.private import new_file, new_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULTS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # ours says more
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where a command prints its result
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 12 s until a server counts as away, and not 4 minutes
}
"""MLflow's settings that we prefer; what the user's environment says goes first."""


_OF_BUCKETS = ("boto3", "botocore", "s3transfer", "google", "azure", "paramiko", "pysftp")

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
"""MLflow's codes for what it does not have; `ENDPOINT_NOT_FOUND` is what it makes of any page with the status 404."""


class Connection:
    """An MLflow tracking server and registry, by their URIs. No global state of MLflow's is set."""

    def __init__(
        self,
        tracking_uri: str,
        registry_uri: str,
        artifact_root: Path,
        experiment: str,
        *,
        trusted: bool | None = None,
    ) -> None:
        self._trusted = trusted
        self.tracking_uri = tracking_uri
        self.registry_uri = registry_uri or tracking_uri
        self._artifact_root = artifact_root
        self._experiment = experiment

    @property
    def is_server(self) -> bool:
        """Whether a server is asked, and not its database."""
        return self.tracking_uri.startswith(("http://", "https://", "databricks"))

    @property
    def is_trusted(self) -> bool:
        """Whether models may hold code (pickles): as configured, else if tracking and registry are on this host."""
        if self._trusted is not None:
            return self._trusted
        return all(_is_local(uri) for uri in (self.tracking_uri, self.registry_uri))

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client, made on first use (its import takes seconds)."""
        keep_telemetry_off()
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        for uri in (self.tracking_uri, self.registry_uri):
            name = uri.removeprefix("sqlite:///").partition("?")[0]
            if name != uri and Path(name).parent.is_dir():
                new_file(Path(name))  # MLflow would make it for everybody to read
        return MlflowClient(self.tracking_uri, self.registry_uri)

    @property
    def experiment_id(self) -> str:
        """The experiment that holds the loop's runs, made if it is not there.

        A deleted one stays deleted, and keeps its name: the next is called `…-2`.
        """
        with self.translated("experiment", self._experiment):
            for ordinal in count(1):
                name = self._experiment if ordinal == 1 else f"{self._experiment}-{ordinal}"
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    break
                if experiment.lifecycle_stage == "active":
                    return str(experiment.experiment_id)
            # A server knows where artifacts go; with a bare database they would land in the working folder.
            location = None
            if not self.is_server:
                new_folder(self._artifact_root)
                location = (self._artifact_root / name).as_uri()
            return str(self.client.create_experiment(name, artifact_location=location))

    @contextmanager
    def translated(self, kind: str, name: str) -> Iterator[None]:
        """Turns what MLflow raises into NotFound (of that kind and name) or Unavailable.

        Only MLflow's own code says that something is not there: a gateway's page says "not found" while it is away.
        """
        keep_telemetry_off()
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code in NOT_THERE:
                raise NotFound(kind, name, cure="See what there is: feedback-loop models list.") from error
            raise self._unavailable(error) from error
        except Exception as error:
            # A bare database, a server that is away, a bucket: the errors of MLflow's own libraries come through.
            library = type(error).__module__.split(".")[0]
            if isinstance(error, OSError) or library in ("requests", "sqlalchemy") or _is_of_bucket(error, library):
                raise self._unavailable(error) from error
            raise

    def _unavailable(self, error: Exception) -> Unavailable:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        cure = "Check registry.tracking_uri, and that the server runs."
        if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            cure = "Say who asks: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        elif isinstance(error, ImportError):
            cure = f"Its artifacts are in a store that needs it: pip install {error.name}."
        elif _is_of_bucket(error, type(error).__module__.split(".")[0]):
            cure = "Check the rights to the bucket of its artifacts in this environment, and that it can be reached."
        return Unavailable("registry", f"MLflow at {self.tracking_uri} refused: {first_line[:300]}.", cure=cure)


def _is_of_bucket(error: Exception, library: str) -> bool:
    """Whether it is of a library by which MLflow asks a store of artifacts, or of its lack."""
    lacks = str(error.name).split(".")[0] if isinstance(error, ImportError) else ""
    return bool({library, lacks} & set(_OF_BUCKETS))


def page_at(uri: str, place: str) -> str:
    """The address of a page of the server at that URI; empty for what has no pages."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return ""
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")  # without a password
    return f"{server.geturl().rstrip('/')}/#/{place}"


def _is_local(uri: str) -> bool:
    if uri.startswith(("http://", "https://")):
        return urlsplit(uri).hostname in ("127.0.0.1", "::1", "localhost")
    return uri.startswith(("sqlite:", "file:", "/", ".")) or ("://" not in uri and not uri.startswith("databricks"))
