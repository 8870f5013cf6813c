"""Reading back: one `Reader` for each database, and the one that asks Postgres first and SQLite when it is away."""
