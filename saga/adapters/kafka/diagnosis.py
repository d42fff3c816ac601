"""Why a cluster cannot be connected to, with the setting that is most likely wrong.

aiokafka says only that no server would do, so each is tried once more here to tell causes apart.
No answer of a broker that could hold a secret is passed on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from saga.adapters.kafka import _aiokafka
from saga.adapters.kafka.connection import IDENTITY, OAUTH, KafkaConnection, NoToken, within
from saga.errors import BusUnavailable
from saga.settings import Settings

TRIAL_S: Final = 3.0
CLOSING_S: Final = 1.0
SERVERS_TRIED_MAX: Final = 3
_PROTOCOL: Final = "SAGA_KAFKA_SECURITY_PROTOCOL"
_FOR_SOMEBODY: Final = (
    ssl.SSLError,
    kafka.SaslAuthenticationFailed,
    kafka.AuthenticationFailedError,
    kafka.UnsupportedSaslMechanismError,
)
"""What no waiting mends."""


class Problem(NamedTuple):
    """What is wrong, and whether it may pass by itself."""

    text: str
    passes: bool


@asynccontextmanager
async def connecting(connection: KafkaConnection, seconds: float, what: str) -> AsyncIterator[None]:
    """As `within`, but `BusUnavailable` names the server, and the setting at fault."""
    try:
        async with within(seconds, what):
            yield
    except BusUnavailable as error:
        problem = await diagnosis(connection)
        if problem is None:
            raise
        failure = BusUnavailable(f"kafka: {what}: {problem.text}")
        failure.passes = problem.passes
        raise failure from error


async def diagnosis(connection: KafkaConnection) -> Problem | None:
    """Why no connection can be made; None where one of the servers takes one by now."""
    servers = connection.servers[:SERVERS_TRIED_MAX]
    found = await asyncio.gather(*(_problem_of(connection, server) for server in servers))
    problems = [problem for problem in found if problem is not None]
    if len(problems) < len(servers):
        return None
    reasons = [f"{at}: {problem.text}" for at, problem in zip(servers, problems, strict=True)]
    return Problem("; ".join(reasons), any(problem.passes for problem in problems))


async def _problem_of(connection: KafkaConnection, server: str) -> Problem | None:
    host, _, port = server.rpartition(":")
    options: dict[str, Any] = connection.options()
    used = {name: options[name] for name in IDENTITY if name in options}
    try:
        trial = AIOKafkaConnection(
            host.strip("[]"), int(port), request_timeout_ms=int(TRIAL_S * 1000), **used
        )
        try:
            async with asyncio.timeout(TRIAL_S):
                await trial.connect()
                # A token that is refused, or a certificate that is missing, shows only here.
                answer = await trial.send(MetadataRequest([]))
                if not answer.brokers:
                    return Problem(_ended(connection.settings), passes=True)
        finally:
            await _close(trial)
    except Exception as error:  # noqa: BLE001  # hooks and parsers of others may raise anything
        return Problem(_advice(connection.settings, error), not isinstance(error, _FOR_SOMEBODY))
    return None


async def _close(trial: AIOKafkaConnection) -> None:
    """An encrypted connection stays open until the other side has ended it too."""
    closed = trial.close()
    if _aiokafka.is_open(trial):
        await asyncio.wait([closed], timeout=CLOSING_S)


def _advice(settings: Settings, error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return _unbelieved(settings, error)
        case ssl.SSLError():
            return (
                f"no TLS: {error.reason or 'the connection ended'}. See that {_PROTOCOL} fits this"
                f" port, and whether it asks for SAGA_KAFKA_SSL_CERT_FILE"
            )
        case kafka.SaslAuthenticationFailed() | kafka.AuthenticationFailedError():
            return _refused(settings)
        case kafka.UnsupportedSaslMechanismError():
            return f"SAGA_KAFKA_SASL_MECHANISM: it does not take {settings.kafka_sasl_mechanism}"
        case NoToken():
            return str(error)
        case ConnectionRefusedError():
            return "nobody listens there; see SAGA_BUS"
        case ConnectionError() | TimeoutError():
            return _ended(settings)
        case OSError():
            return f"{error.strerror or error}; see SAGA_BUS"
        case _:
            # A server that is no Kafka can make aiokafka raise nearly anything.
            return _ended(settings)


def _unbelieved(settings: Settings, error: ssl.SSLCertVerificationError) -> str:
    problem = error.verify_message.rstrip(".")
    if "Hostname mismatch" in problem or "IP address mismatch" in problem:
        return (
            f"its certificate names another host ({problem}): use a name that is in it in SAGA_BUS"
            f" and in the brokers' advertised.listeners, or, less safely, set"
            f" SAGA_KAFKA_SSL_CHECK_HOSTNAME=false"
        )
    if "expired" in problem or "not yet valid" in problem:
        return f"its certificate: {problem}. It has to be renewed, or this machine's clock is wrong"
    where = settings.kafka_ssl_ca_file or "the system's authorities"
    return f"SAGA_KAFKA_SSL_CA_FILE ({where}) does not vouch for its certificate: {problem}"


def _refused(settings: Settings) -> str:
    mechanism = settings.kafka_sasl_mechanism
    if mechanism == OAUTH:
        hook = settings.kafka_sasl_oauth_token
        return f"SAGA_KAFKA_SASL_OAUTH_TOKEN: it refuses the token of {hook}"
    return (
        f"SAGA_KAFKA_SASL_PASSWORD: it refuses user {settings.kafka_sasl_username!r} with this"
        f" password by {mechanism}; see SAGA_KAFKA_SASL_USERNAME and SAGA_KAFKA_SASL_MECHANISM, too"
    )


def _ended(settings: Settings) -> str:
    protocol, cert_file = settings.kafka_security_protocol, settings.kafka_ssl_cert_file
    if protocol.startswith("SASL_") and settings.kafka_sasl_mechanism == OAUTH:
        return f"{_refused(settings)}, or {_PROTOCOL} does not fit this port"
    if protocol == "SSL" and cert_file is None:
        return (
            f"it ends the connection: either this port is not for {_PROTOCOL}=SSL, or it asks for"
            f" our certificate, SAGA_KAFKA_SSL_CERT_FILE"
        )
    if protocol == "SSL":
        return (
            f"it ends the connection: SAGA_KAFKA_SSL_CERT_FILE ({cert_file}) may be expired, or not"
            f" signed by those whom the brokers believe"
        )
    return (
        f"it ends the connection or does not answer: {_PROTOCOL} is {protocol}, see that this port"
        f" is for that"
    )
