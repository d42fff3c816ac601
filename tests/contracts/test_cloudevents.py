"""Headers are CloudEvents 1.0 in Kafka's binary mode, and what others send is read leniently."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.contracts.cloudevents import (
    CAUSATION_ID,
    HEADERS_READ_MAX,
    ID,
    SOURCE,
    SUBJECT,
    TRACEPARENT,
    TYPE,
    Headers,
    headers_for,
    parse_rfc3339,
    read_headers,
    read_record,
    reply_headers,
    rfc3339,
)
from saga.core.identity import Instant

AT = Instant(1_763_721_000_000_042)
AT_TEXT = b"2025-11-21T10:30:00.000042Z"
SAGA = "6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11"
INTENT = f"{SAGA}/pay/do/2"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_intent_is_a_binary_mode_event() -> None:
    """Written out by hand after the Kafka protocol binding of CloudEvents 1.0: `ce_` and the name
    of the attribute, UTF-8 values, `content-type` for `datacontenttype`, extensions of letters
    only.
    """
    headers = headers_for(
        id=INTENT,
        contract_name="payments.int.pay.v1",
        source="/dev/saga/order",
        at=AT,
        saga_id=SAGA,
        causation_id="m-1",
        idempotency_key=f"{SAGA}/pay/do",
        traceparent=TRACE,
    )

    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11/pay/do/2",
        "ce_source": b"/dev/saga/order",
        "ce_type": b"payments.int.pay.v1",
        "ce_time": AT_TEXT,
        "ce_subject": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11",
        "ce_correlationid": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11",
        "ce_causationid": b"m-1",
        "ce_idempotencykey": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11/pay/do",
        "content-type": b"application/json",
        "traceparent": TRACE.encode(),
    }
    assert len(headers) == 11


def test_undo_intent_says_what_it_undoes() -> None:
    """It carries the contract of its step; without a trace there is no header for it."""
    headers = dict(
        headers_for(
            id=f"{SAGA}/pay/undo/1",
            contract_name="payments.int.refund.v1",
            source="/dev/saga/order",
            at=AT,
            saga_id=SAGA,
            causation_id="m-1",
            idempotency_key=f"{SAGA}/pay/undo",
            undoes="payments.int.pay.v1",
        )
    )

    assert headers["ce_sagaundoes"] == b"payments.int.pay.v1"
    assert "traceparent" not in headers


def test_event_of_a_saga_is_about_the_saga() -> None:
    """Its subject, and what all messages of the saga share."""
    headers = dict(
        headers_for(
            id="e-1",
            contract_name="orders.evt.order-confirmed.v1",
            source="/dev/saga/order",
            at=AT,
            saga_id=SAGA,
            causation_id=f"{INTENT}/reply",
            idempotency_key="e-1",
            traceparent=TRACE,
        )
    )

    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"e-1",
        "ce_source": b"/dev/saga/order",
        "ce_type": b"orders.evt.order-confirmed.v1",
        "ce_time": AT_TEXT,
        "ce_subject": SAGA.encode(),
        "ce_correlationid": SAGA.encode(),
        "ce_causationid": f"{INTENT}/reply".encode(),
        "ce_idempotencykey": b"e-1",
        "content-type": b"application/json",
        "traceparent": TRACE.encode(),
    }


def test_reply_echoes_the_intent_as_its_cause() -> None:
    """The id of a reply is derived from the intent's, so that a reply sent twice is one."""
    headers = dict(
        reply_headers(
            intent_id=INTENT,
            contract_name="payments.evt.paid.v1",
            source="/dev/saga/payments",
            at=AT,
            saga_id=SAGA,
        )
    )

    assert headers["ce_id"] == f"{INTENT}/reply".encode()
    assert headers["ce_causationid"] == INTENT.encode()
    assert headers["ce_subject"] == headers["ce_correlationid"] == SAGA.encode()


def test_headers_leave_out_what_there_is_not() -> None:
    """A trigger from outside has the required attributes, its time, and nothing invented."""
    headers = headers_for(id="m-1", contract_name="orders.evt.o.v1", source="/shop", at=AT)

    assert dict(headers).keys() == {
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "content-type",
    }
    everything = headers_for(
        id="m-1",
        contract_name="orders.evt.o.v1",
        source="/shop",
        at=AT,
        saga_id="s",
        causation_id="d",
        idempotency_key="e",
        traceparent=TRACE,
        undoes="f",
    )
    assert len(dict(everything)) == 12


def test_a_message_of_no_saga_may_be_correlated_all_the_same() -> None:
    """It then has no subject: that would name a saga."""
    headers = dict(
        headers_for(id="m", contract_name="a.evt.b.v1", source="/s", at=AT, correlation_id="c")
    )

    assert headers["ce_correlationid"] == b"c"
    assert "ce_subject" not in headers


