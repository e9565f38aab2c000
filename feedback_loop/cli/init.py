"""`feedback-loop init`: a commented configuration from a registered model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.models import (
    ReferenceOption,
    TimeOption,
    TrainedOption,
    ask_for_reference,
    reference_of,
)
from feedback_loop.cli.output import JsonOption, emit, open_loop
from feedback_loop.errors import BadInput, ContractError, NotFound, Refused
from feedback_loop.shown import without_secrets

if TYPE_CHECKING:
    from feedback_loop.registry import LoadedModel, ModelVersion, Registry
    from feedback_loop.schema import Contract, Label

TEMPLATE = """\
# How feedback-loop runs. Every value can be overridden by a variable, such as FEEDBACK_LOOP_STORE__URL.
# Relative paths start from this file's folder. A setting that does not exist is an error, never ignored.

[store]
url = {store_url}                # or postgresql://user@host/name
# history = "400d"               # so long are runs, told alerts and verdicts kept that nothing goes on from

[registry]
tracking_uri = {tracking_uri}    # an MLflow server, or its database

[serving]
host = "127.0.0.1"               # on any other address callers need a key: feedback-loop keys create
port = 5001

# [capture]                      # the spools, in which predictions wait for the store
# folder = "spool"
# max_bytes = 1073741824         # of one process; beyond that: models.<name>.log.on_full
# forward_every = "0.2s"
# max_backoff = "30s"            # between attempts, while the store is away
# pair_within = "1h"             # a logged request waits so long for its answer (POST /models/<name>/events)
# alert_after = "10m"            # a row that waits longer for the store is told about

[alerts]
# routes = {{ ops = "slack://…" }}  # any Apprise URL; the log is told in any case
# quiet = "22:00-07:00"          # alerts wait until these hours end
# timezone = "UTC"               # by whose clocks, such as Europe/Zurich
# quiet_except = ["incident"]    # what is told at once all the same: incident, spool, serving, stream, drift, …

"""

MODEL_TEMPLATE = """\
[models.{name}]
task = {task}                    # binary | multiclass | regression
label = {label}                  # the outcome's column, or a list of several that are predicted at once
key = {key}                      # the columns by which outcomes find their prediction
key_types = {key_types}          # string | long | double | boolean | datetime; of those that are no features
segments = {segments}            # columns whose values are looked at one by one
# segment_values = 50            # of each of these columns; all other values are told together as "(other)"
# classes = []                   # that outcomes may be, beside those that the version shows; else all of them
# query = "search_id"            # rows of one value were ranked against each other: NDCG and MRR are told
maturity = "1d"                  # after this a prediction has had its chance of an outcome
# find_slices = false            # reads labelled rows of each matured window to find those in which it does worst
# silence = "2h"                 # alert when nothing was predicted for so long; without this line: never
window = "1d"                    # what is evaluated and judged at a time
{positive}
# [models.{name}.outcomes]       # where the scheduler takes outcomes in from, besides HTTP and the command line
# folder = "outcomes"            # or s3://bucket/outcomes: Parquet, CSV, NDJSON, Arrow
# sql = {{ url = "postgresql://…", query = "SELECT … WHERE changed_at > :watermark", watermark = "changed_at" }}

# [models.{name}.log]            # what of the predictions is logged, how safely, and for how long
# durability = "committed"       # | buffered: answered before the disk has it | off: nothing is logged
# on_full = "refuse"             # a spool without room: callers get 503 | drop: they are answered, and it is counted
# columns = {{}}                   # such as {{ customer = "hash", age = "drop" }}; the others are logged plain
# sample = 1.0                   # the share of the rows that is logged, with its weight
# retention = "never"            # predictions that are older are removed: such as "400d"

# [models.{name}.metrics]        # metrics of your own making (docs/monitoring.md)
# profit = {{ path = "package.module:profit", columns = ["amount"] }}

# [models.{name}.join]           # which outcome belongs to which prediction, where it names the key
# horizon = "never"              # an outcome occurs at most so long after its prediction: such as "30d"
# which = "all"                  # of several predictions that it fits: all | first | last
# absent_means = false           # the label of a prediction that has none at maturity; without this line: none

# [models.{name}.drift]          # which drift raises alerts
# rule = "auto"                  # windows | rows | thresholds (Evidently's): docs/monitoring.md
# alpha = 0.05                   # of the columns that are told to have drifted, the share that has not
# multivariate = false           # reads rows of each window to look at its features together

