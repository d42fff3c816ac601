"""The runtime: receive, decode, route, load, handle, append, relay, in batches.

`orchestrator` receives records, `router` says which sagas they concern. `turns` takes the turns of
a batch as one `unit_of_work`, on sagas from `saga_cache`; `relay` publishes what is stored.
`unhandled` has deferred records and dead letters, `outcomes` those who wait for a saga. There is no
business logic. See ARCHITECTURE.md for the hops and what holds at each.
"""

__all__: list[str] = []
