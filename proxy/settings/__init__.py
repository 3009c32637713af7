"""The configuration file: model, loading, checking."""
