"""The IO shell: sockets, TLS, signals, worker processes."""
