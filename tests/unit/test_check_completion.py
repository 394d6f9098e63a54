"""The shell completes checks, nodes and clusters, from files alone."""

from __future__ import annotations

import pytest

from replctl.core.checks import CHECKS
from tests.support import replctl

INVENTORY = """
[cluster]
name = "orders"
[connection]
password_command = ["/no/such/program"]
[[nodes]]
name = "pg1"
host = "192.0.2.1"
[[nodes]]
name = "pg2"
host = "192.0.2.2"
"""


@pytest.fixture
def completed(tmp_path):
    """What the shell offers for the last word of a command line."""
    path = tmp_path / "orders.toml"
    path.write_text(INVENTORY)
    path.chmod(0o600)

    def complete(line: str, **env: str) -> list[str]:
        words = {"COMP_WORDS": line.replace("FILE", str(path)), "COMP_CWORD": str(line.count(" "))}
        done = replctl(env={"_REPLCTL_COMPLETE": "complete_bash", **words, **env})
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("replctl check lag", ["lag-bytes", "lag-seconds"]),
        ("replctl check lag-bytes pri", ["primary", "privileges"]),
        ("replctl check --skip slot", ["slots", "slot-headroom"]),
        ("replctl check -i FILE --node p", ["pg1", "pg2"]),
        ("replctl check -i FILE --node pg1 --node pg2", ["pg2"]),
        ("replctl check -i FILE --cluster o", ["orders"]),
        ("replctl doctor -i FILE --cluster ", ["orders"]),
        ("replctl check -i /no/such/file --node p", []),
    ],
)
def test_names_are_offered(completed, line, offered):
    assert completed(line) == offered


def test_every_check_is_offered(completed):
    assert completed("replctl check ") == list(CHECKS)


def test_the_inventory_of_the_environment_is_used(completed, tmp_path):
    assert completed("replctl check --node ", REPLCTL_INVENTORY=str(tmp_path / "orders.toml")) == [
        "pg1",
        "pg2",
    ]


def test_a_broken_inventory_offers_nothing(completed, tmp_path):
    (tmp_path / "broken.toml").write_text("[cluster")

    assert completed(f"replctl check -i {tmp_path}/broken.toml --node ") == []
