"""From settings to a bus on Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import SecretStr

from saga.adapters.kafka.bus import KafkaBus
from saga.adapters.kafka.connection import KafkaConnection, KafkaSecurity
from saga.adapters.kafka.settings import ConsumerSettings
from saga.adapters.kafka.topics import TopicDefaults
from saga.errors import SettingsError
from saga.settings import Settings

_USED_BY: Final = {
    "kafka_sasl_": ("SASL_SSL", "SASL_PLAINTEXT"),
    "kafka_ssl_": ("SSL", "SASL_SSL"),
}
"""Whoever gives credentials or certificates does not want to go without them by mistake."""


def open_bus(settings: Settings, *, record_bytes_max: int) -> KafkaBus:
    """The bus that *settings* name; it connects when it is used.

    Raises:
        SettingsError: settings do not fit together, or name something that cannot be loaded.
    """
    connection = KafkaConnection(
        servers=settings.servers,
        client_id=f"saga-{settings.env}-{settings.namespace}",
        security=_security(settings),
    )
    connection.options()  # what cannot be loaded is said now, not by the first who connects
    return KafkaBus(
        connection,
        record_bytes_max=record_bytes_max,
        topics=TopicDefaults(replicas=settings.replication),
        consumers=ConsumerSettings(
            session_timeout_ms=settings.kafka_session_timeout_ms,
            instance_id=settings.kafka_instance_id,
        ),
        compression=None if settings.kafka_compression == "none" else settings.kafka_compression,
    )


def _security(settings: Settings) -> KafkaSecurity:
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    for prefix, kinds in _USED_BY.items():
        given = sorted(name for name in settings.model_fields_set if name.startswith(prefix))
        if given and protocol not in kinds:
            raise SettingsError(
                f"SAGA_{given[0].upper()}",
                f"has no use while SAGA_KAFKA_SECURITY_PROTOCOL is {protocol}; "
                f"set that to {' or '.join(kinds)}",
            )
    if protocol.startswith("SASL_"):
        needed: tuple[str, ...] = ("kafka_sasl_username", "kafka_sasl_password")
        if mechanism == "OAUTHBEARER":
            needed = ("kafka_sasl_oauth_token",)
        for name in needed:
            if getattr(settings, name) is None:
                raise SettingsError(f"SAGA_{name.upper()}", f"{protocol} by {mechanism} needs it")
    return KafkaSecurity(
        protocol=protocol,
        mechanism=mechanism,
        username=settings.kafka_sasl_username,
        password=_open(settings.kafka_sasl_password),
        oauth_token=settings.kafka_sasl_oauth_token,
        ca_file=_path(settings.kafka_ssl_ca_file),
        cert_file=_path(settings.kafka_ssl_cert_file),
        key_file=_path(settings.kafka_ssl_key_file),
        key_password=_open(settings.kafka_ssl_key_password),
        checks_hostname=settings.kafka_ssl_check_hostname,
    )


def _open(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
