"""Contracts: what may be said on a topic, how it is named, read, written and kept compatible.

`Event`, `Intent` and `upcast` declare contracts; `ContractRegistry` is what one application knows
of them; `encode` and `decode` stand between bytes and models.
"""

from saga.contracts.accepted import read_accepted_as
from saga.contracts.codec import (
    Decoded,
    accepting,
    decode,
    decode_accepted,
    decode_record,
    encode,
    encode_for_readers,
    message_of,
    read,
    reads_as,
    wrong_headers,
)
from saga.contracts.json_text import (
    HEADERS_BYTES_MAX,
    VALUE_BYTES_MAX,
    Unreadable,
    UnreadableCode,
    canonical,
    canonical_text,
)
from saga.contracts.models import (
    COMMAND_CONTRACT,
    Contract,
    ContractModel,
    ContractName,
    Event,
    Intent,
    Kind,
    business_key,
    contract_of,
    dlq_name,
    intent_done_name,
    intent_failed_name,
    is_contract,
    parse_contract_name,
    reply_contract_names,
    upcast,
)
from saga.contracts.registry import Command, CommandAct, ContractRegistry, IntentDone, IntentFailed
from saga.contracts.topics import TopicNames

__all__ = [
    "COMMAND_CONTRACT",
    "HEADERS_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "Command",
    "CommandAct",
    "Contract",
    "ContractModel",
    "ContractName",
    "ContractRegistry",
    "Decoded",
    "Event",
    "Intent",
    "IntentDone",
    "IntentFailed",
    "Kind",
    "TopicNames",
    "Unreadable",
    "UnreadableCode",
    "accepting",
    "business_key",
    "canonical",
    "canonical_text",
    "contract_of",
    "decode",
    "decode_accepted",
    "decode_record",
    "dlq_name",
    "encode",
    "encode_for_readers",
    "intent_done_name",
    "intent_failed_name",
    "is_contract",
    "message_of",
    "parse_contract_name",
    "read",
    "read_accepted_as",
    "reads_as",
    "reply_contract_names",
    "upcast",
    "wrong_headers",
]
