"""What is exported to Prometheus: one registry, one way from a report to samples, two text formats.

samples = collect(reports, Run(version=..., at=..., took_s=..., success=True))
render(samples, Format.OPENMETRICS)     # with the header CONTENT_TYPES[Format.OPENMETRICS]
"""

from replctl.core.metrics.collect import Run, collect
from replctl.core.metrics.families import BY_NAME, FAMILIES, Family, Kind, Samples
from replctl.core.metrics.text import CONTENT_TYPES, Format, render

__all__ = [
    "BY_NAME",
    "CONTENT_TYPES",
    "FAMILIES",
    "Family",
    "Format",
    "Kind",
    "Run",
    "Samples",
    "collect",
    "render",
]
