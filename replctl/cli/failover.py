"""`replctl failover`: replace a lost primary by its most advanced replica."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.auto import LogFormat, control, heed_signals, recorder
from replctl.cli.options import (
    ClusterOption,
    InventoryOption,
    JsonOption,
    YesOption,
    complete_nodes,
    confirmed,
)
from replctl.errors import PartialError, RefusedError, ReplctlError, UsageError

if TYPE_CHECKING:
    from replctl.core.model import ClusterState
    from replctl.core.outcome import Outcome, StepResult
    from replctl.core.plan import Plan, Refusal
    from replctl.core.situation import Request
    from replctl.display.failover import Statements
    from replctl.inventory import Inventory


INTERRUPTED = 130


class PlanOutput(StrEnum):
    """Formats of commands that plan."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def failover(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="NODE", help="Promote this one.", autocompletion=complete_nodes),
    ] = None,
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
    form = PlanOutput.JSON if json else output
    _check_names(one, nodes=(*([to] if to else ()), *(allow_replay or ())))
    _check_names(one, voters=(*(fenced or ()), *(without_votes or ())))
    if auto:
        _refuse_wishes((to, allow_loss, fenced, without_votes, allow_replay, dry_run, explain, print_sql))
        if form is not PlanOutput.TABLE:
            raise UsageError("--auto has no document to show", hint="--log-format json: one event a line")
        return asyncio.run(control(one, log_format, once=once))
    if once or log_format is not LogFormat.HUMAN:
        raise UsageError("--once and --log-format belong to --auto", hint="replctl failover --auto --once")
    wish = _Wish(
        to, tuple(fenced or ()), tuple(without_votes or ()), tuple(allow_replay or ()), _loss(allow_loss)
    )
    return asyncio.run(_run(one, wish, form, dry_run=dry_run or explain, with_sql=print_sql, yes=yes))


def _check_names(inventory: Inventory, *, nodes: tuple[str, ...] = (), voters: tuple[str, ...] = ()) -> None:
    """Raise UsageError for what is no node, or where a voter is named, no voter."""
    known = [n.name for n in inventory.settings.nodes]
    witnesses = [w.name for w in inventory.settings.witnesses]
    for name in nodes:
        if name in witnesses:
            raise UsageError(f"{name} is a witness", why="it only votes", hint=f"nodes: {', '.join(known)}")
        if name not in known:
            raise UsageError(f"no node {name!r} in the inventory", hint=f"known: {', '.join(known)}")
    for name in voters:
        if name not in (*known, *witnesses):
            raise UsageError(
                f"no node {name!r} in the inventory", hint=f"known: {', '.join((*known, *witnesses))}"
            )


def _refuse_wishes(given: tuple[object, ...]) -> None:
    """A controller takes none: what may be given up is for a person to say."""
    if any(given):
        raise UsageError(
            "--auto takes no wishes",
            why="what may be given up is the operator's decision",
            hint="leave out all but --once and --log-format, or leave out --auto",
        )


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


class _Screen:
    """What a run says: all of it on standard output, or beside the one document there."""

    def __init__(self, inventory: Inventory, form: PlanOutput, sql: Statements, *, with_sql: bool) -> None:
        self.name = inventory.settings.name
        self.form = form
        self.as_text = form is PlanOutput.TABLE
        self._inventory = inventory
        self._sql = sql
        self._with_sql = with_sql

    def say(self, text: str) -> None:
        typer.echo(text, err=not self.as_text)

    def diagnosis(self, state: ClusterState) -> None:
        """What is the matter, with the evidence for it."""
        from replctl.core.diagnose import diagnose
        from replctl.core.lag import LagHistory
        from replctl.core.status import assess

        found = diagnose(assess(state, self._inventory.settings, LagHistory()))
        self.say("\n".join([f"{found.code}:", *(f"  {line}" for line in found.evidence), ""]))

    def plan(self, plan: Plan | Refusal) -> None:
        from replctl.display.failover import plan_text

        self.say(plan_text(plan, self._sql, with_sql=self._with_sql))

    def step(self, result: StepResult) -> None:
        from replctl.display.failover import result_line

        self.say(result_line(result))

    def planned(self, plan: Plan | Refusal) -> None:
        """The end of a dry run."""
        from replctl.display.failover import plan_document

        if self.as_text:
            self.plan(plan)
        else:
            self._print(plan_document(self.name, plan, self._sql))

    def end(self, outcome: Outcome) -> None:
        """The document of a run, or what there is to say of one that did nothing."""
        from replctl.core.outcome import Ending
        from replctl.core.plan import Refusal
        from replctl.display.failover import outcome_document, ranking_text

        if not self.as_text:
            self._print(outcome_document(self.name, outcome, self._sql))
        elif isinstance(outcome.plan, Refusal):
            self.say(ranking_text(outcome.plan.ranking))
        elif outcome.ending is Ending.NOTHING:
            self.plan(outcome.plan)

    def _print(self, document: dict[str, object]) -> None:
        from replctl.display.serialize import to_json, to_yaml

        typer.echo(to_json(document) if self.form is PlanOutput.JSON else to_yaml(document))


