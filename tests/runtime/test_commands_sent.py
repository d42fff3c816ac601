"""What a saga asks of another leaves through the relay as a command, always the same bytes."""

from saga.contracts import COMMAND_CONTRACT, Command, CommandAct
from saga.contracts import cloudevents as ce
from saga.contracts.signatures import SigningKeys
from saga.core.events import CancelMode, Json
from saga.core.history import Entry
from saga.core.identity import Instant, MessageId, saga_id
from saga.core.intents import CommandSent, SentAct
from saga.runtime.relay import RecordEncoder
from tests.records import header
from tests.runtime.fixtures import NAMES
from tests.runtime.test_signed import KEYS

PARENT, CHILD = saga_id("order", "ö-1"), saga_id("parcel", "p-1")
SIGNAL = CommandSent(
    command=MessageId("s-1"),
    act=SentAct.SIGNAL,
    saga_id=CHILD,
    definition="parcel",
    key="p-1",
    name="go",
    payload=Json('{"by":["van",null]}'),
)
CANCEL = CommandSent(
    command=MessageId("c-1"),
    act=SentAct.CANCEL,
    saga_id=CHILD,
    definition="parcel",
    key="p-1",
    mode=CancelMode.IMMEDIATE,
    reason="late",
)


def record_of(sent: CommandSent, **options):
    encoder = RecordEncoder(NAMES, record_bytes_max=1_000, **options)
    entry = Entry(PARENT, 5, Instant(1_700_000_000_000_000), MessageId("cause"), sent)
    first, again = (
        encoder.records([entry], definition="order", key="ö-1", traceparent=None) for _ in range(2)
    )
    assert first == again
    return first[0]


def test_a_command_travels_under_the_key_of_the_saga_it_is_for():
    """Its id is the entry's, and its correlation says which saga has sent it."""
    record = record_of(SIGNAL)

    assert (record.topic, record.key) == (NAMES.topic(COMMAND_CONTRACT), b"p-1")
    assert header(record, "ce_id") == "s-1"
    assert header(record, "ce_source") == "/test/toys/sagas/order"
    assert header(record, "ce_correlationid") == PARENT
    assert header(record, "ce_causationid") == "cause"


def test_it_reads_as_the_command_that_an_operator_would_send():
    signal = Command.model_validate_json(record_of(SIGNAL).value)
    cancel = Command.model_validate_json(record_of(CANCEL).value)

    assert (signal.act, signal.name, signal.payload) == (
        CommandAct.SIGNAL,
        "go",
        {"by": ["van", None]},
    )
    assert (signal.saga_id, signal.definition, signal.actor) == (CHILD, "parcel", "order/ö-1")
    assert (cancel.act, cancel.mode, cancel.reason) == (
        CommandAct.CANCEL,
        CancelMode.IMMEDIATE,
        "late",
    )


def test_it_is_signed_where_commands_are():
    keys = SigningKeys.read(KEYS)
    record = record_of(SIGNAL, signing=keys)
    said = ce.read_headers(record.headers)

    assert keys.why_not(record.topic, record.key, record.value, said) is None
