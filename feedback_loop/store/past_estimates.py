"""How well metrics were estimated: each beside what was realised once its window had matured."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, select

from feedback_loop.clock import Window
from feedback_loop.store.engine import Store
from feedback_loop.store.evaluations import ALL_ROWS, INSUFFICIENT, estimates_of, metrics_of, of_each_window


@dataclass(frozen=True)
class PastEstimate:
    """A metric of one window: as it was estimated first, and as it was realised once the window had matured."""

    window: Window
    metric: str
    estimate: float
    realised: float


def load_past_estimates(store: Store, model: str, windows: int) -> list[PastEstimate]:
    """Estimated and realised metrics of the newest windows that were evaluated before and after they had matured."""
    first, last = of_each_window(model, matured=False), of_each_window(model, matured=True)
    same = and_(*(first.c[name] == last.c[name] for name in ("version", "window_start", "window_end")))
    both = select(first.c.window_start, first.c.window_end, first.c.evaluation_id, last.c.evaluation_id.label("last"))
    both = both.join(last, same).where(first.c.place == 1, last.c.place == 1)
    newest = both.order_by(first.c.window_end.desc(), first.c.evaluation_id.desc()).limit(windows)
    with store.read() as connection:
        pairs = sorted(connection.execute(newest).all(), key=lambda pair: pair.window_end)
        estimates = estimates_of(connection, [pair.evaluation_id for pair in pairs])
        metrics = metrics_of(connection, [pair.last for pair in pairs])
    past = []
    for start, end, identifier, matured in pairs:
        realised = {value.metric: value.value for value in metrics.get(matured, ()) if value.segment == ALL_ROWS}
        estimated = {value.metric: value.value for value in estimates[identifier] if value.segment == ALL_ROWS}
        past += [
            PastEstimate(Window(start, end), metric, estimated[metric], realised[metric])
            for metric in sorted({*estimated} & {*realised} - {INSUFFICIENT})
        ]
    return past