[models.{name}.policy]
alpha = 0.05                     # the probability of any false retraining, for ever
mode = "act"                     # observe | propose | act
cooldown = "14d"                 # between retrainings, at least
refresh = "28d"                  # a retraining without an alarm after this long; or "never"
# rule = "change"                # what may act: change | harm | either, or a rule of others: docs/decisions.md
# tolerance = "auto"             # of harm, in mean loss: as proposed by `feedback-loop policy suggest {name}`
# budget = 4                     # retrainings within 90 days
# [[models.{name}.policy.watch]] # beside the loss of all rows, for a share of alpha
# segment = "column=value"
# weight = 1.0

[models.{name}.schedule]
cycle = "1d"                     # or a cron line in UTC: "0 4 * * *"
report = "0 6 1 * *"
"""


def init(
    *,
    model: Annotated[str, typer.Option(help="The registered model: name, name@alias or name/version.")],
    task: Annotated[str | None, typer.Option(help="binary, multiclass or regression.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="The name of the outcome's column; repeatable.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A column of the key, as name or name:type (long, …; string if bare); repeatable."),
    ] = None,
    segment: Annotated[list[str] | None, typer.Option(help="A column whose values are segments; repeatable.")] = None,
    positive: Annotated[str | None, typer.Option(help="The positive class of a binary task.")] = None,
    answers: Annotated[
        str | None, typer.Option(help="probability: of a booster or pyfunc that answers these, and no classes.")
    ] = None,
    reference: ReferenceOption = None,
    time: TimeOption = "",
    trained_until: TrainedOption = None,
    tracking_uri: Annotated[str, typer.Option(help="The MLflow server or database.")] = "sqlite:///mlflow.db",
    store_url: Annotated[str, typer.Option(help="The database for predictions.")] = "sqlite:///feedback_loop.db",
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("feedback_loop.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add the model to the file that is there, of whose registry and store it is."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Writes a commented feedback_loop.toml for a registered model; asks for what is not given."""
    before = ""
    if add:
        before, tracking_uri = _existing(model, output)
    elif output.exists() and not force:
        raise Refused(f"{output} is there already.", cure="Give another --output, --add (a model), or --force.")
    loaded = _load(model, tracking_uri, output)
    features = _features(loaded)
    task = task or _asked("What is predicted (binary, multiclass, regression)?", _guess(loaded), "--task")
    label = label or [_asked("What is the outcome's column called?", None, "--label")]
    if key is None:
        said = _asked("By which columns do outcomes find their prediction (comma; empty: by its id)?", "", "--key")
        key = [name.strip() for name in said.split(",") if name.strip()]
    types = dict(_name_and_type(text) for text in key)

    def rendered(positive: Label | None) -> str:
        name = loaded.version.model
        text = _render(name, task, label, types, segment or [], positive, answers, tracking_uri, store_url)
        return f"{before.rstrip()}\n\n{text[text.index('[models.') :]}" if add else text

    contract, unlogged = _checked(rendered(positive), loaded, output)
    if task == "binary" and contract.positive is None:  # no rate or error means anything without it
        positive = _asked("Its classes can't be seen. Which is the positive one?", None, "--positive")
        contract, unlogged = _checked(rendered(positive), loaded, output)
    output.write_text(rendered(contract.positive if positive is not None else None))
    plain = {"written": str(output), "model": loaded.version.model, "version": loaded.version.version}
    kept = _keep_reference(output, loaded.version, reference_of(reference, time, trained_until), as_json=as_json)
    is_champion = "champion" in loaded.version.aliases
    emit(
        {**plain, "features": features, "is_champion": is_champion, "unlogged": unlogged, "has_reference": kept},
        as_json=as_json,
        words=_words,
    )


def _existing(model: str, output: Path) -> tuple[str, str]:
    """What the file says already, and its registry; raises ConfigError, and Refused where the model is in it."""
    from feedback_loop.config import load_settings
    from feedback_loop.registry import Reference

    settings, name = load_settings(output), Reference.parse(model).model
    if name in settings.models:
        raise Refused(f"{name} is in {output} already.", cure="Change it there.")
    return output.read_text(), settings.registry.tracking_uri


def _keep_reference(output: Path, version: ModelVersion, given: dict[str, Any], *, as_json: bool) -> bool:
    """Gives the version the reference that was given, or is asked for where it has none; whether it has one then."""
    from feedback_loop.config import load_settings
    from feedback_loop.registry import Registry

    registry = Registry.of(load_settings(output))
    has_one = registry.reference_rows(version) is not None
    if not has_one and given["reference"] is None and not as_json:
        given |= ask_for_reference(version.model, version.version, registry.lineage.evaluation_files(version))
    if given["reference"] is not None or given["trained_until"] is not None:
        loop = open_loop(output, as_json=as_json)
        loop.keep_reference(version.model, version.version, **given)
        loop.close()
    return has_one or given["reference"] is not None


