"""Whether a server can answer: what `/ready` says, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec


@dataclass(frozen=True)
class Readiness:
    """The version that answers per model, every reason why requests should not be sent here now, how many rows of
    models the store refused for good, and the models that are still being made ready.
    """

    models: dict[str, str | None]
    reasons: tuple[str, ...]
    put_aside: Mapping[str, int]
    being_made_ready: tuple[str, ...]

    def of_all(self) -> Readiness:
        """The same where a model that is still being made ready is a reason."""
        making = (f"{model}: it is still being made ready" for model in self.being_made_ready)
        return replace(self, reasons=(*self.reasons, *making))

    @property
    def status(self) -> int:
        """The answer's HTTP status: 200 or 503."""
        return 503 if self.reasons else 200

    @property
    def body(self) -> bytes:
        """The answer's body: JSON."""
        fields: dict[str, object] = {"ready": not self.reasons, "models": self.models, "reasons": self.reasons}
        if not all(self.models.values()):
            fields["not_served"] = [model for model, version in self.models.items() if version is None]
        beside = {"being_made_ready": self.being_made_ready, "put_aside": self.put_aside}
        return msgspec.json.encode(fields | {name: value for name, value in beside.items() if value})


def readiness(
    versions: Mapping[str, str | None],
    spool_trouble: str | None,
    put_aside: Mapping[str, int],
    being_made_ready: Sequence[str] = (),
) -> Readiness:
    """From the proven version that is loaded per model (None: none yet), why the spool takes no rows, if so, the
    rows that are put aside, and the models in the making. A server of which one model can't be served goes on with
    the others.
    """
    reasons = [] if any(versions.values()) else [f"{model}: no version is loaded yet" for model in versions]
    if spool_trouble is not None:
        reasons.append(f"the spool takes no rows: {spool_trouble}")
    return Readiness(dict(versions), tuple(reasons), put_aside, tuple(being_made_ready))
