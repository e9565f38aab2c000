"""Connections of one address: no more than are allowed, so that nobody alone can keep all others out.

The server below bounds connections as a whole, and closes those whose head does not come in time; until then they
count. Requests without a head are seen by nobody here, so it is the system that is asked who is connected (Linux).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import structlog

LOOK_SECONDS = 0.5
"""How often it is looked at; until then an address may have more."""

TELL_SECONDS = 60.0

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_DESCRIPTORS = Path("/proc/self/fd")

_log = structlog.get_logger(__name__)


class Connections:
    """Closes connections above `most` of one address: those first that have not sent a whole request yet."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self._heard: set[str] = set()
        self._missed: set[str] = set()  # of these, in the last look
        self._ending = threading.Event()

    def start(self) -> None:
        """Begins to look; does nothing where the system does not tell who is connected."""
        if _DESCRIPTORS.is_dir():
            threading.Thread(target=self._watch, name="watch connections", daemon=True).start()

    def stop(self) -> None:
        """Ends looking."""
        self._ending.set()

    def heard(self, client: str) -> None:
        """A request has come from this client (`address:port`, as RSGI has it)."""
        if client not in self._heard:
            self._heard.add(client)

    def close_excess(self) -> int:
        """Looks once; how many connections were closed."""
        heard, mine = set(self._heard), _sockets()  # who is heard while this looks is not forgotten
        if max(len(mine), len(self._heard)) <= self._most:  # else clients that have gone are forgotten, at least
            return 0
        by_address: dict[str, list[tuple[bool, str, int]]] = {}
        clients = set()
        for address, port, inode in _connected(self._port):
            client = f"{address}:{port}"
            clients.add(client)
            if inode in mine:
                by_address.setdefault(address, []).append((client in self._heard, client, inode))
        missed = heard - clients
        self._heard -= missed & self._missed  # a table that changes while it is read may leave one out, but not twice
        self._missed = missed
        closed = 0
        for connections in by_address.values():
            excess = max(len(connections) - self._most, 0)
            for _, _, inode in sorted(connections)[:excess]:
                closed += _shut(mine[inode], inode)
        return closed

    def _watch(self) -> None:
        closed, waited = 0, TELL_SECONDS
        while not self._ending.wait(LOOK_SECONDS):
            closed += self.close_excess()
            waited += LOOK_SECONDS
            if closed and waited >= TELL_SECONDS:
                _log.warning("connections closed", connections=closed, most_of_an_address=self._most)
                closed, waited = 0, 0.0


def _sockets() -> dict[int, int]:
    """This process's sockets: descriptors by inode."""
    descriptors = {}
    for entry in _DESCRIPTORS.iterdir():
        with suppress(OSError):  # closed meanwhile
            name = str(entry.readlink())
            if name.startswith("socket:["):
                descriptors[int(name[8:-1])] = int(entry.name)
    return descriptors


def _connected(port: int) -> Iterator[tuple[str, int, int]]:
    """Who is connected to a port of this host (0: any): address, port, and the inode of the socket."""
    for table in _TABLES:
        with suppress(FileNotFoundError), table.open() as lines:
            next(lines, None)
            for line in lines:
                _, local, remote, state, *rest = line.split()
                if state == "01" and port in (0, int(local.rpartition(":")[2], 16)):
                    address, _, place = remote.rpartition(":")
                    yield _address(address), int(place, 16), int(rest[5])


def _address(text: str) -> str:
    """An address as the system's tables have it: words of four bytes, the last byte first."""
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    address = ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _shut(descriptor: int, inode: int) -> bool:
    """Ends a connection, if the descriptor is still its."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return False
    with socket.socket(fileno=copy) as connection:
        if os.fstat(copy).st_ino != inode:
            return False
        with suppress(OSError):  # it has ended by itself
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False
