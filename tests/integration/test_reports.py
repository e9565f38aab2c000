"""Evidently's reports, of every task and on nasty data: made of profiles, with the exact figures."""

import json
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput
from feedback_loop.monitoring import list_reports, model_folder, write_report
from feedback_loop.monitoring.evaluation import profile_of_reference
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.reports import RealRows, Subject, page, pages_holding, snapshot_of
from feedback_loop.schema import Column, ColumnType
from tests.builders import binary_contract, evaluate_rows, multiclass_contract, regression_contract

RANDOM = np.random.default_rng(0)


MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
AS_OF = datetime(2026, 4, 2, 4, tzinfo=UTC)


def subject(contract, reference, current, name="2026-03", window=MARCH, **more):
    """What a report of these rows is of."""
    profile = profile_of_reference(contract, reference, timedelta(days=1))
    told = {"version": "3", "window": window, "as_of": AS_OF, "matured": True}
    evaluation = evaluate_rows(contract, current, profile, **told)
    counted = Profile.of(profile.layout, fold(profile.layout, current))
    return Subject(name, counted, profile, evaluation, **more)


def binary(count, shift=0.0, threshold=0.5, random=RANDOM):
    chance = random.random(count)
    return pa.table(
        {
            "age": random.normal(40 + shift, 5, count),
            "plan": random.choice(["basic", "pro"], count),
            "prediction": chance > threshold,
            "probability": chance,
            "churned": random.random(count) < chance,
        }
    )


def multiclass(count):
    chance = RANDOM.dirichlet([1, 1, 1], count)
    names = np.array(list("abc"))
    columns = {f"probability_{name}": chance[:, place] for place, name in enumerate("abc")}
    return pa.table(
        {
            "x": RANDOM.normal(size=count),
            "prediction": names[chance.argmax(axis=1)],
            "kind": RANDOM.choice(names, count),
            **columns,
        }
    )


def regression(count):
    truth = RANDOM.normal(size=count)
    return pa.table({"x": truth, "prediction": truth + RANDOM.normal(size=count) / 10, "paid": truth})


def figures(data, kind="SingleValue"):
    """What Evidently says in a report's data, by the name of its metric."""
    return {each["metric_name"]: each["value"] for each in json.loads(data.read_text())["metrics"]}


def figure(data, start):
    (found,) = [value for name, value in figures(data).items() if name.startswith(start)]
    return found


@pytest.mark.parametrize(
    ("contract", "rows"),
    [
        (binary_contract(), binary),
        (binary_contract(probabilities=False), binary),
        (multiclass_contract(), multiclass),
        (regression_contract(), regression),
    ],
)
@pytest.mark.parametrize("kind", ["drift", "validation"])
@pytest.mark.parametrize("shown", ["surrogate", pytest.param("full", marks=pytest.mark.statistics)])
def test_every_task_has_its_reports_as_page_and_as_data(tmp_path, contract, rows, kind, shown):
    reference, current = rows(300), rows(200)
    real = RealRows(current, reference, shown) if shown == "full" else None
    paths = write_report(kind, subject(contract, reference, current), tmp_path / "reports", real)
    assert [path.name for path in paths] == [f"2026-03-{kind}.html", f"2026-03-{kind}.json"]
    assert "<script" in paths[0].read_text()
    data = json.loads(paths[1].read_text())
    assert (data["version"], data["kind"], data["shown"], data["rows"]) == ("3", kind, shown, 200)
    assert (data["window"], data["as_of"]) == (["2026-03-01", "2026-04-01"], "2026-04-02T04:00Z")
    assert any("ExactFigure(" in name for name in figures(paths[1]))
    assert len(figures(paths[1])) > len(data["exact"])
    assert snapshot_of(paths[1]).is_file()


@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_columns_are_called_as_the_model_calls_them(tmp_path, kind):
    types = {"Age": ColumnType.DOUBLE, "age": ColumnType.DOUBLE, "plan": ColumnType.STRING}
    contract = binary_contract(features=tuple(Column(*each) for each in types.items()), label="source")
    names = {"age": "Age", "churned": "source_2"}
    reference, current = (
        rows.rename_columns([names.get(name, name) for name in rows.column_names]).append_column("age_2", rows["age"])
        for rows in (binary(300), binary(200, shift=20))
    )
    told = subject(contract, reference, current)
    assert {each.column for each in (*told.evaluation.drift, *told.evaluation.quality)} >= {"Age", "age", "plan"}
    for path in write_report(kind, told, tmp_path / "reports"):
        assert "age_2" not in path.read_text()
        assert "source_2" not in path.read_text()
        assert kind != "drift" or "Age" in path.read_text()


