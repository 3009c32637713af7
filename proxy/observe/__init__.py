"""Counters, metrics exposition, logs."""
