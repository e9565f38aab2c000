"""Connections of an address, seen by the system: those that have gone are forgotten."""

import socket
from contextlib import ExitStack, closing

from feedback_loop.serving import connections as serving_connections
from feedback_loop.serving.connections import Connections

MOST = 3


def test_clients_that_have_gone_are_forgotten_though_nobody_has_too_many_connections():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        connections = Connections(server.getsockname()[1], most=1_000)
        for port in range(1_001):
            connections.heard(f"127.0.0.1:{port}")
        assert connections.close_excess() == 0
        assert connections.close_excess() == 0
        assert not connections._heard


def test_of_too_many_connections_those_that_said_nothing_go_first():
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        connections = Connections(server.getsockname()[1], MOST)
        callers = []
        for _ in range(100):  # more than this process's other sockets, whose ports are others
            caller = opened.enter_context(socket.create_connection(server.getsockname()))
            opened.enter_context(server.accept()[0])
            callers.append(caller)
        for caller in callers[:MOST]:
            host, port = caller.getsockname()
            connections.heard(f"{host}:{port}")
        assert connections.close_excess() == len(callers) - MOST
        assert all(is_open(caller) for caller in callers[:MOST])
        assert not any(is_open(caller) for caller in callers[MOST:])


def is_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


def test_nobody_is_forgotten_who_is_heard_during_a_look_or_left_out_of_one(monkeypatch):
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        connections = Connections(server.getsockname()[1], MOST)

        def join():
            caller = opened.enter_context(socket.create_connection(server.getsockname()))
            opened.enter_context(server.accept()[0])
            return caller, "{}:{}".format(*caller.getsockname())

        first, late = join(), []
        connections.heard(first[1])
        for _ in range(MOST + 2):
            join()

        def changing(port):
            yield from (each for each in connected(port) if f"{each[0]}:{each[1]}" != first[1])
            late.append(join())
            connections.heard(late[0][1])

        connected = serving_connections._connected
        with monkeypatch.context() as patch:
            patch.setattr(serving_connections, "_connected", changing)
            assert connections.close_excess() == 2
        assert connections.close_excess() == 2  # of five: three who said nothing, two of whom go
        assert is_open(first[0])
        assert is_open(late[0][0])
