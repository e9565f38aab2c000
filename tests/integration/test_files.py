"""Files scored in chunks: the same answers, whatever the format, resumed wherever it stopped."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput, NotFound, Refused, Unavailable
from feedback_loop.inference import batch
from feedback_loop.progress import Silent
from feedback_loop.registry import Reference
from feedback_loop.schema import Source, prediction_id
from feedback_loop.schema.files.reader import read_chunks
from feedback_loop.schema.protocol import make_decoder, rows_table
from feedback_loop.store import predictions
from tests.builders import add_revision, customers, flat_coefficients, open_loop, register_churn, write_config


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.parquet"
    pd.DataFrame(customers(2500, 3)).assign(note="kept").to_parquet(path, index=False)
    return path


def logged(loop):
    return sum(predictions.count_predictions(loop.store, "churn").values())


def test_a_file_is_scored_row_by_row_in_its_order_and_every_row_is_logged(loop, source, tmp_path):
    target = tmp_path / "out.parquet"
    result = loop.predict_file("churn", source, target)
    assert (result.rows, result.logged, result.resumed_rows) == (2500, 2500, 0)
    written, given = pq.read_table(target), pq.read_table(source)
    assert written.column("customer").equals(given.column("customer"))
    assert written.column("note").equals(given.column("note"))
    scorer = loop.context.fastest_scorer(loop.champion("churn"))
    expected = scorer.score(scorer.rows_of(given)).outputs
    assert written.column("probability").to_pylist() == expected.column("probability").to_pylist()
    assert logged(loop) == 2500
    assert not (tmp_path / "out.parquet.parts").exists()


def test_csv_gives_the_same_answers_as_parquet(loop, source, tmp_path):
    as_text = tmp_path / "in.csv"
    csv.write_csv(pq.read_table(source), as_text)
    loop.predict_file("churn", source, tmp_path / "one.parquet")
    loop.predict_file("churn", as_text, tmp_path / "other.csv")
    one, other = pq.read_table(tmp_path / "one.parquet"), csv.read_csv(tmp_path / "other.csv")
    assert other.column("probability").to_pylist() == pytest.approx(one.column("probability").to_pylist())
    assert logged(loop) == 5000


@pytest.mark.parametrize("chunk_rows", [1, 7, 100, 2499, 2500, 9999])
def test_chunks_of_any_size_hold_every_row_once(source, chunk_rows):
    parts = list(read_chunks(source, chunk_rows))
    assert all(part.num_rows == chunk_rows for part in parts[:-1])
    assert pa.concat_tables(parts).equals(pq.read_table(source))


def test_a_target_that_is_there_is_not_overwritten_unasked(loop, source, tmp_path):
    target = tmp_path / "out.parquet"
    target.write_text("precious")
    with pytest.raises(Refused, match="--overwrite"):
        loop.predict_file("churn", source, target)
    assert target.read_text() == "precious"
    assert loop.predict_file("churn", source, target, overwrite=True).rows == 2500


def test_files_that_can_not_be_read_are_refused(loop, tmp_path):
    with pytest.raises(NotFound):
        loop.predict_file("churn", tmp_path / "none.parquet", tmp_path / "out.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(BadInput, match="can't be read"):
        loop.predict_file("churn", tmp_path / "bad.parquet", tmp_path / "out.parquet")
    (tmp_path / "in.xlsx").write_text("x")
    with pytest.raises(BadInput, match=r"neither .parquet nor .csv"):
        loop.predict_file("churn", tmp_path / "in.xlsx", tmp_path / "out.parquet")
    pd.DataFrame(customers(3, 1)).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(BadInput, match=r"neither .parquet nor .csv"):
        loop.predict_file("churn", tmp_path / "in.parquet", tmp_path / "out.json")
    assert logged(loop) == 0


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_an_empty_file_is_answered_by_an_empty_file(loop, tmp_path, ending):
    rows = pd.DataFrame(customers(1, 1)).head(0)
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    rows.to_parquet(source) if ending == "parquet" else rows.to_csv(source, index=False)
    assert loop.predict_file("churn", source, target).rows == 0
    written = pd.read_parquet(target) if ending == "parquet" else pd.read_csv(target)
    assert {*rows, "prediction_id", "prediction", "probability"} <= {*written}
    assert len(written) == 0
    assert loop.predict("churn", rows).num_rows == 0
    assert logged(loop) == 0


def test_a_bad_row_is_named_by_its_place_in_the_file_and_mending_it_goes_on(loop, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 1000)
    rows = pd.DataFrame(customers(2500, 3)).astype({"age": "object"})
    rows.loc[1700, "age"] = "old"
    source = tmp_path / "in.csv"
    rows.to_csv(source, index=False)
    record, scored = recording(loop)
    with pytest.raises(BadInput, match="row 1700: age: 'old' does not fit the type double"):
        predict(loop, source, tmp_path, record)
    assert logged(loop) == 1000
    assert scored == [("1", 1000)]


def recording(loop, interrupted_after=None):
    """What logs chunks, until so many are logged; and the version and rows of each, once it has."""
    chunks = []

    def record(scorer, rows, answered, ids, moment):
        if len(chunks) == interrupted_after:
            raise KeyboardInterrupt
        chunks.append((scorer.version.version, len(ids)))
        return loop.context.recorder.record(scorer, rows, answered, ids, moment, source=Source.BATCH).new

    return record, chunks


def predict(loop, source, tmp_path, record, scorer_of=None):
    """A job in chunks of 1,000 rows."""

    def choose(begun):
        version = loop.champion("churn")
        if begun is not None:
            version = loop.registry.find(Reference("churn", version=begun.version))
        return (scorer_of or loop.scorer)(version)

    target, now = tmp_path / "out.parquet", loop.clock()
    options = {"record": record, "now": now, "progress": Silent(), "chunk_rows": 1000}
    return batch.predict_file("churn@champion", choose, source, target, **options)


@pytest.fixture
def interrupted(loop, source, tmp_path):
    """A job of 2,500 rows that ended after the first 1,000: the champion's answers to `source`."""
    with pytest.raises(KeyboardInterrupt):
        predict(loop, source, tmp_path, recording(loop, 1)[0], loop.context.fastest_scorer)
    assert len(list((tmp_path / "out.parquet.parts").glob("part-*"))) == 1
    return source


