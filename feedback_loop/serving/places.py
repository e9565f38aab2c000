"""Where a server finds its models' bundles, and on what they are computed; for workers, stager and loop."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version

from feedback_loop.config import Settings
from feedback_loop.inference import EngineOptions
from feedback_loop.inference.providers import is_onnx_installed
from feedback_loop.registry import Reference
from feedback_loop.serving.publication import Place

_BUNDLE_SETTINGS = {"task", "classes", "inference"}
"""Settings of a model that its bundles depend on; all others are applied when a bundle is opened."""


def served_models(settings: Settings, models: Sequence[str]) -> dict[str, Reference]:
    """By name, what `name`, `name@alias` or `name/version` means."""
    references = (meant_version(settings, text) for text in models)
    return {reference.model: reference for reference in references}


def meant_version(settings: Settings, text: str) -> Reference:
    """What `name`, `name@alias` or `name/version` means; a bare name means its model's alias."""
    reference = Reference.parse(text)
    if reference.version is None and "@" not in text:
        return Reference(reference.model, alias=settings.model(reference.model).alias)
    return reference


def places_of(settings: Settings, models: Sequence[str]) -> dict[str, Place]:
    """Where the bundles of these models are, by name."""
    cache = settings.path(settings.serving.cache)
    return {
        name: Place.of(
            cache,
            name,
            reference.alias or f"version {reference.version}",
            _form(settings, name),
            adapts=settings.model(name).adapter.mode == "on",
        )
        for name, reference in served_models(settings, models).items()
    }


def place_of_version(settings: Settings, model: str) -> Place:
    """Where the bundle of any version of a model is, whether a server answers with it or not."""
    return Place.of(settings.path(settings.serving.cache), model, "", _form(settings, model))


def _form(settings: Settings, model: str) -> str:
    """Eight digits that change with whatever a model's bundles depend on, apart from its version."""
    parts = f"{settings.model(model).model_dump_json(include=_BUNDLE_SETTINGS)}\0{is_onnx_installed()}"
    return hashlib.blake2b(f"{version('feedback-loop')}\0{parts}".encode(), digest_size=4).hexdigest()


def engine_options(settings: Settings, model: str) -> EngineOptions:
    """On what a model is computed: its own providers, or the server's."""
    own = settings.model(model).inference.providers
    return EngineOptions(own or settings.serving.providers, settings.serving.threads)
