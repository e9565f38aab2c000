"""Models of strangers: each is answered as MLflow's own server would answer it, or refused in words."""

import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from feedback_loop.config import ModelSettings
from feedback_loop.errors import BadInput, ContractError, ModelFault, Refused
from feedback_loop.inference import EngineKind, open_bundle, read_bundle, refuse_single_rows, write_bundle
from feedback_loop.registry import load_folder
from feedback_loop.registry.versions import ModelVersion
from feedback_loop.schema.protocol import make_decoder
from feedback_loop.schema.protocol.wire import WireError

NUMBER = ModelSettings(task="regression", label="y")
RANDOM = np.random.default_rng(0)


@pytest.fixture
def stranger(tmp_path, now):
    """Saves a model as MLflow does; tells what both servers say of a body: ours (from its bundle), and MLflow's."""

    def save(model, settings=NUMBER, *, example, answers=None, signature=None, known=None, **options):
        import mlflow
        from mlflow.models import infer_signature

        flavor = mlflow.pyfunc if isinstance(model, mlflow.pyfunc.PythonModel) else mlflow.sklearn
        folder = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        if signature is None:
            answers = model.predict(example) if answers is None else answers
            signature = infer_signature(example, answers)
        kept = {"input_example": example} if known is None else {}
        if flavor is mlflow.sklearn:
            options |= {"sk_model": model, "serialization_format": "cloudpickle"}
        else:
            options |= {"python_model": model}
        flavor.save_model(path=str(folder), signature=signature, pip_requirements=[], **kept, **options)
        return Stranger(folder, settings, now)

    return save


class Stranger:
    def __init__(self, folder, settings, now):
        self.folder, self.settings = folder, settings
        loaded = load_folder(folder, ModelVersion("m", "1", None, now, (), {}), trusted=True)
        place = folder.with_name(f"bundle-of-{folder.name}")
        self.bundle = write_bundle(loaded, settings, place)
        assert read_bundle(place) == self.bundle
        self.scorer = open_bundle(place, settings, trusted=True)

    def ours(self, body):
        decoder = make_decoder(self.scorer.contract, self.bundle.signature)
        rows = decoder.decode(json.dumps(body).encode(), "application/json", {}.get)
        scored = self.scorer.score_rows(rows)
        return json.loads(json.dumps(scored.form.shaped(scored.answers)))

    def mlflows(self, body):
        import mlflow.pyfunc
        from mlflow.pyfunc.scoring_server import infer_and_parse_data, predictions_to_json

        model = mlflow.pyfunc.load_model(str(self.folder))
        written = StringIO()
        predictions_to_json(model.predict(infer_and_parse_data(body, model.metadata.get_input_schema())), written)
        return json.loads(written.getvalue())["predictions"]

    def both(self, body):
        ours, theirs = self.ours(body), self.mlflows(body)
        assert np.shape(ours) == np.shape(theirs)
        assert np.allclose(ours, theirs), (ours, theirs)
        return ours


def records(*rows):
    return {"dataframe_records": list(rows)}


def pipeline(make, model=None):
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return make_pipeline(FunctionTransformer(make), model or LinearRegression())


def test_moments_are_handed_to_a_model_in_mlflows_unit(stranger):
    def days(frame):
        return pd.DataFrame({"day": frame["t"].astype("int64") / 86_400e9 - 19_000, "x": frame["x"]})

    moments = pd.to_datetime(RANDOM.integers(1_600_000_000, 1_700_000_000, 100), unit="s").astype("datetime64[ns]")
    frame = pd.DataFrame({"t": moments, "x": RANDOM.normal(size=100)})
    made = days(frame)
    found = stranger(pipeline(days).fit(frame, 2 * made["day"] + made["x"]), example=frame.head(3))
    told = found.both(records({"t": "2022-03-01T00:00:00", "x": 0.0}, {"t": "2023-03-01T12:00:00", "x": 1.0}))
    assert told == pytest.approx([104, 836])
    with pytest.raises(BadInput, match="1677 to 2262"):
        found.ours(records({"t": "3000-01-01T00:00:00", "x": 0.0}))