class Elements(HTMLParser):
    """The elements of a page, as whoever opens it has them before any script runs."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_what_callers_sent_stays_data_whatever_markup_is_in_it(tmp_path, kind):
    rows = binary(300)
    evil = pa.array(["</script><img src=x onerror=alert(1)>", "<!-- <script>", "plain"] * 100)
    marked = rows.set_column(rows.column_names.index("plan"), "plan", evil)
    found = subject(binary_contract(), marked, marked)
    html, data = write_report(kind, found, tmp_path, RealRows(marked, marked, "full"))
    page = Elements()
    page.feed(html.read_text())
    tags = [tag for tag, _ in page.found]
    assert (tags.count("img"), tags.count("script")) == (0, 4)
    assert json.loads(data.read_text())["rows"] == 300


@pytest.fixture(scope="module")
def march(tmp_path_factory):
    """A month's two reports of surrogates, for all that is read in them: the subject, its rows, folder and paths."""
    random = np.random.default_rng(1)
    reference, current = binary(20_000, random=random), binary(30_000, shift=2, random=random)
    found = subject(binary_contract(), reference, current, others=17)
    folder = tmp_path_factory.mktemp("march")
    paths = {kind: write_report(kind, found, folder) for kind in ("drift", "validation")}
    return found, RealRows(current, reference, "full"), folder, paths


def test_the_page_says_what_it_is_of_and_what_is_drawn(march):
    pages = {kind: page.read_text() for kind, (page, _) in march[3].items()}
    assert "Dataset Drift is" not in pages["drift"]  # below a table of columns, some of which have
    assert "30,000 predictions (coverage 100.0%), 2026-03-01 – 2026-04-01" in json_text(pages["drift"])
    for text in map(json_text, pages.values()):
        assert "against a reference of 20,000, as of 2026-04-02T04:00Z" in text
        assert "5,000 and 5,000 surrogate rows" in text
        assert "17 predictions of other champions in this window are not in it" in text
    assert "each column by itself: how columns go together is not shown" in pages["drift"]


def json_text(text):
    """A page's text: what is in a script is escaped."""
    return text.replace("\\u2013", "–")


def test_the_exact_figures_are_those_of_the_evaluation(march):
    found, told = march[0], {kind: data for kind, (_, data) in march[3].items()}
    for each in found.evaluation.metrics:
        if not each.segment:
            assert figure(told["validation"], f"ExactFigure(figure={each.metric},column=)") == each.value
    decisive = [each for each in found.evaluation.drift if each.decides]
    assert {each.column for each in decisive} == {"age", "plan", "prediction", "probability"}
    for each in decisive:
        assert figure(told["drift"], f"ExactFigure(figure={each.method},column={each.column})") == each.value
    exact = json.loads(told["validation"].read_text())["exact"]["metrics"]
    assert exact[0].keys() >= {"metric", "value", "coverage", "least", "most", "standard_error"}


def test_what_evidently_finds_in_surrogates_is_what_it_finds_in_the_rows(march, tmp_path):
    found, real, _, paths = march
    made = {kind: data for kind, (_, data) in paths.items()}
    full = {kind: write_report(kind, found, tmp_path, real)[1] for kind in ("drift", "validation")}
    for column, tolerance in {"age": 1e-3, "probability": 3e-4, "plan": 3e-4, "prediction": 3e-4}.items():
        mine, theirs = (figure(each["drift"], f"ValueDrift(column={column},") for each in (made, full))
        assert mine == pytest.approx(theirs, abs=tolerance)
    for metric, tolerance in {"RocAuc(": 1e-4, "Accuracy(": 2e-4, "LogLoss(": 1e-3, "Recall(": 4e-4}.items():
        mine, theirs = (figure(each["validation"], metric) for each in (made, full))
        assert mine == pytest.approx(theirs, abs=tolerance)
    for metric in ("MeanValue(column=age", "StdValue(column=age", "QuantileValue(column=age,quantile=0.25"):
        mine, theirs = (figure(each["drift"], metric) for each in (made, full))
        assert mine == pytest.approx(theirs, rel=2e-3)


def methods(data):
    """How Evidently compared each column."""
    return {name.split("method=")[1].split(",")[0] for name in figures(data) if name.startswith("ValueDrift(")}


