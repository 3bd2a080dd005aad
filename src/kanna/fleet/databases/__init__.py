"""Where a fleet is kept: one file of SQLite, or a database of PostgreSQL."""
