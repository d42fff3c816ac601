"""Contracts: what may be said on a topic, how it is named, read, written and kept compatible.

`Event`, `Intent` and `upcast` declare contracts; `ContractRegistry` is what one application knows
of them; `encode` and `decode` stand between bytes and models.
"""

from saga.contracts.codec import (
    Decoded,
    decode,
    encode,
    encode_for_readers,
    message_of,
    read,
    wrong_headers,
)
from saga.contracts.contract import (
    COMMAND_CONTRACT,
    Contract,
    ContractName,
    Kind,
    dlq_name,
    intent_done_name,
    intent_failed_name,
    parse_contract_name,
)
from saga.contracts.internal import Command, CommandAct, IntentDone, IntentFailed
from saga.contracts.json_text import HEADERS_BYTES_MAX, VALUE_BYTES_MAX, canonical, canonical_text
from saga.contracts.models import (
    ContractModel,
    Event,
    Intent,
    business_key,
    contract_of,
    reply_contract_names,
)
from saga.contracts.registry import ContractRegistry
from saga.contracts.topic_names import TopicNames
from saga.contracts.unreadable import Unreadable, UnreadableCode
from saga.contracts.upcast import upcast

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
    "business_key",
    "canonical",
    "canonical_text",
    "contract_of",
    "decode",
    "dlq_name",
    "encode",
    "encode_for_readers",
    "intent_done_name",
    "intent_failed_name",
    "message_of",
    "parse_contract_name",
    "read",
    "reply_contract_names",
    "upcast",
    "wrong_headers",
]
