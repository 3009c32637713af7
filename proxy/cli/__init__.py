"""The command headgate."""
