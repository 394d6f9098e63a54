"""Read routing for Django 4.2 and later, with psycopg 3.

    # settings.py
    from replctl.adapters.django import databases

    DATABASES = databases("orders.toml", NAME="orders", USER="app", PASSWORD=...)
    DATABASE_ROUTERS = ["replctl.adapters.django.Router"]
    INSTALLED_APPS = ["replctl.adapters.django", ...]                      # for its system checks
    MIDDLEWARE = ["replctl.adapters.django.ReadYourWrites", ...]           # before sessions

Reads of a request go to one fit replica, and to the primary where the request, or its user shortly before,
has written; inside `atomic` all goes to the primary. The alias "default" follows a failover.
"""

from replctl.adapters.django.blocks import read_replica, unit_of_work, use_primary
from replctl.adapters.django.clusters import cluster_of, key_ring
from replctl.adapters.django.databases import databases
from replctl.adapters.django.errors import (
    NodeSwitched,
    NoPrimary,
    NoReplica,
    NotReplicated,
    TransactionOutcomeUnknown,
)
from replctl.adapters.django.middleware import ReadYourWrites
from replctl.adapters.django.router import Router

__all__ = [
    "NoPrimary",
    "NoReplica",
    "NodeSwitched",
    "NotReplicated",
    "ReadYourWrites",
    "Router",
    "TransactionOutcomeUnknown",
    "cluster_of",
    "databases",
    "key_ring",
    "read_replica",
    "unit_of_work",
    "use_primary",
]
