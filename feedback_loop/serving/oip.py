"""Open Inference Protocol v2 over HTTP (`/v2/…`): health, metadata, inference."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version as package_version

import msgspec

from feedback_loop.errors import NotFound
from feedback_loop.schema import Role
from feedback_loop.schema.protocol import oip
from feedback_loop.serving.batcher import QUICK_ROWS, Answered
from feedback_loop.serving.endpoints import Endpoints
from feedback_loop.serving.health import Readiness
from feedback_loop.serving.http_errors import INFERENCE, JSON, Headers, HttpError, media_type
from feedback_loop.serving.predictions import QUICK_BYTES, Mixed, Predictions, aside
from feedback_loop.serving.request import Request
from feedback_loop.serving.traffic import Traffic
from feedback_loop.tracing import trace_id

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")

Answer = tuple[int, bytes, Headers]


class OpenInference:
    """Answers the protocol's requests. Its methods run on the event loop."""

    def __init__(self, endpoints: Endpoints, predictions: Predictions, readiness: Callable[[], Readiness]) -> None:
        self._endpoints = endpoints
        self._predictions = predictions
        self._readiness = readiness

    def judge(self, request: Request) -> str:
        """The model that is asked, if a body of that type is taken; clients of Triton say nothing of a type."""
        kind = media_type(request.headers)
        if kind not in ("", "application/json", "application/octet-stream"):
            message = f"The content type {kind!r} is not taken. Send application/json, application/octet-stream."
            raise HttpError(415, "UNSUPPORTED_MEDIA_TYPE", message)
        return self.model(request)

    def model(self, request: Request) -> str:
        """The model that is asked; raises HttpError and NotFound."""
        return self._endpoints.name(_parts(request.path)[0])

    async def infer(self, request: Request, body: bytes) -> Answer:
        """`POST /v2/models/{model}[/versions/{version}]/infer`."""
        began = time.perf_counter()
        name, version, _ = _parts(request.path)
        traffic = await self._endpoints.answering(name)
        _refuse_other(name, version, traffic.champion.scorer.version.version)
        header = request.header
        if header("content-encoding") not in (None, "", "identity"):
            raise HttpError(415, "UNSUPPORTED_MEDIA_TYPE", "Compressed bodies are not taken.")
        if version is not None:  # who names a version is answered by it
            traffic = replace(traffic, canary=None)
        decoding = partial(oip.decode_infer, traffic.decoder, body, header)
        asked = await aside(decoding, is_long=len(body) > QUICK_BYTES)
        request.unpacked(len(body), asked.rows.count, asked.rows.width)
        answered = await self._predictions.predict(traffic, asked.rows, header("x-request-id") or trace_id(), began)
        named = answered.version if isinstance(answered, Answered) else None
        request.answered_by(traffic.contract.model, named, asked.rows.count)
        encoding = partial(_encoded, asked, traffic, answered)
        answer, headers = await aside(encoding, is_long=asked.rows.count > QUICK_ROWS)
        return 200, answer, headers

    async def tell(self, request: Request, body: bytes) -> Answer:
        """Every other path of the protocol."""
        del body
        path = request.path
        if path == INFERENCE:
            return 200, msgspec.json.encode(oip.server_metadata(package_version("feedback-loop"))), JSON
        if path == f"{INFERENCE}/health/live":
            return 200, b'{"live":true}', JSON
        if path == f"{INFERENCE}/health/ready":
            readiness = (await asyncio.to_thread(self._readiness)).of_all()  # as the protocol has it
            is_ready = readiness.status == 200
            return readiness.status, msgspec.json.encode({"ready": is_ready}), JSON
        name, version, what = _parts(path)
        name = self._endpoints.name(name)
        _refuse_other(name, version, self._endpoints.champion(name))
        if what == "ready":
            return 200, msgspec.json.encode({"name": name, "ready": True}), JSON
        contract = await asyncio.to_thread(self._endpoints.contract, name)
        versions = [number for role, number in self._endpoints.parts(name) if role != Role.SHADOW]
        return 200, msgspec.json.encode(oip.model_metadata(contract, versions)), JSON


def _refuse_other(name: str, version: str | None, answers: str) -> None:
    """Raises NotFound where a version is named that does not answer."""
    if version is not None and version != answers:
        raise NotFound("served version", f"{name}/{version}", cure=f"It is answered by version {answers}.")


def _parts(path: str) -> tuple[str, str | None, str | None]:
    """The model, the version and what is asked; raises HttpError."""
    match = _MODEL.fullmatch(path)
    if match is None:
        raise HttpError(404, "ENDPOINT_NOT_FOUND", f"There is no {path} here.")
    return match[1], match[2], match[3]


def _encoded(asked: oip.Infer, traffic: Traffic, answered: Answered | Mixed) -> tuple[bytes, Headers]:
    named = {column.name: answered.outputs.column(column.stored).to_pylist() for column in traffic.contract.outputs}
    versions = [answered.version] if isinstance(answered, Answered) else answered.versions
    return oip.encode_infer(asked, traffic.contract, named, answered.ids, versions, answered.beside)
