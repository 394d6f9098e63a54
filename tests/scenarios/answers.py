"""What replctl answers to a command, asked of a drawn cluster: the same core and the same sentences."""

from __future__ import annotations

import argparse

from replctl.controller.upkeep import disputing, stale_primaries, unfinished
from replctl.core.coverage import coverage, votes_of
from replctl.core.detector import Detector, Finding, Tick, Verdict, advance
from replctl.core.diagnose import diagnose
from replctl.core.plan import plan_failover
from replctl.core.situation import Request, Situation, lost_primary
from replctl.core.steps import Step
from replctl.core.units import parse_bytes
from replctl.display.failover import plan_text
from tests.scenarios.drawing import Drawing

ACTS = (Verdict.DEAD, Verdict.SILENT)


def whole_text(drawing: Drawing) -> str:
    """The scenario as its file should be: the drawing as it stands, the answers as they are."""
    parts = [drawing.head]
    for command in drawing.commands:
        text = f"$ {' '.join(command)}\n{answer(drawing, command)}"
        parts.append("\n".join(line.rstrip() for line in text.splitlines()))
    return "\n\n".join(parts) + "\n"


def answer(drawing: Drawing, command: tuple[str, ...]) -> str:
    """What one command prints. Raises ValueError for one that is not `status` or `failover`."""
    match command:
        case ("replctl", "status"):
            found = diagnose(drawing.status)
            return "\n".join([str(found.code), *(f"  {line}" for line in found.evidence)])
        case ("replctl", "failover", "--auto"):
            return _automatic(drawing)
        case ("replctl", "failover", *options):
            return _planned(drawing, request_of(drawing, tuple(options)))
    raise ValueError(f"a scenario asks for replctl status or failover, not {' '.join(command)}")


def request_of(drawing: Drawing, options: tuple[str, ...]) -> Request:
    """What `replctl failover` is asked for with these options."""
    if options == ("--auto",):
        return Request(lost=drawing.was_primary, automatic=True)
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--to")
    parser.add_argument("--allow-loss")
    parser.add_argument("--dry-run", action="store_true")
    for option in ("--fenced", "--without-votes", "--allow-replay"):
        parser.add_argument(option, action="append", default=[])
    given = parser.parse_args(options)
    known = given.allow_loss not in (None, "unknown")
    return Request(
        lost=lost_primary(drawing.state, drawing.settings),
        to=given.to,
        fenced=frozenset(given.fenced),
        without_votes=frozenset(given.without_votes),
        allow_replay=frozenset(given.allow_replay),
        allow_loss_bytes=parse_bytes(given.allow_loss) if known else None,
        allow_unknown_loss=given.allow_loss == "unknown",
    )


def situation_of(drawing: Drawing, request: Request) -> Situation:
    """Everything that is decided from."""
    return Situation(
        settings=drawing.settings,
        state=drawing.state,
        request=request,
        word=drawing.word(request.lost),
        lost_timeline=drawing.timeline_seen(request.lost) if request.automatic else None,
        **drawing.gathered(request.lost),
    )


def _planned(drawing: Drawing, request: Request) -> str:
    def none(_: Step) -> list[str]:
        return []

    return plan_text(plan_failover(situation_of(drawing, request)), none)


def _automatic(drawing: Drawing) -> str:
    """What a controller makes of it that has watched this primary from before."""
    primary = drawing.was_primary
    finding = finding_of(drawing, primary)
    lines = [f"{finding.verdict}: {finding.evidence}"]
    status = drawing.status
    if finding.verdict in ACTS:
        settings = drawing.settings
        lasting = coverage(settings, status.sync, settings.fence_commands).impossible
        if lasting is not None:
            return "\n".join([*lines, f"automatic failover is not done: {lasting}"])
        return "\n".join([*lines, _planned(drawing, request_of(drawing, ("--auto",)))])
    stale = stale_primaries(status)
    lines += [f"fence {name}, which came back on an old timeline" for name in stale]
    if disputed := disputing(status):
        return "\n".join([*lines, f"{', '.join(disputed)} was never replaced: nothing is done"])
    now = status.primary
    if finding.verdict is Verdict.ALIVE and now and unfinished(drawing.state, drawing.settings, now):
        lost = lost_primary(drawing.state, drawing.settings)
        request = Request(lost=lost, automatic=True, finish=True)
        lines += ["a failover was left unfinished", _planned(drawing, request)]
    return "\n".join(lines)


def finding_of(drawing: Drawing, primary: str | None) -> Finding:
    """The detector's verdict after the same word for a while: what is drawn, or as long as it takes."""
    if primary is None:
        return Finding(Verdict.SUSPECT, "it is not known which node is the primary")
    timings = drawing.settings.failover
    lasts_s = drawing.said("for_s").get(primary, timings.failures * timings.interval_s)
    followers = [n for n in drawing.status.replicas if n.upstream == primary and n.facts and n.facts.receiver]
    detector, at_s = Detector(), 0.0
    finding = Finding(Verdict.ALIVE, "")
    while at_s <= lasts_s:
        moved = [n for n in followers if _age_s(n.facts) < at_s]
        tick = Tick(
            at_s=at_s,
            word=drawing.word(primary),
            streaming=tuple(n.name for n in moved),
            connected=tuple(n.name for n in followers),
            voters_reached=len(drawing.state.facts) + sum(w.reachable for w in drawing.status.witnesses),
            majority=votes_of(drawing.settings).majority,
        )
        detector, finding = advance(detector, tick, timings)
        at_s += timings.interval_s
    return finding


def _age_s(facts: object) -> float:
    """How long ago its receiver heard anything; one that does not stream heard nothing."""
    found = getattr(facts, "receiver", None)
    if found is None or found.status != "streaming" or found.last_message_age_s is None:
        return float("inf")
    return float(found.last_message_age_s)
