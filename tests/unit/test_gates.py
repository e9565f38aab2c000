"""Gates beside that of the loss, on scikit-learn models and made-up rows: what each lets pass, and what it stops."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mlflow.models import infer_signature
from scipy import stats
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from feedback_loop.config import ModelSettings
from feedback_loop.errors import BadInput
from feedback_loop.inference import make_scorer
from feedback_loop.monitoring import primary_loss
from feedback_loop.registry import LoadedModel, ModelVersion, unmet_thresholds
from feedback_loop.retraining import budget, gates
from feedback_loop.retraining.budget import cost_of, within_budget
from feedback_loop.retraining.dataset import OUTCOME, TrainingRows
from feedback_loop.retraining.gate import non_inferiority, paired_difference
from feedback_loop.retraining.recipes import averaged
from feedback_loop.retraining.split import Split
from feedback_loop.retraining.trials import Candidate, Plan, Success

DAYS, PER_DAY = 20, 100
FEATURES = ["age", "income", "plan"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch):
    """The time of a row is that of a few: nothing here is about what it is."""
    monkeypatch.setattr(budget, "CALLS", 5)


class Shifted(LogisticRegression):
    """One whose probabilities are too high."""

    def predict_proba(self, inputs):
        odds = np.log(super().predict_proba(inputs)[:, 1] / super().predict_proba(inputs)[:, 0]) + 0.7
        chances = 1 / (1 + np.exp(-odds))
        return np.column_stack([1 - chances, chances])


def rows(seed, first, leaks=False):
    """Labelled rows of twenty days: `age` and `income` tell something of the outcome, and a leak all of it."""
    random = np.random.default_rng(seed)
    count = DAYS * PER_DAY
    age, income = random.normal(size=count), random.normal(size=count)
    churned = random.random(count) < 1 / (1 + np.exp(-1.5 * age - income))
    times = [NOW + timedelta(days=first + place // PER_DAY, seconds=place % PER_DAY) for place in range(count)]
    plan = churned * 2.0 + random.normal(size=count) * 0.1 if leaks else random.normal(size=count)
    columns = {"age": age, "income": income, "plan": plan, "group": np.where(age > 0.5, "old", "young")}
    return pa.table(
        {
            **columns,
            "churned": churned,
            "predicted_at": pa.array(times, pa.timestamp("us", "UTC")),
            "prediction_id": pa.nulls(count, pa.string()),
            OUTCOME: np.arange(count) + first * count,
        }
    )


SETTINGS = {"task": "binary", "label": "churned", "segments": ("group",), "positive": True}


def scorer(estimator, table, settings, columns=("age", "income")):
    inputs = table.select([*FEATURES, "group"]).to_pandas()
    chosen = make_column_transformer(("passthrough", list(columns)))
    fitted = make_pipeline(chosen, estimator).fit(inputs, table.column("churned").to_numpy())
    version = ModelVersion("m", "1", None, NOW, (), {})
    signature = infer_signature(inputs, np.array([True])).to_dict()
    loaded = LoadedModel(version, Path(), signature, fitted, None, "predict", ())
    return make_scorer(loaded, settings)


def case(candidate, champion=None, leaks=False, columns=("age", "income"), **retraining):
    learn, holdout = rows(0, 0, leaks), rows(1, DAYS, leaks)
    settings = ModelSettings(**SETTINGS, retraining=retraining)
    one = scorer(candidate, learn, settings, columns)
    other = scorer(champion or LogisticRegression(), rows(2, 0, leaks), settings)
    sides = [TrainingRows(side, other) for side in (learn, holdout)]
    loss = primary_loss(other.contract)
    losses = [sides[1].losses(version, loss) for version in (other, one)]
    return gates.GateCase(other, one, Split(*sides, NOW + timedelta(days=DAYS)), loss, *losses, settings)


def judged(given):
    options = {"margin": given.settings.retraining.margin, "alpha": given.settings.retraining.alpha}
    losses = given.candidate_losses, given.champion_losses
    main = non_inferiority(given.loss, *losses, given.holdout.decided, **options)
    return {check.name: check for check in gates.run_gates(given, main)}


def failed(checks):
    return [name for name, check in checks.items() if not check.passed]


def refuses(candidate, champion):
    return f"{candidate.num_rows} rows are not enough for me"


def raises(candidate, champion):
    raise ZeroDivisionError("half a row")


def agrees(candidate, champion):
    return bool(candidate.num_rows == champion.num_rows)


def says_nothing(candidate, champion):
    return None


def test_a_good_candidate_passes_all_of_them_and_each_shows_its_figures():
    checks = judged(case(LogisticRegression(C=0.5)))
    assert failed(checks) == []
    assert list(checks) == ["loss", "segments", "signature", "calibration", "leak", "cost"]
    assert checks["segments"].summary == "It is not found worse in 2 segments."
    assert set(checks["segments"].figures) == {"group=old", "group=young"}
    assert set(checks["calibration"].figures) == {"mean", "slope"}
    assert checks["leak"].figures["age"] > checks["leak"].figures["plan"]
    assert checks["cost"].figures["candidate_bytes"] > 0


def test_a_candidate_that_is_worse_in_a_segment_alone_is_stopped_there():
    given = case(LogisticRegression())
    old = given.holdout.table.column("group").to_numpy() == "old"
    harmed = given.candidate_losses + np.where(old, 0.2, -0.1)
    worse = gates.GateCase(**{**vars(given), "candidate_losses": harmed})
    check = judged(worse)["segments"]
    assert (check.passed, "group=old by +0.2" in check.summary, "young" in check.summary) == (False, True, False)


def test_an_input_that_the_champion_needs_is_not_dropped_unasked():
    given = case(LogisticRegression(), columns=("age",))
    check = judged(given)["signature"]
    assert (check.passed, check.figures["dropped"]) == (False, ["income"])
    asked = replace(given, may_drop=("income",))
    assert judged(asked)["signature"].passed


def test_inputs_are_shuffled_few_at_once_with_the_same_result(monkeypatch):
    monkeypatch.setattr(gates, "PROBED_AT_ONCE", 1)
    check = judged(case(LogisticRegression(), columns=("age",)))["signature"]
    assert check.figures["dropped"] == ["income"]


def test_probabilities_that_are_off_are_stopped_but_not_where_the_champions_are_as_bad():
    check = judged(case(Shifted()))["calibration"]
    assert (check.passed, "mean -0." in check.summary) == (False, True)
    assert judged(case(Shifted(C=1.01), champion=Shifted(C=0.99)))["calibration"].passed


class Cautious(LogisticRegression):
    """One whose probabilities are too near to a half."""

    def predict_proba(self, inputs):
        odds = 0.5 * self.decision_function(inputs)
        chances = 1 / (1 + np.exp(-odds))
        return np.column_stack([1 - chances, chances])


def test_answers_that_are_too_cautious_are_stopped_only_where_the_loss_is_not_shown_to_be_lower():
    check = judged(case(Cautious()))["calibration"]
    assert (check.passed, "slope +" in check.summary) == (False, True)
    assert judged(case(Cautious(), champion=DummyClassifier(strategy="prior")))["calibration"].passed
    assert not judged(case(Shifted(), champion=DummyClassifier(strategy="prior")))["calibration"].passed


def test_a_feature_that_tells_the_outcome_alone_and_outcomes_on_both_sides_are_a_leak():
    given = case(LogisticRegression(), leaks=True, columns=("age", "income", "plan"))
    assert "plan alone explains 100.0%" in judged(given)["leak"].summary
    assert judged(case(LogisticRegression(), leaks=True, leak=1.0))["leak"].passed
    same = Split(given.split.learn, given.split.learn, given.split.at)
    losses = {"champion_losses": given.champion_losses, "candidate_losses": given.candidate_losses}
    both = replace(given, split=same, **losses)
    assert "2,000 held-out rows have an outcome that it has learned" in judged(both)["leak"].summary


def test_budgets_of_time_and_size():
    assert "over budget" in judged(case(LogisticRegression(), max_bytes=10))["cost"].summary
    assert failed(judged(case(LogisticRegression(), max_latency=timedelta(microseconds=1)))) == ["cost"]
    assert "as a model in Python: no budget" in judged(case(LogisticRegression()))["cost"].summary


def test_a_budget_of_time_is_of_what_is_served():
    check = judged(case(LogisticRegression(), champion=Shifted(), max_latency=timedelta(seconds=1)))["cost"]
    assert (check.passed, "ms (as ONNX, as it is served), the champion" in check.summary) == (True, True)
    assert "(as a model in Python: it can't be converted" in check.summary


def test_alpha_is_shared_by_the_segments_that_are_judged():
    given = case(LogisticRegression(C=0.5))
    checks = judged(given)["segments"]
    inside = given.holdout.table.column("group").to_numpy() == "old"
    paired = paired_difference(
        given.candidate_losses[inside], given.champion_losses[inside], given.holdout.decided[inside]
    )
    alpha = given.settings.retraining.alpha / 2
    bound = paired.mean - stats.t.ppf(1 - alpha, paired.days - 1) * paired.standard_error
    assert checks.figures["group=old"]["at_least"] == pytest.approx(bound)


def test_a_gate_that_a_distribution_brings_is_found_by_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "their_gates-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-gates\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[feedback_loop.gates]\nfairness = their_gates:judge\n")
    (tmp_path / "their_gates.py").write_text(
        "def judge(candidate, champion):\n    return f'{candidate.num_rows} rows of theirs'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    check = judged(case(LogisticRegression(), gates=("fairness",)))["fairness"]
    assert (check.passed, check.summary) == (False, "2000 rows of theirs")


def candidate_of(given, **estimators):
    """An average of these, all of the same rows, as a search makes it."""
    holdout, loss = given.holdout, given.loss
    members = []
    for kind, estimator in estimators.items():
        made = scorer(estimator, given.split.learn.table, given.settings)
        plan, losses = Plan(kind, None, "all", None, 0), holdout.losses(made, loss)
        members.append(Success(plan, None, made.loaded.estimator, made, losses))
    average = rescored(given)(averaged({member.plan.recipe: member.estimator for member in members}))
    return Candidate(tuple(members), average, holdout.losses(average, loss))


def rescored(given):
    return lambda estimator: make_scorer(replace(given.champion.loaded, estimator=estimator), given.settings)


class Large(LogisticRegression):
    """One that takes room."""

    def fit(self, inputs, label):
        self.ballast_ = b" " * 1_000_000
        return super().fit(inputs, label)


@pytest.mark.parametrize(
    ("estimators", "budget", "chosen"),
    [
        ({"own": LogisticRegression(), "linear": LogisticRegression(C=0.5), "trees": Large()}, None, 3),
        ({"own": LogisticRegression(), "linear": LogisticRegression(C=0.5), "trees": Large()}, 500_000, 2),
        ({"own": Large(C=0.5), "linear": LogisticRegression(), "trees": Large()}, 500_000, 1),
        ({"own": LogisticRegression(), "linear": Shifted(), "trees": Large()}, 500_000, 1),
        ({"own": Large(), "linear": Shifted()}, 500_000, 2),  # what is small is worse
        ({"own": Large(), "linear": Large(C=0.5)}, 500_000, 2),  # none is small: its gate says so
    ],
)
def test_fewer_kinds_are_averaged_where_only_they_meet_the_budget_and_are_as_good(estimators, budget, chosen):
    given = case(LogisticRegression(), max_bytes=budget)
    candidate = candidate_of(given, **estimators)
    made = within_budget(candidate, given.holdout, given.loss, given.settings, rescored(given))
    assert len(made.members) == chosen
    cost = cost_of(made.scorer, given.holdout, given.settings)
    assert not cost.over(given.settings.retraining) or made is candidate
    assert np.array_equal(made.losses, given.holdout.losses(made.scorer, given.loss))


def test_gates_of_ones_own_are_asked_and_one_that_errs_has_failed():
    causes = {
        "tests.unit.test_gates:refuses": "2000 rows are not enough for me",
        "tests.unit.test_gates:raises": "It could not be judged: ZeroDivisionError",
        "tests.unit.test_gates:says_nothing": "It could not be judged: TypeError: it answered NoneType",
        "tests.unit.test_gates:missing": "It could not be judged: AttributeError",
        "unknown": "It could not be judged: LookupError",
    }
    passes = "tests.unit.test_gates:agrees"
    checks = judged(case(LogisticRegression(), gates=(*causes, passes)))
    assert failed(checks) == [*causes]
    assert checks[passes].passed
    assert all(checks[path].summary.startswith(cause) for path, cause in causes.items())


def test_thresholds_are_those_of_mlflow():
    reached = {"f1": {"threshold": 0.5, "greater_is_better": True}}
    given = case(LogisticRegression(), thresholds=reached)
    assert judged(given)["thresholds"].passed
    missed = {"f1": {"threshold": 0.99, "greater_is_better": True}}
    assert "f1" in judged(case(LogisticRegression(), thresholds=missed))["thresholds"].summary
    better = {"f1": {"min_absolute_change": 0.1, "greater_is_better": True}}
    assert unmet_thresholds(better, {"f1": 0.75}, {"f1": 0.7})
    assert not unmet_thresholds(better, {"f1": 0.85}, {"f1": 0.7})
    with pytest.raises(BadInput, match="thresholds"):
        unmet_thresholds({"f1": {"threshold": "high", "greater_is_better": True}}, {"f1": 1.0}, {"f1": 1.0})
