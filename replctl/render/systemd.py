"""systemd units of one cluster: the controller, the checks, the server, and what keeps the proxies' files.

https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html is where the settings are explained.
Everything here is text from values: the same values give the same units, with no time in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

STATE = "replctl"  # below /var/lib; losing it loses history, never safety
_BARE = re.compile(r"[A-Za-z0-9_./:@,=+-]+")
_CLUSTER = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_NOT_IN_A_PROGRAM = set("$\"'\\")  # systemd expands or unquotes these in arguments, but not reliably here
HOMES = ("/home/", "/root/", "/run/user/")

# What none of the units needs, taken away. Checked by `systemd-analyze security`.
_HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateMounts=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@resources
SystemCallErrorNumber=EPERM
UMask=0077"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What the units of one cluster depend on. Paths are absolute and of the machine that runs them."""

    cluster: str
    program: str  # replctl itself
    inventory: str
    user: str = "replctl"
    account: str | None = None  # why the user has to exist; None = systemd makes one up for each start
    passfile: str | None = None  # handed over by systemd, which reads it as root
    tokens: str | None = None  # the server's token file, handed over likewise
    listen: str = "127.0.0.1:8008"  # where the server answers
    on_failure: str | None = None  # a unit to start when a check fails
    controller: bool = True
    proxies: tuple[str, ...] = ()  # pgbouncer, haproxy
    writable: tuple[str, ...] = ()  # directories of the files that are rendered on this machine


def argument(text: str) -> str:
    """One argument of an ExecStart line, quoted so that systemd changes nothing in it. Raises ValueError."""
    return _quoted(text.replace("$", "$$"), text)


def path(text: str) -> str:
    """One path of a list of them. Raises ValueError where it is not absolute or cannot be written."""
    _expect_absolute(text)
    return _quoted(text, text)


def program(text: str) -> str:
    """The program of an ExecStart line. Raises ValueError."""
    _expect_absolute(text)
    if _NOT_IN_A_PROGRAM & set(text):
        raise ValueError(f"{text!r} has a quote, a backslash or a $, which the path of a program cannot have")
    return _quoted(text, text)