async def _run(
    inventory: Inventory, wish: _Wish, form: PlanOutput, *, dry_run: bool, with_sql: bool, yes: bool
) -> int:
    from replctl.controller.incident import Incident
    from replctl.controller.run import carry_out
    from replctl.core.plan import Plan, Refusal, plan_failover
    from replctl.core.situation import lost_primary
    from replctl.journal import load_history
    from replctl.pg.observe import Observer
    from replctl.pg.statements import statements
    from replctl.pg.world import Servers

    journal, log = recorder(inventory.settings.name)
    async with Observer(inventory) as observer:
        state = await observer.observe()
        lost = lost_primary(state, inventory.settings)

        def shown(event: str, sentence: str, facts: dict[str, object]) -> None:
            log(event, sentence, facts)
            if event == "proxy":  # what goes wrong there is said in the end
                screen.say(sentence)

        incident = Incident(inventory, shown, lost, automatic=False)
        history = load_history(inventory.settings.name)
        world = Servers(
            inventory,
            observer,
            wish.request(lost),
            history,
            before=incident.before,
            note=incident.found,
            promoted=incident.traffic.move,
        )
        screen = _Screen(inventory, form, lambda s: statements(s, world.hands), with_sql=with_sql)

        async def go_on(plan: Plan) -> bool:
            if (rival := await world.rival(state)) is not None:
                raise RefusedError(f"{rival.code}: {rival.message}", hint=rival.remedy)
            screen.plan(plan)
            confirmed(yes, "Run it?", "a failover")
            heed_signals(world.halt)
            incident.begin(plan, None)
            return True

        def tell(result: StepResult) -> None:
            screen.step(result)
            incident.step(result)

        try:
            if screen.as_text or not dry_run:
                screen.diagnosis(state)
            if dry_run:
                plan = plan_failover(await world.observe())
                if isinstance(plan, Plan) and plan.steps and (rival := await world.rival(state)) is not None:
                    plan = Refusal(reasons=(rival,), ranking=plan.ranking)
                screen.planned(plan)
                return _code_of(plan)
            outcome = await carry_out(world, tell, go_on)
            problem = await incident.end(outcome) if incident.begun else None
        finally:
            await world.close()
            journal.close()
    screen.end(outcome)
    if journal.lost:
        typer.echo(
            f"replctl: {journal.lost} events are not in {journal.path}: {journal.problem}; "
            "nothing else depends on it",
            err=True,
        )
    return _finish(outcome, problem, form, halted=world.halt.is_set())


def _code_of(plan: Plan | Refusal) -> int:
    from replctl.core.plan import Refusal

    return RefusedError.exit_code if isinstance(plan, Refusal) else 0


def _finish(outcome: Outcome, problem: str | None, form: PlanOutput, *, halted: bool) -> int:
    """Say how it ended. `problem` = with the hooks. Returns the exit code or raises what carries it."""
    from replctl.core.outcome import Ending

    if outcome.ending is Ending.DONE:
        if problem is not None:
            raise PartialError(
                f"{outcome.promoted} is the primary, but not all that follows was done",
                why=problem,
                hint="do by hand what a hook does, by replctl render-… --apply what proxies lack; "
                "replctl events last shows the rest",
            )
        if form is PlanOutput.TABLE:
            typer.echo(f"{outcome.promoted} is the primary.")
        return 0
    if problem is not None:
        typer.echo(f"replctl: {problem}", err=True)
    if outcome.ending is Ending.NOTHING:
        return 0
    if halted and outcome.ending is Ending.REFUSED:
        typer.echo("replctl: stopped before the promotion; everything is as it was", err=True)
        return INTERRUPTED
    raise _unfinished(outcome)


def _unfinished(outcome: Outcome) -> ReplctlError:
    """Why a run did not end as wanted, and how the cluster is left."""
    from replctl.core.outcome import Ending
    from replctl.core.plan import Refusal

    if outcome.ending is Ending.NOT_RESTORED:
        left = ", ".join(outcome.left_cut)
        return PartialError(
            f"stopped before the promotion, and still cut from the lost primary: {left}",
            why=outcome.problem,
            hint="replctl failover goes on from there",
        )
    if outcome.ending is Ending.PARTIAL:
        return PartialError(
            f"{outcome.promoted} is the primary, but not all replicas follow",
            why=outcome.problem,
            hint="replctl failover does the rest",
        )
    if isinstance(outcome.plan, Refusal):
        reason = outcome.plan.reasons[0]
        return RefusedError(f"{reason.code}: {reason.message}", hint=reason.remedy)
    return RefusedError(
        "stopped before the promotion; everything is as it was",
        why=outcome.problem,
        hint="replctl doctor names what stands in the way, replctl events last shows the steps",
    )
