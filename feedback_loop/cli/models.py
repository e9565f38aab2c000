"""`feedback-loop models`: versions in the registry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.output import (
    Commands,
    ModelArgument,
    Shell,
    VersionArgument,
    table,
)
from feedback_loop.clock import format_moment, parse_moment

ReferenceOption = Annotated[
    Path | None,
    typer.Option("--reference", help="Parquet or CSV of rows it has not seen in training, with features and label."),
]
TimeOption = Annotated[
    str, typer.Option("--time", help="The reference's column of times; default: predicted_at, where there is one.")
]
TrainedOption = Annotated[
    str | None, typer.Option("--trained-until", help="Until when its training rows reach; default: its registration.")
]

app = Commands(help="Versions in the registry: list, register, promote, roll back.", no_args_is_help=True)


@app.command("list")
def list_models(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="Only this model's versions.")] = None,
) -> None:
    """Lists registered models and their versions, newest last."""
    loop = shell.loop()
    rows = [
        {
            "model": each.model,
            "version": each.version,
            "aliases": ", ".join(each.aliases),
            "registered": format_moment(each.created_at),
            "trained_until": format_moment(each.trained_until),
            "run": each.run_id,
        }
        for name in ([model] if model else loop.registry.models())
        for each in loop.registry.versions(name)
    ]
    shell.emit(rows, lambda rows: table(rows, "No model is registered."))


@app.command("register")
def register(
    shell: Shell,
    model: ModelArgument,
    source: Annotated[
        str, typer.Option("--from", help="What it is: runs:/…/model, models:/m-…, models:/name/1 or a folder.")
    ],
    reference: ReferenceOption = None,
    time: TimeOption = "",
    trained_until: TrainedOption = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it the champion at once.")] = False,
) -> None:
    """Makes a new version of a model that was logged elsewhere."""
    loop = shell.loop()
    version = loop.models.register(model, source, **reference_of(reference, time, trained_until))
    if promote:
        loop.models.check_servable(model, version.version)
        loop.promote(model, version.version)
    plain = {"model": model, "version": version.version, "promoted": promote}
    shell.emit(plain, lambda made: f"{made['model']} version {made['version']} is registered.")


@app.command("promote")
def promote(
    shell: Shell,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The version's number.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")] = "by hand",
    force: Annotated[bool, typer.Option("--force", help="Even if it can't be served or logged.")] = False,
    reference: ReferenceOption = None,
    time: TimeOption = "",
    trained_until: TrainedOption = None,
) -> None:
    """Makes a version the champion; one that can't be served or logged is refused.

    It asks for a reference where the version has none: without one nothing is judged before its first labelled
    predictions have filled one up.
    """
    loop = shell.loop()
    if not force:
        loop.models.check_servable(model, version)
    given = reference_of(reference, time, trained_until)
    if reference is None and not shell.as_json and not loop.models.has_reference(model, version):
        given |= ask_for_reference(model, version, loop.models.evaluation_files(model, version))
    if given["reference"] is not None or given["trained_until"] is not None:
        loop.models.keep_reference(model, version, **given)
    done = loop.promote(model, version, reason=reason, force=force)
    missing = None if force else loop.judging.missing_reference(model)
    told = {**asdict(done), "missing_reference": missing.words if missing is not None else None}
    notes = f"\n{missing.words} {missing.cure}" if missing is not None else ""
    shell.emit(told, lambda each: _promotion_words(each) + notes)


@app.command("reference")
def keep_reference(
    shell: Shell,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The version's number.")],
    reference: Annotated[Path, typer.Argument(help="Parquet or CSV of rows it has not seen in training.")],
    time: TimeOption = "",
    trained_until: TrainedOption = None,
) -> None:
    """Gives a version the labelled rows that it is held against: then it is judged from its first outcomes on."""
    loop = shell.loop()
    kept = loop.models.keep_reference(model, version, **reference_of(reference, time, trained_until))
    plain = {"model": model, "version": version, "rows": kept}
    shell.emit(plain, lambda _: f"{kept:,} rows are the reference of {model} version {version}.")


@app.command("rollback")
def rollback(
    shell: Shell,
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")] = "by hand",
) -> None:
    """Makes the champion before this one the champion again."""
    done = shell.loop().rollback(model, reason=reason)
    shell.emit(asdict(done), _promotion_words)


@app.command("history")
def history(shell: Shell, model: ModelArgument) -> None:
    """Lists a model's promotions and rollbacks, oldest first."""
    from feedback_loop.store import retrainings

    loop = shell.loop()
    rows = [
        {
            "at": format_moment(each.done_at or each.intended_at),
            "kind": each.kind,
            "from": each.from_version,
            "to": each.to_version,
            "state": each.state,
            "reason": each.reason if each.cause is None else f"{each.reason}: {each.cause}",
        }
        for each in retrainings.load_promotions(loop.store, model)
    ]
    shell.emit(rows, lambda rows: table(rows, "Nothing was promoted yet."))


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
    done = shell.loop().models.optimize(version, budget, register=not dry_run, quantize=quantize)
    shell.emit(asdict(done), _optimized_words)


