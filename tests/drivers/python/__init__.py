"""The checklist in Python's drivers: each module is a program of its own."""
