"""One client conversation and one server connection, without input or output."""
