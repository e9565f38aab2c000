"""What a single value may be: whatever is stored can be indexed, and read by everybody who comes after."""

from __future__ import annotations

from datetime import UTC, datetime

EARLIEST_MOMENT = datetime(1, 1, 2, tzinfo=UTC)
LATEST_MOMENT = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)
"""The years 1 to 9999, which Python and both databases hold, but for a day at each end, for the zones."""

MOST_INDEXED_BYTES = 500
"""The longest text of a key or a segment: PostgreSQL's indexes hold 2,704 bytes in all columns together."""

OUT_OF_TIME = "is beyond the years 1 to 9999"
TOO_LONG = f"is longer than {MOST_INDEXED_BYTES} bytes, which texts of keys and segments may be"


def utc_within(moment: datetime) -> datetime:
    """The moment in UTC (which it is without a zone); raises OverflowError beyond the bounds."""
    utc = moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if not EARLIEST_MOMENT <= utc <= LATEST_MOMENT:
        raise OverflowError(f"{moment.isoformat()} {OUT_OF_TIME}")
    return utc


def text_trouble(text: str, most_bytes: int = MOST_INDEXED_BYTES) -> str | None:
    """What keeps a text from being stored and indexed, None where nothing does."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "holds half a surrogate pair, which is no text"
    if "\0" in text:
        return "holds a NUL character, which no database of ours can store"
    return f"is longer than {most_bytes} bytes" if size > most_bytes else None


def is_too_long(text: str) -> bool:
    """Whether a text is no key and no segment."""
    return len(text) > MOST_INDEXED_BYTES // 4 and len(text.encode(errors="replace")) > MOST_INDEXED_BYTES
