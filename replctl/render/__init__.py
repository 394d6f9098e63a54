"""Configuration for other programs, made as text from the inventory and the live roles."""

RENDERERS = {
    "pgbouncer": "replctl.render.pgbouncer",
    "haproxy": "replctl.render.haproxy",
    "systemd": "replctl.render.systemd",
    "prometheus": "replctl.render.prometheus",
    "grafana": "replctl.render.grafana",
}
"""The module of each command `render-NAME`. Only texts are made there; `cli` asks, compares and writes."""
