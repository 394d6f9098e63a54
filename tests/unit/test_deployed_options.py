"""Every option that a unit, the compose file or a container's script gives is known to its command."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from replctl.render import systemd
from tests.support import ROOT
from tools.docs import commands

OPTIONS = {c.path: {word for p in c.click.params for word in p.opts} for c in commands()}
DEPLOYMENT = systemd.Deployment(
    cluster="orders",
    inventory="/etc/replctl/orders.toml",
    program="/usr/bin/replctl",
    user="replctl",
    proxies=("pgbouncer", "haproxy"),
    tokens="/etc/replctl/tokens",
)


def from_units() -> list[list[str]]:
    texts = systemd.units(DEPLOYMENT).values()
    lines = [
        line for text in texts for line in re.findall(r"^Exec\w+=(/usr/bin/replctl .*)$", text, re.MULTILINE)
    ]
    return [shlex.split(line)[1:] for line in lines]


def from_compose() -> list[list[str]]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    own = [s for s in services if s.get("image") == "replctl:local" and "entrypoint" not in s]
    checks = [s["healthcheck"]["test"] for s in own if "healthcheck" in s]
    return [s["command"] for s in own] + [words[2:] for words in checks if words[1] == "/deploy/replctl.sh"]


def from_scripts() -> list[list[str]]:
    found: list[list[str]] = []
    for script in sorted((ROOT / "deploy").glob("*.sh")):
        for call in re.findall(r'"\$replctl_sh" ("render-\$1"[^|&;\n]*)', script.read_text()):
            found += [shlex.split(call.replace("$1", proxy)) for proxy in ("pgbouncer", "haproxy")]
    return found


SOURCES = {"units": from_units, "compose": from_compose, "scripts": from_scripts}


@pytest.mark.parametrize("source", SOURCES)
def test_every_option_that_is_deployed_is_known_to_its_command(source: str) -> None:
    calls = SOURCES[source]()
    assert calls
    for words in calls:
        path = (words[0],)
        unknown = {word for word in words[1:] if word.startswith("-")} - OPTIONS[path]
        assert unknown == set(), words


def test_all_that_keeps_a_proxy_is_deployed() -> None:
    kept = [words[0] for words in (*from_units(), *from_compose()) if {"--watch", "--apply"} <= set(words)]
    assert sorted(kept) == ["render-haproxy"] * 2 + ["render-pgbouncer"] * 2
