"""What INSTALLED_APPS loads: the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class RoutingConfig(AppConfig):
    """Registers the system checks."""

    name = "replctl.adapters.django"
    label = "replctl"
    verbose_name = "replctl read routing"

    def ready(self) -> None:
        from replctl.adapters.django.checks import check_routing

        checks.register(check_routing)
