"""What tests ask of Prometheus' own tool: is this text a scrape, are these rules, which alerts fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import need, run

EVALUATED_AT_S = 2400  # long enough for every `for` and window of a rule
SCRAPES = 40
_SAMPLE = re.compile(r"(?P<series>[^#\s{]+(?:\{.*\})?) (?P<value>\S+)")
_GROWING = ("replctl_cluster_observed_timestamp_seconds", "replctl_last_run_timestamp_seconds")


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; `text` is its standard input."""
    need("Prometheus", shutil.which("promtool"), "apt-get install prometheus")
    if text is None:
        return run(["promtool", *arguments], limit_s=60)
    return subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def accept_metrics(text: str) -> None:
    """Fail unless this is a scrape in the text format, without a finding of the linter."""
    done = promtool("check", "metrics", text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def accept_rules(path: Path) -> None:
    """Fail unless these are rules, without a finding of the linter."""
    done = promtool("check", "rules", "--lint-fatal", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def fire_just(
    rules: Path, metrics: str, *expected: str, now: float, growing: Mapping[str, float] | None = None
) -> None:
    """Fail unless just these alerts fire when a scrape has said `metrics` (text format) for 40 minutes.

    An expected one is `Name`, `Name node` or `Name node slot`; `Name!` is a critical one, else it is a
    warning. `now` is the Unix time of the scrape: times in it are told relative to that. `growing` = metrics
    that rise by so much a minute to the value of the scrape.
    """
    found = [_SAMPLE.fullmatch(line) for line in metrics.splitlines() if not line.startswith("#")]
    rising = {**dict.fromkeys(_GROWING, 60.0), **(growing or {})}
    series = [_values(match["series"], float(match["value"]), now, rising) for match in found if match]
    fire_just_by(rules, series, *expected)


def fire_just_by(rules: Path, series: Sequence[Mapping[str, str]], *expected: str) -> None:
    """The same for series as promtool has them: `{"series": ..., "values": ...}`, a value each minute."""
    ask = "count by (alertname, node, replica, slot_name, severity) (ALERTS{alertstate='firing'})"
    case = {
        "interval": "1m",
        "input_series": list(series),
        "promql_expr_test": [
            {
                "expr": ask,
                "eval_time": f"{EVALUATED_AT_S}s",
                "exp_samples": [{"labels": _labels(one), "value": 1} for one in expected],
            }
        ],
    }
    document = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [case]}
    file = rules.with_suffix(".test.yml")
    file.write_text(json.dumps(document))  # YAML reads JSON
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def _values(series: str, value: float, now: float, rising: Mapping[str, float]) -> dict[str, str]:
    name = series.partition("{")[0]
    step = rising.get(name, 0.0)
    if name.endswith("_timestamp_seconds"):
        value += EVALUATED_AT_S - now
    return {"series": series, "values": f"{value - step * SCRAPES:.6f}+{step:.6f}x{SCRAPES}"}


def _labels(expected: str) -> str:
    named, *where = expected.split()
    critical, name = named.endswith("!"), named.removesuffix("!")
    of = "replica" if name == "ReplctlLagOverReadLimit" else "node"
    labels = {"alertname": name, "severity": "critical" if critical else "warning"}
    labels |= dict(zip((of, "slot_name"), where, strict=False))
    return "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"
