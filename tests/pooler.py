"""A pooler of PostgreSQL's transactions at its hardest: each has another connection than the one before.

PgBouncer with `pool_mode = transaction` does so under load, and like this one refuses options of the URL.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from sqlalchemy import make_url

IDLE = b"I"
"""What ReadyForQuery says outside of a transaction (PostgreSQL's manual, 53.7: Message Formats)."""
NO_ENCRYPTION = (80877103, 80877104)
CANCEL = 80877102
SERVERS = 3


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """The URL of the pooler before a PostgreSQL that listens at a socket in a folder."""
    parts = make_url(url)
    server = f"{parts.query['host']}/.s.PGSQL.5432"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, server), daemon=True).start()
        yield f"postgresql://{parts.username}@127.0.0.1:{listening.getsockname()[1]}/{parts.database}"
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, server: str) -> None:
    with suppress(OSError):  # it was closed
        while True:
            caller, _ = listening.accept()
            threading.Thread(target=_serve, args=(caller, server), daemon=True).start()


def _serve(caller: socket.socket, server: str) -> None:
    with caller, ExitStack() as stack, suppress(OSError):
        first = _startup(caller)
        if first is None:
            return
        servers = []
        for number in range(SERVERS):
            opened = stack.enter_context(socket.socket(socket.AF_UNIX))
            opened.connect(server)
            opened.sendall(first)
            answer = _until_ready(opened)
            if number == 0:
                caller.sendall(answer)
            servers.append(opened)
        _relay(caller, servers)


def _startup(caller: socket.socket) -> bytes | None:
    """The message that begins a connection; None for one that only asks for another's end, or has options."""
    while True:
        head = _exactly(caller, 8)
        size, code = struct.unpack("!II", head)
        if code in NO_ENCRYPTION:
            caller.sendall(b"N")
            continue
        message = head + _exactly(caller, size - 8)
        return None if code == CANCEL or b"\0options\0" in message else message


def _relay(caller: socket.socket, servers: list[socket.socket]) -> None:
    turn, left = 0, b""
    while True:
        for readable in select.select([caller, servers[turn]], [], [])[0]:
            data = readable.recv(65536)
            if not data:
                return
            if readable is caller:
                servers[turn].sendall(data)
                continue
            caller.sendall(data)
            messages, left = _messages(left + data)
            if (b"Z", IDLE) in messages:
                turn = (turn + 1) % SERVERS
                break


def _messages(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The type and the first byte of each whole message, and what is left."""
    found = []
    while len(data) >= 5 and len(data) > (size := struct.unpack("!I", data[1:5])[0]):
        found.append((data[:1], data[5:6]))
        data = data[1 + size :]
    return found, data


def _until_ready(server: socket.socket) -> bytes:
    answer = b""
    while not any(kind == b"Z" for kind, _ in _messages(answer)[0]):
        data = server.recv(65536)
        if not data:
            break
        answer += data
    return answer


def _exactly(caller: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = caller.recv(size - len(data))
        if not more:
            raise ConnectionError("it was closed")
        data += more
    return data
