"""The database backend, `ENGINE` of what `databases()` makes: Django's PostgreSQL one that knows its node."""