def test_no_test_is_made_of_surrogates_where_it_would_be_of_few_rows(march, tmp_path):
    assert methods(march[3]["drift"][1]) == {"wasserstein", "jensenshannon"}
    reference, current = binary(500), binary(500)
    found = subject(binary_contract(), reference, current)
    real = write_report("drift", found, tmp_path, RealRows(current, reference, "full"))[1]
    assert any("p_value" in name for name in figures(real) if name.startswith("ValueDrift("))


def test_the_curves_are_in_the_data(march):
    curves = json.loads(march[3]["validation"][1].read_text())["curves"]["True"]
    assert [round(each["score"], 1) for each in curves["calibration"]] == pytest.approx(
        [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95], abs=0.06
    )
    assert curves["lift"][-1]["lift"] == pytest.approx(1.0)
    assert (curves["roc"][0], curves["roc"][-1]) == ([0, 0], [1, 1])


def test_the_reports_of_a_folder_are_listed(march):
    folder = march[2]
    listed = list_reports(folder)
    assert [(each.kind, each.rows, each.reference_rows, each.shown) for each in listed] == [
        ("drift", 30_000, 20_000, "surrogate"),
        ("validation", 30_000, 20_000, "surrogate"),
    ]
    assert all(each.path.is_file() for each in listed)
    assert list_reports(folder / "nowhere") == []


@pytest.mark.parametrize(
    "threshold", [0.3, *(pytest.param(each, marks=pytest.mark.statistics) for each in (0.5, 0.9))]
)
def test_the_accuracy_drawn_is_that_of_the_models_answers_at_its_own_threshold(tmp_path, threshold):
    current = binary(4000, threshold=threshold)
    found = subject(binary_contract(), binary(4000, threshold=threshold), current)
    data = write_report("validation", found, tmp_path)[1]
    accuracy = (current.column("churned").to_numpy() == current.column("prediction").to_numpy()).mean()
    assert figure(data, "Accuracy(") == pytest.approx(accuracy, abs=3e-4)


@pytest.mark.parametrize(
    "nasty_are", ["current", *(pytest.param(each, marks=pytest.mark.statistics) for each in ("reference", "both"))]
)
def test_missing_values_constants_and_new_words_do_not_break_a_report(tmp_path, nasty_are):
    nasty = binary(300).to_pydict()
    nasty["age"] = [None] * 100 + [1.0] * 100 + [np.inf] * 50 + [-1e300] * 50
    nasty["plan"] = ["new"] * 299 + [None]
    nasty["churned"] = [None] * 100 + [True] * 100 + [False] * 100
    rows = pa.table(nasty)
    reference = binary(300) if nasty_are == "current" else rows
    current = binary(300) if nasty_are == "reference" else rows
    found = subject(binary_contract(), reference, current)
    for kind in ("drift", "validation"):
        for real in (None, RealRows(current, reference, "full")):
            data = write_report(kind, found, tmp_path, real)[1]
            assert json.loads(data.read_text())["model"] == "churn"


def test_a_column_without_values_is_left_out_and_the_others_are_drawn(tmp_path):
    place = binary(300).column_names.index("age")
    empty = binary(300).set_column(place, "age", pa.nulls(300, pa.float64()))
    for reference, current in ((binary(300), empty), (empty, binary(300))):
        found = subject(binary_contract(), reference, current)
        drawn = {
            name for name in figures(write_report("drift", found, tmp_path)[1]) if name.startswith("ValueDrift(")
        }
        assert {name.split("column=")[1].split(",")[0] for name in drawn} == {"plan", "prediction", "probability"}


def test_one_class_only_and_constant_probabilities_are_reported(tmp_path):
    one = binary(200).to_pydict()
    one["churned"], one["prediction"], one["probability"] = [False] * 200, [False] * 200, [0.25] * 200
    found = subject(binary_contract(), binary(300), pa.table(one))
    data = json.loads(write_report("validation", found, tmp_path)[1].read_text())
    assert {each["metric"]: each["value"] for each in data["exact"]["metrics"]}["accuracy"] == 1.0
    assert data["curves"] == {}


