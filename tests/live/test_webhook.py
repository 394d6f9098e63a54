"""The webhook as the hook of a real failover: the chat is told, and a chat that is down stops nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.failover_support import GRACES, environment, fail_over, write_inventory
from tests.support import replctl
from tests.unit.test_webhook import Server, serving

pytestmark = pytest.mark.live


def _lost(lab: Lab, url: str, directory: Path) -> Path:
    """An inventory with the hook, of a cluster whose primary is gone."""
    file = directory / "webhook.url"
    file.write_text(url)
    file.chmod(0o600)
    hook = [sys.executable, "-m", "replctl.webhook", "--url-file", str(file), "--limit", "2"]
    inventory = write_inventory(lab, failover={**GRACES, "hooks": {"after": hook}})
    # How far the primary was has to be known.
    assert replctl("status", env=environment(inventory)).returncode == 0
    lab.kill("pg1")
    return inventory


def test_a_failover_is_told_with_who_took_over(lab: Lab, tmp_path: Path) -> None:
    with serving(Server()) as server:
        done = fail_over(_lost(lab, server.url, tmp_path), "--to", "pg2")
    assert done.returncode == 0, done.stderr
    (told,) = (one["json"] for one in server.bodies)
    event = told["event"]
    assert told["text"] == f"lab: pg2 is the primary now, pg1 is lost (failover {event['id']})"
    assert (event["hook"], event["outcome"], event["lost"]) == ("after", "done", "pg1")


def test_a_chat_that_answers_with_errors_is_said_and_the_promotion_stands(lab: Lab, tmp_path: Path) -> None:
    with serving(Server(statuses=(503,))) as server:
        done = fail_over(_lost(lab, server.url, tmp_path), "--to", "pg2")
    assert done.returncode == 4
    assert "replctl webhook: localhost was not told: it answered 503" in done.stdout + done.stderr
    assert server.url not in done.stdout + done.stderr
