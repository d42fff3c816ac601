"""Real servers for tests and for work by hand, without containers: Apache Kafka and PostgreSQL.

What is missing is fetched or installed where that is possible, else the error says what to install.
Nothing here belongs to the engine: `saga` never imports it.
"""

from infra.failures import InfraError, NotInstalled, NotStarted
from infra.kafka import Kafka, Listener
from infra.pgbouncer import PgBouncer
from infra.postgres import Postgres, StopMode

__all__ = [
    "InfraError",
    "Kafka",
    "Listener",
    "NotInstalled",
    "NotStarted",
    "PgBouncer",
    "Postgres",
    "StopMode",
]
