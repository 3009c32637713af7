"""Mutations of the program, one for each thing that a rule of the protocol says."""
