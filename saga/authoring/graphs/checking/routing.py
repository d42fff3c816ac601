"""What may leave a saga, and which handlers are called: what a file says, and what is so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from saga.authoring.graphs.checking.compiling import Notes
from saga.authoring.graphs.checking.library import Library, fits, short_name
from saga.authoring.graphs.file.mistakes import MistakeCode, Place, did_you_mean, shown
from saga.authoring.graphs.file.shaping import Shaped, found_at
from saga.authoring.graphs.handlers import EventHandler
from saga.contracts import Contract, Kind

_ANYWHERE: Final = "{env}.{namespace}."
_HANDLER: Final = MistakeCode.HANDLER


class Routing:
    """The events that a file publishes and the intents that it routes; None: any."""

    def __init__(
        self, events: Mapping[str, Contract] | None, intents: Mapping[str, Place] | None
    ) -> None:
        self._events = events
        self._intents = intents
        self._issued: set[str] = set()
        self._used: set[str] = set()

    @property
    def published_names(self) -> frozenset[str] | None:
        return None if self._events is None else frozenset(self._events)

    @property
    def issued_names(self) -> frozenset[str] | None:
        return None if self._intents is None else frozenset(self._issued)

    def published(self) -> Collection[Contract]:
        return () if self._events is None else self._events.values()

    def allowed(self, intents: Iterable[Contract]) -> list[Contract]:
        return [each for each in intents if self._intents is None or self._keys(each)]

    def issue(self, intent: Contract, place: Place, notes: Notes) -> None:
        """A node issues this intent."""
        keys = self._keys(intent)
        self._used.update(keys)
        self._issued.add(intent.contract_name)
        if self._intents is not None and not keys:
            known = did_you_mean(short_name(intent), self._intents)
            message = f"{short_name(intent)} is not in intent_routing_table{known}"
            notes.note(place, message, MistakeCode.NOT_ROUTED)

    def publish(self, event: Contract, place: Place, notes: Notes) -> None:
        """The saga publishes this event itself."""
        if self._events is not None and event.contract_name not in self._events:
            message = f"{short_name(event)} is not in published_events: add its topic"
            notes.note(place, message, MistakeCode.NOT_ROUTED)

    def check_used(self, notes: Notes) -> None:
        for key, place in (self._intents or {}).items():
            if key not in self._used:
                message = f"`{shown(key)}` is routed, and no node issues it"
                notes.note(place, message, MistakeCode.NOT_ROUTED)

    def _keys(self, intent: Contract) -> list[str]:
        return [key for key in self._intents or () if fits(intent, key)]


def routing_of(
    shaped: Shaped,
    library: Library,
    services: Mapping[str, frozenset[str]] | None,
    notes: Notes,
) -> Routing:
    """What the file lets leave the saga, compared with contracts and effect services."""
    table = shaped.head.intent_routing_table
    intents = None
    if table is not None:
        intents = {key: found_at(shaped.tree, ("intent_routing_table", key))[1] for key in table}
        for key, service in table.items():
            handled = _handled(service, services or {})
            for problem, code in _wrong_with_route(key, service, library, handled):
                notes.note(intents[key], problem, code)
    return Routing(_published(shaped, library, notes), intents)


def _handled(service: str, services: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    """What an effect service handles; its name has hyphens where a file may have underscores."""
    return services.get(service, services.get(service.replace("_", "-")))


def _wrong_with_route(
    key: str, service: str, library: Library, handled: frozenset[str] | None
) -> Iterator[tuple[str, MistakeCode]]:
    matching = library.matching(key, Kind.INTENT)
    if not matching:
        yield library.explain_unknown(key, Kind.INTENT), MistakeCode.UNKNOWN_CONTRACT
    for each in matching if handled is not None else ():
        if each.contract_name not in (handled or ()):
            problem = f"effect service `{shown(service)}` does not handle {short_name(each)}"
            yield problem, MistakeCode.NOT_ROUTED


def _published(shaped: Shaped, library: Library, notes: Notes) -> dict[str, Contract] | None:
    if shaped.head.published_events is None:
        return None
    found: dict[str, Contract] = {}
    for number, each in enumerate(shaped.head.published_events):
        topic_at = shaped.at("published_events", number, "topic").place
        contract = library.known(each.topic.removeprefix(_ANYWHERE))
        if contract is None or contract.kind is not Kind.EVENT:
            named = [one for one in library.of(Kind.EVENT) if one.model.__name__ == each.event_type]
            hint = f": that of {each.event_type} is {named[0].contract_name}" if named else ""
            message = f"`{shown(each.topic)}` is the topic of no event that is known{hint}"
            notes.note(topic_at, message, MistakeCode.UNKNOWN_CONTRACT)
            continue
        if contract.model.__name__ != each.event_type:
            place = shaped.at("published_events", number, "event_type").place
            message = (
                f"event_type `{shown(each.event_type)}`: the class of {contract.contract_name} is "
                f"{contract.model.__name__}"
            )
            notes.note(place, message, MistakeCode.WRONG_CONTRACT)
        found[contract.contract_name] = contract
    return found


def check_handler_routing(
    shaped: Shaped,
    handlers: Sequence[EventHandler] | None,
    heard: frozenset[str],
    routing: Routing,
    notes: Notes,
) -> None:
    """Compare the handlers of the file with those that Python hands over, both ways."""
    said = shaped.head.handler_routing
    if handlers is None:
        return
    by_name = {each.name.rpartition(".")[2]: each for each in handlers}
    listed: set[str] = set()
    for number, route in enumerate(() if said is None else said.handlers):
        at = ("handler_routing", "handlers", number)
        handler = by_name.get(route.handler.name)
        listed.add(route.handler.name)
        if handler is None:
            hint = did_you_mean(route.handler.name, by_name)
            hint = hint or ": give it to contract(…, handlers=[…])"
            message = f"no handler `{shown(route.handler.name)}` is handed over{hint}"
            place = shaped.at(*at, "handler", "name").place
            notes.note(place, message, _HANDLER)
            continue
        modules = {
            ("handler", route.handler.module): handler.module,
            ("event_model", route.event_model.module): handler.event.__module__,
        }
        for (key, claimed), actual in modules.items():
            if claimed is not None and claimed != actual:
                place = shaped.at(*at, key, "module").place
                notes.note(place, f"module `{shown(claimed)}`: it is in {actual}", _HANDLER)
        event = handler.event
        if route.event_model.name != event.__name__:
            message = (
                f"{handler.name} handles {event.__name__}, not {shown(route.event_model.name)}"
            )
            place = shaped.at(*at, "event_model", "name").place
            notes.note(place, message, _HANDLER)
        _check_output(shaped, at, route.output_events, routing, notes)
    for each in handlers:
        if said is not None and said.handlers and each.name.rpartition(".")[2] not in listed:
            place = shaped.at("handler_routing", "handlers").place
            message = f"{each.name} ({each.where}) is handed over, and not listed here"
            notes.note(place, message, _HANDLER)
        name = each.event.__saga_contract__
        if name is not None and name.contract_name not in heard:
            message = f"{each.name} handles {each.event.__name__}, which no node waits for"
            notes.note(shaped.at("nodes").place, message, _HANDLER)


def _check_output(
    shaped: Shaped,
    at: tuple[str | int, ...],
    events: Sequence[str],
    routing: Routing,
    notes: Notes,
) -> None:
    if routing.published_names is None:
        return
    known = {each.model.__name__ for each in routing.published()}
    for number, name in enumerate(events):
        if name not in known:
            place = shaped.at(*at, "output_events", number).place
            message = f"`{shown(name)}` is not in published_events{did_you_mean(name, known)}"
            notes.note(place, message, _HANDLER)
