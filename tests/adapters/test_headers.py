"""Headers as text, and keys as partitions."""

import orjson
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import example, given
from hypothesis import strategies as st

from saga.adapters.headers import decode_headers, encode_headers
from saga.adapters.partitioner import partition_of

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=12))).map(tuple))
@example((("a", b"1"), ("a", None), ("a", b"\xff"), ("", b"")))
@example((("a", b"\xed\xa0\x80"),))
@example(())
def test_headers_come_back_byte_for_byte(headers) -> None:
    """Null values, repeated names, bytes that are no text, surrogates in disguise."""
    assert decode_headers(encode_headers(headers)) == headers


def test_ordinary_headers_are_text_that_any_tool_reads() -> None:
    """A list of pairs."""
    assert orjson.loads(encode_headers((("ce_id", "é".encode()), ("x", None)))) == [
        ["ce_id", "é"],
        ["x", None],
    ]


@given(st.binary(max_size=64), st.integers(1, 1000))
def test_keys_go_where_kafka_s_own_clients_send_them(key: bytes, partitions: int) -> None:
    """The same partition as aiokafka's default partitioner chooses, so that both can publish."""
    everywhere = list(range(partitions))

    assert partition_of(key, partitions) == DefaultPartitioner()(key, everywhere, everywhere)