def test_names_beyond_ascii_are_utf8() -> None:
    """Kafka's binding has no escapes: header values are UTF-8."""
    headers = headers_for(id="ö", contract_name="a.evt.b.v1", source="/größe", at=AT)

    assert read_headers(headers).get(ID) == "ö"
    assert read_headers(headers).get(SOURCE) == "/größe"


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_is_rfc3339_and_can_be_read_again(moment: datetime) -> None:
    """Microseconds survive, in any year, before 1970 too."""
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    at = Instant((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds)
    text = rfc3339(at).decode()

    assert text == moment.strftime("%m-%dT%H:%M:%S.%fZ").join([f"{moment.year:04}-", ""])
    assert parse_rfc3339(text) == at


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T02:00:00.5+02:00", 500_000),
        ("1970-01-01T00:00:00", None),
        ("yesterday", None),
        ("", None),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000_000),
    ],
)
def test_time_of_others_is_read_with_its_zone(text: str, at: int | None) -> None:
    """A time without a zone is no moment."""
    assert parse_rfc3339(text) == at


DAMAGED: Headers = (
    ("ce_id", None),
    ("ce_source", b"\xff\xfe"),
    ("ce_subject", b""),
    ("ce_type", b"first"),
    ("ce_type", b"last"),
    ("Content-Type", b"application/json"),
    ("x-mine", b"\xff"),
    ("x-null", None),
)


def test_damaged_headers_are_reported_and_otherwise_absent() -> None:
    """Null and broken values of known headers are damaged, unknown headers nobody's business."""
    attributes = read_headers(DAMAGED)

    assert attributes.damaged == ("ce_id", "ce_source")
    assert attributes.get(ID) is None
    assert attributes.get(SOURCE) is None
    assert attributes.get(SUBJECT) is None
    assert attributes.get(TYPE) == "last"
    assert attributes.get(CAUSATION_ID) is None
    assert attributes.values["content-type"] == "application/json"


def test_only_so_many_headers_are_read() -> None:
    """A record with very many headers costs no more than one with some."""
    many = [("x", b"")] * HEADERS_READ_MAX + [("ce_id", b"late")]

    assert read_headers(many).get(ID) is None
    assert read_headers(many[1:]).get(ID) == "late"


@given(st.lists(st.tuples(st.sampled_from(["ce_id", "CE_ID", "x", ""]), st.none() | st.binary())))
def test_headers_never_raise(headers: list[tuple[str, bytes | None]]) -> None:
    """Any headers are answered."""
    read_headers(headers)
    read_record([*headers, ("content-type", b"application/cloudevents+json")], b"{}")


ENVELOPE = {
    "specversion": "1.0",
    "id": "m-1",
    "source": "/shop",
    "type": "orders.evt.o.v1",
    "subject": "s-1",
    "causationid": "i-1",
    "traceparent": TRACE,
    "unknown": "x",
    "time": None,
}


def test_structured_mode_is_read_as_binary_mode() -> None:
    """An envelope gives the same attributes and the same value."""
    headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    value = json.dumps(ENVELOPE | {"data": {"order_id": "o"}}).encode()

    attributes, data = read_record(headers, value)

    assert data == b'{"order_id":"o"}'
    assert attributes.values == {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": "m-1",
        "ce_source": "/shop",
        "ce_type": "orders.evt.o.v1",
        "ce_subject": "s-1",
        "ce_causationid": "i-1",
        "traceparent": TRACE,
    }
    assert attributes.get(TRACEPARENT) == TRACE


def test_structured_mode_may_hold_base64() -> None:
    """`data_base64` holds the bytes of the value."""
    headers = (("content-type", b"application/cloudevents+json"),)
    value = json.dumps(ENVELOPE | {"data_base64": base64.b64encode(b"{}").decode()}).encode()

    assert read_record(headers, value)[1] == b"{}"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"id":"x"}',
        b'{"id":"a","id":"b","data":{}}',
        b'{"data_base64":"no!"}',
        b'{"data_base64":7}',
        b"[" * 100_000,
    ],
)
def test_envelope_that_cannot_be_opened_stays_the_value(value: bytes) -> None:
    """`decode` will say what is wrong with it, and the record is kept as it came."""
    headers = (("content-type", b"application/cloudevents+json"),)

    assert read_record(headers, value)[1] is value


@pytest.mark.parametrize("headers", [(), (("content-type", b"text/plain"),), DAMAGED])
def test_record_without_envelope_keeps_its_value(headers: Headers) -> None:
    """Plain JSON, with any headers or none, is passed on as it is; so is a null."""
    assert read_record(headers, b"{}")[1] == b"{}"
    assert read_record(headers, None)[1] is None
