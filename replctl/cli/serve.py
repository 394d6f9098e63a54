"""`replctl serve`: metrics, role endpoints, the status and a page over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replctl.cli.options import ClusterOption, InventoryOption, complete_nodes
from replctl.errors import UsageError

INTERVAL_MIN_S = 0.25


def serve(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDR:PORT", help="Where to answer HTTP.")
    ] = "127.0.0.1:8008",
    agent_listen: Annotated[
        str | None,
        typer.Option("--agent-listen", metavar="ADDR:PORT", help="Where to answer HAProxy's agent checks."),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            metavar="NODE",
            help="Answer /primary, /replica and so on for this node, as Patroni on it would.",
            autocompletion=complete_nodes,
        ),
    ] = None,
    interval: Annotated[
        str, typer.Option("--interval", metavar="TIME", help="How often every node is looked at.")
    ] = "1s",
    max_age: Annotated[
        str, typer.Option("--max-age", metavar="TIME", help="How old a look may be that a scrape shows.")
    ] = "5s",
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="PEM: the certificate and its chain.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="PEM: its key.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Tokens, one a line: metrics, status and page need one of them. Mode 0600.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name under which browsers may come here."),
    ] = None,
    allow_plaintext: Annotated[
        bool,
        typer.Option("--allow-plaintext", help="Beyond loopback without TLS: all that passes can be read."),
    ] = False,
    allow_anyone: Annotated[
        bool,
        typer.Option("--allow-anyone", help="Beyond loopback without tokens: everybody may read all of it."),
    ] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request.")] = False,
) -> int:
    """Serve metrics, role endpoints for load balancers, the status and a page, until a signal ends it.

    /metrics, /probe?target=NODE, /status.json, / and /NODE/primary, /NODE/replica?lag=16MB, … with
    Patroni's codes. Everybody who asks is answered from one look. SIGHUP reads certificate and tokens again.

    Example: replctl serve --listen 127.0.0.1:8008
    """
    import asyncio

    from replctl.cli.look import limit_of
    from replctl.inventory import load_all

    try:
        from replctl.server.access import Address, refuse_open_door
        from replctl.server.run import Options
        from replctl.server.run import serve as serving
    except ModuleNotFoundError as error:
        raise UsageError(
            "serve needs aiohttp", why=str(error), hint="pip install 'replctl[server]'"
        ) from None
    if (tls_cert is None) is not (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    address = Address.parse(listen, "--listen")
    agents = None if agent_listen is None else Address.parse(agent_listen, "--agent-listen")
    said = {"plaintext": allow_plaintext, "anyone": allow_anyone}
    refuse_open_door(
        address, "--listen", encrypted=tls_cert is not None, guarded=token_file is not None, **said
    )
    if agents is not None:
        refuse_open_door(agents, "--agent-listen", encrypted=False, guarded=False, **said)
    interval_s = limit_of(interval, "--interval")
    if interval_s < INTERVAL_MIN_S:
        raise UsageError(f"--interval {interval}", why=f"expected at least {INTERVAL_MIN_S:g} s")
    options = Options(
        listen=address,
        agent_listen=agents,
        interval_s=interval_s,
        max_age_s=limit_of(max_age, "--max-age"),
        node=node,
        tls_cert=tls_cert,
        tls_key=tls_key,
        token_file=token_file,
        hosts=tuple(allow_host or ()),
        access_log=access_log,
    )
    return asyncio.run(serving(load_all(inventory, cluster=cluster), options))