def reference_of(path: Path | None, time: str, trained_until: str | None) -> dict[str, Any]:
    """What the options say of a reference, as `keep_reference` takes it."""
    from feedback_loop.outcomes import read_outcomes

    rows, is_text = read_outcomes(path) if path is not None else (None, False)
    moment = parse_moment(trained_until) if trained_until else None
    return {"reference": rows, "text": is_text, "time_column": time, "trained_until": moment}


def ask_for_reference(model: str, version: str, known: Sequence[Path]) -> dict[str, Any]:
    """Asks a person for a version's reference; nothing where nobody can be asked, or has none.

    What MLflow is known to have logged as the version's evaluation data is proposed.
    """
    if not sys.stdin.isatty():
        for path in known:
            typer.echo(f"MLflow says that it was evaluated on {path}: give that as --reference.", err=True)
        return {}
    question = (
        f"{model} version {version} has no reference: which file has rows that it was not trained on, with features "
        "and label (empty: none, its first labelled predictions become it)?"
    )
    proposed = str(known[0]) if known else ""
    said: str = typer.prompt(question, default=proposed, show_default=bool(proposed)).strip()
    if not said:
        return {}
    time: str = typer.prompt("Which column says when each was (empty: none does)?", default="", show_default=False)
    return {name: value for name, value in reference_of(Path(said), time.strip(), None).items() if value is not None}


def _optimized_words(done: dict[str, Any]) -> str:
    rows = [
        {
            "variant": each["variant"],
            "engine": each["engine"],
            "KiB": f"{each['size_bytes'] / 1024:,.0f}",
            "p50 µs": f"{each['p50_us']:,.0f}",
            "p99 µs": f"{each['p99_us']:,.0f}",
            "rows/s": f"{each['rows_per_second']:,.0f}",
            "score": f"{each['score']:.4f}",
            "": "chosen" if each["chosen"] else "" if each["within_budget"] else "over budget",
        }
        for each in done["tried"]
    ]
    lines = [table(rows, ""), ""] if rows else []
    if rows:
        lines.append(f"Scores of {done['rows']:,} labelled rows ({done['source']}); plots: {done['plots'][0]}.")
    if done["reason"]:
        lines.append(f"Nothing was chosen: {done['reason']}.")
    elif done["version"]:
        lines.append(
            f"{done['model']} version {done['version']} is registered, made of version {done['parent']}. "
            f"It answers nobody yet: feedback-loop models promote {done['model']} {done['version']}."
        )
    return "\n".join(lines)


def _traffic_words(set_to: dict[str, Any]) -> str:
    said = [f"{alias} is a shadow" for alias in set_to["shadows"]]
    if set_to["canary"]:
        said.append(f"{set_to['canary']} answers {set_to['share']:.2%} of the keys")
    return f"{set_to['model']}: {', '.join(said) or 'the champion alone answers'}."


def _promotion_words(done: dict[str, Any]) -> str:
    before = f" (before: version {done['from_version']})" if done["from_version"] else ""
    return f"Version {done['to_version']} is the champion of {done['model']}{before}."
