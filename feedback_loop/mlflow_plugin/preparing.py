"""Before a deployment can serve: its model is in the configuration, and the version that is meant is the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feedback_loop.cli.init import init
from feedback_loop.cli.models import ReferenceGiven
from feedback_loop.cli.options import Printer
from feedback_loop.clock import parse_moment
from feedback_loop.config import RegistrySettings, Settings, load_settings
from feedback_loop.errors import BadInput
from feedback_loop.loop import FeedbackLoop
from feedback_loop.registry import ModelVersion, Reference, Registry
from feedback_loop.serving.publication import hint

OF_MODEL = {
    "task": "binary, multiclass or regression",
    "label": "the outcome's column; several with commas",
    "key": "columns by which outcomes find their prediction, with commas: customer:long,month",
    "segment": "columns whose values are segments, with commas",
    "positive": "the positive class of a binary task",
    "answers": "probability: of a booster or pyfunc that answers these, and no classes",
    "store_url": "the database for predictions (sqlite:///feedback_loop.db); of a new configuration only",
}
"""What is said of a model that is not in the configuration yet, as `feedback-loop init` takes it."""

OF_VERSION = {
    "reference": "Parquet or CSV of labelled rows that the version was not trained on",
    "time": "the reference's column of times",
    "trained_until": "until when its training rows reach",
}

OF_SERVER = {
    "host": "address to listen on (serving.host)",
    "port": "port to listen on (serving.port)",
    "workers": "processes that answer (serving.workers)",
}

OF_COMMAND = {
    "model": "the registered model that a URI which names none becomes a version of (default: the deployment's name)",
    "timeout": "seconds until the server must answer (600)",
}


class _Quiet(Printer):
    """A printer for what says itself what it has done."""

    def emit(self, value: Any, words: Any) -> None:
        """Prints nothing."""


@dataclass(frozen=True)
class Wish:
    """What a deployment is to serve, and the options (`-C name=value`) that came with it."""

    model_uri: str
    options: Mapping[str, str]

    def names_version(self) -> bool:
        """Whether the URI is that of a registered version, and not of files or of a run's model."""
        return self.model_uri.startswith("models:/") and not self.model_uri.startswith("models:/m-")

    def version(self, registry: Registry, name: str) -> ModelVersion:
        """The version that is meant, registered if need be as one of the model `name`; raises NotFound."""
        if not self.names_version():
            model = self.options.get("model", name)
            return registry.adopted(model, self.model_uri) or registry.adopt(model, self.model_uri)
        wanted = Reference.parse(self.model_uri)
        if wanted.version is not None or "@" in self.model_uri:
            return registry.find(wanted)
        champion = registry.champion(wanted.model, "champion")
        return champion or registry.versions(wanted.model)[-1]


def check_options(options: Mapping[str, str], *allowed: Mapping[str, str]) -> None:
    """Raises BadInput for an option that none of these groups has."""
    names = [name for group in allowed for name in group]
    for name in options:
        if name not in names:
            raise BadInput.of(name, "is no option here", cure=f"There are: {', '.join(names)}.")


def prepare(config: Path, wish: Wish, name: str, tracking_uri: str) -> str:
    """Has the wished version be the champion of its model, in a configuration that knows it; returns the model."""
    if config.exists():
        version = wish.version(Registry.of(load_settings(config)), name)
        is_known = version.model in load_settings(config).models
    else:
        settings = Settings(registry=RegistrySettings(tracking_uri=tracking_uri), home=config.absolute().parent)
        version, is_known = wish.version(Registry.of(settings), name), False
    if is_known:
        check_options(wish.options, OF_VERSION, OF_SERVER, OF_COMMAND)
    else:
        _add(config, version, wish.options, tracking_uri)
    promote(config, version, reference_of(wish.options) if is_known else None)
    return version.model


def promote(config: Path, version: ModelVersion, reference: ReferenceGiven | None = None) -> None:
    """Makes a version that can be served the champion, if it is not; servers of this host notice at once."""
    loop = FeedbackLoop.open(config)
    try:
        if reference is not None and reference.is_given:
            loop.models.keep_reference(version.model, version.version, **reference.read_own())
        if loop.reconcile(version.model) == version.version:
            return
        loop.models.check_servable(version.model, version.version)
        loop.promote(version.model, version.version, reason="mlflow deployments")
        hint(loop.settings.path(loop.settings.serving.cache))
    finally:
        loop.close()


def reference_of(options: Mapping[str, str]) -> ReferenceGiven:
    """The reference that came with the options."""
    until: datetime | None = parse_moment(options["trained_until"]) if "trained_until" in options else None
    file = Path(options["reference"]) if "reference" in options else None
    return ReferenceGiven(time=options.get("time", ""), trained_until=until, reference=file)


def _add(config: Path, version: ModelVersion, options: Mapping[str, str], tracking_uri: str) -> None:
    """As `feedback-loop init` does it, which asks a person for what is missing."""
    check_options(options, OF_MODEL, OF_VERSION, OF_SERVER, OF_COMMAND)
    texts, lists = ("task", "positive", "answers", "store_url"), ("label", "key", "segment")
    chosen: dict[str, Any] = {name: options[name] for name in texts if name in options}
    chosen |= {name: _several(options[name]) for name in lists if name in options}
    init(
        _Quiet(as_json=True),
        model=f"{version.model}/{version.version}",
        reference=reference_of(options),
        tracking_uri=tracking_uri,
        output=config,
        add=config.exists(),
        **chosen,
    )


def _several(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
