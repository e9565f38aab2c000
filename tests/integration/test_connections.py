"""What callers may do with a connection: TLS, slow ones, ones that send too much."""

import datetime as dt
import http.client
import ipaddress
import json
import os
import socket
import ssl
import struct
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from datetime import UTC

import pytest

from tests.integration.processes import call, free_port, running, server, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}
BODY = {"dataframe_records": [RECORD]}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("connections") / "server.log"


@pytest.fixture(scope="module")
def port(churn_home, log, warm):
    """A server that waits a second for a request's head and for its body, and has room for sixteen connections."""
    limits = {"HEADER_TIMEOUT": "1s", "BODY_TIMEOUT": "1s", "MAX_CONNECTIONS": "16", "MAX_UNPACKED_BYTES": "8388608"}
    settings = {f"FEEDBACK_LOOP_SERVING__{name}": value for name, value in limits.items()}
    with server(churn_home / "feedback_loop.toml", log=log, warm=warm, **settings) as (port, _):
        yield port


def certify(folder, name="server", address="127.0.0.1"):
    """A self-signed certificate for an address, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
    now = dt.datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return certificate, private


def call_securely(port, certificate, body):
    context = ssl.create_default_context(cafile=str(certificate))
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)) as connection:
        connection.request("POST", "/invocations", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), connection.sock.version()


def serve(warm, home, port, certificate, key):
    command = [warm / "feedback-loop", "serve", "churn", "--config", str(home / "feedback_loop.toml")]
    settings = {
        "FEEDBACK_LOOP_SERVING__TLS_CERTIFICATE": str(certificate),
        "FEEDBACK_LOOP_SERVING__TLS_KEY": str(key),
    }
    return [*command, "--port", str(port)], settings


def test_callers_speak_tls_to_a_server_with_a_certificate(warm, churn_home, tmp_path):
    certificate, key = certify(tmp_path)
    port, log = free_port(), tmp_path / "server.log"
    command, settings = serve(warm, churn_home, port, certificate, key)
    with running(command, log, **settings) as process:
        status, answer, spoken = wait_until(lambda: call_securely(port, certificate, BODY), process, log)
        assert (status, answer["model_version"], spoken) == (200, "1", "TLSv1.3")
        with pytest.raises((OSError, http.client.HTTPException)):
            call(port, "GET", "/ping")
        with pytest.raises(ssl.SSLCertVerificationError):
            call_securely(port, certify(tmp_path, "other")[0], BODY)
    assert f"https://127.0.0.1:{port}" in log.read_text()


@pytest.mark.parametrize("wrong", ["missing", "no PEM", "another's key"])
def test_a_wrong_certificate_is_one_line_that_says_so(warm, churn_home, tmp_path, wrong):
    certificate, key = certify(tmp_path)
    if wrong == "missing":
        key.unlink()
    elif wrong == "no PEM":
        certificate.write_text("certainly")
    else:
        key = certify(tmp_path, "other")[1]
    command, settings = serve(warm, churn_home, free_port(), certificate, key)
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith("Serving")]
    assert len(said) == 1
    assert str(key if wrong == "missing" else certificate) in said[0]


def test_connections_that_send_no_whole_head_are_closed_and_make_room_for_others(port):
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(16)]
        for connection in slow[:10]:
            connection.sendall(b"POST /invocations HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        began = time.monotonic()
        assert call(port, "POST", "/invocations", BODY)[0] == 200
        assert time.monotonic() - began < 45
        for connection in slow:
            assert ends(connection)
    assert call(port, "POST", "/invocations", BODY)[0] == 200


def test_a_head_that_comes_drop_by_drop_is_cut_off(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\nx: ")
        began = time.monotonic()
        while time.monotonic() - began < 60 and not is_closed(connection):
            time.sleep(0.1)
        assert 0.9 < time.monotonic() - began < 45


def test_a_body_that_does_not_come_is_refused_and_costs_no_place(port):
    head = b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(10)]
        for place, connection in enumerate(slow):
            rest = b"content-length: 1000\r\n\r\n{" if place % 2 else b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"
            connection.sendall(head + rest)
        assert call(port, "POST", "/invocations", BODY)[0] == 200
        for connection in slow:
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"within 1 seconds" in answer
    assert call(port, "POST", "/invocations", BODY)[0] == 200


def test_bodies_take_room_as_they_come_and_are_refused_where_there_is_none_until_there_is_again(port):
    head = b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

    def answers(begun):
        with ExitStack() as stack:
            slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(3)]
            for connection in slow:
                connection.sendall(head + b"content-length: 1048576\r\n\r\n" + begun)
            return [connection.recv(4096) for connection in slow]

    said = answers(b"{")  # what they announce takes no room
    assert [answer.split()[1] for answer in said] == [b"408", b"408", b"408"]
    said = answers(b" " * 1_048_575)  # each may become four times as much
    assert sorted(answer.split()[1] for answer in said) == [b"408", b"408", b"503"]
    (refused,) = (answer for answer in said if answer.split()[1] == b"503")
    assert b"retry-after: 1\r\n" in refused.lower()
    assert b"8,388,608 bytes together" in refused
    assert call(port, "POST", "/invocations", BODY)[0] == 200


def test_a_body_that_is_long_is_whole_when_it_came_in_parts(port):
    body = {"dataframe_records": [RECORD] * 5_000}
    status, answer, _ = call(port, "POST", "/invocations", body)
    assert (status, len(answer["predictions"])) == (200, 5_000)


CSV = b"age,plan,customer,month\n40.0,pro,1,2026-03\n41.0,pro,2,2026-03\n"
CHUNKED = (
    b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n"
)
CUT = CSV[:-20]  # after a whole row


def chunk(part):
    return b"%x\r\n%s\r\n" % (len(part), part)


def answered(port):
    text = call(port, "GET", "/metrics")[1].decode()
    named = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    found = {name: float(value) for name, _, value in named}
    of_server = sum(value for name, value in found.items() if 'fault="server"' in name)
    return found.get('feedback_loop_rows_spooled_total{model="churn"}', 0), of_server


@pytest.mark.parametrize("end", ["closed", "reset", "open"])
@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED + b"%x\r\n%s" % (len(CSV), CUT),
        CHUNKED + chunk(CUT),
        CHUNKED + chunk(CUT) + b"zz\r\n",
        CHUNKED + chunk(CUT) + b"5\r\nabcdefgh\r\n",
        CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: 500") + CUT,
        CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: 100000") + CUT,
    ],
    ids=["within a chunk", "between chunks", "no size", "wrong size", "with its length", "with a great length"],
)
def test_a_body_that_is_cut_off_is_not_answered_not_logged_and_no_fault_of_the_server(port, log, sent, end):
    before, traces = answered(port), log.read_text().count("Traceback")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        time.sleep(0.05)  # it has been read by then, mostly; nothing depends on it
        if end == "closed":
            connection.shutdown(socket.SHUT_WR)
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            said = b""
            with suppress(ConnectionResetError):
                said = connection.recv(4096)
            assert said.partition(b"\r\n")[0] in (b"", b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 408 Request Timeout")
    assert call(port, "POST", "/invocations", BODY)[0] == 200
    assert answered(port) == (before[0] + 1, before[1])
    assert log.read_text().count("Traceback") == traces


def test_a_chunked_body_that_is_whole_is_answered_whatever_its_chunks(port):
    for parts in ([CSV], [CSV[:7], CSV[7:]], [bytes([each]) for each in CSV]):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(CHUNKED + b"".join(map(chunk, parts)) + b"0\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def is_closed(connection):
    """Whether the server has closed it by now, found out by sending some more of the head."""
    try:
        connection.sendall(b"a")
        connection.setblocking(False)
        return connection.recv(4096, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(15)


def ends(connection):
    """Whether the server has closed it (an error's answer may come first)."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return True


def test_a_head_that_is_too_long_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n" + b"x: " + b"a" * 200_000 + b"\r\n\r\n")
            answer = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert answer == b"" or b" 431 " in answer.splitlines()[0]
    assert call(port, "GET", "/ping")[0] == 200
