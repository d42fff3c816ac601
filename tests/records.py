"""What a record says, for all rooms."""

from dataclasses import replace

from saga.ports import Inbound, Record


def header(record: Record | Inbound, name: str) -> str | None:
    value = dict(record.headers).get(name)
    return None if value is None else value.decode()


def without(record: Record, *names: str) -> Record:
    """The record with some headers left out."""
    return replace(record, headers=tuple(each for each in record.headers if each[0] not in names))
