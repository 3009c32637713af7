"""What operators reach: HTTP API, metrics, health, console."""
