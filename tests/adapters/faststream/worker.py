"""What effect processes serve that are killed: `SAGA_APP=tests.adapters.faststream.worker:app`.

With `CRASH_AT=before` or `after` the process kills itself around the first answer that it sends: by
then what the handlers wrote is kept, and no offset is committed.
"""

import os
import signal

from saga import SagaApp
from saga.adapters.kafka import KafkaBus
from tests.effects.fixtures import wallet_effects

app = SagaApp(effects=[wallet_effects()[0]])

_publish = KafkaBus.publish


async def _publish_and_die(bus, records) -> None:
    is_answer = any(".evt." in record.topic for record in records)
    if is_answer and os.environ["CRASH_AT"] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    await _publish(bus, records)
    if is_answer:
        os.kill(os.getpid(), signal.SIGKILL)


if "CRASH_AT" in os.environ:
    KafkaBus.publish = _publish_and_die
