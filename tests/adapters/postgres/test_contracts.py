"""The contract suites on a real PostgreSQL."""

from saga.testing.catalogue_suite import CatalogueSuite
from saga.testing.event_store_suite import EventStoreSuite


class TestPostgresEventStore(EventStoreSuite, CatalogueSuite):
    pass
