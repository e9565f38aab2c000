"""What MLflow and its libraries refuse, in our words, with its cure."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, UNAUTHENTICATED

from feedback_loop.errors import NotFound, Unavailable
from feedback_loop.registry import Reference, cure_of_webhook
from tests.builders import register_churn


def test_what_mlflow_says_of_a_webhook_names_the_variable_that_its_server_needs(monkeypatch):
    from mlflow.utils.validation import _validate_webhook_url

    def cure(url):
        with pytest.raises(MlflowException) as refused:
            _validate_webhook_url(url)
        return cure_of_webhook(refused.value.message)

    assert "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https" in cure("http://127.0.0.1:5001/webhooks/mlflow")
    assert "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true" in cure("https://127.0.0.1:5001/webhooks/mlflow")
    assert "serving.webhook_secret" in cure_of_webhook("401: the signature is not MLflow's")
    assert "that the server runs" in cure_of_webhook("Connection refused")


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (type("Denied", (Exception,), {"__module__": "botocore.exceptions"})("a"), "rights to the bucket"),
        (type("Denied", (Exception,), {"__module__": "google.api_core.exceptions"})("b"), "rights to the bucket"),
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "pip install boto3"),
        (MlflowException("401", error_code=UNAUTHENTICATED), "MLFLOW_TRACKING_USERNAME"),
        (MlflowException("403", error_code=PERMISSION_DENIED), "MLFLOW_TRACKING_USERNAME"),
        (ConnectionRefusedError("no"), "that the server runs"),
    ],
)
def test_what_mlflows_libraries_raise_is_said_with_its_cure(registry, error, cure):
    with pytest.raises(Unavailable) as told, registry._mlflow.translated("model", "churn"):
        raise error
    assert cure in told.value.cure


@pytest.mark.parametrize("error", [TypeError("ours"), ModuleNotFoundError("No module named 'x'", name="x")])
def test_what_is_no_fault_of_mlflows_is_raised_as_it_is(registry, error):
    with pytest.raises(type(error)), registry._mlflow.translated("model", "churn"):
        raise error


@pytest.mark.parametrize(("alias", "cure"), [("champion", "models promote churn VERSION"), ("mine", "models list")])
def test_a_model_of_which_no_version_has_the_alias_is_told_how_one_gets_it(registry, now, alias, cure):
    register_churn(registry, now)
    with pytest.raises(NotFound, match="no model with that alias") as told:
        registry.find(Reference("churn", alias=alias))
    assert cure in told.value.cure
