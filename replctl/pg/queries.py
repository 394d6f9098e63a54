"""All SQL that reads, by the first server version it is for; nothing else compares versions.

Every variant of a query returns the same columns, so the code that turns a row into facts never sees a
version. Each text is tagged `/* replctl:NAME */` for the DBA who watches pg_stat_activity. A column that
needs a privilege the role lacks comes back NULL rather than failing the row.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SUPPORTED = 14
LAST_TESTED = 18


@dataclass(frozen=True, slots=True)
class Query:
    """One question in its variants: first server version (major) it is for → SQL."""

    name: str
    variants: dict[int, str]

    def for_version(self, server_version_num: int) -> str:
        """The text for this server: the variant of the nearest lower version, else LookupError."""
        major = server_version_num // 10000
        fitting = [first for first in self.variants if first <= major]
        if not fitting:
            raise LookupError(
                f"PostgreSQL {major} is older than {min(self.variants)}, the first that replctl knows"
            )
        return f"/* replctl:{self.name} */ {self.variants[max(fitting)]}"


# First minor release that has it, by major; majors above all of them have it.
_CAPABILITIES: dict[str, dict[int, int]] = {
    # syncrep.c, SYNC_STANDBY_DEFINED and its kin: before, a just-started primary could skip the wait.
    "sync_wait_from_start": {14: 18, 15: 13, 16: 9, 17: 5},
    "wait_for_lsn": {19: 0},  # a statement that waits for replay
    # walreceiver.c: before, a busy receiver does not look at wal_receiver_timeout.
    "wal_receiver_timeout_cut": {16: 0},
}


def capabilities(server_version_num: int) -> frozenset[str]:
    """What this release can, by name, so that nobody else compares versions."""
    major, minor = divmod(server_version_num, 10000)
    return frozenset(
        name
        for name, firsts in _CAPABILITIES.items()
        if major > max(firsts) or minor >= firsts.get(major, minor + 1)
    )


# Shown to every role and cheap to read one by one; pg_settings would compute all of some 370.
SETTINGS = (
    "archive_mode",
    "cluster_name",
    "data_checksums",
    "full_page_writes",
    "hot_standby_feedback",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_worker_processes",
    "recovery_min_apply_delay",
    "restore_command",
    "ssl",
    "synchronous_commit",
    "track_commit_timestamp",
    "wal_block_size",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_receiver_status_interval",
    "wal_receiver_timeout",
    "wal_segment_size",
    "wal_sender_timeout",
)

_BYTES = "pg_wal_lsn_diff({}, '0/0')::bigint"
# Whether it can be read. Not to_regclass(): it raises where the role may not use the schema.
_STATE_TABLE = """EXISTS (
    SELECT FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = 'replctl' AND t.relname = 'state'
      AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT'))"""


def _sample(slot_columns: str, conflict_columns: str) -> str:
    """One round trip for everything about one node.

    - Primary-only and replica-only functions stand behind a CASE on pg_is_in_recovery(): some raise an
      error, others keep old values after a promotion.
    - `timeline` of a primary is the one in the name of its current WAL file; pg_control_checkpoint() is
      as old as the last checkpoint. A replica's is put together in `facts`.
    - `received`: the greatest of receive and replay. pg_last_wal_receive_lsn() is NULL on a replica fed
      from the archive, stale after falling back to it, and reset to a segment's start by a restart.
      https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-INFO
    """
    settings = ", ".join(f"'{name}'" for name in SETTINGS)
    return f"""
WITH me AS MATERIALIZED (
  SELECT pg_is_in_recovery() AS replica,
         pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_stats,
         pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') AS sees_settings
), wal AS MATERIALIZED (
  SELECT CASE WHEN replica THEN NULL ELSE pg_current_wal_lsn() END AS written,
         CASE WHEN replica THEN NULL ELSE pg_current_wal_flush_lsn() END AS flushed,
         CASE WHEN replica THEN pg_last_wal_replay_lsn() END AS replayed,
         CASE WHEN replica THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) END AS received
  FROM me
)
SELECT
  me.replica AS in_recovery,
  host(inet_server_addr()) AS address,
  (me.sees_stats AND me.sees_settings) AS monitor_privilege,
  (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
  CASE WHEN NOT me.replica
       THEN ('x' || substr(pg_walfile_name(wal.written), 1, 8))::bit(32)::int END AS wal_timeline,
  (SELECT timeline_id FROM pg_control_checkpoint()) AS checkpoint_timeline,
  (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery_timeline,
  {_BYTES.format("wal.written")} AS write_lsn,
  {_BYTES.format("wal.flushed")} AS flush_lsn,
  {_BYTES.format("wal.received")} AS received_lsn,
  {_BYTES.format("wal.replayed")} AS replayed_lsn,
  CASE WHEN me.replica THEN pg_last_wal_receive_lsn() IS NOT NULL END AS receive_lsn_known,
  CASE WHEN me.replica THEN pg_get_wal_replay_pause_state() END AS replay_pause,
  CASE WHEN me.replica THEN
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
  END AS last_replayed_xact_age_s,
  CASE WHEN me.sees_settings THEN current_setting('primary_conninfo') END AS primary_conninfo,
  nullif(current_setting('primary_slot_name'), '') AS primary_slot_name,
  current_setting('synchronous_standby_names') AS synchronous_standby_names,
  CASE WHEN me.replica AND me.sees_stats THEN (
    SELECT json_build_object(
      'startup_wait_event', max(wait_event) FILTER (WHERE backend_type = 'startup'),
      'receivers', count(*) FILTER (WHERE backend_type = 'walreceiver'))
    FROM pg_stat_activity WHERE backend_type IN ('startup', 'walreceiver')
  ) END AS recovery_processes,
  (SELECT json_build_object(
      'pid', r.pid, 'status', r.status, 'sender_host', r.sender_host, 'sender_port', r.sender_port,
      'slot_name', r.slot_name, 'received_timeline', r.received_tli,
      'written_lsn', {_BYTES.format("r.written_lsn")},
      'flushed_lsn', {_BYTES.format("r.flushed_lsn")},
      'latest_end_lsn', {_BYTES.format("r.latest_end_lsn")},
      'latest_end_age_s', extract(epoch FROM clock_timestamp() - r.latest_end_time),
      'last_message_age_s', extract(epoch FROM clock_timestamp() - r.last_msg_receipt_time))
   FROM pg_stat_wal_receiver r) AS receiver,
  (SELECT json_agg(json_build_object(
      'pid', s.pid, 'application_name', s.application_name, 'client_addr', host(s.client_addr),
      'client_port', s.client_port, 'state', s.state, 'sync_state', s.sync_state,
      'sent_lsn', {_BYTES.format("s.sent_lsn")}, 'write_lsn', {_BYTES.format("s.write_lsn")},
      'flush_lsn', {_BYTES.format("s.flush_lsn")}, 'replay_lsn', {_BYTES.format("s.replay_lsn")},
      'replay_lag_s', extract(epoch FROM s.replay_lag),
      'reply_age_s', extract(epoch FROM clock_timestamp() - s.reply_time),
      'slot_name', (SELECT slot_name FROM pg_replication_slots WHERE active_pid = s.pid LIMIT 1)))
   FROM pg_stat_replication s) AS senders,
  (SELECT json_agg(json_build_object(
      'name', p.slot_name, 'kind', p.slot_type, 'active', p.active, 'active_pid', p.active_pid,
      'temporary', p.temporary, 'restart_lsn', {_BYTES.format("p.restart_lsn")},
      'confirmed_flush_lsn', {_BYTES.format("p.confirmed_flush_lsn")},
      'retained_bytes',
        greatest(0, pg_wal_lsn_diff(coalesce(wal.written, wal.received), p.restart_lsn))::bigint,
      'wal_status', p.wal_status, 'safe_wal_bytes', p.safe_wal_size{slot_columns}))
   FROM pg_replication_slots p) AS slots,
  (SELECT json_build_object(
      'archived_count', a.archived_count, 'failed_count', a.failed_count,
      'last_archived_age_s', extract(epoch FROM clock_timestamp() - a.last_archived_time),
      'last_failed_age_s', extract(epoch FROM clock_timestamp() - a.last_failed_time))
   FROM pg_stat_archiver a) AS archiver,
  (SELECT json_agg(json_build_object('name', c.application_name,
      'since_at', extract(epoch FROM c.backend_start)))
   FROM pg_stat_activity c WHERE c.application_name LIKE 'replctl controller %') AS controllers,
  {_STATE_TABLE} AS state_table,
  CASE WHEN me.replica THEN (SELECT json_build_object(
      'tablespace', sum(confl_tablespace), 'lock', sum(confl_lock), 'snapshot', sum(confl_snapshot),
      'bufferpin', sum(confl_bufferpin), 'deadlock', sum(confl_deadlock){conflict_columns})
   FROM pg_stat_database_conflicts) END AS conflicts,
  (SELECT json_object_agg(n, current_setting(n, true)) FROM unnest(ARRAY[{settings}]) AS n) AS settings,
  extract(epoch FROM pg_postmaster_start_time())::float8 AS started_at,
  extract(epoch FROM clock_timestamp())::float8 AS clock_at
FROM me, wal
"""


_SLOT_17 = (
    ", 'inactive_s', extract(epoch FROM clock_timestamp() - p.inactive_since)"
    ", 'invalidation_reason', p.invalidation_reason, 'synced', p.synced, 'failover', p.failover"
)
_CONFLICT_16 = ", 'logical_slot', sum(confl_active_logicalslot)"

SAMPLE = Query(
    "sample",
    {
        14: _sample("", ""),
        16: _sample("", _CONFLICT_16),
        17: _sample(_SLOT_17, _CONFLICT_16),
    },
)
"""Everything `status` and `check` need of one node, in one row."""

WAL_TIMELINE = Query(
    "wal_timeline",
    {
        14: """
SELECT max(('x' || left(name, 8))::bit(32)::int) AS wal_timeline
FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'
"""
    },
)
"""The timeline of the newest WAL file: asked of a replica without a receiver, whose control file may be
behind by a promotion. Needs pg_monitor, and so is no part of SAMPLE, which everybody may ask.
"""

CORE = Query(
    "core",
    {
        14: f"""
SELECT pg_is_in_recovery() AS in_recovery, host(inet_server_addr()) AS address,
  false AS monitor_privilege,
  (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
  CASE WHEN NOT pg_is_in_recovery() THEN
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS wal_timeline,
  NULL::int AS checkpoint_timeline, NULL::int AS recovery_timeline,
  CASE WHEN NOT pg_is_in_recovery() THEN {_BYTES.format("pg_current_wal_lsn()")} END AS write_lsn,
  CASE WHEN NOT pg_is_in_recovery() THEN {_BYTES.format("pg_current_wal_flush_lsn()")} END AS flush_lsn,
  CASE WHEN pg_is_in_recovery() THEN
    {_BYTES.format("greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())")} END AS received_lsn,
  CASE WHEN pg_is_in_recovery() THEN {_BYTES.format("pg_last_wal_replay_lsn()")} END AS replayed_lsn,
  NULL::boolean AS receive_lsn_known,
  NULL AS replay_pause, NULL::float8 AS last_replayed_xact_age_s, NULL AS primary_conninfo,
  NULL AS primary_slot_name, NULL AS synchronous_standby_names, NULL::json AS recovery_processes,
  NULL::json AS receiver, NULL::json AS senders, NULL::json AS slots, NULL::json AS archiver,
  NULL::json AS conflicts, NULL::json AS settings, NULL::json AS controllers, false AS state_table,
  extract(epoch FROM pg_postmaster_start_time())::float8 AS started_at,
  extract(epoch FROM clock_timestamp())::float8 AS clock_at
"""
    },
)
"""What is left where a hosted service forbids some view of SAMPLE: role and positions, the rest unknown."""

BEAT = Query(
    "beat",
    {
        14: """
SELECT set_config('synchronous_commit', 'off', true) AS waits,
  pg_logical_emit_message(true, 'replctl', '') AS lsn
"""
    },
)
"""The heartbeat: one tiny WAL record and a commit that waits for nobody.

https://www.postgresql.org/docs/current/functions-admin.html#PG-LOGICAL-EMIT-MESSAGE
"""

REPLAYED = Query("replayed", {14: f"SELECT {_BYTES.format('pg_last_wal_replay_lsn()')} AS replayed_lsn"})
"""How far one replica has replayed, for `--probe`."""

POSITION = Query(
    "position",
    {
        14: f"""
SELECT ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::int AS timeline,
  bytes - CASE
    WHEN mod(bytes, pg_size_bytes(current_setting('wal_segment_size'))) = 40 THEN 40
    WHEN mod(bytes, current_setting('wal_block_size')::bigint) = 24 THEN 24
    ELSE 0 END AS lsn
FROM (SELECT lsn, {_BYTES.format("lsn")} AS bytes FROM pg_current_wal_insert_lsn() AS lsn) AS inserted
"""
    },
)
"""Where the WAL ends, for a token. The insert position, so that a commit that was not flushed is included.

At the beginning of a page or a segment it lies behind a header, of 24 or 40 bytes, which no replica's replay
reaches before there is a record behind it. SizeOfXLogShortPHD and SizeOfXLogLongPHD of
src/include/access/xlog_internal.h.
"""

WAIT_REPLAYED = Query(
    "wait_replayed",
    {
        14: f"SELECT CASE WHEN pg_is_in_recovery() THEN {_BYTES.format('pg_last_wal_replay_lsn()')} END",
        19: "WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{limit_ms}ms', NO_THROW)",
    },
)
"""Whether one replica has replayed so far, for a read that must have seen a write.

https://www.postgresql.org/docs/devel/sql-wait-for.html
"""

MARKS = Query("marks", {14: "SELECT key, value FROM replctl.state"})
"""What must hold for every controller."""

PLACE = Query(
    "place",
    {
        14: """
SELECT current_setting('port')::int AS port,
  CASE WHEN pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')
       THEN current_setting('data_directory') END AS data_directory,
  CASE WHEN pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')
       THEN current_setting('primary_conninfo') END AS primary_conninfo
"""
    },
)
"""Where a server lives, for `init`. The conninfo may hold a password: it goes no further than discover.py."""

_MANAGERS = """SELECT DISTINCT application_name AS manager FROM pg_stat_activity
   WHERE application_name ~* '^(patroni|repmgr|pg_auto|pgautofailover|stolon|cnpg|pg_autoctl)'"""

MANAGERS = Query("managers", {14: _MANAGERS})
"""Programs that are connected and would fail over by themselves, by their names."""

READY = Query(
    "ready",
    {
        14: f"""
SELECT current_user::text AS role, pg_backend_pid() AS backend_pid,
  EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'replctl' AND c.relname = 'state') AS state_table,
  current_setting('allow_alter_system', true) AS alter_system,
  (SELECT s.source FROM pg_settings s WHERE s.name = 'primary_conninfo') AS conninfo_source,
  (SELECT s.sourcefile FROM pg_settings s WHERE s.name = 'primary_conninfo') AS conninfo_file,
  (SELECT array_agg(manager) FROM ({_MANAGERS}) AS found) AS managers
"""
    },
)
"""What stands in the way of acting: who else manages the node, and where its settings come from."""

CONFIG_ERRORS = Query(
    "config_errors",
    {
        14: """
SELECT sourcefile || ':' || sourceline || ': ' || error AS error
FROM pg_file_settings WHERE error IS NOT NULL AND name IS NULL
"""
    },
)
"""Syntax errors: with one of them a server takes no reload at all, while pg_reload_conf() says true.

https://www.postgresql.org/docs/current/view-pg-file-settings.html
"""

TAKE_VOTE = Query(
    "take_vote",
    {
        14: """
SELECT CASE WHEN age_s >= {2} THEN pg_try_advisory_lock({0}, {1}) END AS held, {2} - age_s AS wait_s,
  set_config('idle_session_timeout', '0', false) AS stays
FROM (SELECT extract(epoch FROM clock_timestamp() - greatest(pg_postmaster_start_time(),
        (SELECT max(backend_start) FROM pg_stat_activity WHERE backend_type = 'checkpointer'))
      )::float8 AS age_s) AS server
"""
    },
)
"""Ask for the vote, of a server that has forgotten none for {2} seconds. {0} and {1} as the lock takes them.

A crash of one backend takes all locks away, and the checkpointer, but not the postmaster. A session that
idle_session_timeout ends would take its vote with it.
"""

VOTE = Query(
    "vote",
    {
        14: """
SELECT pg_backend_pid() AS pid, coalesce(bool_or(pid = pg_backend_pid()), false) AS held,
  coalesce(bool_or(pid <> pg_backend_pid()), false) AS rival
FROM pg_locks WHERE locktype = 'advisory' AND classid = {0} AND objid = {1} AND objsubid = 2 AND granted
"""
    },
)
"""Whether this backend holds the vote, and whether another does, which it can in another database: each has
advisory locks of its own. {0} and {1} are the lock's keys, as unsigned numbers.
"""

HOLDERS = Query(
    "holders",
    {
        14: """
SELECT l.pid, a.application_name, host(a.client_addr) AS address,
  extract(epoch FROM a.backend_start)::float8 AS since_at
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.classid = {0} AND l.objid = {1} AND l.objsubid = 2 AND l.granted
"""
    },
)
"""Who holds the vote of this server."""

CUT_STATE = Query(
    "cut_state",
    {
        14: """
SELECT current_setting('primary_conninfo') = '' AS no_upstream,
  (SELECT count(*) FROM pg_stat_wal_receiver) AS receivers_shown,
  count(*) FILTER (WHERE backend_type = 'walreceiver') AS receivers,
  max(wait_event) FILTER (WHERE backend_type = 'startup') AS startup_wait_event,
  extract(epoch FROM clock_timestamp())::float8 AS clock_at
FROM pg_stat_activity WHERE backend_type IN ('startup', 'walreceiver')
"""
    },
)
"""Whether a replica is really disconnected: the view alone hides a receiver that is starting."""

HELD_SETTINGS = Query(
    "held_settings",
    {
        14: """
SELECT name, CASE WHEN sourcefile LIKE '%postgresql.auto.conf' THEN current_setting(name) END AS own
FROM pg_settings WHERE name IN ('wal_receiver_timeout', 'recovery_min_apply_delay', 'primary_slot_name')
"""
    },
)
"""What ALTER SYSTEM had set of what a cut changes; NULL = nothing, so that RESET puts it back."""

QUERIES = (
    SAMPLE,
    CORE,
    BEAT,
    POSITION,
    REPLAYED,
    WAIT_REPLAYED,
    MARKS,
    PLACE,
    READY,
    CONFIG_ERRORS,
    CUT_STATE,
    HELD_SETTINGS,
)


def rights_query(tests: tuple[str, ...]) -> str:
    """Ask many privilege functions at once. The tests are constants of `grants`."""
    return f"/* replctl:rights */ SELECT ARRAY[{', '.join(tests)}]::boolean[] AS held"
