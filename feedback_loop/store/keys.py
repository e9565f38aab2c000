"""API keys: only their digests are stored, so that nobody can call the server by reading the database."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, String, select

from feedback_loop.errors import NotFound, Refused
from feedback_loop.store.engine import Store
from feedback_loop.store.records import change, insert_if_new, many
from feedback_loop.store.schema import shared_table


class Scope(StrEnum):
    """What a key may be used for. `admin` includes the others."""

    PREDICT = "predict"
    OUTCOMES = "outcomes"
    READ = "read"
    APPROVE = "approve"
    ADMIN = "admin"


USUAL_SCOPES = (Scope.PREDICT, Scope.OUTCOMES)
"""The scopes of a key by default: a caller's. Who may read the log is said by name."""


@dataclass(frozen=True)
class ApiKey:
    """A key's name, scopes, and the models that it is for (None: all). The key itself is not stored."""

    name: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None


api_keys = shared_table(
    "api_keys",
    ApiKey,
    Column("digest", String, nullable=False, unique=True),  # SHA-256 of the key
    key=["name"],
)


@dataclass(frozen=True)
class KeyRight:
    """A valid key as servers check it: digest, name, scopes, and the models that it is for (None: all)."""

    digest: str
    name: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None


def create_key(
    store: Store,
    name: str,
    now: datetime,
    scopes: Collection[Scope] = USUAL_SCOPES,
    models: Collection[str] | None = None,
) -> str:
    """Creates a key for these models (None: all) and returns it; it can't be read again later.

    Raises Refused if the name is taken, or if there is no scope or no model.
    """
    if models is not None and not models:
        raise Refused(f"The key {name!r} would be good for no model.", cure="Name one, or none for all of them.")
    if not scopes:
        raise Refused(f"The key {name!r} would be good for nothing.", cure=f"Scopes: {', '.join(Scope)}.")
    key = f"fl_{secrets.token_urlsafe(32)}"
    ordered = [str(scope) for scope in Scope if scope in scopes]
    values = {"name": name, "digest": digest(key), "scopes": ordered, "created_at": now}
    values["models"] = sorted(models) if models is not None else None
    with store.write() as connection:
        if insert_if_new(connection, api_keys, values, "name") is None:
            raise Refused(f"There is a key named {name!r} already.", cure="Choose another name.")
    return key


def revoke_key(store: Store, name: str, now: datetime) -> None:
    """Revokes a valid key; raises NotFound."""
    if not change(store, ApiKey, {"revoked_at": now}, name=name, revoked_at=None):
        raise NotFound("valid key", name, cure="See them: feedback-loop keys list.")


def load_keys(store: Store) -> list[ApiKey]:
    """All keys, by name."""
    return many(store, ApiKey, order_by="name")


def valid_keys(store: Store) -> list[KeyRight]:
    """All keys that are valid now, as servers check them."""
    table = api_keys.c
    valid = select(table.digest, table.name, table.scopes, table.models).where(table.revoked_at.is_(None))
    with store.read() as connection:
        rows = connection.execute(valid.order_by("name")).all()
    return [
        KeyRight(key, name, frozenset(scopes), frozenset(models) if models is not None else None)
        for key, name, scopes, models in rows
    ]


def digest(key: str) -> str:
    """The stored digest of a key. A key has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
