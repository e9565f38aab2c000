"""The capture client: any Python process that serves a model logs what it answered, durably, with one call."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, Self

import pyarrow as pa

from feedback_loop.capture.external import (
    LATENCY,
    PREDICTED_AT,
    REQUEST_ID,
    Deployed,
    Deployments,
    external_rows,
    with_own,
)
from feedback_loop.capture.outputs import plain_values, read_outputs
from feedback_loop.capture.payloads import columns_of
from feedback_loop.capture.sink import Accounts, NoAccounts, Sink
from feedback_loop.clock import Clock
from feedback_loop.errors import BadInput, Unavailable
from feedback_loop.inference import ID_COLUMN, input_rows
from feedback_loop.schema import PREDICTION_ID, Contract, PredictionId, RandomBits, as_table
from feedback_loop.schema.budget import UNLIMITED

TakeOutcomes = Callable[[Deployed, Any, Literal["refuse", "skip"], bool], dict[str, Any]]
"""Takes outcomes of a version's model in: rows, what a bad row does, whether values are text. See
`feedback_loop.outcomes.Receiver`.
"""


class Client:
    """Logs predictions that this process made itself. Thread-safe; `with` closes what it was opened with.

    What became of rows is counted in `accounts` alone: a spool is given as a `SpoolView` that counts nothing.
    """

    def __init__(
        self,
        deployments: Deployments,
        sink: Sink,
        clock: Clock,
        *,
        bits: RandomBits = secrets.randbits,
        accounts: Accounts | None = None,
        close: Callable[[], None] = lambda: None,
        take_outcomes: TakeOutcomes | None = None,
    ) -> None:
        self._take_outcomes = take_outcomes
        self.accounts = accounts or NoAccounts()
        self._deployments = deployments
        self._sink = sink
        self._clock = clock
        self._bits = bits
        self._close = close

    def log(
        self,
        model: str,
        features: Any,
        predictions: Any,
        *,
        keys: Any = None,
        ids: Sequence[str] | None = None,
        predicted_at: datetime | Sequence[datetime] | None = None,
        version: str | None = None,
        request_id: str | Sequence[str | None] | None = None,
        latency_us: int | Sequence[int | None] | None = None,
    ) -> list[PredictionId]:
        """Logs rows and what was answered for each; returns their ids. On return they are durable.

        Args:
            model: The model's name in the configuration.
            features: pandas, Polars, Arrow, columns, a list of rows; or values in the features' order, row by row.
            predictions: What was answered: see `feedback_loop.capture.read_outputs`.
            keys: The key's columns, where they are not among the features' frame.
            ids: UUIDv7, one per row. Whoever may try again gives them: a row whose id is known is no second row.
            predicted_at: When it was predicted (default: now), once or for each row.
            version: The version that answered (default: the one that the model's alias means).
            request_id: The caller's own identifier of the request, once or for each row.
            latency_us: How long the answer took, in microseconds, once or for each row.

        Raises:
            BadInput: A row or a field that does not fit the model; nothing was logged.
            NotFound: No such model or version.
            Unavailable: The rows could not be made durable; nothing was logged.
        """
        deployed = self.deployed(model, version)
        inputs = input_rows(deployed.contract, _frame(deployed.contract, features, keys))
        if ids is not None:
            inputs = with_own(deployed.contract, inputs, {ID_COLUMN: ids})
        outputs = read_outputs(deployed.contract, predictions)
        try:
            return self.log_rows(
                deployed, inputs, outputs, predicted_at=predicted_at, request_id=request_id, latency_us=latency_us
            )
        except Unavailable:
            self.accounts.count(model, refused=inputs.num_rows)
            raise

    def record_outcomes(
        self, model: str, outcomes: Any, *, on_error: Literal["refuse", "skip"] = "refuse", text: bool = False
    ) -> dict[str, Any]:
        """Takes outcomes in, as `FeedbackLoop.record_outcomes` does; on return they are durable.

        While the store is away they are kept in this process's spool, and come to it in their order once it is back:
        `waiting` says how many. Returns counts as a server answers them. Raises BadInput, NotFound and Unavailable.
        """
        if self._take_outcomes is None:
            raise Unavailable("outcomes", "This client takes none.", cure="Make it with loop.capture_client().")
        return self._take_outcomes(self.deployed(model), outcomes, on_error, text)

    def log_rows(
        self,
        deployed: Deployed,
        inputs: pa.Table,
        outputs: pa.Table,
        *,
        predicted_at: datetime | Sequence[datetime] | None = None,
        request_id: str | Sequence[str | None] | None = None,
        latency_us: int | Sequence[int | None] | None = None,
    ) -> list[PredictionId]:
        """The same for what was read already, by `input_rows` and `read_outputs` with the contract of `deployed`.

        Rows that could not be made durable are for the caller to count: it knows whether the answer leaves.
        """
        now = self._clock()
        own = {PREDICTED_AT: predicted_at, REQUEST_ID: request_id, LATENCY: latency_us}
        rows = external_rows(deployed, with_own(deployed.contract, inputs, own), outputs, now, bits=self._bits)
        identifiers: list[PredictionId] = rows.column("prediction_id").to_pylist()
        if len(set(identifiers)) < len(identifiers):
            raise BadInput.of(PREDICTION_ID, "the same id is given to several rows")
        recorded = deployed.log(self._sink, rows, now)
        self.accounts.count(deployed.contract.model, answered=len(identifiers), unsampled=recorded.unsampled)
        return identifiers

    def deployed(self, model: str, version: str | None = None) -> Deployed:
        """The version that answers, with what it takes and answers; raises NotFound."""
        return self._deployments.find(model, version)

    def close(self) -> None:
        """Gives back what the client was opened with."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio: what is awaited is done in a thread, and the event loop goes on meanwhile."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def log(self, model: str, features: Any, predictions: Any, **options: Any) -> list[PredictionId]:
        """See `Client.log`, also for the options."""
        return await asyncio.to_thread(partial(self._client.log, model, features, predictions, **options))

    async def record_outcomes(self, model: str, outcomes: Any, **options: Any) -> dict[str, Any]:
        """See `Client.record_outcomes`, also for the options."""
        return await asyncio.to_thread(partial(self._client.record_outcomes, model, outcomes, **options))

    async def close(self) -> None:
        """See `Client.close`."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _frame(contract: Contract, features: Any, keys: Any) -> pa.Table:
    """Features and keys in one table."""
    names = [column.name for column in contract.features]
    if isinstance(features, list | tuple) or type(features).__module__ == "numpy":
        rows = plain_values(features)
        features = columns_of([list(row) if isinstance(row, tuple) else row for row in rows], names, UNLIMITED)
    extra = {column.name for column in contract.key}
    table = as_table(features, {*names, *extra, contract.own(PREDICTION_ID)})
    if keys is None:
        return table
    beside = as_table(keys, extra)
    if beside.num_rows != table.num_rows:
        raise BadInput.of("keys", f"has {beside.num_rows} rows, where the features have {table.num_rows}")
    features_alone = {name: table.column(name) for name in table.column_names if name not in beside.column_names}
    return pa.table({**features_alone, **{name: beside.column(name) for name in beside.column_names}})
