"""Which statements may write: all that are not known to read only."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql

from replctl.adapters.sqlalchemy.statements import may_write, only_reads

notes = Table("note", MetaData(), Column("id", Integer, primary_key=True), Column("text", String(40)))
added = insert(notes).values(text="x").returning(notes.c.id).cte("added")
locked = select(notes.c.id).with_for_update().subquery()

READS: dict[str, Any] = {
    "a plain one": select(notes).where(notes.c.id == 1),
    "a known function": select(func.count(), func.lower(notes.c.text)).group_by(notes.c.text),
    "a subquery": select(notes).where(notes.c.id.in_(select(notes.c.id).where(notes.c.text == "x"))),
    "a CTE that reads": select(select(notes).cte("some")),
    "a union": select(notes.c.id).union_all(select(literal(1))),
    "exists": select(exists(select(notes.c.id))),
    "a window": select(func.row_number().over(partition_by=notes.c.text, order_by=notes.c.id)),
    "an IN list": select(notes).where(notes.c.id.in_([1, 2, 3])),
}
WRITES: dict[str, Any] = {
    "insert": insert(notes).values(text="x"),
    "update": update(notes).values(text="x"),
    "delete": delete(notes),
    "DML in a CTE": select(added.c.id),
    "DML in a CTE of a subquery": select(notes).where(notes.c.id.in_(select(added.c.id))),
    "a CTE that nothing names": select(notes).add_cte(added),
    "a lock": select(notes).with_for_update(),
    "a shared lock": select(notes).with_for_update(read=True),
    "a lock in a subquery": select(locked.c.id),
    "a function of one's own": select(func.add_note("x")),
    "an advisory lock": select(func.pg_advisory_xact_lock(1)),
    "the next value": select(Sequence("note_id_seq").next_value()),
    "text": text("SELECT add_note('x')"),
}
# The SQL of these tells nothing, or nothing more than the words.
OPAQUE: dict[str, Any] = {
    "text with a SELECT": text("SELECT 1"),
    "text within": select(notes).where(text("id = 1")),
    "text with columns": text("SELECT id FROM note").columns(notes.c.id),
    "nothing": None,
}


def sql(statement: Any) -> str:
    return str(statement.compile(dialect=postgresql.dialect()))


@pytest.mark.parametrize("name", READS)
def test_what_only_reads_may_go_to_a_replica_and_is_no_write_on_the_primary(name: str) -> None:
    assert (only_reads(READS[name]), may_write(sql(READS[name]))) == (True, False)


@pytest.mark.parametrize("name", WRITES)
def test_what_may_write_goes_to_the_primary_and_is_a_write_there(name: str) -> None:
    assert (only_reads(WRITES[name]), may_write(sql(WRITES[name]))) == (False, True)


@pytest.mark.parametrize("name", OPAQUE)
def test_what_cannot_be_told_goes_to_the_primary(name: str) -> None:
    assert not only_reads(OPAQUE[name])


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1", False),
        ("  \n select count(*) from note", False),
        ("WITH x AS (SELECT 1) SELECT * FROM x", False),
        ("SAVEPOINT sa_savepoint_1", False),
        ("SET LOCAL statement_timeout = 100", False),
        ("SHOW work_mem", False),
        ("WITH x AS (DELETE FROM note RETURNING id) SELECT * FROM x", True),
        ("SELECT * INTO copy FROM note", True),
        ('SELECT "Odd"(1)', True),
        ("SELECT nextval('note_id_seq')", True),
        ("SELECT id FROM note FOR NO KEY UPDATE", True),
        ("COPY note FROM STDIN", True),
        ("CALL work()", True),
        ("DO $$ BEGIN END $$", True),
        ("VACUUM", True),
        ("EXPLAIN ANALYZE DELETE FROM note", True),
        ("-- a comment\nSELECT 1", True),  # not known: it costs one query
    ],
)
def test_sql_that_is_not_known_to_read_counts_as_a_write(statement: str, expected: bool) -> None:
    assert may_write(statement) is expected
