"""`replctl failover`: replace a lost primary by its most advanced replica."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.options import ClusterOption, InventoryOption, JsonOption, YesOption, confirmed
from replctl.errors import PartialError, RefusedError, ReplctlError, UsageError

if TYPE_CHECKING:
    import asyncio

    from replctl.controller.incident import Log
    from replctl.core.outcome import Outcome, StepResult
    from replctl.core.plan import Plan, Refusal
    from replctl.core.situation import Request
    from replctl.inventory import Inventory
    from replctl.journal import EventLog


INTERRUPTED = 130


class PlanOutput(StrEnum):
    """Formats of commands that plan."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class LogFormat(StrEnum):
    """Lines of the controller."""

    HUMAN = "human"
    JSON = "json"


def failover(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    to: Annotated[str | None, typer.Option("--to", metavar="NODE", help="Promote this one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, change nothing.")] = False,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print what each step runs.")] = False,
    yes: YesOption = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Why it would refuse, or what it would do.")
    ] = False,
    allow_loss: Annotated[
        str | None,
        typer.Option("--allow-loss", metavar="BYTES|unknown", help="Acknowledged WAL that may be lost."),
    ] = None,
    fenced: Annotated[
        list[str] | None, typer.Option("--fenced", metavar="NODE", help="You state that this node is off.")
    ] = None,
    without_votes: Annotated[
        list[str] | None,
        typer.Option("--without-votes", metavar="NODE", help="Do without the vote of this node."),
    ] = None,
    allow_replay: Annotated[
        list[str] | None,
        typer.Option("--allow-replay", metavar="NODE", help="Replay of this replica may be changed."),
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Run the controller: watch, decide, act.")] = False,
    once: Annotated[bool, typer.Option("--once", help="With --auto: a single decision, for cron.")] = False,
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="Of --auto.")] = LogFormat.HUMAN,
    output: Annotated[PlanOutput, typer.Option("-o", "--output", help="Format.")] = PlanOutput.TABLE,
    json: JsonOption = False,
) -> int:
    """Replace a lost primary by its most advanced replica. A healthy primary is refused.

    Example: replctl failover --dry-run
    """
    import asyncio

    from replctl.inventory import load_one

    one = load_one(inventory, cluster=cluster)
    names = {n.name for n in one.settings.nodes}
    for name in (*([to] if to else ()), *(fenced or ()), *(without_votes or ()), *(allow_replay or ())):
        if name not in names and name not in {w.name for w in one.settings.witnesses}:
            raise UsageError(f"no node {name!r} in the inventory", hint=f"known: {', '.join(sorted(names))}")
    if auto:
        given = (to, allow_loss, fenced, without_votes, allow_replay, dry_run, explain)
        if any(given):
            raise UsageError(
                "--auto takes no wishes",
                why="what may be given up is the operator's decision",
                hint="leave them out",
            )
        return asyncio.run(_control(one, log_format, once=once))
    form = PlanOutput.JSON if json else output
    wish = _Wish(
        to, tuple(fenced or ()), tuple(without_votes or ()), tuple(allow_replay or ()), _loss(allow_loss)
    )
    return asyncio.run(_run(one, wish, form, dry_run=dry_run or explain, with_sql=print_sql, yes=yes))


class _Wish:
    """The options that make the request, before it is known who is lost."""

    def __init__(
        self,
        to: str | None,
        fenced: tuple[str, ...],
        without_votes: tuple[str, ...],
        allow_replay: tuple[str, ...],
        loss: tuple[int | None, bool],
    ) -> None:
        self.to = to
        self.fenced = frozenset(fenced)
        self.without_votes = frozenset(without_votes)
        self.allow_replay = frozenset(allow_replay)
        self.allow_loss_bytes, self.allow_unknown = loss

    def request(self, lost: str | None) -> Request:
        """The request for this lost primary."""
        from replctl.core.situation import Request

        return Request(
            lost=lost,
            to=self.to,
            fenced=self.fenced,
            without_votes=self.without_votes,
            allow_loss_bytes=self.allow_loss_bytes,
            allow_unknown_loss=self.allow_unknown,
            allow_replay=self.allow_replay,
        )


def _loss(text: str | None) -> tuple[int | None, bool]:
    """Bytes, and whether an unknown loss is accepted."""
    from replctl.core.units import parse_bytes

    if text is None:
        return None, False
    if text == "unknown":
        return None, True
    try:
        return parse_bytes(text), False
    except ValueError as error:
        raise UsageError(
            f"--allow-loss {text}", why=str(error), hint="--allow-loss 16MiB, or unknown"
        ) from None


