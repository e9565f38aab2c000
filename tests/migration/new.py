"""Writes the next migration: what `feedback_loop/store/tables.py` declares beyond the newest one.

python -m tests.migration.new "what changed"
"""

import sys
import tempfile

from alembic import command
from alembic.config import Config

from feedback_loop.store import Store, migrate


def main(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/scratch.db")
        migrate.upgrade(store)
        config = Config(attributes={})
        config.set_main_option("script_location", "migrations")
        with store.write() as connection:
            config.attributes[migrate.CONNECTION] = connection
            command.revision(config, message, autogenerate=True)
        store.close()


if __name__ == "__main__":
    main(sys.argv[1])
