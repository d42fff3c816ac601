"""What people and scripts operate saga with."""

__all__: list[str] = []
