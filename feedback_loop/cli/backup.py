"""`feedback-loop backup` and `restore`: the whole store in a folder, and back into an empty one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell
from feedback_loop.cli.output import configure_logging

FolderArgument = Annotated[Path, typer.Argument(help="The folder of the backup.", show_default=False)]


def backup(shell: Shell, folder: FolderArgument) -> None:
    """Copies the whole store, as it is at one moment, into a new folder; servers and schedulers go on meanwhile.

    What waits in this host's spools is brought to the store first. The registry is MLflow's, and backed up with it.
    """
    from feedback_loop.config import load_settings
    from feedback_loop.loop import FeedbackLoop
    from feedback_loop.store import migrate
    from feedback_loop.store.backup import make_backup

    configure_logging()
    loop = FeedbackLoop(load_settings(shell.config))
    if migrate.current(loop.store) == migrate.head():  # else it is backed up to be upgraded
        loop.forward()
    made = make_backup(loop.store, folder, loop.clock())
    waiting = sum(account.waiting for account in loop.predictions.local_accounts())
    result = {**_summary(folder, loop.store.name, made), "waiting": waiting}
    shell.emit(result, _made_words)


def restore(shell: Shell, folder: FolderArgument) -> None:
    """Brings a backup into the configured store, which must hold nothing; all of it, or nothing.

    A backup is executed in part (views, tables of studies): restore none that you would not run.
    """
    from feedback_loop.config import load_settings
    from feedback_loop.store import Store, migrate
    from feedback_loop.store.backup import restore_backup

    configure_logging()
    settings = load_settings(shell.config)
    store = Store(settings.url(settings.store.url), settings.hash_key)
    restored = restore_backup(store, folder)
    words = "{folder} of {made_at} is in {store}."
    more = "" if restored.revision == migrate.head() else " Bring it to this version: feedback-loop db upgrade."
    shell.emit(_summary(folder, store.name, restored), lambda result: words.format(**result) + more)


def _summary(folder: Path, store: str, backup: Any) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "store": store,
        "made_at": backup.made_at,
        "made_by": backup.made_by,
        "revision": backup.revision,
        "files": len(backup.files),
        "size_bytes": backup.size_bytes,
    }


def _made_words(result: dict[str, Any]) -> str:
    words = f"{result['store']} is in {result['folder']}: {result['size_bytes'] / 2**20:,.1f} MiB."
    waits = f" {result['waiting']:,} rows still wait in this host's spools." if result["waiting"] else ""
    return words + waits
