"""An embedded PostgreSQL with a standby, and the scripted tour."""
