"""Settings: each has a default and an environment variable `SAGA_…`.

An unknown variable is refused by name: a misspelt setting would otherwise do nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qsl, unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    PrivateAttr,
    SecretStr,
    ValidationError,
)

from saga.contracts import HEADERS_BYTES_MAX, VALUE_BYTES_MAX, TopicNames
from saga.contracts.signatures import SigningKeys
from saga.core.durations import SECOND_US, duration_us
from saga.errors import SettingsError

PREFIX = "SAGA_"
PORT_MAX = 65_535
FILE_SUFFIX = "_FILE"
"""`SAGA_STORE_PASSWORD_FILE` names a file with what `SAGA_STORE_PASSWORD` would hold."""
SECRET_BYTES_MAX = 65_536
HIDDEN = "***"
HTTP_OFF = "off"
SESSION_BOUNDS_US = (6 * SECOND_US, 30 * 60 * SECOND_US)
"""What brokers accept, unless `group.min.session.timeout.ms` and its twin are set otherwise."""
ESCAPE = "write %2F for /, %3F for ?, %23 for #, %40 for @, or give the password as a setting"
FILES = ("local", "sqlite")
# Up to the last "@", whatever is between: a password that is not escaped may have any character.
_CREDENTIALS = re.compile(r"^(\w+://(?!/)[^:@]*:).*@", re.DOTALL)
_OPTION = re.compile(r"(?<=[?&;\s])[^?&;\s]*")
_SECRET_OPTION = re.compile(r"passw|pwd|secret|token")
_HOST = re.compile(r"[\w.-]+|\[[0-9a-f:.]+(?:%25[\w.-]+)?\]", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"[0-9]{1,5}")
_CLIENT = re.compile(r"[A-Za-z0-9._-]{1,200}")
_LOCAL = re.compile(r"localhost|127\.[0-9.]+|\[?::1\]?|/.*|%2f.*|", re.IGNORECASE)
_ENCRYPTED: Final = frozenset({"require", "verify-ca", "verify-full"})


def file_of(address: str) -> str:
    """The path in `sqlite:///PATH` or `local:///PATH`; a fourth slash makes it absolute."""
    return address.partition(":///")[2]


def redacted(address: str) -> str:
    """*address* without the passwords that it may hold; text that is no address stays as it is."""
    return _OPTION.sub(_hidden, _CREDENTIALS.sub(rf"\g<1>{HIDDEN}@", address))


def _hidden(option: re.Match[str]) -> str:
    """An option without its value, if its name or what it may hide there speaks of a secret."""
    text = option[0]
    if not _SECRET_OPTION.search(unquote(unquote(text)).lower()):
        return text
    name, equals, _ = text.partition("=")
    return f"{name}={HIDDEN}" if equals else HIDDEN


def _check_address(address: str, *, schemes: tuple[str, ...]) -> None:
    scheme, colon, rest = address.partition("://")
    if not colon or scheme not in schemes:
        raise ValueError(f"expected {' or '.join(f'{scheme}://…' for scheme in schemes)}")
    if scheme in FILES:
        _check_file(scheme, rest)
    elif re.search(r"\s", address):
        raise ValueError("there is a blank in it; write %20 where one is meant")
    elif scheme == "kafka":
        if not all(_is_server(server, port_min=1) for server in rest.split(",")):
            raise ValueError("expected kafka://HOST:PORT,… (credentials are settings of their own)")
    else:
        _check_postgres(rest)


def _check_file(scheme: str, rest: str) -> None:
    path = rest.removeprefix("/")
    if path == rest or not path.strip("/"):
        raise ValueError(f"expected {scheme}:///PATH with three slashes")
    if path.endswith("/"):
        raise ValueError("names a folder; expected the path of a file in it")
    if path.startswith("~"):
        raise ValueError("~ stands for nothing here: write the whole path, with a fourth slash")
    if path.startswith("file:") or Path(path).name == ":memory:":
        raise ValueError("every process opens it by itself, and more than once: name a file")


def _check_postgres(rest: str) -> None:
    """Refuse what libpq would take apart otherwise than it was meant, and then quote in errors."""
    credentials, at, _ = rest.partition("@")
    if rest.count("@") > 1 or (at and re.search(r"[/?#]", credentials)):
        raise ValueError(f"a / ? # or @ in user, password or options is not escaped: {ESCAPE}")
    servers, _, options = rest.rpartition("@")[2].partition("?")
    hosts = servers.partition("/")[0]
    ports = [host.rpartition(":")[2] for host in hosts.split(",") if re.search(r":[^\]]*$", host)]
    for name, value in parse_qsl(options, keep_blank_values=True):
        if name == "port":
            ports += value.split(",")
    if not all(_is_port(port, port_min=1) for port in ports if port):
        raise ValueError(f"a port is a number from 1 to {PORT_MAX}; in a password: {ESCAPE}")


def _check_http(address: str) -> None:
    if address != HTTP_OFF and not _is_server(address, port_min=0):
        raise ValueError("expected HOST:PORT, for example 127.0.0.1:8080, or off")


def _is_server(text: str, *, port_min: int) -> bool:
    host, _, port = text.rpartition(":")
    return _HOST.fullmatch(host) is not None and _is_port(port, port_min=port_min)


def _is_port(text: str, *, port_min: int) -> bool:
    return _PORT.fullmatch(text) is not None and port_min <= int(text) <= PORT_MAX


def _check_place(place: str, *, expected: str) -> None:
    module, _, name = place.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"expected {expected}")


def _check_app(place: str) -> None:
    if is_contract_file(place):
        return
    file, name = python_file_of(place)
    _check_place(
        place if file is None else f"file:{name}",
        expected="module:name, for example domain:app, the same of a file, shop/app.py:app, or a"
        " contract file, order.yaml",
    )


def is_contract_file(place: str) -> bool:
    """Whether an application is named by the file of a contract graph."""
    return place.endswith((".yaml", ".yml"))


def python_file_of(place: str) -> tuple[Path | None, str]:
    """The file of an application that is named `path/file.py:name`, else None; and the name."""
    file, _, name = place.rpartition(":")
    return (Path(file) if file.endswith(".py") else None), name


def _check_duration(text: str) -> int:
    length_us = duration_us(text)
    if "-" in text or not text.isascii():
        raise ValueError("expected a length of time from zero on, text like '30s', '5m', '2h'")
    return length_us


def _check_retention(text: str) -> None:
    if _check_duration(text) < SECOND_US:
        raise ValueError("expected at least a second: no reader would be in time")


def _check_session(text: str) -> None:
    shortest, longest = SESSION_BOUNDS_US
    if not shortest <= _check_duration(text) <= longest:
        raise ValueError("expected 6s to 30m: brokers refuse what is shorter or longer")


def _check_client(name: str) -> None:
    if not _CLIENT.fullmatch(name) or not name.strip("."):
        raise ValueError("expected at most 200 letters, digits, dots, hyphens and underscores")


def _check_secret(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().isprintable():
        raise ValueError("there is a line's end or another control character in it")
    return secret


def _check_keys(keys: SecretStr) -> SecretStr:
    SigningKeys.read(keys.get_secret_value())
    return keys


def _whole_number(given: object) -> object:
    if isinstance(given, str) and not re.fullmatch(r"-?[0-9]{1,18}", given):
        raise ValueError("expected a valid integer, written with the digits 0 to 9")
    if isinstance(given, (float, bool)):
        raise ValueError("expected a valid integer")
    return given


def _plain(given: object) -> object:
    """Text that can be meant: without control characters, and without blanks around it."""
    if isinstance(given, str):
        if not given.replace(" ", "").isprintable():
            raise ValueError("there is a line's end or another control character in it")
        if given != given.strip():
            raise ValueError("there are blanks around it")
    return given


def _checked(check: Callable[[str], object], **how: Any) -> AfterValidator:
    """Text that is taken as it is, unless *check* raises."""

    def validate(text: str) -> str:
        check(text, **how)
        return text

    return AfterValidator(validate)


Plain = Annotated[str, BeforeValidator(_plain)]
BusAddress = Annotated[Plain, _checked(_check_address, schemes=("local", "kafka"))]
StoreAddress = Annotated[Plain, _checked(_check_address, schemes=("sqlite", "postgresql"))]
OutboxAddress = Annotated[Plain, _checked(_check_address, schemes=("postgresql",))]
AppPlace = Annotated[Plain, _checked(_check_app)]
TokenHook = Annotated[
    Plain, _checked(_check_place, expected="module:callable, which returns an access token")
]
Duration = Annotated[Plain, _checked(_check_duration)]
TopicPart = Annotated[Plain, _checked(lambda part: TopicNames(part, part))]
Secret = Annotated[SecretStr, Field(min_length=1), AfterValidator(_check_secret)]
KeyLines = Annotated[SecretStr, Field(min_length=1), AfterValidator(_check_keys)]
_SECRETS = (Secret | None, KeyLines | None)
Name = Annotated[str, Field(min_length=1), BeforeValidator(_plain)]
ClientName = Annotated[Name, _checked(_check_client)]
Count = Annotated[int, BeforeValidator(_whole_number)]


class Settings(BaseModel):
    """How one process of saga runs. Durations are text like `30s`, `5m`, `7d`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _open_files: tuple[str, ...] = PrivateAttr(())

    app: AppPlace = Field(
        "domain:app",
        description="the application, as module:name, path/file.py:name, or a contract file",
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
    http: Annotated[Plain, _checked(_check_http)] = Field(
        "127.0.0.1:8080", description="where health is told, HOST:PORT or off; on Kafka by default"
    )
    group: ClientName | None = Field(
        None, description="consumer group of the orchestrators; tells the application by default"
    )
    partitions: Count = Field(4, ge=1, le=1024, description="partitions of topics made here")
    replication: Count | None = Field(
        None, ge=1, le=32, description="copies of topics made here; as the brokers are set"
    )
    retention: Annotated[Plain, _checked(_check_retention)] = Field(
        "7d", description="how long topics made here keep records"
    )
    early_hold: Duration = Field("10s", description="how long a record waits for its saga to begin")
    live_sagas: Count = Field(
        20_000, ge=1, description="sagas kept in memory between turns, beside long ones"
    )
    record_bytes: Count = Field(
        VALUE_BYTES_MAX,
        ge=1_024,
        le=VALUE_BYTES_MAX,
        description="largest value of a record, in bytes",
    )

    signing_keys: KeyLines | None = Field(
        None, description="lines KEY-ID SECRET: then commands and replies are signed, and must be"
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
    kafka_instance_id: ClientName | None = Field(
        None, description="static membership: this process's own id in its groups"
    )
    kafka_session_timeout: Annotated[Plain, _checked(_check_session)] = Field(
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
            read = cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name = str(problem["loc"][0]) if problem["loc"] else "settings"
            shown = redacted(str(problem.get("input")))[:100]
            if shown and name in cls.secrets():
                shown = HIDDEN
            raise SettingsError(
                PREFIX + name.upper(), f"{shown!r}: {problem['msg'].removeprefix('Value error, ')}"
            ) from None
        read.remember_files(variables)
        return read

    def remember_files(self, variables: Mapping[str, str]) -> None:
        """Look who may read the files with secrets, for `doubts`."""
        named = [variables.get(PREFIX + name.upper() + FILE_SUFFIX) for name in self.secrets()]
        files = [Path(file) for file in named if file is not None]
        if self.kafka_ssl_key_file is not None:
            files.append(self.kafka_ssl_key_file)
        self._open_files = tuple(str(file) for file in files if _is_open_to_all(file))

    def doubts(self) -> list[str]:
        """What works and should not stay: secrets that others may read, in files or on the way."""
        doubts = [
            f"{file}: every user of this machine may read it: chmod 600 {shlex.quote(file)}"
            for file in self._open_files
        ]
        is_told = self.kafka_sasl_mechanism in ("PLAIN", "OAUTHBEARER")
        if self.kafka_security_protocol == "SASL_PLAINTEXT" and is_told:
            doubts += [
                "SAGA_KAFKA_SECURITY_PROTOCOL: SASL_PLAINTEXT sends the password in the clear to "
                f"{host}: set SASL_SSL"
                for host in _far(self.servers)
            ]
        for name, address, password in (
            ("store", self.store, self.store_password),
            ("effects_store", self.effects_store or "", self.effects_store_password),
            ("outbox", self.outbox or "", self.outbox_password),
        ):
            doubts += [
                f"{PREFIX}{name.upper()}: the password may go in the clear to {host}: add "
                "sslmode=require to the address, or verify-full"
                for host in _told_in_the_clear(address, has_password=password is not None)
            ]
        return doubts

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Addresses are text and may have passwords in them.
        for name, value in super().__repr_args__():
            yield name, redacted(value) if isinstance(value, str) else value

    @classmethod
    def secrets(cls) -> set[str]:
        """The settings that are never shown, and may be given as files."""
        return {name for name, field in cls.model_fields.items() if field.annotation in _SECRETS}

    @property
    def topic_names(self) -> TopicNames:
        return TopicNames(self.env, self.namespace)

    @property
    def signing(self) -> SigningKeys | None:
        """The keys that commands and replies are signed with; None where they are not."""
        keys = self.signing_keys
        return None if keys is None else SigningKeys.read(keys.get_secret_value())

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
        scheme, _, servers = self.bus.partition("://")
        return tuple(servers.split(",")) if scheme == "kafka" else ()

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
        if variable.upper().startswith(PREFIX) and variable not in {*known, *files}:
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
        with open(path, encoding="utf-8", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SettingsError(variable, f"{path!r} is no file but a pipe or device")
            text = file.read(SECRET_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise SettingsError(variable, f"{path!r}: {error}") from error
    if len(text) > SECRET_BYTES_MAX:
        raise SettingsError(variable, f"{path!r} is too long to hold a secret")
    return text.rstrip("\r\n")


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes to would hold up the start for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_open_to_all(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _far(servers: Sequence[str]) -> list[str]:
    """Those of *servers* that are not this machine; a port may stand behind a host."""
    hosts = [re.sub(r":[0-9]*$", "", server) for server in servers]
    return [host for host in dict.fromkeys(hosts) if not _LOCAL.fullmatch(host)]


def _told_in_the_clear(address: str, *, has_password: bool) -> list[str]:
    """The hosts other than this one to which a password may go without TLS."""
    if not address.startswith("postgresql:"):
        return []
    credentials, _, servers = address.partition("://")[2].rpartition("@")
    options = dict(parse_qsl(servers.partition("?")[2]))
    hosts = options.get("host") or options.get("hostaddr") or re.split(r"[/?]", servers)[0]
    if options.get("sslmode", os.environ.get("PGSSLMODE")) in _ENCRYPTED:
        return []
    has_password |= ":" in credentials or "password" in options
    return _far(hosts.split(",")) if has_password else []


def _unknown(variable: str, known: list[str]) -> str:
    # Without the prefix, which would make all of them alike.
    names = [name.removeprefix(PREFIX) for name in known]
    near = get_close_matches(variable.upper().removeprefix(PREFIX), names, n=1)
    if near:
        return f"there is no such setting; did you mean {PREFIX}{near[0]}?"
    return f"there is no such setting; known are {', '.join(sorted(known))}"
