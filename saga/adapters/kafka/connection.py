"""How to reach a Kafka cluster: addresses, encryption and credentials.

Secrets are handed to the client and never shown. Errors of aiokafka become errors of the port here.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
_OAUTH_HOOK: Final = "SAGA_KAFKA_SASL_OAUTH_TOKEN"
_PROTOCOLS_THAT_USE: Final = {
    "kafka_sasl_": ("SASL_SSL", "SASL_PLAINTEXT"),
    "kafka_ssl_": ("SSL", "SASL_SSL"),
}
"""Who gives credentials or certificates does not want to connect without them by mistake."""
_NEEDED_BY_TOKEN: Final = ("kafka_sasl_oauth_token",)
_NEEDED_BY_PASSWORD: Final = ("kafka_sasl_username", "kafka_sasl_password")


@value(kw_only=True)
class KafkaSecurity:
    """Encryption and credentials.

    *oauth_token* is `module:callable`. It is called without arguments, in the event loop, whenever
    a connection is made; it returns an access token, or an awaitable of one.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str | None = None
    password: SecretStr | None = None
    oauth_token: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None
    checks_hostname: bool = True


@value(kw_only=True)
class KafkaConnection:
    """Where the cluster is, and how to talk to it.

    *servers* are `host:port`, any of the cluster's. *client_id* names us in the brokers' logs.
    """

    servers: tuple[str, ...]
    client_id: str = "saga"
    security: KafkaSecurity = KafkaSecurity()

    @classmethod
    def of(cls, settings: Settings) -> KafkaConnection:
        """The connection that *settings* name.

        Raises:
            SettingsError: settings do not fit together, or name something that cannot be loaded.
        """
        connection = cls(
            servers=settings.servers,
            client_id=f"saga-{settings.env}-{settings.namespace}",
            security=_security(settings),
        )
        connection.options()  # a file that cannot be loaded is reported now, not at the first use
        return connection

    def options(self) -> dict[str, Any]:
        """The arguments of every client of aiokafka.

        Raises:
            SettingsError: a file or a hook cannot be loaded.
        """
        security = self.security
        is_encrypted = security.protocol in ("SSL", "SASL_SSL")
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "connections_max_idle_ms": IDLE_CONNECTION_MS,
            "security_protocol": security.protocol,
            "ssl_context": _ssl_context(security) if is_encrypted else None,
        }
        if security.protocol.startswith("SASL_"):
            options["sasl_mechanism"] = security.mechanism
            if security.mechanism == "OAUTHBEARER":
                options["sasl_oauth_token_provider"] = _token_provider(security)
            else:
                options["sasl_plain_username"] = security.username
                options["sasl_plain_password"] = _revealed(security.password)
        return options


class NoToken(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """Raised when the hook gives no token; one of aiokafka's, which tries again."""

    retriable = True


class TokenHook(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """A user's callable as a token provider of aiokafka."""

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
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound an exchange with the cluster in time: in many places aiokafka tries for ever.

    Raises:
        BusUnavailable: it took longer, or failed as if the cluster were away.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BusUnavailable(f"kafka: {what}: no answer within {seconds:g} s") from error
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"kafka: {what}: {described(error)}") from error


def described(error: BaseException) -> str:
    """*error* in one line; the text of aiokafka's own is often empty."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _security(settings: Settings) -> KafkaSecurity:
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
        is_by_token = mechanism == "OAUTHBEARER"
        for name in _NEEDED_BY_TOKEN if is_by_token else _NEEDED_BY_PASSWORD:
            if getattr(settings, name) is None:
                raise SettingsError(f"SAGA_{name.upper()}", f"{protocol} by {mechanism} needs it")
    return KafkaSecurity(
        protocol=protocol,
        mechanism=mechanism,
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password,
        oauth_token=settings.kafka_sasl_oauth_token,
        ca_file=settings.kafka_ssl_ca_file,
        cert_file=settings.kafka_ssl_cert_file,
        key_file=settings.kafka_ssl_key_file,
        key_password=settings.kafka_ssl_key_password,
        checks_hostname=settings.kafka_ssl_check_hostname,
    )


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _ssl_context(security: KafkaSecurity) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
    except (OSError, ssl.SSLError) as error:
        problem = "no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError("SAGA_KAFKA_SSL_CA_FILE", f"{security.ca_file}: {problem}") from error
    context.check_hostname = security.checks_hostname
    if security.cert_file is not None:
        _load_certificate(context, security, security.cert_file)
    return context


def _load_certificate(context: ssl.SSLContext, security: KafkaSecurity, cert_file: Path) -> None:
    asked: list[bool] = []

    def password() -> str:
        # Without this function OpenSSL would ask at the terminal, and wait.
        asked.append(True)
        return _revealed(security.key_password) or ""

    try:
        context.load_cert_chain(cert_file, security.key_file, password=password)
    except (OSError, ssl.SSLError) as error:
        setting, path = "SAGA_KAFKA_SSL_CERT_FILE", cert_file
        if asked:
            problem = "wrong for" if security.key_password else "missing: there is a password on"
            problem = f"{problem} {security.key_file or cert_file}"
            raise SettingsError("SAGA_KAFKA_SSL_KEY_PASSWORD", problem) from error
        if isinstance(error, ssl.SSLError):
            where = f"{cert_file}, {security.key_file}" if security.key_file else cert_file
            problem = f"{where}: no certificate and key in PEM that fit together ({error.reason})"
            raise SettingsError(setting, problem) from error
        if security.key_file is not None and not _is_readable(security.key_file):
            setting, path = "SAGA_KAFKA_SSL_KEY_FILE", security.key_file
        raise SettingsError(setting, f"{path}: {error.strerror}") from error


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _token_provider(security: KafkaSecurity) -> TokenHook:
    module, _, name = (security.oauth_token or "").partition(":")
    if not module or not name:
        raise SettingsError(_OAUTH_HOOK, "expected module:callable, which returns an access token")
    try:
        hook = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(_OAUTH_HOOK, f"{security.oauth_token!r}: {error}") from error
    if not callable(hook):
        raise SettingsError(_OAUTH_HOOK, f"{security.oauth_token!r} cannot be called")
    return TokenHook(hook, f"{module}:{name}")
