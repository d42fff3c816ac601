"""Offsets follow the lowest record in hand; requests of one key go on one after another."""

from saga.contracts import ContractRegistry
from saga.core.identity import Instant
from saga.effects import Subscription
from saga.effects.in_hand import KeyOrder, RecordsInHand
from saga.ports import Inbound, Source
from tests.effects.fixtures import NAMES, intent, undo, wallet_effects
from tests.toys import Pay, Refund

T0, T1 = Source("t", 0), Source("t", 1)


def record(offset: int, partition: int = 0) -> Inbound:
    return Inbound("t", partition, offset, None, None, (), Instant(0))


def request(sent, offset: int):
    """The request in a record as it arrives."""
    effects = wallet_effects()[0]
    subscription = Subscription(effects, ContractRegistry([*effects.intents]), NAMES)
    return subscription.read(
        Inbound(sent.topic, 0, offset, sent.key, sent.value, sent.headers, Instant(0))
    )


def in_hand(*records: Inbound) -> RecordsInHand:
    hand = RecordsInHand()
    hand.begin(records)
    return hand


def test_the_offset_of_a_partition_is_its_lowest_record_in_hand():
    """However many behind it are dealt with."""
    hand = in_hand(record(5), record(6), record(7))
    hand.finish([record(6), record(7)])

    assert hand.offsets_due(frozenset({T0})) == {T0: 5}

    hand.finish([record(5)])

    assert hand.offsets_due(frozenset({T0})) == {T0: 8}
    assert hand.count == 0
    assert hand.is_empty.is_set()


def test_a_record_fetched_twice_is_in_hand_until_it_is_finished_twice():
    """A rebalance brings it back while it is under way."""
    hand = in_hand(record(5), record(5))
    hand.finish([record(5)])

    assert hand.count == 1
    assert hand.offsets_due(frozenset({T0})) == {T0: 5}

    hand.finish([record(5)])

    assert hand.count == 0
    assert hand.offsets_due(frozenset({T0})) == {T0: 6}


def test_the_offset_goes_back_with_a_topic_that_was_made_anew():
    """Its first record follows others of a higher offset."""
    hand = in_hand(record(100))
    hand.begin([record(0)])
    hand.finish([record(0), record(100)])

    assert hand.offsets_due(frozenset({T0})) == {T0: 1}


def test_only_offsets_that_moved_are_due_and_only_where_assigned():
    """A source of another member's is that member's to commit."""
    hand = in_hand(record(5), record(0, partition=1))
    hand.committed({T0: 5})

    assert hand.offsets_due(frozenset({T0, T1})) == {T1: 0}
    assert hand.offsets_due(frozenset({T0})) == {}


def test_do_and_undo_of_a_step_go_on_one_after_another():
    """In their order, also where more attempts wait; steps do not wait for each other."""
    do, again = request(intent(Pay()), 0), request(intent(Pay(), attempt=2), 1)
    back, other = request(undo(Refund()), 2), request(intent(Pay(), step="other"), 3)
    order = KeyOrder()

    assert order.enter([do, again, back, other]) == [do, other]
    assert [order.leave([do]), order.leave([again]), order.leave([back])] == [[again], [back], []]
    assert order.enter([do]) == [do]
