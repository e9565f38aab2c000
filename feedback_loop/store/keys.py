"""API keys: only digests are kept, so that who reads the database can't call the server."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exc, select

from feedback_loop.errors import NotFound, Refused
from feedback_loop.store import tables
from feedback_loop.store.engine import Store
from feedback_loop.store.records import as_record


@dataclass(frozen=True)
class ApiKey:
    """A key by its name; the key itself is known to its owner only."""

    name: str
    created_at: datetime
    revoked_at: datetime | None


def create_key(store: Store, name: str, now: datetime) -> str:
    """Makes a key and returns it, the only time that it can be seen; raises Refused where the name is taken."""
    key = f"fl_{secrets.token_urlsafe(32)}"
    try:
        with store.write() as connection:
            values = {"name": name, "digest": digest(key), "created_at": now}
            connection.execute(tables.api_keys.insert().values(**values))
    except exc.IntegrityError as error:
        raise Refused(f"There is a key named {name!r} already.", cure="Choose another name.") from error
    return key


def revoke_key(store: Store, name: str, now: datetime) -> None:
    """Ends a key's validity; raises NotFound."""
    table = tables.api_keys
    where = (table.c.name == name) & table.c.revoked_at.is_(None)
    with store.write() as connection:
        if not connection.execute(table.update().where(where).values(revoked_at=now)).rowcount:
            raise NotFound("valid key", name, cure="See them: feedback-loop keys list.")


def load_keys(store: Store) -> list[ApiKey]:
    """All keys, by name."""
    with store.read() as connection:
        return [as_record(ApiKey, row) for row in connection.execute(select(tables.api_keys).order_by("name"))]


def valid_digests(store: Store) -> frozenset[str]:
    """The digests of the keys that are valid now."""
    table = tables.api_keys
    with store.read() as connection:
        return frozenset(connection.execute(select(table.c.digest).where(table.c.revoked_at.is_(None))).scalars())


def digest(key: str) -> str:
    """What is stored of a key. A key is 256 random bits, so a plain hash can't be guessed backwards."""
    return hashlib.sha256(key.encode()).hexdigest()