def _load(model: str, tracking_uri: str, output: Path) -> LoadedModel:
    from feedback_loop.config import RegistrySettings, Settings
    from feedback_loop.registry import Reference, Registry

    settings = Settings(registry=RegistrySettings(tracking_uri=tracking_uri), home=output.absolute().parent)
    registry = Registry.of(settings)
    # MLflow takes its time, the first time above all.
    typer.echo(f"Looking {model} up in {without_secrets(tracking_uri)} …", err=True)
    wanted = Reference.parse(model)
    if wanted.version is None and "@" not in model:
        version = registry.champion(wanted.model, "champion") or _newest(registry, wanted.model)
    else:
        version = registry.find(wanted)
    return registry.load(version)


def _newest(registry: Registry, model: str) -> ModelVersion:
    """The newest version of a model that has no champion yet: what it takes and answers can be read of any."""
    versions = registry.versions(model)
    if not versions:
        cure = "Log one: mlflow.sklearn.log_model(…, registered_model_name=…)."
        raise NotFound("version of the model", model, cure=cure)
    return versions[-1]


def _features(loaded: LoadedModel) -> list[str]:
    from feedback_loop.schema import feature_columns

    return [f"{each.name} ({each.type})" for each in feature_columns(loaded.version.model, loaded.signature)]


def _guess(loaded: LoadedModel) -> str:
    classes = getattr(loaded.estimator, "classes_", None)
    if classes is None:
        return "regression"
    return "binary" if len(classes) == 2 else "multiclass"


def _asked(question: str, default: str | None, option: str) -> str:
    if not sys.stdin.isatty():
        raise BadInput.of(option, "is missing", cure="Nobody can be asked here: give it as an option.")
    answer: str = typer.prompt(question, default=default, show_default=bool(default))
    return answer.strip()


def _name_and_type(text: str) -> tuple[str, str | None]:
    name, _, kind = text.partition(":")
    return name.strip(), kind.strip() or None


def _render(
    name: str,
    task: str,
    label: list[str],
    key: dict[str, str | None],
    segments: list[str],
    positive: Label | None,
    answers: str | None,
    tracking_uri: str,
    store_url: str,
) -> str:
    quoted = json.dumps  # TOML's basic strings and arrays of them are JSON's
    return (TEMPLATE + MODEL_TEMPLATE).format(
        name=name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else quoted(name),
        store_url=quoted(store_url),
        tracking_uri=quoted(tracking_uri),
        task=quoted(task),
        label=quoted(label if len(label) > 1 else label[0]),
        key=quoted(list(key)),
        key_types="{"
        + ", ".join(f" {quoted(column)} = {quoted(kind)}" for column, kind in key.items() if kind)
        + " }",
        segments=quoted(segments),
        positive="".join(
            f"{setting} = {quoted(value)}\n"
            for setting, value in (("positive", positive), ("inference.answers", answers))
            if value is not None
        ),
    )


def _checked(text: str, loaded: LoadedModel, output: Path) -> tuple[Contract, str]:
    """The contract under that text: what is written is what would be read, and a wrong answer is refused here.

    Beside it, why nothing can be logged as it stands there (empty: it can). What mends that is a setting in the file.
    """
    import tempfile

    from feedback_loop.config import load_settings
    from feedback_loop.inference import contract_of
    from feedback_loop.store import Store
    from feedback_loop.store.growing import refuse_too_wide

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / output.name
        path.write_text(text)
        settings = load_settings(path)
        contract = contract_of(loaded, settings.model(loaded.version.model))
        try:
            refuse_too_wide(Store(settings.store.url), contract)
        except ContractError as error:
            return contract, str(error)
    return contract, ""


def _words(made: dict[str, Any]) -> str:
    promote = "" if made["is_champion"] else f"feedback-loop models promote {made['model']} {made['version']}, "
    lacks = "" if made["has_reference"] else f"\n{_LACKS.format(**made)}"
    refused = f"\nIt can't be promoted or served like this. {made['unlogged']}" if made["unlogged"] else ""
    return (
        f"{made['written']} is written for {made['model']} version {made['version']}, which takes "
        f"{', '.join(made['features'])}.\nNext: {promote}feedback-loop doctor, feedback-loop serve {made['model']}"
        f"{lacks}{refused}"
    )


_LACKS = (
    "It has no reference: nothing is judged before its first labelled predictions have filled one up. With rows that "
    "it was not trained on it is judged at once: feedback-loop models reference {model} {version} FILE --time COLUMN"
)
