"""
Settings: every one has a default, an environment variable `SAGA_…`, and is checked before anything
starts. An unknown variable is refused by name: a misspelt setting would otherwise do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from saga.contracts import VALUE_BYTES_MAX, TopicNames
from saga.core.durations import SECOND_US, duration_us
from saga.errors import SettingsError

PREFIX = "SAGA_"
_BUSES = ("local", "kafka")
_STORES = ("sqlite", "postgresql")
PORT_MAX = 65_535


class Settings(BaseSettings):
    """
    How one process of saga runs. Durations are text like `30s`, `5m`, `7d`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    app: str = Field("domain:app", description="the application, as module:name")
    bus: str = Field("local:///.saga/saga.db", description="local:///PATH or kafka://HOST:PORT,…")
    store: str = Field(
        "sqlite:///.saga/saga.db", description="sqlite:///PATH or postgresql://USER@HOST/DB"
    )
    effects_store: str | None = Field(
        None, description="where effect services keep inbox and tables; beside the store by default"
    )
    env: str = Field("dev", description="first part of every topic's name")
    namespace: str = Field("saga", description="second part of every topic's name")
    log: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    http: str = Field("127.0.0.1:8080", description="where the console listens")
    group: str = Field(
        "saga-orchestrator", min_length=1, description="consumer group of the orchestrators"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of topics made here")
    retention: str = Field("7d", description="how long the local bus keeps records")
    early_hold: str = Field("10s", description="how long a record waits for its saga to begin")
    live_sagas: int = Field(20_000, ge=1, description="sagas kept in memory between turns")
    record_bytes: int = Field(
        VALUE_BYTES_MAX,
        ge=1_024,
        le=VALUE_BYTES_MAX,
        description="largest value of a record, in bytes",
    )

    @field_validator("bus")
    @classmethod
    def _is_bus(cls, address: str) -> str:
        return _checked_address(address, _BUSES)

    @field_validator("store")
    @classmethod
    def _is_store(cls, address: str) -> str:
        return _checked_address(address, _STORES)

    @field_validator("effects_store")
    @classmethod
    def _is_effects_store(cls, address: str | None) -> str | None:
        return None if address is None else _checked_address(address, _STORES)

    @field_validator("app")
    @classmethod
    def _is_app(cls, app: str) -> str:
        module, _, name = app.partition(":")
        if not module or not name:
            raise ValueError("expected module:name, for example domain:app")
        return app

    @field_validator("retention", "early_hold")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        duration_us(text)
        return text

    @field_validator("retention")
    @classmethod
    def _keeps_something(cls, text: str) -> str:
        if duration_us(text) < SECOND_US:
            raise ValueError("expected at least a second: nobody could read records in time")
        return text

    @field_validator("http")
    @classmethod
    def _is_host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > PORT_MAX:
            raise ValueError("expected HOST:PORT, for example 127.0.0.1:8080")
        return address

    @field_validator("env", "namespace")
    @classmethod
    def _is_topic_part(cls, part: str) -> str:
        TopicNames(part, part)
        return part

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **given: Any) -> Self:
        """
        Settings from the environment, with *given* ones (None: not given) going first.

        Raises:
            SettingsError: names the variable or option, what is wrong, and what to do.
        """
        variables = os.environ if environment is None else environment
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        for variable in sorted(variables):
            if variable.startswith(PREFIX) and variable not in known:
                raise SettingsError(variable, _unknown(variable, list(known)))
        values: dict[str, Any] = {
            name: variables[variable] for variable, name in known.items() if variable in variables
        }
        values.update({name: value for name, value in given.items() if value is not None})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name = str(problem["loc"][0]) if problem["loc"] else "settings"
            shown = str(problem.get("input"))[:100]
            raise SettingsError(
                PREFIX + name.upper(), f"{shown!r}: {problem['msg'].removeprefix('Value error, ')}"
            ) from None

    @property
    def topic_names(self) -> TopicNames:
        """
        How topics are called here.
        """
        return TopicNames(self.env, self.namespace)

    @property
    def retention_s(self) -> int:
        """
        Retention in seconds.
        """
        return duration_us(self.retention) // SECOND_US

    @property
    def early_hold_s(self) -> float:
        """
        The hold in seconds.
        """
        return duration_us(self.early_hold) / SECOND_US

    @property
    def effects_address(self) -> str:
        """
        Where effect services keep their own: by default a file beside the store's.
        """
        if self.effects_store is not None:
            return self.effects_store
        if self.store.startswith("sqlite:"):
            path = file_of(self.store)
            stem = path.removesuffix(".db")
            return f"sqlite:///{stem}-effects.db"
        return self.store


def file_of(address: str) -> str:
    """
    The path in `sqlite:///PATH` or `local:///PATH`: relative, or absolute with a fourth slash.
    """
    return address.partition(":///")[2]


def _checked_address(address: str, schemes: tuple[str, ...]) -> str:
    parts = urlsplit(address)
    expected = " or ".join(f"{scheme}://…" for scheme in schemes)
    if parts.scheme not in schemes:
        raise ValueError(f"expected {expected}")
    if parts.scheme in ("local", "sqlite") and (parts.netloc or not file_of(address)):
        raise ValueError(f"expected {parts.scheme}:///PATH with three slashes")
    if parts.scheme == "kafka" and not parts.netloc:
        raise ValueError("expected kafka://HOST:PORT,…")
    return address


def _unknown(variable: str, known: list[str]) -> str:
    # Without the prefix, which would make all of them alike.
    names = [name.removeprefix(PREFIX) for name in known]
    near = get_close_matches(variable.removeprefix(PREFIX).upper(), names, n=1)
    if near:
        return f"there is no such setting; did you mean {PREFIX}{near[0]}?"
    return f"there is no such setting; known are {', '.join(sorted(known))}"
