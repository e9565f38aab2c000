"""The ceiling: Granian, started as the product starts it, with an application that answers what it has read."""

from __future__ import annotations

import sys
from typing import Any


async def app(scope: Any, protocol: Any) -> None:
    """The body, back."""
    del scope
    protocol.response_bytes(200, [("content-type", "application/json")], await protocol())


def main(port: int, workers: int) -> None:
    """Serves until SIGTERM."""
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    server = Server(
        "benchmarks.peers.echo:app",
        port=port,
        interface=Interfaces.RSGI,
        workers=workers,
        websockets=False,
        log_level=LogLevels.warning,
    )
    server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
