"""Who may read and write the files that an inventory consists of and names."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from replctl.inventory.problems import Problems, describe
from replctl.inventory.reader import Section, Sections

_PRIVATE = ("passfile", "sslkey")
_PUBLIC = ("sslrootcert", "sslcert")


def check_inventory(status: os.stat_result, env: Mapping[str, str], problems: Problems) -> None:
    """An inventory names commands to run: nobody else may write it. `status` is the open file's."""
    mode = stat.S_IMODE(status.st_mode)
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0 and env.get("SUDO_UID", "").isdecimal():
        trusted.add(int(env["SUDO_UID"]))  # who may become root anyway
    if status.st_uid not in trusted:
        expected = " or ".join(dict.fromkeys(("root", _user(os.geteuid()))))
        problems.add("", f"owner = {_user(status.st_uid)}: expected {expected}; chown it")
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _own_group(status)):
        problems.add("", f"mode = {mode:04o}: others may write it; expected 0644 or stricter; chmod go-w it")


def check_files(sections: Sections, problems: Problems) -> None:
    """Every file of a connection can be read, and what is secret by its owner alone."""
    for section in (sections.tables["connection",], *sections.nodes, *sections.witnesses):
        for key in (*_PRIVATE, *_PUBLIC):
            name = section.given.get(key)
            if name is not None and name.startswith("/"):
                _check_file(section, key, name, problems)


def _check_file(section: Section, key: str, name: str, problems: Problems) -> None:
    what = f"{section.where} {key} = {describe(name)}"
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(handle)
        os.close(handle)
    except OSError as error:
        problems.add(what, f"cannot be read: {error.strerror}")
        return
    mode = stat.S_IMODE(status.st_mode)
    # libpq takes a key of root's that a group may read, as Debian's ssl-cert group does.
    allowed = stat.S_IRGRP if key == "sslkey" and status.st_uid == 0 else 0
    if key in _PRIVATE and stat.S_ISREG(status.st_mode) and mode & 0o077 & ~allowed:
        problems.add(what, f"mode {mode:04o}: others may read it; expected 0600; chmod go= it")


def _own_group(status: os.stat_result) -> bool:
    """Whether the file's group is its owner's private one, as Debian gives to every user."""
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
