"""Carrying out a failover, once or whenever the primary is lost, and telling the world of it."""
