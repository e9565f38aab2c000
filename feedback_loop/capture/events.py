"""CloudEvents of KServe's and MLServer's payload loggers: a request and its answer come as two events.

Sources of the format:

- KServe, `pkg/logger/worker.go` and `handler.go` (github.com/kserve/kserve): HTTP binary mode; `ce-type` is
  `org.kubeflow.serving.inference.request` or `.response`; both halves have one `ce-id`; `ce-component` says whether
  the predictor or a transformer was logged, `ce-inferenceservicename` whose it was. Each has its own `ce-time`, made
  when it is sent. Only answers with status 200 are logged. The content type is the caller's, of both halves.
- Seldon Core, `executor/logger/worker.go` (github.com/SeldonIO/seldon-core), and MLServer, `mlserver/cloudevents.py`:
  `io.seldon.serving.inference.request` or `.response`; each half has its own `ce-id`, and `ce-requestid` is what they
  share; `ce-modelid` names the node of the graph.
- CloudEvents 1.0, HTTP protocol binding (github.com/cloudevents/spec): the binary and the structured mode.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feedback_loop.capture.external import PREDICTED_AT, Deployed, Deployments, external_rows, with_own
from feedback_loop.capture.payloads import read_answer, read_request
from feedback_loop.capture.sink import Accounts, NoAccounts, Sink
from feedback_loop.clock import Clock, as_utc
from feedback_loop.errors import BadInput, FeedbackLoopError
from feedback_loop.schema import EARLIEST, SLACK, PredictionId, derived_bits, prediction_id
from feedback_loop.schema.bounds import text_trouble
from feedback_loop.schema.budget import UNLIMITED, USUAL, Budget
from feedback_loop.store import Store, erased_keys, payloads
from feedback_loop.store.payloads import ErasedPayloads, Half, Pair

_MOST_ATTRIBUTE_BYTES = 200
"""Two of them together are what a call is known by."""

STRUCTURED = "application/cloudevents+json"
VENDORS = ("org.kubeflow.serving.inference.", "io.seldon.serving.inference.")

Became = Literal["waiting", "logged", "known"]
"""An event waits for its other half, completed its pair (whose rows are logged now), or was there already."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class PayloadEvent:
    """An event that was read: `service` is the name of the inference service that sent it, if it said so."""

    service: str | None
    half: Half


def read_event(header: Callable[[str], str | None], body: bytes) -> PayloadEvent:
    """Reads an event in binary or in structured mode; raises BadInput for one that is no request and no answer."""
    content_type = header("content-type") or ""
    if content_type.partition(";")[0].strip().lower() == STRUCTURED:
        return _structured(body)
    return _event(lambda name: _unquoted(header(f"ce-{name}")), body, content_type)


class EventIntake:
    """Takes events in, pairs them in the store and logs the pairs. Thread-safe."""

    def __init__(
        self,
        store: Store,
        deployments: Deployments,
        sink: Sink,
        clock: Clock,
        pair_within: timedelta,
        accounts: Accounts | None = None,
        budget: Budget = USUAL,
    ) -> None:
        self._budget = budget
        self._accounts = accounts or NoAccounts()
        self._store = store
        self._deployments = deployments
        self._sink = sink
        self._clock = clock
        self._pair_within = pair_within

    def take(
        self,
        model: str,
        half: Half,
        version: str | None = None,
        unpacked: Callable[[int, int, int], None] = lambda *_: None,
    ) -> Became:
        """Makes a half durable and, where it completes a pair, its rows. The same event again changes nothing.

        `version` is the one that answered (default: the one that the model's alias means). Raises BadInput where the
        half does not fit the model, or a pair's halves each other. `unpacked` is told of the body's bytes, and of the
        rows and columns that they hold.
        """
        now = self._clock()
        deployed = self._deployments.find(model, version)
        contract = deployed.contract
        rows = (
            read_request(half.body, contract, half.content_type, self._budget)
            if half.is_request
            else read_answer(half.body, contract, self._budget)
        )
        unpacked(len(half.body), rows.num_rows, rows.num_columns)
        if half.moment is not None and not EARLIEST <= half.moment <= now + SLACK:
            raise BadInput.of("ce-time", f"{half.moment.isoformat()} is no time of a prediction")
        pair = payloads.save_half(self._store, model, half, version, now)
        if pair.is_done:
            return "known"
        if pair.request is None or pair.answer is None:
            return "waiting"
        self._complete(pair, now)
        return "logged"

    def sweep_all(self, models: Collection[str]) -> None:
        """Sweeps those of the models that have calls in the store. Never raises ours."""
        try:
            names = payloads.models_with_calls(self._store)
        except FeedbackLoopError as error:
            _log.warning("payloads not looked through", cause=str(error))
            return
        for model in names.intersection(models):
            self.sweep(model)

    def sweep(self, model: str) -> None:
        """Logs pairs that a crash left unfinished and gives up halves that waited too long. Never raises ours."""
        now = self._clock()
        try:
            for pair in payloads.whole_pairs(self._store, model, now - timedelta(seconds=10)):
                try:
                    self._complete(pair, now)
                except BadInput as error:
                    _log.warning("payloads refused", model=model, call=pair.event, cause=str(error))
            expired = payloads.expire(self._store, model, now - self._pair_within)
        except FeedbackLoopError as error:
            _log.warning("payloads not looked through", model=model, cause=str(error))
            return
        if expired:
            _log.warning("payloads expired", model=model, halves=expired, waited=str(self._pair_within))

    def _complete(self, pair: Pair, now: datetime) -> None:
        deployed = self._deployments.find(pair.model, pair.version)
        try:
            rows = _rows(pair, deployed, now)
        except BadInput:
            payloads.finish(self._store, pair, "refused", now)
            raise
        # A crash after the first line is no second row: the rows' ids come from the pair.
        recorded = deployed.log(self._sink, rows, now)
        self._accounts.count(pair.model, answered=rows.num_rows, unsampled=recorded.unsampled)
        payloads.finish(self._store, pair, "logged", now)


