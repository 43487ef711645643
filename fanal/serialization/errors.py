"""What a damaged checkpoint is reported as."""

from __future__ import annotations


class RecordError(RuntimeError):
    """A record of a checkpoint that cannot be trusted.

    ``key`` is the storage key when the record holds tensor data: with it the loader finds the
    names of the tensors that would have come out of the record.
    """

    def __init__(self, reason: str, record: str | None = None, key: str | None = None) -> None:
        self.reason = reason
        self.record = record
        self.key = key
        super().__init__(f"record {record!r}: {reason}" if record else reason)


class ViewError(RecordError):
    """A tensor that reaches outside its storage."""
