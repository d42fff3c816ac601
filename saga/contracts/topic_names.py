"""Topic names: a contract's name with the environment and namespace that the settings say."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga.contracts.contract import NAME_PART, parse_contract_name

NAMING_PART_CHARS_MAX = 32
"""Of environment and namespace each: with the longest contract name still a legal topic."""


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The topics of one environment and namespace.

    Raises:
        ValueError: *env* or *namespace* cannot be part of a topic's name.
    """

    env: str
    namespace: str
    _prefix: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, part in (("env", self.env), ("namespace", self.namespace)):
            if not NAME_PART.fullmatch(part) or len(part) > NAMING_PART_CHARS_MAX:
                raise ValueError(
                    f"{name} {part[:100]!r} cannot be part of a topic's name: expected small"
                    f" letters, digits and inner hyphens, at most {NAMING_PART_CHARS_MAX}"
                )
        object.__setattr__(self, "_prefix", f"{self.env}.{self.namespace}.")

    def topic(self, contract_name: str) -> str:
        """The topic of the contract *contract_name*."""
        return self._prefix + contract_name

    def contract_name(self, topic: str) -> str | None:
        """The contract whose topic this is; None where it belongs to another namespace or to
        nobody.
        """
        if not topic.startswith(self._prefix):
            return None
        name = topic[len(self._prefix) :]
        return name if parse_contract_name(name) is not None else None
