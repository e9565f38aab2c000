"""`feedback-loop init`: a commented configuration from a registered model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.models import ReferenceGiven, ask_for_reference
from feedback_loop.cli.options import Printer
from feedback_loop.errors import BadInput, ContractError, NotFound, Refused
from feedback_loop.safe_text import without_secrets

if TYPE_CHECKING:
    from feedback_loop.registry import LoadedModel, ModelVersion, Registry
    from feedback_loop.schema import Contract, Label


def init(
    printer: Printer,
    *,
    model: Annotated[str, typer.Option(help="The registered model: name, name@alias or name/version.")],
    reference: ReferenceGiven,
    task: Annotated[str | None, typer.Option(help="binary, multiclass or regression.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="The name of the outcome's column; repeatable.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A column of the key, as name or name:type (long, …; string if bare); repeatable."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(help="A name of a tensor's columns, in their order; repeatable."),
    ] = None,
    segment: Annotated[list[str] | None, typer.Option(help="A column whose values are segments; repeatable.")] = None,
    positive: Annotated[str | None, typer.Option(help="The positive class of a binary task.")] = None,
    answers: Annotated[
        str | None, typer.Option(help="probability: of a booster or pyfunc that answers these, and no classes.")
    ] = None,
    tracking_uri: Annotated[
        str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The MLflow server or database.")
    ] = "sqlite:///mlflow.db",
    store_url: Annotated[str, typer.Option(help="The database for predictions.")] = "sqlite:///feedback_loop.db",
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("feedback_loop.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add the model to the file that is there, of whose registry and store it is."),
    ] = False,
) -> None:
    """Writes a commented feedback_loop.toml for a registered model; asks for what is not given."""
    from feedback_loop.schema import feature_columns

    before = ""
    if add:
        before, tracking_uri = _existing(model, output)
    elif output.exists() and not force:
        raise Refused(f"{output} is there already.", cure="Give another --output, --add (a model), or --force.")
    loaded = _load(model, tracking_uri, output)
    feature_columns(loaded.version.model, loaded.signature, feature or ())  # who can't be helped is asked nothing
    task = task or _asked("What is predicted (binary, multiclass, regression)?", _guess(loaded), "--task")
    label = label or [_asked("What is the outcome's column called?", None, "--label")]
    if key is None:
        answer = _asked("By which columns do outcomes find their prediction (comma; empty: by its id)?", "", "--key")
        key = [name.strip() for name in answer.split(",") if name.strip()]
    types = dict(_name_and_type(text) for text in key)

    def rendered(positive: Label | None) -> str:
        from feedback_loop.config_template import model_text, process_text

        values = {
            "task": task,
            "label": label if len(label) > 1 else label[0],
            "key": list(types),
            "key_types": {column: kind for column, kind in types.items() if kind},
            "features": feature or [],
            "segments": segment or [],
            "positive": positive,
            "inference.answers": answers,
        }
        given = {name: value for name, value in values.items() if value is not None}
        first = before if add else process_text(store_url, tracking_uri)
        return f"{first.rstrip()}\n\n{model_text(loaded.version.model, given)}"

    contract, unlogged = _checked(rendered(positive), loaded, output)
    if task == "binary" and contract.positive is None:  # no rate or error means anything without it
        positive = _asked("Its classes can't be seen. Which is the positive one?", None, "--positive")
        contract, unlogged = _checked(rendered(positive), loaded, output)
    is_named = positive is not None or isinstance(contract.positive, str)  # which of two words it is must be seen
    output.write_text(rendered(contract.positive if is_named else None))
    version = loaded.version
    result = {
        "written": output,
        "model": version.model,
        "version": version.version,
        "features": [f"{column.name} ({column.type})" for column in contract.features],
        "positive": contract.positive if is_named else None,
        "is_champion": "champion" in version.aliases,
        "unlogged": unlogged,
        "has_reference": _keep_reference(printer, output, version, reference),
    }
    printer.emit(result, _words)


def _existing(model: str, output: Path) -> tuple[str, str]:
    """What the file says already, and its registry; raises ConfigError, and Refused where the model is in it."""
    from feedback_loop.config import load_settings
    from feedback_loop.registry import Reference

    settings, name = load_settings(output), Reference.parse(model).model
    if name in settings.models:
        raise Refused(f"{name} is in {output} already.", cure="Change it there.")
    return output.read_text(), settings.registry.tracking_uri


def _keep_reference(printer: Printer, output: Path, version: ModelVersion, given: ReferenceGiven) -> bool:
    """Gives the version the reference that was given, or is asked for where it has none; whether it has one then."""
    from feedback_loop.config import load_settings
    from feedback_loop.registry import Registry

    registry = Registry.of(load_settings(output))
    has_one = registry.reference_rows(version) is not None
    if not has_one and given.reference is None and not printer.as_json:
        files = registry.lineage.evaluation_files(version)
        given = ask_for_reference(version.model, version.version, files, given)
    if given.is_given:
        loop = printer.open_loop(output)
        loop.models.keep_reference(version.model, version.version, **given.read_own())
        loop.close()
    return has_one or given.reference is not None


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


def _checked(text: str, loaded: LoadedModel, output: Path) -> tuple[Contract, str]:
    """The contract under that text: what is written is what would be read, and a wrong answer is refused here.

    Beside it, why nothing can be logged as it stands there (empty: it can). What mends that is a setting in the file.
    """
    import tempfile

    from feedback_loop.config import load_settings
    from feedback_loop.inference import contract_of
    from feedback_loop.store import Store
    from feedback_loop.store.create_tables import refuse_too_wide

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
    positive = f" Its probabilities are of {made['positive']!r}." if isinstance(made["positive"], str) else ""
    return (
        f"{made['written']} is written for {made['model']} version {made['version']}, which takes "
        f"{', '.join(made['features'])}.{positive}\n"
        f"Next: {promote}feedback-loop doctor, feedback-loop serve {made['model']}{lacks}{refused}"
    )


_LACKS = (
    "It has no reference: nothing is judged before its first labelled predictions have filled one up. With rows that "
    "it was not trained on it is judged at once: feedback-loop models reference {model} {version} FILE --time COLUMN"
)
