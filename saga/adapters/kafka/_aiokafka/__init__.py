"""Every private part of aiokafka that we use, each behind a function that says its purpose.

These uses are known to be right for the versions that `check_version` lets pass, and for no other.
"""

from saga.adapters.kafka._aiokafka.consuming import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    committed,
    drop_consumer,
    generation_of,
    give_inbound,
    is_open,
    read_corrupt_batch,
    set_bombs_aside,
    wants_to_rejoin,
)
from saga.adapters.kafka._aiokafka.layouts import pack_at_once
from saga.adapters.kafka._aiokafka.origins import OriginsRequest, origins_in
from saga.adapters.kafka._aiokafka.producing import Delivery, append_records, drop_producer
from saga.adapters.kafka._aiokafka.sessions import fetch_in_sessions

__all__ = [
    "READ_COMMITTED",
    "READ_UNCOMMITTED",
    "Delivery",
    "OriginsRequest",
    "append_records",
    "committed",
    "drop_consumer",
    "drop_producer",
    "fetch_in_sessions",
    "generation_of",
    "give_inbound",
    "is_open",
    "origins_in",
    "pack_at_once",
    "read_corrupt_batch",
    "set_bombs_aside",
    "wants_to_rejoin",
]
