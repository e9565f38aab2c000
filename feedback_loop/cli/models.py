"""`feedback-loop models`: versions in the registry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ModelArgument, Shell, VersionArgument, WindowGiven, group, moment_option
from feedback_loop.cli.output import span, table


@dataclass(frozen=True)
class TimesGiven:
    """When reference rows were predicted, and until when training rows reach."""

    time: Annotated[
        str,
        typer.Option("--time", help="The reference's column of times; default: predicted_at, where there is one."),
    ] = ""
    trained_until: Annotated[
        datetime | None, moment_option(help="Until when its training rows reach; default: its registration.")
    ] = None

    def read(self, path: Path | None) -> dict[str, Any]:
        """What `keep_reference` takes, with the rows of a file."""
        from feedback_loop.outcomes import read_outcomes

        rows, is_text = read_outcomes(path) if path is not None else (None, False)
        options = {"time_column": self.time, "trained_until": self.trained_until}
        return {"reference": rows, "text": is_text, **options}


@dataclass(frozen=True)
class ReferenceGiven(TimesGiven):
    """The rows that a version is compared with."""

    reference: Annotated[
        Path | None,
        typer.Option(help="Parquet or CSV of rows it has not seen in training, with features and label."),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether anything is said of a reference."""
        return self.reference is not None or self.trained_until is not None

    def read_own(self) -> dict[str, Any]:
        """What `keep_reference` takes, with the rows of its own file."""
        return self.read(self.reference)


app = group("Versions in the registry: list, register, promote, roll back.")


@app.command("list")
def list_models(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="Only this model's versions.")] = None,
) -> None:
    """Lists registered models and their versions, newest last."""
    loop = shell.loop()
    rows = [
        {
            "model": version.model,
            "version": version.version,
            "aliases": ", ".join(version.aliases),
            "registered": version.created_at,
            "trained_until": version.trained_until,
            "run": version.run_id,
        }
        for name in ([model] if model else loop.registry.models())
        for version in loop.registry.versions(name)
    ]
    shell.emit(rows, lambda rows: table(rows, "No model is registered."))


@app.command("register")
def register(
    shell: Shell,
    model: ModelArgument,
    source: Annotated[
        str, typer.Option("--from", help="What it is: runs:/…/model, models:/m-…, models:/name/1 or a folder.")
    ],
    reference: ReferenceGiven,
    promote: Annotated[bool, typer.Option("--promote", help="Make it the champion at once.")] = False,
) -> None:
    """Makes a new version of a model that was logged elsewhere."""
    loop = shell.loop()
    version = loop.models.register(model, source, **reference.read_own())
    if promote:
        loop.models.check_servable(model, version.version)
        loop.promote(model, version.version)
    result = {"model": model, "version": version.version, "promoted": promote}
    shell.emit(result, lambda _: f"{version} is registered.")


@app.command("promote")
def promote(
    shell: Shell,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The version's number.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")] = "by hand",
    force: Annotated[bool, typer.Option("--force", help="Even if it can't be served or logged.")] = False,
    *,
    reference: ReferenceGiven,
) -> None:
    """Makes a version the champion; one that can't be served or logged is refused.

    It asks for a reference where the version has none: without one nothing is judged before its first labelled
    predictions have filled one up.
    """
    loop = shell.loop()
    if not force:
        loop.models.check_servable(model, version)
    if reference.reference is None and not shell.as_json and not loop.models.has_reference(model, version):
        reference = ask_for_reference(model, version, loop.models.evaluation_files(model, version), reference)
    if reference.is_given:
        loop.models.keep_reference(model, version, **reference.read_own())
    promotion = loop.promote(model, version, reason=reason, force=force)
    missing = None if force else loop.judging.missing_reference(model)
    result = {**asdict(promotion), "missing_reference": missing.words if missing is not None else None}
    note = f"\n{missing.words} {missing.cure}" if missing is not None else ""
    shell.emit(result, lambda result: _promotion_words(result) + note)


@app.command("reference")
def keep_reference(
    shell: Shell,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The version's number.")],
    reference: Annotated[Path, typer.Argument(help="Parquet or CSV of rows it has not seen in training.")],
    times: TimesGiven,
) -> None:
    """Gives a version the labelled rows that it is compared with: then it is judged from its first outcomes on."""
    rows = shell.loop().models.keep_reference(model, version, **times.read(reference))
    result = {"model": model, "version": version, "rows": rows}
    shell.emit(result, lambda _: f"{rows:,} rows are the reference of {model} version {version}.")


@app.command("rollback")
def rollback(
    shell: Shell,
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")] = "by hand",
) -> None:
    """Makes the champion before this one the champion again."""
    shell.emit(shell.loop().rollback(model, reason=reason), _promotion_words)


@app.command("history")
def history(
    shell: Shell,
    model: ModelArgument,
    version: Annotated[str | None, typer.Option(help="Only what happened to this version.")] = None,
) -> None:
    """Tells what happened to a model's versions, from trial to retirement, oldest first, with what moved them."""
    from feedback_loop.views.history import model_history

    loop = shell.loop()
    loop.settings.model(model)
    names = ("at", "kind", "version", "words")
    shell.emit(
        model_history(loop.store, model, version),
        lambda rows: table([{name: row[name] for name in names} for row in rows], "Nothing has happened yet."),
    )


