"""
Event-sourced sagas on Kafka: business processes over several services that finish or are undone.
"""

__all__: list[str] = []
