"""Names of contracts and topics are made and taken apart without loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.contracts import (
    ContractName,
    Kind,
    TopicNames,
    dlq_name,
    intent_done_name,
    intent_failed_name,
    parse_contract_name,
)
from saga.contracts.models import CONTRACT_NAME_CHARS_MAX
from saga.contracts.topics import NAMING_PART_CHARS_MAX

PARTS = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z")
NAMES = st.builds(ContractName, PARTS, st.sampled_from(Kind), PARTS, st.integers(1, 999_999))


def test_topic_is_prefixed_contract_name() -> None:
    """The example of the interface."""
    topics = TopicNames("dev", "saga")

    assert topics.topic("orders.evt.order-placed.v1") == "dev.saga.orders.evt.order-placed.v1"
    assert topics.contract_name("dev.saga.orders.evt.order-placed.v1") == (
        "orders.evt.order-placed.v1"
    )


@pytest.mark.parametrize(
    "topic",
    [
        "prod.saga.orders.evt.order-placed.v1",
        "dev.sagas.orders.evt.order-placed.v1",
        "dev.saga.orders.evt.order-placed",
        "dev.saga.orders.evt.order-placed.v0",
        "dev.saga.orders.evt.order-placed.v01",
        "dev.saga.orders.evt.order-placed.v¹",
        "dev.saga.orders.xyz.order-placed.v1",
        "dev.saga.orders.evt.Order.v1",
        "dev.saga.",
        "",
        "__consumer_offsets",
    ],
)
def test_foreign_topic_has_no_contract(topic: str) -> None:
    """Topics of others, and names that only look alike, are nobody's."""
    assert TopicNames("dev", "saga").contract_name(topic) is None


@pytest.mark.parametrize(
    "part", ["", "Dev", "de v", "a.b", "a_b", "-a", "a-", "a\n", "ä", "x" * 33]
)
def test_illegal_environment_or_namespace_is_refused_by_name(part: str) -> None:
    """What cannot be part of a topic's name is refused before any topic is made."""
    with pytest.raises(ValueError, match=r"^env "):
        TopicNames(part, "saga")
    with pytest.raises(ValueError, match=r"^namespace "):
        TopicNames("dev", part)


@given(NAMES)
def test_names_are_read_as_they_are_written(name: ContractName) -> None:
    """Writing and parsing are inverse, with and without the prefix."""
    topics = TopicNames("e-1", "n")

    assert parse_contract_name(str(name)) == name
    assert topics.contract_name(topics.topic(str(name))) == str(name)


def test_longest_names_are_legal_topics() -> None:
    """Every legal contract, and the topics that go with it, fit into Kafka's 249 characters."""
    longest = "p" * NAMING_PART_CHARS_MAX
    topics = TopicNames(longest, longest)
    domain = "d" * (CONTRACT_NAME_CHARS_MAX - len(".int.n.v1"))
    name = f"{domain}.int.n.v1"

    assert parse_contract_name(name) is not None
    assert parse_contract_name("d" + name) is None
    for one in (name, dlq_name(name), intent_done_name(domain), intent_failed_name(domain)):
        assert len(topics.topic(one)) <= 249


def test_dead_letters_have_their_own_kind() -> None:
    """The dlq of a contract is named after it."""
    assert dlq_name("orders.evt.order-placed.v2") == "orders.dlq.order-placed.v2"
    assert dlq_name("orders.dlq.order-placed.v2") == "orders.dlq.order-placed.v2"
    with pytest.raises(ValueError, match="no contract name"):
        dlq_name("orders")