def test_parts_of_another_job_are_never_gone_on_with(loop, interrupted, tmp_path, clock):
    target = tmp_path / "out.parquet"
    register_churn(loop.registry, clock(), seed=3)
    others = [
        (loop, "churn/1"),
        (loop, "churn/2"),
        (open_loop(write_config(tmp_path, more='[models.churn.log.columns]\nage = "drop"\n'), clock), "churn"),
    ]
    for another, model in others:
        with pytest.raises(Refused, match=r"parts of another job: churn@champion \(version 1"):
            another.predict_file(model, interrupted, target)
    others[-1][0].close()
    os.utime(interrupted, (0, 0))
    with pytest.raises(Refused, match="parts of another job"):
        loop.predict_file("churn", interrupted, target)
    (tmp_path / "out.parquet.parts" / "job.json").write_text("{}")
    with pytest.raises(Refused, match="is not what was written"):
        loop.predict_file("churn", interrupted, target)


def test_a_job_goes_on_with_the_version_it_began_with(loop, source, tmp_path, clock):
    with pytest.raises(KeyboardInterrupt):
        predict(loop, source, tmp_path, recording(loop, 1)[0])
    loop.promote("churn", register_churn(loop.registry, clock(), seed=3).version)
    record, chunks = recording(loop)
    result = predict(loop, source, tmp_path, record)
    assert (result.version, result.resumed_rows, result.rows) == ("1", 1000, 2500)
    assert chunks == [("1", 1000), ("1", 500)]
    assert logged(loop) == 2500


def test_a_file_is_adapted_and_a_job_goes_on_with_the_revision_it_began_with(loop, source, tmp_path, clock):
    own = open_loop(write_config(tmp_path, more='[models.churn.adapter]\nmode = "on"\n'), clock)
    assert own.predict("churn", pq.read_table(source).slice(0, 9)).num_rows == 9  # there is no revision yet
    contract = own.context.contract("churn")
    numbers = [flat_coefficients(contract, shift) for shift in (-2.0, 3.0)]
    add_revision(own.store, 1, numbers[0], clock())
    with pytest.raises(KeyboardInterrupt):
        predict(own, source, tmp_path, recording(own, 1)[0], own.context.answering)
    add_revision(own.store, 2, numbers[1], clock())
    result = own.predict_file("churn", source, tmp_path / "out.parquet")
    assert (result.rows, result.resumed_rows) == (2500, 1000)
    assert own.predict("churn", pq.read_table(source).slice(0, 9)).num_rows == 9
    columns = (*contract.outputs, *contract.features, *contract.log_columns)
    rows = own.outcomes.labelled("churn", Window(clock() - timedelta(days=1), clock() + timedelta(days=1)))
    rows = rows.select(["model_version", *(column.stored for column in columns)])
    revisions = rows.column("adapter_revision")
    assert sorted(Counter(revisions.to_pylist()).items(), key=str) == [(1, 2500), (2, 9), (None, 9)]
    for revision, given in enumerate(numbers, 1):
        mine = rows.filter(pc.equal(revisions, revision))
        raw, served = (mine.column(name).to_numpy() for name in ("raw_probability", "probability"))
        assert (given.apply(raw, {name: mine.column(name) for name in ("age", "plan")}) == served).all()
        assert mine.column("prediction").to_pylist() == (served > 0.5).tolist()
    assert rows.filter(pc.is_null(revisions)).column("raw_probability").null_count == 9
    own.close()