async def _run(
    inventory: Inventory, wish: _Wish, form: PlanOutput, *, dry_run: bool, with_sql: bool, yes: bool
) -> int:
    from replctl.controller.incident import Incident
    from replctl.controller.run import carry_out
    from replctl.core.outcome import Ending
    from replctl.core.plan import plan_failover
    from replctl.core.situation import lost_primary
    from replctl.display.failover import outcome_document, plan_document, plan_text, result_line
    from replctl.journal import load_history
    from replctl.pg.act import statements
    from replctl.pg.observe import Observer
    from replctl.pg.world import Servers

    name = inventory.settings.name
    journal, log = _recorder(name)
    async with Observer(inventory) as observer:
        lost = lost_primary(await observer.observe(), inventory.settings)
        incident = Incident(inventory, log, lost, automatic=False)
        world = Servers(inventory, observer, wish.request(lost), load_history(name), before=incident.before)

        def sql(step: object) -> list[str]:
            return statements(step, world.hands)  # type: ignore[arg-type]

        async def go_on(plan: Plan) -> bool:
            typer.echo(plan_text(plan, sql, with_sql=with_sql), err=form is not PlanOutput.TABLE)
            confirmed(yes, "Run it?", "a failover")
            _heed_signals(world.halt)
            incident.begin(plan, None)
            return True

        def tell(result: StepResult) -> None:
            typer.echo(result_line(result), err=form is not PlanOutput.TABLE)
            incident.step(result)

        try:
            if dry_run:
                plan = plan_failover(await world.observe())
                if form is PlanOutput.TABLE:
                    typer.echo(plan_text(plan, sql, with_sql=with_sql))
                else:
                    _print(plan_document(name, plan, sql), form)
                return _code_of(plan)
            outcome = await carry_out(world, tell, go_on)
            problem = await incident.end(outcome) if incident.begun else None
        finally:
            await world.close()
            journal.close()
    if form is not PlanOutput.TABLE:
        _print(outcome_document(name, outcome, sql), form)
    if world.halt.is_set() and outcome.ending is Ending.REFUSED:
        typer.echo("replctl: stopped before the promotion; everything is as it was", err=True)
        return INTERRUPTED
    code = _finish(outcome, form)
    if problem is not None:
        raise PartialError("the failover is done, but not what follows it", why=problem)
    return code


def _heed_signals(halt: asyncio.Event) -> None:
    """From now on a signal undoes what is begun, or lets a promotion come to its end."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, halt.set)


async def _control(inventory: Inventory, log_format: LogFormat, *, once: bool) -> int:
    """The controller until a signal ends it; with `once` a single decision and its exit code."""
    import asyncio

    from replctl.controller.automatic import Controller, exit_code
    from replctl.controller.notify import keep_notifying, notify
    from replctl.journal import Background, load_history

    name = inventory.settings.name
    journal, record = _recorder(name)
    # Not print(): a reader that stands still, or is gone, must not hold up or end a failover.
    lines = Background(lambda line: os.write(1, f"{line}\n".encode()))

    def log(event: str, sentence: str, facts: dict[str, object]) -> None:
        lines.leave(_log_line(name, log_format, event, sentence, facts))
        record(event, sentence, facts)
        if event == "verdict":
            notify(f"STATUS={sentence}")

    controller = Controller(inventory, log, load_history(name), once=once)
    _heed_signals(controller.stopping)
    watchdog = asyncio.create_task(keep_notifying())
    notify("READY=1")
    try:
        await controller.run()
    finally:
        notify("STOPPING=1")
        watchdog.cancel()
        lines.close()
        journal.close()
    return exit_code(controller) if once else 0


def _recorder(cluster: str) -> tuple[EventLog, Log]:
    """The journal, and what writes an event into it."""
    from replctl.journal import EventLog
    from replctl.pg.locks import session_name

    journal, by = EventLog(cluster), session_name("failover").removeprefix("replctl failover ")

    def record(event: str, sentence: str, facts: dict[str, object]) -> None:
        journal.append({"event": event, "message": sentence, "by": by, **facts})

    return journal, record


def _log_line(
    cluster: str, log_format: LogFormat, event: str, sentence: str, facts: dict[str, object]
) -> str:
    """One event as one line."""
    from datetime import UTC, datetime

    from replctl.display.serialize import to_json
    from replctl.journal import redacted

    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    sentence = redacted(sentence)
    if log_format is LogFormat.JSON:
        return to_json(
            {"at": at, "cluster": cluster, "event": event, "message": sentence, **facts}, one_line=True
        )
    took_s = facts.get("took_s")
    took = f" ({took_s:.3f} s)" if isinstance(took_s, float) else ""
    return f"{at} {cluster} {event}: {sentence}{took}"


def _code_of(plan: Plan | Refusal) -> int:
    from replctl.core.plan import Refusal

    return RefusedError.exit_code if isinstance(plan, Refusal) else 0


def _print(document: dict[str, object], form: PlanOutput) -> None:
    from replctl.display.serialize import to_json, to_yaml

    typer.echo(to_json(document) if form is PlanOutput.JSON else to_yaml(document))


def _finish(outcome: Outcome, form: PlanOutput) -> int:
    from replctl.core.outcome import Ending
    from replctl.core.plan import Refusal

    if outcome.ending is Ending.DONE:
        if form is PlanOutput.TABLE:
            typer.echo(f"{outcome.promoted} is the primary.")
        return 0
    if outcome.ending is Ending.NOTHING:
        if form is PlanOutput.TABLE:
            typer.echo("Nothing was done.")
        return 0
    if outcome.ending is Ending.REFUSED:
        if isinstance(outcome.plan, Refusal):
            reason = outcome.plan.reasons[0]
            raise RefusedError(f"{reason.code}: {reason.message}", hint=reason.remedy)
        raise RefusedError("stopped before the promotion; everything is as it was", why=outcome.problem)
    if outcome.ending is Ending.NOT_RESTORED:
        nodes = ", ".join(outcome.left_cut)
        raise PartialError(
            f"stopped before the promotion, and {nodes} is still cut",
            why=outcome.problem,
            hint="replctl failover",
        )
    if outcome.ending is Ending.PARTIAL:
        raise PartialError(
            f"{outcome.promoted} is the primary, but not all followed",
            why=outcome.problem,
            hint="replctl failover",
        )
    raise ReplctlError("the failover ended in an unknown way")
