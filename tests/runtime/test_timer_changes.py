"""What one batch changes in the due-index."""

from saga.core.identity import Instant, TimerId, saga_id
from saga.core.intents import TimerArmed, TimerCancelled, TimerPurpose
from saga.runtime.unit_of_work import TimerChanges

ID = saga_id("order", "o-1")
DEADLINE = TimerArmed(
    TimerId(f"{ID}/pay/do/1/deadline"), Instant(5), TimerPurpose.DEADLINE, "pay/do"
)
CANCELLED = TimerCancelled(DEADLINE.timer_id)


def test_timer_that_is_armed_anew_and_then_cancelled_in_the_batch_that_armed_it_is_not_due():
    """A migration arms the timers of its saga anew, those of the same batch too."""
    changes = TimerChanges()
    changes.note(ID, [DEADLINE])
    changes.arm_again([DEADLINE], ID)
    changes.note(ID, [CANCELLED])

    assert (changes.armed, changes.moved, changes.cleared) == ({}, {}, [])


def test_timer_of_before_that_is_armed_anew_and_then_cancelled_is_cleared():
    changes = TimerChanges()
    changes.arm_again([DEADLINE], ID)
    changes.note(ID, [CANCELLED])

    assert changes.cleared == [DEADLINE.timer_id]
