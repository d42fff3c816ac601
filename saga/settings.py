"""Settings: each has a default and an environment variable `SAGA_…`.

An unknown variable is refused by name: a misspelt setting would otherwise do nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
)

from saga.contracts import HEADERS_BYTES_MAX, VALUE_BYTES_MAX, TopicNames
from saga.core.durations import SECOND_US, duration_us
from saga.errors import SettingsError

PREFIX = "SAGA_"
PORT_MAX = 65_535
FILE_SUFFIX = "_FILE"
"""`SAGA_STORE_PASSWORD_FILE` names a file with what `SAGA_STORE_PASSWORD` would hold."""
HIDDEN = "***"
HTTP_OFF = "off"
# Up to the last "@" before the path: a password that is not escaped may have one, too.
_PASSWORD_IN_AUTHORITY = re.compile(r"^(\w+://[^:/?#]*:)[^/?#]*@")
_PASSWORD_IN_OPTIONS = re.compile(r"\b((?:ssl)?password=)[^&\s]*")


def file_of(address: str) -> str:
    """The path in `sqlite:///PATH` or `local:///PATH`; a fourth slash makes it absolute."""
    return address.partition(":///")[2]


def redacted(address: str) -> str:
    """*address* without the passwords that it may hold; text that is no address stays as it is."""
    shown = _PASSWORD_IN_AUTHORITY.sub(rf"\g<1>{HIDDEN}@", address)
    return _PASSWORD_IN_OPTIONS.sub(rf"\g<1>{HIDDEN}", shown)


def _check_address(address: str, *, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(address)
    if parts.scheme not in schemes:
        raise ValueError(f"expected {' or '.join(f'{scheme}://…' for scheme in schemes)}")
    if parts.scheme in ("local", "sqlite") and (parts.netloc or not file_of(address)):
        raise ValueError(f"expected {parts.scheme}:///PATH with three slashes")
    if parts.scheme == "kafka" and not all(map(_is_server, parts.netloc.split(","))):
        raise ValueError("expected kafka://HOST:PORT,… (credentials are settings of their own)")


def _check_http(address: str) -> None:
    if address != HTTP_OFF and not _is_server(address):
        raise ValueError("expected HOST:PORT, for example 127.0.0.1:8080, or off")


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and "@" not in host and port.isdecimal() and int(port) <= PORT_MAX


def _check_place(place: str, *, expected: str) -> None:
    module, _, name = place.partition(":")
    if not module or not name:
        raise ValueError(f"expected {expected}")


def _check_length(text: str) -> None:
    duration_us(text)
    if "-" in text:
        raise ValueError("expected a length of time from zero on, text like '30s', '5m', '2h'")


def _check_retention(text: str) -> None:
    if duration_us(text) < SECOND_US:
        raise ValueError("expected at least a second: no reader would be in time")


def _checked(check: Callable[[str], object], **how: Any) -> AfterValidator:
    """Text that is taken as it is, unless *check* raises."""

    def validate(text: str) -> str:
        check(text, **how)
        return text

    return AfterValidator(validate)


BusAddress = Annotated[str, _checked(_check_address, schemes=("local", "kafka"))]
StoreAddress = Annotated[str, _checked(_check_address, schemes=("sqlite", "postgresql"))]
OutboxAddress = Annotated[str, _checked(_check_address, schemes=("postgresql",))]
TokenHook = Annotated[
    str, _checked(_check_place, expected="module:callable, which returns an access token")
]
Duration = Annotated[str, _checked(_check_length)]
TopicPart = Annotated[str, _checked(lambda part: TopicNames(part, part))]
Secret = Annotated[SecretStr, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    """How one process of saga runs. Durations are text like `30s`, `5m`, `7d`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: Annotated[str, _checked(_check_place, expected="module:name, for example domain:app")] = (
        Field("domain:app", description="the application, as module:name")
    )
    bus: BusAddress = Field(
        "local:///.saga/saga.db", description="local:///PATH or kafka://HOST:PORT,…"
    )
    store: StoreAddress = Field(
        "sqlite:///.saga/saga.db", description="sqlite:///PATH or postgresql://USER@HOST/DB"
    )
    effects_store: StoreAddress | None = Field(
        None, description="where effect services keep inbox and tables; beside the store by default"
    )
    effects_store_password: Secret | None = Field(
        None, description="password of the effects store, if its address has none"
    )
    store_password: Secret | None = Field(
        None, description="password of the store, if its address has none"
    )
    outbox: OutboxAddress | None = Field(
        None, description="a program's own database, from whose outbox its events are published"
    )
    outbox_password: Secret | None = Field(
        None, description="password of that database, if its address has none"
    )
    env: TopicPart = Field("dev", description="first part of every topic's name")
    namespace: TopicPart = Field("saga", description="second part of every topic's name")
    log: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    http: Annotated[str, _checked(_check_http)] = Field(
        "127.0.0.1:8080", description="where health is told, HOST:PORT or off; on Kafka by default"
    )
    group: Name | None = Field(
        None, description="consumer group of the orchestrators; tells the application by default"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of topics made here")
    replication: int | None = Field(
        None, ge=1, le=32, description="copies of topics made here; as the brokers are set"
    )
    retention: Annotated[str, _checked(_check_retention)] = Field(
        "7d", description="how long topics made here keep records"
    )
    early_hold: Duration = Field("10s", description="how long a record waits for its saga to begin")
    live_sagas: int = Field(20_000, ge=1, description="sagas kept in memory between turns")
    record_bytes: int = Field(
        VALUE_BYTES_MAX,
        ge=1_024,
        le=VALUE_BYTES_MAX,
        description="largest value of a record, in bytes",
    )

    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how brokers are spoken to"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "PLAIN", description="how brokers are told who we are"
    )
    kafka_sasl_username: Name | None = Field(None, description="who we are")
    kafka_sasl_password: Secret | None = Field(None, description="and our password")
    kafka_sasl_oauth_token: TokenHook | None = Field(
        None, description="module:callable that returns an access token, for OAUTHBEARER"
    )
    kafka_ssl_ca_file: FilePath | None = Field(
        None, description="certificates of those who vouch for brokers; the system's by default"
    )
    kafka_ssl_cert_file: FilePath | None = Field(
        None, description="our certificate, if brokers ask"
    )
    kafka_ssl_key_file: FilePath | None = Field(
        None, description="its key, if that is another file"
    )
    kafka_ssl_key_password: Secret | None = Field(None, description="the key's password")
    kafka_ssl_check_hostname: bool = Field(
        default=True, description="whether a broker's certificate has to name its host"
    )
    kafka_instance_id: Name | None = Field(
        None, description="static membership: this process's own id in its groups"
    )
    kafka_session_timeout: Duration = Field(
        "6s", description="how long the partitions of a killed worker stay unread"
    )
    kafka_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "none", description="of what is published"
    )

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **given: Any) -> Self:
        """Settings from the environment, with *given* ones (None: not given) going first.

        Raises:
            SettingsError: names the variable or option, what is wrong, and what to do.
        """
        variables = os.environ if environment is None else environment
        values = _values_of(variables, set(cls.model_fields), cls.secrets())
        values |= {name: value for name, value in given.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name = str(problem["loc"][0]) if problem["loc"] else "settings"
            shown = redacted(str(problem.get("input")))[:100]
            if shown and name in cls.secrets():
                shown = HIDDEN
            raise SettingsError(
                PREFIX + name.upper(), f"{shown!r}: {problem['msg'].removeprefix('Value error, ')}"
            ) from None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Addresses are text and may have passwords in them.
        for name, value in super().__repr_args__():
            yield name, redacted(value) if isinstance(value, str) else value

    @classmethod
    def secrets(cls) -> set[str]:
        """The settings that are never shown, and may be given as files."""
        return {
            name for name, field in cls.model_fields.items() if field.annotation == Secret | None
        }

    @property
    def topic_names(self) -> TopicNames:
        return TopicNames(self.env, self.namespace)

    @property
    def is_http_asked_for(self) -> bool:
        """Whether an address was given: then it is an error if it cannot be listened on."""
        return "http" in self.model_fields_set and self.http != HTTP_OFF

    @property
    def retention_s(self) -> int:
        return duration_us(self.retention) // SECOND_US

    @property
    def early_hold_s(self) -> float:
        return duration_us(self.early_hold) / SECOND_US

    @property
    def kafka_session_timeout_ms(self) -> int:
        return duration_us(self.kafka_session_timeout) * 1000 // SECOND_US

    @property
    def record_bytes_max(self) -> int:
        """What a bus takes of one record: value, key and headers."""
        return self.record_bytes + HEADERS_BYTES_MAX

    @property
    def source(self) -> str:
        """Who says what programs of this environment publish: `ce_source`, where none is given."""
        return self.topic_names.source("publisher")

    @property
    def is_one_file(self) -> bool:
        """Whether bus and store are the same file."""
        return (
            self.bus.startswith("local:")
            and self.store.startswith("sqlite:")
            and Path(file_of(self.bus)).resolve() == Path(file_of(self.store)).resolve()
        )

    @property
    def servers(self) -> tuple[str, ...]:
        """The `host:port` in `kafka://HOST:PORT,…`."""
        return tuple(urlsplit(self.bus).netloc.split(","))

    @property
    def effects_address(self) -> str:
        """Where effect services keep their own: by default a file beside the store's."""
        if self.effects_store is not None:
            return self.effects_store
        if self.store.startswith("sqlite:"):
            return f"sqlite:///{file_of(self.store).removesuffix('.db')}-effects.db"
        return self.store


def _values_of(variables: Mapping[str, str], names: set[str], secrets: set[str]) -> dict[str, Any]:
    """What *variables* say of each of *names*; those of *secrets* may be said in a file."""
    known = {PREFIX + name.upper(): name for name in names}
    files = {PREFIX + name.upper() + FILE_SUFFIX: name for name in secrets}
    for variable in sorted(variables):
        if variable.startswith(PREFIX) and variable not in known and variable not in files:
            raise SettingsError(variable, _unknown(variable, [*known, *files]))
    values = {
        name: variables[variable] for variable, name in known.items() if variable in variables
    }
    for variable, name in files.items():
        if variable in variables:
            if name in values:
                other = variable.removesuffix(FILE_SUFFIX)
                raise SettingsError(variable, f"{other} is given as well; give one of them")
            values[name] = _secret_in(variable, variables[variable])
    return values


def _secret_in(variable: str, path: str) -> str:
    """What a file holds, but for the line's end that editors leave there."""
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(variable, f"{path!r}: {error}") from error


def _unknown(variable: str, known: list[str]) -> str:
    # Without the prefix, which would make all of them alike.
    names = [name.removeprefix(PREFIX) for name in known]
    near = get_close_matches(variable.removeprefix(PREFIX).upper(), names, n=1)
    if near:
        return f"there is no such setting; did you mean {PREFIX}{near[0]}?"
    return f"there is no such setting; known are {', '.join(sorted(known))}"