def test_a_job_that_ends_between_a_chunks_log_and_its_part_logs_its_rows_once(loop, source, tmp_path):
    record, chunks = recording(loop)

    def interrupted_at_once(*arguments):
        record(*arguments)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(loop, source, tmp_path, interrupted_at_once)
    assert (logged(loop), list((tmp_path / "out.parquet.parts").glob("part-*"))) == (1000, [])
    result = predict(loop, source, tmp_path, record)
    assert (result.resumed_rows, result.rows, result.logged) == (0, 2500, 1500)
    assert chunks == [("1", 1000), ("1", 1000), ("1", 1000), ("1", 500)]
    assert logged(loop) == 2500


def test_a_log_that_fails_is_said_even_where_the_next_rows_can_not_be_read(loop, source, tmp_path):
    pq.write_table(pq.read_table(source), source, row_group_size=1500, compression="none", use_dictionary=False)
    place = pq.read_metadata(source).row_group(1).column(0).data_page_offset
    content = bytearray(source.read_bytes())
    content[place : place + 40] = b"\xff" * 40
    source.write_bytes(content)

    def fails(*arguments):
        raise Unavailable("the store", "It is away.")

    with pytest.raises(Unavailable):
        predict(loop, source, tmp_path, fails)
    with pytest.raises(BadInput, match="can't be read"):
        predict(loop, source, tmp_path, recording(loop)[0])
    assert logged(loop) == 1000


@pytest.mark.parametrize("after_seconds", [0.0, 0.15, 0.4])
def test_a_job_that_was_killed_ends_with_every_row_once(loop, warm, tmp_path, after_seconds):
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    count = 60_000
    pd.DataFrame(customers(count, 3)).to_parquet(source, index=False)
    command = [str(warm / "feedback-loop"), "predict", "churn", str(source), str(target), "--json"]
    command += ["--config", str(tmp_path / "feedback_loop.toml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    parts = tmp_path / "out.parquet.parts"
    deadline = time.monotonic() + 200
    while not list(parts.glob("part-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(after_seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:  # it had ended before the signal came
        assert "is there already" in done.stdout
    assert pq.read_table(target).column("customer").to_pylist() == list(range(count))
    assert logged(loop) == count
    assert len(set(pq.read_table(target).column("prediction_id").to_pylist())) == count


def test_columns_called_like_ours_are_the_models_and_ours_have_a_prefix_beside_them(mlflow_uri, tmp_path, clock):
    """From a model's registration over predictions, outcomes and the log to a reference: by every door."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    names = ["prediction", "probability", "prediction_id", "predicted_at"]
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.normal(size=60) for name in names})
    label = (frame["prediction_id"] > 0).astype("int64")
    model = LogisticRegression().fit(frame, label)
    signature = infer_signature(frame, label.to_numpy())
    mlflow.sklearn.save_model(
        model, str(tmp_path / "m"), signature=signature, pip_requirements=[], serialization_format="cloudpickle"
    )
    config = write_config(tmp_path, more='[models.odd]\ntask = "binary"\nlabel = "y"\n')
    loop = open_loop(config, clock)
    version = loop.models.register("odd", str(tmp_path / "m"), reference=frame.assign(y=label))
    loop.promote("odd", version.version)
    own = [str(prediction_id(clock())) for _ in range(len(frame))]
    frame.assign(feedback_loop_prediction_id=own).to_csv(tmp_path / "in.csv", index=False)
    loop.predict_file("odd", tmp_path / "in.csv", tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv")
    assert written[names].to_numpy() == pytest.approx(frame.to_numpy())
    assert written["feedback_loop_prediction"].tolist() == model.predict(frame).tolist()
    assert written["feedback_loop_probability"].tolist() == pytest.approx(model.predict_proba(frame)[:, 1].tolist())
    told = loop.predict("odd", frame.assign(feedback_loop_prediction_id=own).head(1))
    assert told.column("prediction_id").to_pylist() == own[:1]
    external = frame.tail(1).assign(
        feedback_loop_prediction=1, feedback_loop_probability=0.7, feedback_loop_predicted_at="2026-03-01T00:00:00Z"
    )
    external["feedback_loop_prediction_id"] = str(prediction_id(clock()))
    external.to_csv(tmp_path / "theirs.csv", index=False)
    assert loop.import_predictions("odd", tmp_path / "theirs.csv").logged == 1
    contract = loop.scorer(loop.champion("odd")).contract
    decoder = make_decoder(contract, loop.scorer(loop.champion("odd")).loaded.signature)
    row = {**frame.iloc[0].to_dict(), "feedback_loop_prediction_id": own[0]}
    for body in ({"dataframe_records": [row]}, {"inputs": {name: [value] for name, value in row.items()}}):
        rows = decoder.decode(json.dumps(body).encode(), "application/json", {}.get)
        assert (rows.ids, rows.columns["prediction_id"]) == (own[:1], [row["prediction_id"]])
        assert rows_table(contract, rows).num_columns == 5
    loop.close()