@app.command("compare")
def compare(
    shell: Shell,
    one: Annotated[str, typer.Argument(metavar="A", help="A version: name/version or name@alias.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one of the same model.")],
    window: WindowGiven,
) -> None:
    """Compares two versions on the same logged rows, with the error between days.

    By default on rows that neither has learned from.
    """
    shell.emit(shell.loop().models.compare(one, other, window=window.window()), _comparison_words)


@app.command("traffic")
def traffic(
    shell: Shell,
    model: ModelArgument,
    shadow: Annotated[
        list[str] | None, typer.Option(help="An alias whose version is scored too and only logged; may be repeated.")
    ] = None,
    canary: Annotated[str | None, typer.Option(help="The alias whose version answers a share of the keys.")] = None,
    share: Annotated[float, typer.Option(help="That share, above 0 and at most 1.")] = 0.0,
    off: Annotated[bool, typer.Option("--off", help="Let the champion alone answer again.")] = False,
) -> None:
    """Sets who takes part beside the champion, without a restart; with no options it says who does."""
    from feedback_loop.store.serving_state import TrafficPlan

    loop = shell.loop()
    changes = bool(shadow or canary or share)
    if off and changes:
        raise typer.BadParameter("says that nobody takes part: give it alone", param_hint="--off")
    if off or changes:
        loop.models.route(model, TrafficPlan(tuple(shadow or ()), canary, share))
    shell.emit({"model": model, **asdict(loop.models.traffic(model))}, _traffic_words)


@app.command("optimize")
def optimize(
    shell: Shell,
    version: VersionArgument,
    budget: Annotated[
        float, typer.Option(min=0, help="How much accuracy (of a regression: R²) may be lost, such as 0.002.")
    ] = 0.002,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Also choose among dense layers in fewer bits (neural networks).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try and show the variants; register none.")] = False,
) -> None:
    """Tries smaller variants of a version and registers the fastest within the budget, if that is beyond doubt."""
    result = shell.loop().models.optimize(version, budget, register=not dry_run, quantize=quantize)
    shell.emit(result, _optimized_words)


def ask_for_reference(model: str, version: str, files: Sequence[Path], given: ReferenceGiven) -> ReferenceGiven:
    """Asks a person for a version's reference; what was `given` where nobody can be asked, or has none.

    The files that MLflow has logged as the version's evaluation data are proposed.
    """
    if not sys.stdin.isatty():
        for path in files:
            typer.echo(f"MLflow says that it was evaluated on {path}: give that as --reference.", err=True)
        return given
    question = (
        f"{model} version {version} has no reference: which file has rows that it was not trained on, with features "
        "and label (empty: none, its first labelled predictions become it)?"
    )
    proposed = str(files[0]) if files else ""
    answer: str = typer.prompt(question, default=proposed, show_default=bool(proposed)).strip()
    if not answer:
        return given
    time: str = typer.prompt("Which column says when each was (empty: none does)?", default="", show_default=False)
    return replace(given, reference=Path(answer), time=time.strip())


def _optimized_words(result: dict[str, Any]) -> str:
    rows = [
        {
            "variant": variant["variant"],
            "engine": variant["engine"],
            "KiB": f"{variant['size_bytes'] / 1024:,.0f}",
            "p50 µs": f"{variant['p50_us']:,.0f}",
            "p99 µs": f"{variant['p99_us']:,.0f}",
            "rows/s": f"{variant['rows_per_second']:,.0f}",
            "score": f"{variant['score']:.4f}",
            "": "chosen" if variant["chosen"] else "" if variant["within_budget"] else "over budget",
        }
        for variant in result["tried"]
    ]
    lines, model, version = [], result["model"], result["version"]
    if rows:
        lines = [table(rows, ""), ""]
        lines.append(f"Scores of {result['rows']:,} labelled rows ({result['source']}); plots: {result['plots'][0]}.")
    if result["reason"]:
        lines.append(f"Nothing was chosen: {result['reason']}.")
    elif version:
        lines.append(
            f"{model} version {version} is registered, made of version {result['parent']}. "
            f"It answers nobody yet: feedback-loop models promote {model} {version}."
        )
    return "\n".join(lines)


def _comparison_words(compared: dict[str, Any]) -> str:
    one, other = compared["one"], compared["other"]
    learned = f", of which one of them has learned from {compared['learned']:,}" if compared["learned"] else ""
    lines = [f"{compared['rows']:,} labelled rows of {compared['days']} days, {span(compared['window'])}{learned}"]
    rows = [
        {
            "loss": loss["loss"],
            one: f"{loss['one']:.4f}",
            other: f"{loss['other']:.4f}",
            "difference": f"{loss['difference']:+.4f}",
            "error": "–" if loss["standard_error"] is None else f"{loss['standard_error']:.4f}",
        }
        for loss in compared["losses"]
    ]
    return "\n".join([*lines, table(rows, "")])


def _traffic_words(plan: dict[str, Any]) -> str:
    parts = [f"{alias} is a shadow" for alias in plan["shadows"]]
    if plan["canary"]:
        parts.append(f"{plan['canary']} answers {plan['share']:.2%} of the keys")
    return f"{plan['model']}: {', '.join(parts) or 'the champion alone answers'}."


def _promotion_words(promotion: dict[str, Any]) -> str:
    before = f" (before: version {promotion['from_version']})" if promotion["from_version"] else ""
    return f"Version {promotion['to_version']} is the champion of {promotion['model']}{before}."
