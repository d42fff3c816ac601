"""What event stores remember of sagas, and how they name what they track."""

from saga.adapters.rows import KnownSagas, tracking_name
from saga.ports import Source
from saga.testing.samples import saga


def test_what_was_written_lately_is_known() -> None:
    """At least so many sagas as asked for, and at most twice as many; the newest word counts."""
    known = KnownSagas[tuple[int, int]](sagas_max=10)
    for number in range(100):
        known.remember({saga(number): (2, number)})
    known.remember({saga(95): (4, 95)})

    assert all(known.get(saga(number)) == (2, number) for number in (*range(90, 95), 99))
    assert known.get(saga(95)) == (4, 95)
    assert sum(known.get(saga(number)) is not None for number in range(100)) <= 20


def test_a_source_is_tracked_under_one_name() -> None:
    """Stores hold such names: it never changes."""
    assert tracking_name(Source("dev.shop.shop.evt.order-placed.v1", 3)) == (
        "bus:dev.shop.shop.evt.order-placed.v1:3"
    )