def test_each_type_reaches_a_model_as_mlflow_hands_it(stranger):
    """It counts with the bytes, the words and the types of what it is given."""

    def told(frame):
        parts = {
            "moment": frame["when"].astype("int64") % 1_000_000_007,
            "word": frame["word"].str.len(),
            "single": frame["single"] + np.float32(0.1),
            "whole": frame["whole"] // 2,
            "small": frame["small"] * 2,
            "flag": frame["flag"].astype(int),
            "size": sum(frame[name].dtype.itemsize for name in ("single", "double", "whole", "small")),
        }
        return pd.DataFrame(parts)

    frame = pd.DataFrame(
        {
            "when": pd.to_datetime(RANDOM.integers(1, 10**9, 40), unit="s").astype("datetime64[ns]"),
            "word": RANDOM.choice(["a", "bb", "ccc"], 40),
            "single": RANDOM.normal(size=40).astype(np.float32),
            "double": RANDOM.normal(size=40),
            "whole": RANDOM.integers(0, 2**60, 40),
            "small": RANDOM.integers(0, 100, 40).astype(np.int32),
            "flag": RANDOM.random(40) < 0.5,
        }
    )
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from sklearn.tree import DecisionTreeRegressor

    kinds = ["datetime", "string", "float", "double", "long", "integer", "boolean"]
    columns = Schema([ColSpec(kind, name) for kind, name in zip(kinds, frame.columns, strict=True)])
    signature = ModelSignature(columns, Schema([ColSpec("double")]))
    tree = pipeline(told, DecisionTreeRegressor(random_state=0)).fit(frame, RANDOM.normal(size=40))
    found = stranger(tree, example=frame.head(5), signature=signature)
    rows = json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))
    assert found.both(records(*[{**row, "when": row["when"].removesuffix("Z")} for row in rows])) == pytest.approx(
        tree.predict(frame)
    )


@pytest.mark.parametrize("unknown", ["ignore", "error"])
@pytest.mark.parametrize("nothing", [None, np.nan], ids=["None", "NaN"])
def test_a_missing_text_is_to_a_model_what_it_was_fitted_on(stranger, nothing, unknown):
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    words = np.array(["a", "b", nothing] * 20, dtype=object)
    frame = pd.DataFrame({"word": pd.Series(words, dtype=object)})
    truth = np.array([1.0, 5.0, 40.0] * 20)
    model = make_pipeline(OneHotEncoder(handle_unknown=unknown), LinearRegression()).fit(frame, truth)
    found = stranger(model, example=frame.head(2), answers=truth)
    assert found.bundle.none == (("word",) if nothing is None else ())
    assert found.ours(records({"word": None}, {"word": "a"})) == pytest.approx([40, 1])
    native = found.scorer.engine if found.bundle.engine is not EngineKind.ONNX else None
    assert native is None or native.inputs.none == found.bundle.none


def test_a_model_that_tells_none_from_nan_by_itself_is_handed_what_mlflow_hands_it(stranger):
    def told(frame):
        return pd.DataFrame(
            {"x": [40.0 if word is None else 1.0 if isinstance(word, str) else -16.0 for word in frame["word"]]}
        )

    frame = pd.DataFrame({"word": pd.Series(["a", None] * 10, dtype=object)})
    found = stranger(pipeline(told).fit(frame, told(frame)["x"]), example=frame.head(2), answers=told(frame)["x"])
    assert found.bundle.none == ("word",)
    assert found.both(records({"word": None})) == pytest.approx([40])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint16", "uint32", "int32", "float16", "float32"])
