"""Which topic of which cluster: aiokafka's own requests end before Kafka gave topics their ids."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final, TypeAlias
from uuid import UUID

from aiokafka import errors as kafka
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from saga.ports.bus import Origin


class _Uuid:
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))

    @classmethod
    def repr(cls, value: UUID) -> str:
        return str(value)


_NO_ID: Final = UUID(int=0)
_PARTITION: Final = (
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    ("tags", TaggedFields),
)
_BROKER: Final = (
    ("node_id", Int32),
    ("host", CompactString("utf-8")),
    ("port", Int32),
    ("rack", CompactString("utf-8")),
    ("tags", TaggedFields),
)
_TOPIC: Final = (
    ("error_code", Int16),
    ("topic", CompactString("utf-8")),
    ("topic_id", _Uuid),
    ("is_internal", Boolean),
    ("partitions", CompactArray(*_PARTITION)),
    ("authorized_operations", Int32),
    ("tags", TaggedFields),
)
_WANTED: Final = (("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))


class _MetadataResponse10(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(*_BROKER)),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", CompactArray(*_TOPIC)),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest10(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse10
    SCHEMA = Schema(
        ("topics", CompactArray(*_WANTED)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


_Metadata: TypeAlias = MetadataRequest_v5 | _MetadataRequest10


class OriginsRequest(Request[_Metadata]):  # type: ignore[misc]  # aiokafka ships no types
    """Goes out in the newest version that the broker knows: without topic ids before Kafka 2.8."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)  # noqa: FBT003  # makes no topics
        wanted: list[Any] = [(_NO_ID, name, {}) for name in self._topics]
        return _MetadataRequest10(wanted, False, False, False, {})  # noqa: FBT003


def origins_in(answer: Any) -> dict[str, Origin]:
    """Of each topic that is there, what the *answer* to an `OriginsRequest` says.

    Raises:
        KafkaError: the cluster refuses to tell.
    """
    origins: dict[str, Origin] = {}
    for code, name, *rest in answer.topics:
        error = kafka.for_code(code)
        if error is kafka.UnknownTopicOrPartitionError:
            continue
        if error not in (kafka.NoError, kafka.LeaderNotAvailableError):
            raise error(name)
        topic_id = rest[0] if isinstance(rest[0], UUID) and rest[0] != _NO_ID else None
        origins[name] = Origin(None if topic_id is None else str(topic_id), answer.cluster_id)
    return origins
