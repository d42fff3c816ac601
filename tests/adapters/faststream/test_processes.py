"""`saga run --roles effects` on a real Kafka: killed, started again, probed, told to stop."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from infra.ports import free_port
from tests.adapters.faststream.fixtures import PARTITIONS, KafkaScenario
from tests.patience import HANG_S, until

ROOT = Path(__file__).parents[3]
INTENTS = 30


@contextlib.contextmanager
def serving(scenario: KafkaScenario, kafka, folder: Path, port: int, **environment: str):
    """A process that serves the effects; static membership spares the wait for a session's end."""
    settings = {
        "SAGA_APP": "tests.adapters.faststream.worker:app",
        "SAGA_BUS": kafka.url,
        "SAGA_STORE": f"sqlite:///{folder}/saga.db",
        "SAGA_EFFECTS_STORE": scenario.settings["effects_store"],
        "SAGA_ENV": "test",
        "SAGA_NAMESPACE": scenario.settings["namespace"],
        "SAGA_HTTP": f"127.0.0.1:{port}",
        "SAGA_KAFKA_INSTANCE_ID": "one",
        "SAGA_PARTITIONS": str(PARTITIONS),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "saga", "run", "--json", "--roles", "effects"],
        cwd=ROOT,
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def status_of(port: int, probe: str) -> int:
    """The status of a probe; 0 while there is no server."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/health/{probe}", timeout=HANG_S
        ) as page:
            return page.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


async def ended(process) -> int:
    return await asyncio.to_thread(process.wait, HANG_S)


@pytest.mark.parametrize("crash_at", ["before", "after"])
async def test_an_answer_lost_in_a_crash_is_sent_and_its_effect_not_repeated(
    scenario: KafkaScenario, kafka, tmp_path: Path, crash_at: str
) -> None:
    """The next process answers from the inbox, with the same bytes.

    The first is killed between the commit of the store and the answers, or between those and the
    commit of the offsets.
    """
    port = free_port()
    await scenario.bus.publish(scenario.payments(INTENTS))
    with serving(scenario, kafka, tmp_path, port, CRASH_AT=crash_at) as victim:
        assert await ended(victim) == -signal.SIGKILL
    kept = sum(scenario.ledger().values())
    assert kept > 0
    before = await scenario.replies()
    assert (len(before) > 0) is (crash_at == "after")

    with serving(scenario, kafka, tmp_path, port) as process:
        # Everything comes again, as no offset was committed, and is answered.
        replies = await scenario.answered(sum(map(len, before.values())) + INTENTS)
        await until(lambda: status_of(port, "ready") == 200)
        assert status_of(port, "live") == 200
        process.send_signal(signal.SIGTERM)
        code = await ended(process)
        counts = json.loads(process.stdout.read())

    assert code == 0
    assert scenario.ledger() == Counter(f"u{n}" for n in range(INTENTS))
    assert counts["effects_repeated"] == kept
    assert counts.get("effects_done", 0) == INTENTS - kept
    contents = [{(reply.value, reply.headers) for reply in same} for same in replies.values()]
    assert {len(content) for content in contents} == {1}
    assert max(len(same) for same in replies.values()) == (2 if crash_at == "after" else 1)
