"""Thrift's compact protocol, as far as Parquet's footers and headers of pages need it.

The format: `thrift-compact-protocol.md` (github.com/apache/thrift), the structs: `parquet.thrift`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, overload

import pyarrow as pa

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_MOST_DEPTH = 8
_MOST_VARINT = 10


class FileContent:
    """A file as bytes that are read when they are looked at, and only those."""

    _BLOCK = 2**14

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._start, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._size)
            return os.pread(self._descriptor, max(0, stop - start), start)
        if not 0 <= place - self._start < len(self._block):
            self._start, self._block = place, os.pread(self._descriptor, self._BLOCK, place)
            if not self._block:
                raise pa.ArrowInvalid("a page is cut off")
        return self._block[place - self._start]


Content = bytes | FileContent


class Thrift:
    """Reads structs of numbers, as dictionaries by their fields' numbers; of a list there is its length, `(length,)`,
    and what else is no number is passed over.
    """

    def __init__(self, content: Content, place: int, end: int) -> None:
        self._content = content
        self._place = place
        self._end = end

    def page(self) -> tuple[dict[int, Any], int]:
        """The header of a page, and where its content begins."""
        return self.read(), self._place

    def structs(self, *wanted: int) -> Iterator[tuple[int, int]]:
        """The structs in these fields of the one that begins here: the field, and the place in a list.

        Each is to be read before the next is asked for.
        """
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._number()
            kind, size = head & 15, 1
            if in_list := kind == _LIST and field in wanted:
                kind, size = self._list()
            for place in range(size):
                if field in wanted and kind == _STRUCT:
                    yield field, place
                else:
                    self._value(kind, 0, in_list=in_list)

    def value_of_pair(self) -> bytes:
        """The value (field 2) of a pair whose key has just ended."""
        if self._byte() != (1 << 4 | _BINARY):
            raise pa.ArrowInvalid("the schema of Arrow is not where it should be")
        return self._binary()

    def read(self, depth: int = 0) -> dict[int, Any]:
        """The struct that begins here."""
        if depth > _MOST_DEPTH:
            raise pa.ArrowInvalid("a page's header is nested too deep")
        fields: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._number()
            fields[field] = self._value(head & 15, depth, in_list=False)
        return fields

    def _value(self, kind: int, depth: int, *, in_list: bool) -> Any:
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE if in_list else kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind < _DOUBLE:
            return self._number()
        if kind in (_DOUBLE, _BINARY):
            return self._skip(8 if kind == _DOUBLE else self._varint())
        if kind in (_LIST, _SET):
            kind, size = self._list()
            for _ in range(size):
                self._value(kind, depth + 1, in_list=True)
            return (size,)
        if kind == _STRUCT:
            return self.read(depth + 1)
        raise pa.ArrowInvalid("a page's header is none")

    def _list(self) -> tuple[int, int]:
        """The kind of its values, and how many there are."""
        head = self._byte()
        return head & 15, head >> 4 if head >> 4 < 15 else self._varint()

    def _binary(self) -> bytes:
        size = self._varint()
        self._skip(size)
        return self._content[self._place - size : self._place]

    def _skip(self, size: int) -> None:
        self._place += size
        if self._place > self._end:
            raise pa.ArrowInvalid("a page is cut off")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        if (value := self._byte()) < 128:
            return value
        value &= 127
        for step in range(1, _MOST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << 7 * step
            if byte < 128:
                return value
        raise pa.ArrowInvalid("a page's header holds a number that is none")

    def _byte(self) -> int:
        place = self._place
        if place >= self._end:
            raise pa.ArrowInvalid("a page is cut off")
        self._place = place + 1
        return self._content[place]