def test_tensors_of_every_number_are_handed_on_in_their_type(stranger, dtype):
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    class Adds(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return np.asarray(model_input).astype("float64").sum(axis=1) + model_input.dtype.itemsize

    spec = Schema([TensorSpec(np.dtype(dtype), (-1, 2))]), Schema([TensorSpec(np.dtype("float64"), (-1,))])
    found = stranger(Adds(), example=np.array([[5, 6]], dtype), signature=ModelSignature(*spec))
    size = np.dtype(dtype).itemsize
    for body in (
        {"instances": [[1, 2], [3, 4]]},
        {"inputs": [[1, 2], [3, 4]]},
        {"dataframe_split": {"columns": ["x", "y"], "data": [[1, 2], [3, 4]]}},
    ):
        assert found.both(body) == [3 + size, 7 + size]
    if dtype.endswith("int8"):
        with pytest.raises(BadInput, match=f"does not fit the type {dtype}"):
            found.ours({"instances": [[1, 300]]})


def test_a_regression_that_was_fitted_on_a_frame_of_one_column_answers_lists_by_onnx_too(stranger):
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame(RANDOM.normal(size=(60, 2)), columns=["a", "b"])
    found = stranger(LinearRegression().fit(frame, frame[["a"]] * 2), example=frame.head(5))
    assert found.bundle.engine is EngineKind.ONNX
    assert found.both(records({"a": 1.0, "b": 3.0}, {"a": -2.0, "b": 0.0})) == [
        pytest.approx([2]),
        pytest.approx([-4]),
    ]


@pytest.mark.parametrize("way", ["predict", "predict_proba"])
def test_a_classifier_that_is_told_to_be_a_regression_is_served_as_it_is(stranger, way):
    """Its proof fails by an infinite difference, and its bundle can be read all the same."""
    from sklearn.ensemble import RandomForestClassifier

    frame = pd.DataFrame(RANDOM.normal(size=(60, 2)), columns=["a", "b"])
    stars = RandomForestClassifier(3, random_state=0).fit(frame, (frame > 0).sum(axis=1))
    found = stranger(stars, example=frame.head(5), answers=getattr(stars, way)(frame), pyfunc_predict_fn=way)
    assert found.bundle.engine is EngineKind.SKLEARN
    assert "the proof fails" in found.bundle.reason
    found.both(records({"a": 1.0, "b": 3.0}, {"a": -2.0, "b": 0.0}))


def ranked(frame):
    return pd.DataFrame({"x": frame["x"].rank()})


def centred(frame):
    return pd.DataFrame({"x": frame["x"] - frame["x"].mean()})


def by_chance(frame):
    return pd.DataFrame({"x": frame["x"] + np.random.default_rng().normal(size=len(frame))})


@pytest.mark.parametrize("make", [ranked, centred, by_chance])
@pytest.mark.parametrize("known", [None, 1, 6])
def test_a_model_that_looks_at_its_whole_request_is_asked_for_each_by_itself(stranger, make, known):
    frame = pd.DataFrame({"x": RANDOM.normal(size=50)})
    model = pipeline(make).fit(frame, frame["x"])
    found = stranger(model, example=frame.head(known or 1), known=() if known is None else None)
    assert "hangs on the others" in found.bundle.alone
    assert found.scorer.is_alone


def test_rows_that_hang_on_nothing_go_together_unless_that_is_not_wanted(stranger):
    frame = pd.DataFrame({"x": RANDOM.normal(size=50), "word": RANDOM.choice(["a", "b"], 50)})

    def plain(frame):
        return pd.DataFrame({"x": frame["x"] * 2 + (frame["word"] == "a")})

    model = pipeline(plain).fit(frame, frame["x"])
    found = stranger(model, example=frame.head(3))
    assert (found.bundle.alone, found.scorer.is_alone) == ("", False)
    off = NUMBER.model_copy(update={"inference": NUMBER.inference.model_copy(update={"batching": "off"})})
    assert stranger(model, off, example=frame.head(3)).scorer.is_alone


def test_a_model_that_leaves_rows_out_is_at_fault_where_it_is_known_to_take_them(stranger):
    import mlflow.pyfunc

    class Positive(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return model_input.loc[model_input["a"] > 0, "a"].to_numpy()

    frame = pd.DataFrame({"a": [1.0, -1.0]})
    with pytest.raises(ModelFault, match="answers 0 rows where it was asked 1"):
        stranger(Positive(), example=frame, answers=np.array([1.0]))
    found = stranger(Positive(), example=frame.head(1), answers=np.array([1.0]))
    assert found.scorer.is_alone
    assert found.ours(records({"a": 2.0})) == [2.0]


def test_the_columns_of_a_tensor_have_the_names_that_the_configuration_gives_them(stranger):
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    class Network(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return model_input @ np.array([[1.0], [10.0]], dtype=np.float32)

    signature = infer_signature(np.zeros((2, 2), dtype=np.float32), np.zeros((2, 1), dtype=np.float32))
    named = NUMBER.model_copy(update={"features": ("miles", "seats")})
    found = stranger(Network(), named, example=np.zeros((2, 2), dtype=np.float32), signature=signature)
    assert [column.name for column in found.scorer.contract.features] == ["miles", "seats"]
    by_name = [{"miles": 1.0, "seats": 2.0}, {"miles": 3.0, "seats": 4.0}]
    turned = [{"seats": row["seats"], "miles": row["miles"]} for row in by_name]
    assert found.ours(records(*by_name)) == found.ours(records(*turned)) == [[21.0], [43.0]]
    assert found.both({"inputs": [[1.0, 2.0], [3.0, 4.0]]}) == [[21.0], [43.0]]
    assert found.ours(records({"a": 1.0, "b": 2.0})) == [[21.0]]  # other names: as they come
    for wrong in (("miles",), ("miles", "miles")):
        wrongly = named.model_copy(update={"features": wrong})
        with pytest.raises(ContractError, match=r"takes 2 columns, and models\.m\.features has 1 names"):
            stranger(Network(), wrongly, example=np.zeros((2, 2), dtype=np.float32), signature=signature)


def test_the_fields_of_a_model_with_type_hints_are_its_columns(stranger, tmp_path, now):
    import mlflow.pyfunc
    from pydantic import BaseModel

    class Flight(BaseModel):
        miles: float
        carrier: str
        seats: int | None = None

    class Delay(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[Flight]) -> list[float]:
            return [flight.miles / 100 + len(flight.carrier) + (flight.seats or 0) for flight in model_input]

    mlflow.pyfunc.save_model(str(tmp_path / "hints"), python_model=Delay(), pip_requirements=[])
    found = Stranger(tmp_path / "hints", NUMBER, now)
    columns = {column.name: (str(column.type), column.required) for column in found.scorer.contract.features}
    assert columns == {"miles": ("double", True), "carrier": ("string", True), "seats": ("long", False)}
    rows = [{"miles": 213.0, "carrier": "MQ", "seats": 3}, {"miles": 300.0, "carrier": "B6", "seats": 0}]
    lacking = [{"miles": 100.0, "carrier": "AA"}]
    mlflows = mlflow.pyfunc.load_model(str(tmp_path / "hints"))
    for asked, answers in [(rows, [7.13, 5.0]), (lacking, [3.0])]:
        assert found.ours({"inputs": asked}) == found.ours(records(*asked)) == mlflows.predict(asked) == answers
    with pytest.raises(WireError, match="float64 to int64"):  # as MLflow says of a frame where some rows lack it
        found.ours({"inputs": [*lacking, *rows]})


def test_a_model_that_answers_one_row_whatever_it_is_asked_is_refused_before_it_is_promoted(stranger):
    """A vectorizer that was fitted on a series is handed a frame: MLflow's server answers of the column's name."""
    from mlflow.models import infer_signature
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = pd.Series(["late", "late again", "on time", "in time"], name="words")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, [1, 1, 0, 0])
    late = ModelSettings(task="binary", label="late")
    found = stranger(model, late, example=None, signature=infer_signature(words, np.array([1, 0])), known=())
    with pytest.raises(ModelFault, match="answers 1 rows where it was asked 2"):
        refuse_single_rows(found.scorer)


def test_what_no_column_can_hold_is_refused_with_its_cause(stranger):
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from sklearn.dummy import DummyRegressor

    frame, number = pd.DataFrame({"text": ["a", "b"]}), Schema([ColSpec("double")])
    model = DummyRegressor().fit(frame, [1.0, 2.0])
    for inputs, said in (
        ([ColSpec("string")], "The inputs of 'm' have no names"),
        ([ColSpec("binary", "text")], "has the type 'binary', which can't be a column"),
    ):
        with pytest.raises(ContractError, match=said):
            stranger(model, example=frame, signature=ModelSignature(Schema(inputs), number))


CHURN = ModelSettings(task="binary", label="y")


@pytest.mark.parametrize(
    "chances", [[[-0.2, 1.2]], [[0.9, 0.9]], [[np.nan, 1.0]], [[90.0, 10.0]]], ids=["beyond", "sum", "NaN", "percent"]
)
def test_probabilities_that_are_none_are_refused_when_a_version_is_made_ready(stranger, chances):
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Own(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def predict(self, frame):
            return np.zeros(len(frame), int)

        def predict_proba(self, frame):
            return np.repeat(np.array(chances), len(frame), axis=0)

    with pytest.raises(Refused, match="probabilities that are none"):
        stranger(Own(), CHURN, example=pd.DataFrame({"x": [1.0, 2.0]}))


def booster(answer):
    import mlflow.pyfunc

    class Booster(mlflow.pyfunc.PythonModel):
        def predict(self, model_input):
            return answer(1 / (1 + np.exp(-model_input["x"].to_numpy())))

    return Booster()


def probable(**changes):
    inference = CHURN.inference.model_copy(update={"answers": "probability"})
    return CHURN.model_copy(update={"inference": inference, **changes})


@pytest.mark.parametrize(
    "answer",
    [lambda p: p, lambda p: p.tolist(), pd.Series, lambda p: np.column_stack([1 - p, p])],
    ids=["array", "list", "series", "matrix"],
)
@pytest.mark.parametrize(("positive", "classes"), [(None, (0, 1)), (True, (False, True)), (0, (0, 1))])
def test_a_booster_that_answers_probabilities_is_a_classification(stranger, answer, positive, classes):
    frame = pd.DataFrame({"x": [-2.0, 0.5, 3.0]})
    model, p = booster(answer), 1 / (1 + np.exp(-frame["x"].to_numpy()))
    found = stranger(model, probable(positive=positive), example=frame, answers=answer(p))
    scored = found.scorer.score(found.scorer.rows_of(frame))
    assert found.scorer.contract.classes == classes
    assert scored.outputs.column("prediction").to_pylist() == [classes[0], classes[1], classes[1]]
    chances = scored.outputs.column("probability").to_pylist()
    assert chances == pytest.approx((1 - p if positive == 0 and positive is not False else p).tolist())
    assert found.ours(records({"x": 0.5})) == found.mlflows(records({"x": 0.5}))


def test_a_booster_of_several_classes_answers_a_probability_of_each(stranger):
    def three(p):
        return np.column_stack([p / 2, p / 2, 1 - p])

    frame = pd.DataFrame({"x": [-2.0, 0.5, 3.0]})
    answers = three(1 / (1 + np.exp(-frame["x"].to_numpy())))
    found = stranger(booster(three), probable(task="multiclass"), example=frame, answers=answers)
    outputs = found.scorer.score(found.scorer.rows_of(frame)).outputs
    assert outputs.column("prediction").to_pylist() == answers.argmax(axis=1).tolist()
    assert outputs.column("probability_2").to_pylist() == pytest.approx(answers[:, 2].tolist())


def test_a_booster_whose_answers_are_no_probabilities_is_refused(stranger):
    frame = pd.DataFrame({"x": [-2.0, 0.5, 3.0]})
    with pytest.raises(Refused, match="probabilities that are none"):
        stranger(booster(lambda p: p * 40), probable(), example=frame, answers=np.array([1.0]))
    with pytest.raises(ContractError, match=r"models\.m\.classes"):
        stranger(booster(lambda p: p), probable(positive="yes"), example=frame, answers=np.array([0.5]))
    with pytest.raises(ContractError, match=r'inference\.answers = "probability"'):
        stranger(booster(lambda p: p), CHURN, example=frame, answers=np.array([0.5]))
