"""replctl: see, check and fail over PostgreSQL primary/replica clusters, by SQL alone."""

__version__ = "0.1.0"