def _quoted(text: str, original: str) -> str:
    if not original.isprintable():
        raise ValueError(f"{original!r} has characters that a unit file cannot have")
    text = text.replace("%", "%%")
    if _BARE.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _expect_absolute(text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path")


def units(deployment: Deployment) -> dict[str, str]:
    """Every unit by its file name. Raises ValueError, with a sentence, for what no unit may hold."""
    d = deployment
    if not _CLUSTER.fullmatch(d.cluster):
        raise ValueError(f"{d.cluster!r} is not the name of a cluster")
    if not _USER.fullmatch(d.user):
        raise ValueError(f"{d.user!r} is not a user's name as systemd takes them: [a-z_][a-z0-9_-]*")
    found: dict[str, str] = {}
    if d.controller:
        found[f"{_stem(d)}-controller.service"] = _controller(d)
    found[f"{_stem(d)}-check.service"] = _check(d)
    found[f"{_stem(d)}-check.timer"] = _timer(d)
    found[f"{_stem(d)}-serve.service"] = _server(d)
    for proxy in sorted(d.proxies):
        found[f"{_stem(d)}-render-{proxy}.service"] = _renderer(d, proxy)
    return found


def _stem(d: Deployment) -> str:
    return f"replctl-{d.cluster}"


def _controller(d: Deployment) -> str:
    return _service(
        d,
        "controller",
        f"Automatic failover of the PostgreSQL cluster {d.cluster}",
        ("failover", "--auto"),
        # systemd asks whether it still turns; a hook or fence at work is not killed before its failover ends.
        ("Type=notify", "WatchdogSec=30s", "KillMode=mixed", "TimeoutStopSec=90s", *_RESTART),
        writes=True,
    )


def _check(d: Deployment) -> str:
    return _service(
        d,
        "check",
        f"Health of the PostgreSQL cluster {d.cluster}",
        ("check", "-q", "--for", "3", "--notify-changes", "--remind", "6h"),
        ("Type=oneshot", "TimeoutStartSec=30s"),
        on_failure=d.on_failure,
    )


def _server(d: Deployment) -> str:
    tokens = () if d.tokens is None else ("--token-file", f"{_runtime(d, 'serve')}/tokens")
    # The copy of the tokens is made at a start: to reload them is to restart.
    reload = ("ExecReload=/bin/kill -HUP $MAINPID",) if d.tokens is None else ()
    return _service(
        d,
        "serve",
        f"Metrics, role endpoints and status page of the PostgreSQL cluster {d.cluster}",
        ("serve", "--listen", d.listen),
        ("Type=notify", "WatchdogSec=30s", "TimeoutStopSec=15s", *reload, *_RESTART),
        specified=tokens,
        tokens=d.tokens,
    )


def _renderer(d: Deployment, proxy: str) -> str:
    shown = {"pgbouncer": "PgBouncer", "haproxy": "HAProxy"}[proxy]
    return _service(
        d,
        f"render-{proxy}",
        f"Keep {shown} pointed at the PostgreSQL cluster {d.cluster}",
        (f"render-{proxy}", "--watch", "--apply"),
        ("Type=notify", "WatchdogSec=30s", "KillMode=mixed", "TimeoutStopSec=30s", *_RESTART),
        writes=True,
    )


# Starts again for ever, but not in a storm: what fails thirty times in five minutes waits for a person.
_RESTART = ("Restart=always", "RestartSec=2s")
_LIMITS = ("StartLimitIntervalSec=5min", "StartLimitBurst=30")


def _service(
    d: Deployment,
    role: str,
    description: str,
    arguments: tuple[str, ...],
    kind: tuple[str, ...],
    *,
    writes: bool = False,
    on_failure: str | None = None,
    specified: tuple[str, ...] = (),
    tokens: str | None = None,
) -> str:
    """One unit. `specified` are arguments that stay as they are, systemd's specifiers in them."""
    lasting = "Restart=always" in kind
    unit = [
        f"Description={description}",
        "After=network-online.target",
        "Wants=network-online.target",
        *(_LIMITS if lasting else ()),
        *((f"OnFailure={_unit_name(on_failure)}",) if on_failure else ()),
    ]
    words = [*arguments, "--cluster", d.cluster, "-i", d.inventory]
    service = [
        *kind,
        *_secrets(d, role, {"pgpass": d.passfile, "tokens": tokens}),
        f"ExecStart={' '.join([program(d.program), *map(argument, words), *specified])}",
        *_identity(d),
        f"StateDirectory={STATE}",
        "StateDirectoryMode=0700",
        f"Environment=REPLCTL_STATE_DIR=%S/{STATE}",
        # A leading minus: that a directory is missing is for replctl to say.
        *(
            (f"ReadWritePaths={' '.join(_optional(one) for one in d.writable)}",)
            if writes and d.writable
            else ()
        ),
        _HARDENING.format(home="read-only" if _needs_homes(d) else "yes"),
    ]
    install = ["", "[Install]", "WantedBy=multi-user.target"] if lasting else []
    return _text(d, [*_comments(d), "[Unit]", *unit, "", "[Service]", *service, *install])


def _timer(d: Deployment) -> str:
    return _text(
        d,
        [
            "[Unit]",
            f"Description=Check the PostgreSQL cluster {d.cluster} every minute",
            "",
            "[Timer]",
            "OnCalendar=minutely",
            "AccuracySec=1s",
            "",
            "[Install]",
            "WantedBy=timers.target",
        ],
    )


def _identity(d: Deployment) -> list[str]:
    """The same user in every unit of a machine, so that they share the state directory."""
    return [f"User={d.user}", *([] if d.account else ["DynamicUser=yes"])]


def _secrets(d: Deployment, role: str, files: Mapping[str, str | None]) -> list[str]:
    """Files of the service's own: who reads them refuses what a group may read, as credentials may look."""
    given = {name: file for name, file in files.items() if file is not None}
    if not given:
        return []
    for file in given.values():
        _expect_absolute(file)
        if not _BARE.fullmatch(file) or ":" in file:
            raise ValueError(f"{file!r} has characters that LoadCredential= cannot have in a path")
    place = _runtime(d, role)
    return [
        *(f"LoadCredential={name}:{file}" for name, file in given.items()),
        f"RuntimeDirectory={place.removeprefix('%t/')}",
        "RuntimeDirectoryMode=0700",
        *([f"Environment=PGPASSFILE={place}/pgpass"] if "pgpass" in given else []),
        *(
            f"ExecStartPre=/usr/bin/install -m 0600 ${{CREDENTIALS_DIRECTORY}}/{name} {place}/{name}"
            for name in given
        ),
    ]


def _runtime(d: Deployment, role: str) -> str:
    """The unit's directory below /run, as systemd writes that."""
    return f"%t/{_stem(d)}-{role}"


def _optional(directory: str) -> str:
    quoted = path(directory)
    return f'"-{quoted[1:]}' if quoted.startswith('"') else f"-{quoted}"


def _unit_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.@:-]{1,200}\.(service|target)", name):
        raise ValueError(f"{name!r} is not the name of a service or target")
    return name


def _needs_homes(d: Deployment) -> bool:
    """Whether something stands where ProtectHome=yes shows nothing: files, or an account's keys for ssh."""
    below = any(one.startswith(HOMES) for one in (d.program, d.inventory))
    return below or d.account is not None


def _comments(d: Deployment) -> list[str]:
    if d.account is None:
        return []
    return [f"# The user {d.user} has to exist: {d.account}."]


def _text(d: Deployment, lines: list[str]) -> str:
    head = f"# Made by `replctl render-systemd` for the cluster {d.cluster}. Changes belong into a drop-in."
    return "\n".join([head, *lines]) + "\n"
