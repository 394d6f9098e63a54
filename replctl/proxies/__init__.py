"""Talking to running proxies: PgBouncer's admin console, HAProxy's runtime socket.

Every wait has a limit.
"""
