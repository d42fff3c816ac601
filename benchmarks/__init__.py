"""What the engine does on this machine, beside what the machine could do without an engine.

`python -m benchmarks` measures on files, or with `--bus` and `--store` on a Kafka and a PostgreSQL.
"""
