"""The join of predictions and outcomes against a plain model of it, on both databases.

Whatever comes in whatever order (predictions logged late, outcomes before their prediction, corrections, retries, a
clock that is set back), what was known at a moment that was asked about stays what it was, and the incremental join's
accounts and the kept profiles are those of a join from scratch, whenever a version's reference came. So stays which
versions, segments and windows there were, and what estimates had to learn from.
"""

import shutil
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from feedback_loop.clock import EPOCH, Window, floor_moment
from feedback_loop.monitoring import WindowQuery
from feedback_loop.monitoring.estimate_calibration import matured_profile
from feedback_loop.monitoring.profile_store import establish, fold_news, fold_window, kept_cells
from feedback_loop.monitoring.profiles.blocks import Block, Rows
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import Layout, make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.profiles.tally import EMPTY
from feedback_loop.monitoring.window_evaluation import count_window, due_windows
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import JoinRule, Which, prediction_id
from feedback_loop.store import Store, fence, joins, profiles
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.findings import CONFLICTING, UNMATCHED, load_findings
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, new_database, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WHOLE = Window(START - 1000 * HOUR, START + 1000 * HOUR)
WINDOW = timedelta(hours=4)

customers = st.sampled_from([0, 0, 1])
predict = st.tuples(st.just("predict"), customers, st.integers(0, 6))  # logged so many hours late
outcome = st.tuples(st.just("outcome"), customers, st.booleans(), st.integers(0, 6))  # occurred so many hours ago
others = st.one_of(
    st.tuples(st.just("retry"), st.integers(0, 3)),
    st.tuples(st.just("outcome by id"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("the same again"), st.integers(0, 3)),
    st.tuples(st.just("join"), st.just(0)),
    st.tuples(st.just("ask"), st.just(0)),
    st.tuples(st.just("clock"), st.integers(-6, 6)),
    st.tuples(st.just("reference"), st.integers(0, 2)),
)
parts = st.tuples(  # enough of both that they meet
    st.lists(predict, min_size=2, max_size=5), st.lists(outcome, min_size=1, max_size=4), st.lists(others, max_size=8)
)
JOINS = [("join", 0)] * 2  # with less, nothing that is booked is ever corrected
shuffled = parts.flatmap(lambda parts: st.permutations([*parts[0], *parts[1], *parts[2], *JOINS]))
events = st.one_of(shuffled.map(lambda events: [("reference", 0), *events]), shuffled)
rules = st.builds(
    JoinRule,
    horizon=st.sampled_from([None, 6 * HOUR, 12 * HOUR + timedelta(seconds=1)]),
    which=st.sampled_from(Which),
    absent_means=st.sampled_from([None, False]),
    maturity=st.just(6 * HOUR),
)
limits = st.sampled_from([1, 2, 50])  # of the values that are segments


@dataclass(frozen=True)
class Prediction:
    id: str
    customer: int
    at: datetime
    logged_at: datetime
    plan: str


@dataclass(frozen=True)
class Outcome:
    subject: object  # an id, or a customer
    occurred_at: datetime
    value: bool
    recorded_at: datetime


@dataclass
class Plain:
    """What the tables should say, in lists."""

    rule: JoinRule
    asked: datetime = EPOCH
    predictions: list[Prediction] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def stamp(self, now):
        return max(now, self.asked + timedelta.resolution)

    def outcome(self, subject, value, occurred_at, now):
        event = occurred_at if self.rule.horizon is not None and isinstance(subject, int) else None
        same = [s for s in self.outcomes if s.subject == subject and (event is None or s.occurred_at == event)]
        if not same or same[-1].value != value:
            self.outcomes.append(Outcome(subject, occurred_at, value, self.stamp(now)))

    def fits(self, prediction, outcome):
        if outcome.subject == prediction.id:
            return True
        if outcome.subject != prediction.customer:
            return False
        return self.rule.horizon is None or prediction.at <= outcome.occurred_at < prediction.at + self.rule.horizon

    def as_of(self, moment):
        """The predictions and the outcomes that were recorded by a moment."""
        outcomes = [outcome for outcome in self.outcomes if outcome.recorded_at <= moment]
        return [prediction for prediction in self.predictions if prediction.logged_at <= moment], outcomes

    def labelled(self, as_of):
        logged, outcomes = self.as_of(as_of)
        return {p.id: self.label(p, logged, outcomes, as_of) for p in logged}

    def label(self, prediction, logged, outcomes, as_of):
        by_id = [s for s in outcomes if s.subject == prediction.id]
        if by_id:
            return by_id[-1].value
        by_key = self.by_key(prediction, logged, outcomes)
        if by_key is not None:
            return by_key.value
        matured = prediction.at + self.rule.maturity <= as_of
        return self.rule.absent_means if matured else None

    def by_key(self, prediction, logged, outcomes):
        """The newest outcome of the prediction's key, if it belongs to this one of its predictions."""
        fits = [s for s in outcomes if s.subject == prediction.customer and self.fits(prediction, s)]
        if self.rule.horizon is not None and fits:
            first = min(s.occurred_at for s in fits)
            fits = [s for s in fits if s.occurred_at == first]
        return fits[-1] if fits and self.is_chosen(prediction, logged, fits[-1]) else None

    def conflicts(self, as_of):
        """The predictions whose outcome by id has another value than the one by key."""
        logged, outcomes = self.as_of(as_of)
        pairs = ((p, [s for s in outcomes if s.subject == p.id], self.by_key(p, logged, outcomes)) for p in logged)
        return {p.id for p, by_id, by_key in pairs if by_id and by_key and by_id[-1].value != by_key.value}

    def is_chosen(self, prediction, logged, outcome):
        if self.rule.which is Which.ALL:
            return True
        rivals = sorted((p.at, p.id) for p in logged if self.fits(p, outcome) and p.customer == prediction.customer)
        return (prediction.at, prediction.id) == rivals[0 if self.rule.which is Which.FIRST else -1]

    def named(self, as_of, limit):
        """The plans that are segments of their own: those that came first, of one moment the most frequent."""
        came = Counter((p.logged_at, p.plan) for p in self.predictions if p.logged_at <= as_of)
        ordered = sorted(came, key=lambda plan: (plan[0], -came[plan], plan[1]))
        return list(dict.fromkeys(plan for _, plan in ordered))[:limit]

    def unmatched(self, as_of):
        logged, outcomes = self.as_of(as_of)
        events = {
            (s.subject, s.occurred_at if self.rule.horizon is not None and isinstance(s.subject, int) else None)
            for s in outcomes
            if not any(self.fits(p, s) for p in logged)
        }
        return len(events)


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_store(request, tmp_path_factory):
    """Makes an empty store for every example."""
    with ExitStack() as made:
        if request.param == "sqlite":
            template = request.getfixturevalue("prepared_sqlite")
            yield lambda: Store(f"sqlite:///{shutil.copy(template, tmp_path_factory.mktemp('join'))}")
        else:
            server, template = (request.getfixturevalue(name) for name in ("postgres", "prepared_postgres"))

            def make():
                made.close()  # of the example before: a server takes no more than a hundred connections
                return made.enter_context(closing(Store(made.enter_context(new_database(server, template)))))

            yield make


class Run:
    """Both sides of one example."""

    def __init__(self, store, rule, limit=50):
        self.store, self.plain = store, Plain(rule)
        self.contract = binary_contract(join=rule, segment_values=limit)
        self.log, self.now = PredictionLog(store), START
        self.frames, self.answers = [], {}
        self.layout, self.layout_then, self.there_then = None, {}, {}

    def apply(self, event):
        self.now += HOUR
        getattr(self, event[0].replace(" ", "_"))(*event[1:])

    def predict(self, customer, late):
        at = self.now - late * HOUR
        identifier = prediction_id(at)
        plan = f"p{len(self.plain.predictions) * 3 % 4}"
        self.plain.predictions.append(Prediction(identifier, customer, at, self.plain.stamp(self.now), plan))
        chance = len(self.plain.predictions) % 5 / 5
        rows = prediction_rows(
            self.contract,
            [at],
            prediction_id=[identifier],
            model_version=[f"{1 + customer}"],
            customer=[customer],
            month=["m"],
            plan=[plan],
            age=[40.0 + 10 * customer],
            prediction=[chance > 0.5],
            probability=[chance],
            sample_weight=[1.0 + customer],
        )
        assert self.log.append(self.contract, rows, self.now) == 1

    def retry(self, number):
        for identifier in [p.id for p in self.plain.predictions][number : number + 1]:
            rows = prediction_rows(self.contract, [self.now], prediction_id=[identifier], customer=[9], month=["x"])
            assert self.log.append(self.contract, rows, self.now) == 0

    def take(self, subject, frame, value, occurred_at):
        self.plain.outcome(subject, value, occurred_at, self.now)
        record_outcomes(self.store, self.contract, frame, now=self.now, source="test")

    def outcome(self, customer, value, ago):
        occurred_at = self.now - ago * HOUR
        frame = {"customer": [customer], "month": ["m"], "churned": [value]}
        if self.plain.rule.horizon is not None:
            frame["occurred_at"] = [occurred_at]
        self.frames.append((customer, frame, value, occurred_at))
        self.take(*self.frames[-1])

    def outcome_by_id(self, number, value):
        for identifier in [p.id for p in self.plain.predictions][number : number + 1]:
            frame = {"prediction_id": [identifier], "churned": [value]}
            self.frames.append((identifier, frame, value, self.now))
            self.take(*self.frames[-1])

    def the_same_again(self, number):
        for frame in self.frames[number : number + 1]:
            self.take(*frame)

    def clock(self, hours):
        self.now += hours * HOUR

    def join(self, _):
        until = joins.join_new(self.store, self.contract, WINDOW, self.now, fold_news).until
        self.plain.asked = max(self.plain.asked, self.now)
        if until is not None:
            assert until == self.plain.asked
            self.check_accounts(until)
            self.check_profiles(until)

    def reference(self, seed):
        """The version gets its reference, or another one, late or early."""
        rows = prediction_rows(
            self.contract, [START] * 8, age=[float(seed + k) for k in range(8)], plan=["p2"] * 8
        ).append_column("churned", pa.array([True, False] * 4))
        layout = make_layout(self.contract, rows)
        self.layout = layout
        establish(self.store, "churn", "1", Profile.of(layout, fold(layout, rows)), START)

    def folded(self, window, as_of):
        layout = self.layout or Layout(self.contract)
        return fold_window(self.store, layout, window, version="1", role="champion", as_of=as_of)

    def check_profiles(self, until):
        """What the incremental runs keep is what the rows give, to the bit: of hours, of days, of cut ones."""
        for window in (WHOLE, Window(START - 5 * HOUR, START + 3 * HOUR), Window(START, START + 27 * HOUR)):
            stored = profiles.load_window(self.store, "churn", "1", "champion", window)
            assert stored.watermark == until
            if self.layout is None:
                assert stored.tallies == []
                continue
            scratch = Counter()
            for cell, tally in self.folded(window, until).items():
                scratch[replace(cell, hour=0)] = scratch.get(replace(cell, hour=0), EMPTY) + tally
            found = {cell: tally for cell, tally in kept_cells(stored.tallies).items() if tally != EMPTY}
            assert found == dict(scratch)

    def ask(self, _):
        as_of = fence.close(self.store, "churn", self.now)
        self.plain.asked = max(self.plain.asked, self.now)
        self.answers[as_of] = self.rows(as_of)
        self.there_then[as_of] = self.there(as_of)
        self.layout_then[as_of] = self.layout, self.folded(WHOLE, as_of) if self.plain.predictions else {}

    def there(self, as_of):
        """The windows that are due as of a moment, versions and segments of each, and what the last learns from."""
        maturity, found, learned = self.plain.rule.maturity, {}, None
        for window in due_windows(self.store, "churn", WINDOW, maturity, as_of):
            query = WindowQuery(window, as_of, WINDOW, maturity, from_log=True)
            counts = count_window(self.store, self.contract, query, lambda _: None)
            found[window] = {count.version: {cell.segment for cell in count.cells} for count in counts}
        if found:
            last = WindowQuery(max(found), as_of, WINDOW, maturity, from_log=True)
            learned = matured_profile(self.store, Layout(self.contract), last, "1")
        return found, learned.to_bytes() if learned is not None else None

    def rows(self, as_of):
        return read_labelled(self.store, self.contract, WHOLE, as_of=as_of)

    def check_accounts(self, until):
        """The accounts of all incremental runs are those of the join from scratch."""
        scratch = (
            self.rows(until).select(["predicted_at", "model_version", "plan", "churned", "revision"]).to_pylist()
        )
        predictions, observed, inferred = Counter(), Counter(), Counter()
        named = self.plain.named(until, self.contract.segment_values)
        for row in scratch:
            for segment in ("", f"plan={row['plan'] if row['plan'] in named else '(other)'}"):
                place = floor_moment(row["predicted_at"], WINDOW), row["model_version"], segment
                predictions[place] += 1
                observed[place] += row["revision"] is not None
                inferred[place] += row["revision"] is None and row["churned"] is not None
        accounts, watermark = load_coverage(self.store, "churn")
        assert watermark == until
        counts = with_inferred(self.store, self.contract, WINDOW, accounts, until)
        assert {(a.window_start, a.version, a.segment): (a.predictions, a.labelled, a.inferred) for a in counts} == {
            place: (predictions[place], observed[place], inferred[place]) for place in predictions
        }
        assert len(load_findings(self.store, self.contract, UNMATCHED)) == self.plain.unmatched(until)
        conflicts = [row["prediction_id"] for row in load_findings(self.store, self.contract, CONFLICTING)]
        assert (len(conflicts), set(conflicts)) == (len(set(conflicts)), self.plain.conflicts(until))


def examples(most):
    return settings(
        max_examples=most,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@examples(4)
@example(
    [("predict", 0, 0), ("clock", 6), ("ask", 0), ("predict", 1, 6), ("predict", 1, 13)], JoinRule(maturity=HOUR), 1
)
@given(events=events, rule=rules, limit=limits)
def test_the_join_says_what_was_known_at_every_moment(fresh_store, events, rule, limit):
    play(fresh_store, events, rule, limit)


@pytest.mark.statistics
@examples(300)
@given(events=events, rule=rules, limit=limits)
def test_the_join_says_what_was_known_at_every_moment_of_many_histories(fresh_store, events, rule, limit):
    play(fresh_store, events, rule, limit)


def play(fresh_store, events, rule, limit):
    run = Run(fresh_store(), rule, limit)
    for event in events:
        run.apply(event)
    run.ask(0)
    run.join(0)
    for as_of, answer in run.answers.items():
        again = run.rows(as_of)
        assert again.equals(answer)
        found = dict(zip(again.column("prediction_id").to_pylist(), again.column("churned").to_pylist(), strict=True))
        assert found == run.plain.labelled(as_of)
        assert run.there(as_of) == run.there_then[as_of]
        layout, cells = run.layout_then[as_of]
        if layout is run.layout and cells:
            assert run.folded(WHOLE, as_of) == cells
    run.store.close()


def test_a_correction_is_taken_out_of_its_hour_and_put_in_again(fresh_store):
    run = Run(fresh_store(), JoinRule())
    predicted = [("reference", 0), ("predict", 0, 0), ("predict", 1, 5), ("join", 0)]
    outcomes = [("outcome", 0, True, 0), ("outcome", 1, False, 0), ("join", 0), ("ask", 0)]
    for event in [*predicted, *outcomes, ("outcome", 0, False, 0), ("outcome by id", 1, True), ("join", 0)]:
        run.apply(event)
    stored = kept_cells(profiles.load_window(run.store, "churn", "1", "champion", WHOLE).tallies)
    assert sum(tally.at(Block.ROWS, Rows.LABELLED) for cell, tally in stored.items() if not cell.segment) == 1
    [(layout, cells)] = run.layout_then.values()
    [as_of] = run.layout_then
    assert fold_window(run.store, layout, WHOLE, version="1", role="champion", as_of=as_of) == cells
    run.store.close()
