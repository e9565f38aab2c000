"""What a backup is: a folder of files and the manifest that tells what they are, each checked when it is read."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import msgspec

from feedback_loop.errors import NotFound, Refused

FORMAT = 1
MANIFEST = "backup.json"


class File(msgspec.Struct, frozen=True):
    """A file of a backup; `rows`: of its table, on PostgreSQL."""

    digest: str
    size_bytes: int
    rows: int | None = None


class Backup(msgspec.Struct, frozen=True):
    """What `backup.json` says. `hash_key` is a fingerprint of the configured key of hashes, which is in no backup.

    `studies`: the statements that make Optuna's tables in PostgreSQL.
    """

    database: str
    revision: str
    made_by: str
    made_at: datetime
    hash_key: str
    files: dict[str, File]
    partitions: dict[str, list[datetime]] = {}
    views: dict[str, str] = {}
    studies: list[str] = []
    format: int = FORMAT

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files.values())


def read_backup(folder: Path) -> Backup:
    """What a backup says of itself, its files checked; raises NotFound, and Refused where it is damaged."""
    try:
        backup = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Backup)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("backup", str(folder), cure=f"It is a folder with a {MANIFEST}.") from error
    except msgspec.DecodeError as error:
        raise damaged(f"{folder / MANIFEST}: {error}") from error
    if backup.format != FORMAT:
        raise Refused(
            f"{folder} has the format {backup.format}; this version reads {FORMAT}.",
            cure=f"Restore it with the version that made it: pip install feedback-loop=={backup.made_by}.",
        )
    for name, file in backup.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or digest_of(path) != file.digest:
            raise damaged(f"{path} is not what was written")
    return backup


def damaged(cause: str) -> Refused:
    """The refusal of a backup that is not what was written."""
    return Refused(f"The backup is damaged: {cause}.", cure="Take another one; nothing was written.")


def digest_of(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
