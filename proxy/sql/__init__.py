"""Facts about SQL statements, from PostgreSQL's own grammar."""
