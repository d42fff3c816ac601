"""
How to reach a Kafka cluster: addresses, encryption, and who we are.

Secrets are held, handed to the client and never shown: their fields are left out of every `repr`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider

from saga.errors import SettingsError

REQUEST_TIMEOUT_MS: Final = 15_000
"""Longer than a rebalance may take: joining a group is one request."""
RETRY_BACKOFF_MS: Final = 100
IDLE_CONNECTION_MS: Final = 540_000
"""Less than the ten minutes after which brokers close idle connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSecurity:
    """
    Encryption and credentials. *oauth_token* is `module:callable`; called without arguments, in the
    event loop, it returns (or awaits) an access token each time a connection is made.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    oauth_token: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    checks_hostname: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """
    Where the cluster is, and how to talk to it.

    *servers* are `host:port`, any of the cluster's; *client_id* names us in the brokers' logs.
    """

    servers: tuple[str, ...]
    client_id: str = "saga"
    security: KafkaSecurity = KafkaSecurity()

    def options(self) -> dict[str, Any]:
        """
        What every client of aiokafka is made with.

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
                options["sasl_plain_password"] = security.password
        return options


class TokenHook(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """
    A callable of the user's, as aiokafka wants it.
    """

    def __init__(self, hook: Any) -> None:
        self._hook = hook

    async def token(self) -> str:
        """
        An access token that is valid now.
        """
        found = self._hook()
        return str(await found if hasattr(found, "__await__") else found)


def _ssl_context(security: KafkaSecurity) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError("SAGA_KAFKA_SSL_CA_FILE", f"{security.ca_file}: {error}") from error
    context.check_hostname = security.checks_hostname
    if security.cert_file is not None:
        try:
            context.load_cert_chain(
                security.cert_file, security.key_file, password=security.key_password
            )
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                "SAGA_KAFKA_SSL_CERT_FILE", f"{security.cert_file}: {error}"
            ) from error
    return context


def _token_provider(security: KafkaSecurity) -> TokenHook:
    setting = "SAGA_KAFKA_SASL_OAUTH_TOKEN"
    module, _, name = (security.oauth_token or "").partition(":")
    if not module or not name:
        raise SettingsError(setting, "expected module:callable, which returns an access token")
    try:
        hook = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(setting, f"{security.oauth_token!r}: {error}") from error
    if not callable(hook):
        raise SettingsError(setting, f"{security.oauth_token!r} cannot be called")
    return TokenHook(hook)
