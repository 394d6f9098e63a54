"""Where inventories are looked for, how they are loaded, and who may read and write their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replctl.errors import InventoryError, UsageError
from replctl.inventory import find, load, load_all, load_one, names, places
from tests.support import need

TEXT = '[cluster]\nname = "{name}"\n[[nodes]]\nname = "{name}1"\nhost = "10.0.0.1"\n'


def write(path: Path, name: str = "orders", more: str = "") -> Path:
    """An inventory of this cluster that only its owner may write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXT.replace("{name}", name) + more)
    path.chmod(0o644)
    return path


@pytest.fixture
def env(tmp_path, monkeypatch):
    """An environment of our own, in an empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def problems_of(path: Path, env: dict[str, str] | None = None) -> list[str]:
    """What is said about this file, without its name."""
    with pytest.raises(InventoryError) as refusal:
        load(path, env or {})
    return [line.removeprefix(f"{path}: ") for line in refusal.value.problems]


# ---- where


def test_the_first_place_wins(tmp_path, env):
    system = [place.path for place in places(None, env)][-1]
    assert system == Path("/etc/replctl")

    user = write(tmp_path / "config/replctl/b.toml", "user")
    also = write(tmp_path / "config/replctl/a.toml", "also")
    assert find(None, env) == [also, user]

    write(Path("replctl.toml"), "local")
    assert find(None, env) == [Path("replctl.toml")]

    by_variable = write(tmp_path / "variable.toml", "variable")
    assert find(None, env | {"REPLCTL_INVENTORY": str(by_variable)}) == [by_variable]

    explicit = write(tmp_path / "explicit.toml", "explicit")
    assert find(explicit, env | {"REPLCTL_INVENTORY": str(by_variable)}) == [explicit]


def test_a_directory_is_every_toml_file_in_it(tmp_path, env):
    one, two = write(tmp_path / "d/one.toml"), write(tmp_path / "d/two.toml")
    for other in ("three.toml~", ".four.toml", "five.txt"):
        write(tmp_path / "d" / other)

    assert find(tmp_path / "d", env) == [one, two]


def test_without_xdg_config_home_it_is_in_the_home(tmp_path, env):
    mine = write(tmp_path / "home/.config/replctl/orders.toml")

    assert find(None, {"HOME": env["HOME"]}) == [mine]
    assert find(None, {"HOME": env["HOME"], "XDG_CONFIG_HOME": "relative"}) == [mine]


def test_an_empty_variable_is_no_variable(env):
    write(Path("replctl.toml"))

    assert find(None, env | {"REPLCTL_INVENTORY": ""}) == [Path("replctl.toml")]


def test_nothing_found_names_every_place(tmp_path, env):
    with pytest.raises(InventoryError) as refusal:
        find(None, env)

    assert str(refusal.value) == "no inventory found"
    assert refusal.value.problems == (
        "looked for ./replctl.toml",
        f"looked for {tmp_path}/config/replctl/*.toml",
        "looked for /etc/replctl/*.toml",
    )
    assert refusal.value.hint is not None
    assert "replctl init DSN" in refusal.value.hint
    assert "replctl lab up" in refusal.value.hint


@pytest.mark.parametrize(
    ("name", "why"), [("no.toml", "not found"), ("empty", "no *.toml in this directory")]
)
def test_a_place_that_was_named_has_to_exist(tmp_path, env, name, why):
    write(Path("replctl.toml"))
    (tmp_path / "empty").mkdir()
    named = tmp_path / name

    with pytest.raises(InventoryError, match="named by --inventory") as refusal:
        find(named, env)
    assert str(refusal.value) == f"{named}: {why} (named by --inventory)"
    with pytest.raises(InventoryError, match="named by REPLCTL_INVENTORY"):
        find(named, env | {"REPLCTL_INVENTORY": str(named)})


def test_a_broken_link_is_a_problem_and_not_the_next_place(tmp_path, env):
    Path("replctl.toml").symlink_to(tmp_path / "gone")
    write(tmp_path / "config/replctl/a.toml")

    assert find(None, env) == [Path("replctl.toml")]
    assert problems_of(Path("replctl.toml"), env) == ["cannot be read: No such file or directory"]


# ---- which cluster


@pytest.fixture
def two(tmp_path):
    """A directory of two clusters."""
    write(tmp_path / "both/a.toml", "orders")
    write(tmp_path / "both/b.toml", "billing")
    return tmp_path / "both"


def test_a_directory_gives_every_cluster(two):
    assert [i.settings.name for i in load_all(two, {})] == ["orders", "billing"]
    assert [i.settings.name for i in load_all(two, {}, cluster="billing")] == ["billing"]


def test_acting_needs_one_cluster(two):
    assert load_one(two, {}, cluster="orders").settings.name == "orders"
    with pytest.raises(UsageError) as refusal:
        load_one(two, {})
    assert (str(refusal.value), refusal.value.hint) == (
        "the inventory has 2 clusters (orders, billing): this command acts on one",
        "name it with --cluster NAME",
    )


def test_a_cluster_that_is_not_there_is_a_usage_error(two):
    with pytest.raises(UsageError, match="no cluster 'order' in the inventory") as refusal:
        load_all(two, {}, cluster="order")
    assert refusal.value.hint == "did you mean orders?"


def test_a_broken_file_does_not_hide_the_cluster_that_is_asked_for(two):
    (two / "b.toml").write_text("oops")

    assert load_one(two, {}, cluster="orders").settings.name == "orders"
    with pytest.raises(InventoryError):
        load_all(two, {})
    with pytest.raises(InventoryError):
        load_all(two, {}, cluster="billing")


def test_problems_of_all_files_come_at_once(two):
    (two / "a.toml").write_text("[[oops]]\n" + (two / "a.toml").read_text())
    (two / "b.toml").write_text("oops")

    with pytest.raises(InventoryError, match="the inventory has 2 problems") as refusal:
        load_all(two, {})
    assert [line.partition(": ")[0] for line in refusal.value.problems] == [f"{two}/a.toml", f"{two}/b.toml"]


def test_two_clusters_of_one_name_are_a_problem_of_both_files(two):
    write(two / "b.toml", "orders")

    with pytest.raises(InventoryError) as refusal:
        load_all(two, {}, cluster="orders")
    assert refusal.value.problems == (
        f'{two}/a.toml: [cluster] name = "orders": expected a name of its own; also in {two}/b.toml',
        f'{two}/b.toml: [cluster] name = "orders": expected a name of its own; also in {two}/a.toml',
    )


def test_names_are_known_even_of_an_inventory_that_cannot_be_used(two):
    write(two / "b.toml", "billing", "[oops]\n")
    (two / "c.toml").write_text("oops")
    (two / "d.toml").write_text('cluster = "x"\nnodes = [1, {name = 2}]\n')

    assert names(two, {}).clusters == ("orders", "billing")
    assert names(two, {}).nodes == ("orders1", "billing1")
    assert names(two / "nowhere", {}).nodes == ()


# ---- what can be read


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[cluster\n", "not TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
        (b"a = \xff\n", "not UTF-8: byte 4"),
        (b"a = 1\na = 2\n", "not TOML: Cannot overwrite a value (at line 2, column 6)"),
        (b"a = " + b"[" * 100_000, "not TOML: nested too deeply"),
        (b"#" * (4 * 1024**2 + 1), "cannot be read: larger than 4 MiB"),
    ],
)
def test_a_file_that_is_no_toml_says_where(tmp_path, content, problem):
    path = tmp_path / "replctl.toml"
    path.write_bytes(content)
    path.chmod(0o600)

    assert problems_of(path) == [problem]


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = write(tmp_path / "replctl.toml")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert load(path, {}).settings.name == "orders"


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    assert problems_of(tmp_path / "pipe") == ["cannot be read: not a regular file"]
    assert problems_of(Path("/dev/zero")) == ["cannot be read: not a regular file"]
    assert problems_of(tmp_path) == ["cannot be read: Is a directory"]
    assert problems_of(tmp_path / "none") == ["cannot be read: No such file or directory"]


def test_a_name_that_moves_the_cursor_is_escaped(tmp_path):
    path = tmp_path / "x\x1b[2J.toml"
    path.write_text("oops")

    with pytest.raises(InventoryError) as refusal:
        load(path, {})
    assert all(line.isprintable() for line in refusal.value.problems)


# ---- who may read and write


@pytest.mark.parametrize("mode", [0o602, 0o646, 0o666, 0o777])
def test_an_inventory_that_others_may_write_is_refused(tmp_path, mode):
    path = write(tmp_path / "replctl.toml")
    path.chmod(mode)

    assert problems_of(path) == [
        f"mode = {mode:04o}: others may write it; expected 0644 or stricter; chmod go-w it"
    ]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o644])
def test_an_inventory_that_only_its_owner_may_write_is_fine(tmp_path, mode):
    path = write(tmp_path / "replctl.toml")
    path.chmod(mode)

    assert load(path, {}).settings.name == "orders"


def test_a_group_may_write_it_if_it_is_the_owner_s_own(tmp_path):
    path = write(tmp_path / "replctl.toml")
    path.chmod(0o664)

    if os.geteuid() == 0:  # root's group is its own, users' is not
        assert load(path, {}).settings.name == "orders"
        os.chown(path, 0, 12345)
        assert problems_of(path) == [
            "mode = 0664: others may write it; expected 0644 or stricter; chmod go-w it"
        ]


def test_somebody_else_s_inventory_is_refused(tmp_path):
    need("the right to give files away", os.geteuid() == 0, "run it as root")
    path = write(tmp_path / "replctl.toml")
    os.chown(path, 12345, 0)

    assert problems_of(path) == ["owner = user 12345: expected root; chown it"]
    assert load(path, {"SUDO_UID": "12345"}).settings.name == "orders"


@pytest.mark.parametrize("key", ["passfile", "sslkey"])
@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660])
def test_a_secret_file_that_others_may_read_is_refused(tmp_path, key, mode):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(mode)
    path = write(tmp_path / "replctl.toml", more=f'[connection]\n{key} = "secret"\n')

    assert problems_of(path) == [
        f'[connection] {key} = "{secret}": mode {mode:04o}: others may read it; expected 0600; chmod go= it'
    ]


def test_a_secret_file_of_the_owner_alone_is_fine(tmp_path):
    for name in ("secret", "key"):
        (tmp_path / name).write_text("hunter2")
        (tmp_path / name).chmod(0o600)
    path = write(tmp_path / "replctl.toml", more='passfile = "secret"\nsslkey = "key"\n')

    assert load(path, {}).connections["orders1"].passfile == str(tmp_path / "secret")


def test_root_s_key_may_be_read_by_its_group_as_libpq_has_it(tmp_path):
    need("a file of root's", os.geteuid() == 0, "run it as root")
    for name in ("secret", "key"):
        (tmp_path / name).write_text("hunter2")
        (tmp_path / name).chmod(0o640)

    assert load(write(tmp_path / "a.toml", more='sslkey = "key"\n'), {}).settings.name == "orders"
    assert len(problems_of(write(tmp_path / "b.toml", more='passfile = "secret"\n'))) == 1


@pytest.mark.parametrize("key", ["passfile", "sslkey", "sslcert", "sslrootcert"])
def test_a_file_that_cannot_be_read_is_a_problem(tmp_path, key):
    path = write(tmp_path / "replctl.toml", more=f'{key} = "gone"\n')

    assert problems_of(path) == [
        f'[[nodes]] orders1: {key} = "{tmp_path}/gone": cannot be read: No such file or directory'
    ]


def test_files_on_the_nodes_are_not_looked_at(tmp_path):
    path = write(tmp_path / "replctl.toml", more='[replication]\nuser = "r"\npassfile = "/gone"\n')

    assert load(path, {}).replication is not None