def erase_waiting(
    store: Store, deployments: Deployments, model: str, key: erased_keys.Key, now: datetime, *, dry_run: bool
) -> ErasedPayloads:
    """Erases the calls whose request waits for its answer and holds that key, also with other rows of the request.

    An answer that waits for its request names nobody; its rows are left out when that comes.
    """
    erased = unread = 0
    for pair in payloads.open_requests(store, model):
        try:
            has_key = _has_key(pair, deployments.find(model, pair.version), key)
        except FeedbackLoopError:
            unread += 1
            continue
        if has_key:
            erased += 1
            if not dry_run:
                payloads.forget(store, pair, now)
    return ErasedPayloads(erased, unread)


def _has_key(pair: Pair, deployed: Deployed, key: erased_keys.Key) -> bool:
    assert pair.request is not None  # it was asked for by that
    inputs = read_request(pair.request, deployed.contract, pair.content_type or "", UNLIMITED)
    keys = pa.table({column.stored: inputs.column(column.name) for column in deployed.contract.key})
    return bool(pc.any(erased_keys.has_key(deployed.redaction.redact(keys), key)).as_py())


def _rows(pair: Pair, deployed: Deployed, now: datetime) -> pa.Table:
    assert pair.request is not None and pair.answer is not None  # a whole pair
    contract = deployed.contract
    inputs = read_request(pair.request, contract, pair.content_type or "", UNLIMITED)
    timed = with_own(contract, inputs, {PREDICTED_AT: pair.requested_at or pair.received_at})
    outputs = read_answer(pair.answer, contract, UNLIMITED)

    def make_id(row: int, moment: datetime) -> PredictionId:
        return prediction_id(moment, derived_bits(f"{pair.event}:{row}"))

    return external_rows(deployed, timed, outputs, now, make_id=make_id)


def _structured(body: bytes) -> PayloadEvent:
    try:
        content = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("body", f"is no structured CloudEvent: {error}") from error
    if "data_base64" in content:
        try:
            data = msgspec.convert(content["data_base64"], bytes)
        except msgspec.ValidationError as error:
            raise BadInput.of("data_base64", str(error)) from error
    elif isinstance(content.get("data"), str):
        data = content["data"].encode()
    else:
        data = msgspec.json.encode(content.get("data"))

    def attribute(name: str) -> str | None:
        value = content.get(name)
        return None if value is None else str(value)

    return _event(attribute, data, attribute("datacontenttype") or "")


def _event(attribute: Callable[[str], str | None], body: bytes, content_type: str) -> PayloadEvent:
    kind, identifier = attribute("type") or "", attribute("requestid") or attribute("id")
    vendor = next((name for name in VENDORS if kind in (name + "request", name + "response")), None)
    if vendor is None:
        raise BadInput.of("ce-type", f"{kind!r} is not taken", cure=f"Send {VENDORS[0]}request and …response.")
    if not identifier:
        raise BadInput.of("ce-id", "is missing: a request and its answer find each other by it")
    for name in ("type", "requestid", "id", "modelid", "component", "inferenceservicename", "datacontenttype"):
        if trouble := text_trouble(attribute(name) or "", _MOST_ATTRIBUTE_BYTES):
            raise BadInput.of(f"ce-{name}", trouble)
    if trouble := text_trouble(content_type, _MOST_ATTRIBUTE_BYTES):
        raise BadInput.of("content-type", trouble)
    # The nodes of one graph share their request's id, and each has a request and an answer of its own.
    node = attribute("modelid") or attribute("component")
    half = Half(
        event=f"{identifier} {node}" if node else identifier,
        is_request=kind.endswith("request"),
        body=body,
        content_type=content_type,
        moment=_moment(attribute("time")),
    )
    return PayloadEvent(attribute("inferenceservicename") or None, half)


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return as_utc(datetime.fromisoformat(text))
    except ValueError:
        raise BadInput.of("ce-time", f"{text!r} is not RFC 3339") from None


def _unquoted(value: str | None) -> str | None:
    return None if value is None else unquote(value)
