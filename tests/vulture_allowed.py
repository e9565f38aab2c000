"""Names that are used, but not by code that vulture reads: each with who uses it."""

import onnxruntime
from mlflow.models import Model
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier

import feedback_loop
from feedback_loop import store
from feedback_loop.alerts import Delivery
from feedback_loop.capture import middleware
from feedback_loop.config import AlertSettings, Settings
from feedback_loop.config_policy import ThresholdSettings
from feedback_loop.dashboard.tables import Table
from feedback_loop.decisions.backtest import Aftermath
from feedback_loop.decisions.diagnosis import split, words
from feedback_loop.decisions.evidence import LossEvidence
from feedback_loop.inference import Coefficients, FileResult, batch
from feedback_loop.inference.bundle import Bundle
from feedback_loop.inference.proving import Proof
from feedback_loop.mlflow_plugin import datasets, deployments, evaluator, run_context, server_app
from feedback_loop.monitoring.confusion import Ratio
from feedback_loop.monitoring.profiles.blocks import Loss
from feedback_loop.monitoring.reports import exact_figures
from feedback_loop.privacy import Erasure
from feedback_loop.retraining import Outline
from feedback_loop.scheduling.schedules import Trigger
from feedback_loop.serving import metrics
from feedback_loop.store import (
    evaluations,
    incidents,
    ledger,
    model_tables,
    predictions,
    retrainings,
    schema,
    studies,
)
from feedback_loop.store.approvals import Vote
from feedback_loop.store.freezes import Freeze
from feedback_loop.store.lookup import LoggedPrediction, OutcomeRevision
from feedback_loop.views import doctor
from feedback_loop.views.versions import Version

# ONNX Runtime reads its options off the object.
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level

# MLflow writes them into a model's description.
described = Model()
described.artifact_path, described.model_uuid

# Python itself, of the package.
feedback_loop.__getattr__

# Fields that are printed: `--json` writes whole records.
Delivery.sent, Delivery.given_up
ThresholdSettings.greater_is_better, ThresholdSettings.min_absolute_change, ThresholdSettings.min_relative_change
Freeze.lifted_by, Freeze.lifted_because
Vote.voted_at
FileResult.resumed_rows
Outline.held_out_from
evaluations.DriftValue.is_default, evaluations.EstimateValue.calibrated_on, ledger.FailedWindow.failed_at
Erasure.mlflow_reports, Erasure.stays, Erasure.unread_payloads
Proof.classes_differ, Proof.max_difference
doctor.Check.ok, doctor.Check.detail
words.Causes.rows_before, words.Causes.rows_now, split.Split.thin
Aftermath.next_version, LossEvidence.reference_labels
ledger.JobRun.finished_at, retrainings.Retraining.finished_at, incidents.Incident.closed_because

# A migration asks it.
model_tables.model_keys

# Evidently calls these.
exact_figures.ExactFigureCalculation.calculate, exact_figures.ExactFigureCalculation.display_name
exact_figures.ExactFigures.generate_metrics, exact_figures.ExactFigures.render

# scikit-learn reads these off its estimators.
forest = HistGradientBoostingClassifier()
forest.n_estimators, forest.n_estimators_, forest.max_iter
VotingClassifier.named_estimators_

# By whom an adapter's intervals will be served.
Coefficients.intervals

# Of a model's description, by servers.
Bundle.output_names

# Shown by templates, and in the API.
Table.caption, Table.most
OutcomeRevision.named_by, OutcomeRevision.occurred_at, LoggedPrediction.sample_weight, LoggedPrediction.is_conflict
Version.promoted_at, Version.retired_at

# Read by whoever runs a server of their own.
middleware.AnswerCounts.missed

# Compared whole: what makes two batch jobs the same.
batch.Job.modified_ns, batch.Job.registered_at

# pydantic-settings.
Settings.settings_customise_sources

# Read by the validator of the hours, by its name.
AlertSettings.timezone

# APScheduler, by keyword.
Trigger.get_next_fire_time.previous_fire_time

# prometheus-client.
metrics.Metrics.collect, metrics.Metrics.describe

# SQLAlchemy and its drivers.
store.engine.connection.isolation_level
incidents.incidents_open
schema.Moment.load_dialect_impl, schema.Moment.process_bind_param, schema.Moment.process_result_value

# Gone through by the enumeration; squares stand one behind what they are of.
Ratio.recall, Ratio.f1, Loss.LOG_LOSS_SQUARED, Loss.BRIER_SQUARED

# Tests count the log itself, by whatever has been logged.
predictions.count_predictions

# MLflow, by the names of its base classes and entry points.
deployments.FeedbackLoopDeployments.create_deployment, deployments.FeedbackLoopDeployments.update_deployment
deployments.FeedbackLoopDeployments.delete_deployment, deployments.FeedbackLoopDeployments.list_deployments
deployments.FeedbackLoopDeployments.get_deployment, deployments.FeedbackLoopDeployments.explain
deployments.run_local, deployments.target_help
evaluator.FeedbackLoopEvaluator.can_evaluate
server_app.create_app, run_context.LoopRunContext.in_context, run_context.LoopRunContext.tags
datasets.load_feedback_loop, datasets.FeedbackLoopSource.load, datasets.FeedbackLoopSource.to_dict
datasets.FeedbackLoopSource._get_source_type, datasets.FeedbackLoopSource._can_resolve
datasets.FeedbackLoopSource._resolve, datasets.FeedbackLoopSource.from_json

# SQLAlchemy, by the names of its base class.
studies.InSchema.update_url, studies.InSchema.engine_created
