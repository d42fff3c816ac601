"""How to reach a Kafka cluster: addresses, encryption and credentials.

Secrets are never shown, and errors of aiokafka become errors of the port here.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError
from pydantic import SecretStr
from typing_extensions import override

from saga.core.values import value
from saga.errors import BusUnavailable, SettingsError
from saga.settings import Settings

REQUEST_TIMEOUT_MS: Final = 15_000
"""Longer than a rebalance may take: joining a group is one request."""
RETRY_BACKOFF_MS: Final = 100
IDLE_CONNECTION_MS: Final = 540_000
"""Less than the ten minutes after which brokers close idle connections."""
IDENTITY: Final = (
    "client_id",
    "security_protocol",
    "ssl_context",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    "sasl_oauth_token_provider",
)
"""The options of aiokafka's clients that say who we are, and how nobody else listens."""
OAUTH: Final = "OAUTHBEARER"
_OAUTH_HOOK: Final = "SAGA_KAFKA_SASL_OAUTH_TOKEN"
_PROTOCOLS_THAT_USE: Final = {
    "kafka_sasl_": ("SASL_SSL", "SASL_PLAINTEXT"),
    "kafka_ssl_": ("SSL", "SASL_SSL"),
}
"""Who gives credentials or certificates does not want to connect without them by mistake."""
_NEEDED_BY_TOKEN: Final = ("kafka_sasl_oauth_token",)
_NEEDED_BY_PASSWORD: Final = ("kafka_sasl_username", "kafka_sasl_password")


@value(kw_only=True)
class KafkaConnection:
    """*servers* are `host:port`, any of the cluster's; *client_id* is for the brokers' logs.

    Of *settings* those count that are about encryption and credentials.
    """

    servers: tuple[str, ...]
    client_id: str = "saga"
    settings: Settings = field(default_factory=lambda: Settings.read({}))

    @classmethod
    def of(cls, settings: Settings) -> KafkaConnection:
        """Raises `SettingsError` where they do not fit together, or something cannot be loaded."""
        _check_together(settings)
        client_id = f"saga-{settings.env}-{settings.namespace}"
        connection = cls(servers=settings.servers, client_id=client_id, settings=settings)
        connection.options()  # a file that cannot be loaded is reported now, not at the first use
        return connection

    def options(self) -> dict[str, Any]:
        """For every client of aiokafka; raises `SettingsError` for a file or hook not loaded."""
        settings, protocol = self.settings, self.settings.kafka_security_protocol
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "connections_max_idle_ms": IDLE_CONNECTION_MS,
            "security_protocol": protocol,
            "ssl_context": _ssl_context(settings) if protocol.endswith("SSL") else None,
        }
        if protocol.startswith("SASL_"):
            options["sasl_mechanism"] = settings.kafka_sasl_mechanism
            if settings.kafka_sasl_mechanism == OAUTH:
                options["sasl_oauth_token_provider"] = _token_hook(settings)
            else:
                options["sasl_plain_username"] = settings.kafka_sasl_username
                options["sasl_plain_password"] = _revealed(settings.kafka_sasl_password)
        return options


class NoToken(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """Raised when the hook gives no token; aiokafka tries again."""

    retriable = True


class TokenHook(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """*hook* runs in the event loop at each connection; its answer may be an awaitable."""

    def __init__(self, hook: Any, name: str) -> None:
        self._hook = hook
        self._name = name

    @override
    async def token(self) -> str:
        try:
            answer = self._hook()
            token = await answer if hasattr(answer, "__await__") else answer
        except Exception as error:
            # Without the error's text: it may well quote the credentials of the hook.
            kind = type(error).__name__
            raise NoToken(f"{_OAUTH_HOOK}: {self._name} raised {kind}") from error
        if not isinstance(token, str) or not token:
            raise NoToken(f"{_OAUTH_HOOK}: {self._name} returned no text")
        return token


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[asyncio.Timeout]:
    """Raise `BusUnavailable` where an exchange fails, or is late: aiokafka may try for ever."""
    time = asyncio.get_running_loop().time
    began_s = time()
    try:
        async with asyncio.timeout(seconds) as waiting:
            yield waiting
    except TimeoutError as error:
        waited_s = max(seconds, round(time() - began_s))
        raise BusUnavailable(f"kafka: {what}: no answer within {waited_s:g} s") from error
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"kafka: {what}: {described(error)}") from error


def described(error: BaseException) -> str:
    """*error* in one line; the text of aiokafka's own is often empty."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _check_together(settings: Settings) -> None:
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    for prefix, protocols in _PROTOCOLS_THAT_USE.items():
        given = sorted(name for name in settings.model_fields_set if name.startswith(prefix))
        if given and protocol not in protocols:
            raise SettingsError(
                f"SAGA_{given[0].upper()}",
                f"has no use while SAGA_KAFKA_SECURITY_PROTOCOL is {protocol}; "
                f"set that to {' or '.join(protocols)}",
            )
    if protocol.startswith("SASL_"):
        for name in _NEEDED_BY_TOKEN if mechanism == OAUTH else _NEEDED_BY_PASSWORD:
            if getattr(settings, name) is None:
                raise SettingsError(f"SAGA_{name.upper()}", f"{protocol} by {mechanism} needs it")


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    ca_file = settings.kafka_ssl_ca_file
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        problem = "no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError("SAGA_KAFKA_SSL_CA_FILE", f"{ca_file}: {problem}") from error
    context.check_hostname = settings.kafka_ssl_check_hostname
    if settings.kafka_ssl_cert_file is not None:
        _load_certificate(context, settings, settings.kafka_ssl_cert_file)
    return context


def _load_certificate(context: ssl.SSLContext, settings: Settings, cert_file: Path) -> None:
    key_file, key_password = settings.kafka_ssl_key_file, settings.kafka_ssl_key_password
    asked: list[bool] = []

    def password() -> str:
        # Without this function OpenSSL would ask at the terminal, and wait.
        asked.append(True)
        return _revealed(key_password) or ""

    try:
        context.load_cert_chain(cert_file, key_file, password=password)
    except (OSError, ssl.SSLError) as error:
        setting, problem = "SAGA_KAFKA_SSL_CERT_FILE", f"{cert_file}: {error.strerror}"
        if asked:
            setting = "SAGA_KAFKA_SSL_KEY_PASSWORD"
            problem = "wrong for" if key_password else "missing: there is a password on"
            problem = f"{problem} {key_file or cert_file}"
        elif isinstance(error, ssl.SSLError):
            where = f"{cert_file}, {key_file}" if key_file else cert_file
            problem = f"{where}: no certificate and key in PEM that fit together ({error.reason})"
        elif key_file is not None and not os.access(key_file, os.R_OK):
            setting, problem = "SAGA_KAFKA_SSL_KEY_FILE", f"{key_file}: {error.strerror}"
        raise SettingsError(setting, problem) from error


def _token_hook(settings: Settings) -> TokenHook:
    hook_name = settings.kafka_sasl_oauth_token or ""
    module, _, name = hook_name.partition(":")
    try:
        hook = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(_OAUTH_HOOK, f"{hook_name!r}: {error}") from error
    if not callable(hook):
        raise SettingsError(_OAUTH_HOOK, f"{hook_name!r} cannot be called")
    return TokenHook(hook, hook_name)


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
