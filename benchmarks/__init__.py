"""Measure Headgate beside PgBouncer and a direct connection: `python -m benchmarks.run`."""