@pytest.mark.parametrize("classes", ["ab", "abcd", "b", "d"])
def test_outcomes_of_fewer_or_of_unknown_classes_are_reported(tmp_path, classes):
    reference, current = multiclass(300), multiclass(300)
    truth = pa.array(RANDOM.choice(list(classes), 300))
    current = current.set_column(current.column_names.index("kind"), "kind", truth)
    found = subject(multiclass_contract(), reference, current)
    for real in (None, RealRows(current, reference, "full")):
        html, data = write_report("validation", found, tmp_path, real)
        is_drawn = any(name.startswith("Accuracy(") for name in figures(data))
        assert is_drawn == (len(classes) > 1)
        assert is_drawn != ("are of one class" in html.read_text())


def test_of_many_columns_those_that_are_farthest_are_drawn_and_the_page_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_COLUMNS", 2)
    found = subject(binary_contract(), binary(2000), binary(2000, shift=5))
    html, data = write_report("drift", found, tmp_path)
    drawn = [name for name in figures(data) if name.startswith("ValueDrift(")]
    assert len(drawn) == 2
    assert any("column=age," in name for name in drawn)
    assert {each["column"] for each in json.loads(data.read_text())["exact"]["drift"]} >= {"plan", "probability"}
    assert html.stat().st_size < 6 * 2**20


@pytest.mark.parametrize("kind", ["drift", "validation"])
def test_too_few_rows_are_refused_with_their_number(tmp_path, kind):
    with pytest.raises(BadInput, match="9 rows are too few"):
        write_report(kind, subject(binary_contract(), binary(300), binary(9)), tmp_path)
    unlabelled = binary(50).set_column(4, "churned", pa.nulls(50, pa.bool_()))
    found = subject(binary_contract(), binary(300), unlabelled)
    if kind == "validation":
        with pytest.raises(BadInput, match="0 rows are too few"):
            write_report(kind, found, tmp_path)
    else:
        page = write_report(kind, found, tmp_path)[0]
        assert "There is no report of validation: 0 outcomes are too few." in page.read_text()


def test_reports_of_two_models_of_one_window_leave_each_other_alone(tmp_path):
    for name, rows in (("churn", 200), ("fraud [eu]", 250)):
        write_report("drift", subject(binary_contract(name), binary(300), binary(rows)), tmp_path)
    assert [(each.model, each.name, each.rows) for each in list_reports(tmp_path)] == [
        ("churn", "2026-03", 200),
        ("fraud [eu]", "2026-03", 250),
    ]
    assert len({each.path for each in list_reports(tmp_path)}) == 2
    assert all(each.path.parent == model_folder(tmp_path, each.model) for each in list_reports(tmp_path))


def test_a_window_has_one_snapshot_of_each_kind_however_often_it_is_reported(tmp_path):
    from evidently.ui.workspace import Workspace

    later = Window(MARCH.end, MARCH.end + timedelta(days=30))
    for window, kind in ((MARCH, "drift"), (MARCH, "drift"), (MARCH, "validation"), (later, "drift")):
        found = subject(binary_contract(), binary(300), binary(200), window=window)
        write_report(kind, found, tmp_path)
    workspace = Workspace(str(tmp_path / "evidently"))
    (project,) = workspace.list_projects()
    assert project.name == "churn"
    kept = [workspace.get_run(project.id, each) for each in workspace.list_runs(project.id)]
    assert sorted((each.timestamp, *each.tags) for each in kept) == [
        (window.end, kind, "version 3", "surrogate")
        for window, kind in ((MARCH, "drift"), (MARCH, "validation"), (later, "drift"))
    ]
    assert [tab.title for tab in project.dashboard.model().tabs] == ["drift", "validation"]


def test_only_pages_of_real_rows_may_hold_somebody(tmp_path):
    reference, current = binary(300), binary(200)
    then = MARCH.start + timedelta(days=3)
    span = (MARCH.start - timedelta(days=20), MARCH.start - timedelta(days=10))
    made = subject(binary_contract(), reference, current, name="made")
    write_report("drift", made, tmp_path)
    real = subject(binary_contract(), reference, current, name="real", reference_span=span)
    _, data = write_report("drift", real, tmp_path, RealRows(current, reference, "sample"))
    folder = model_folder(tmp_path, "churn")
    assert pages_holding(folder, "churn", [then]) == [data]
    assert pages_holding(folder, "churn", [span[0]]) == [data]
    assert pages_holding(folder, "churn", [span[0] - timedelta(days=1)]) == []
    assert pages_holding(folder, "another", [then]) == []
    (folder / "older-drift.json").write_text(json.dumps({"about": "churn, older", "metrics": []}))
    assert pages_holding(folder, "churn", [then]) == [folder / "older-drift.json", data]
