-- operator on PostgreSQL 17: also fails over, switches over, repoints and fences.
-- Run as a superuser on the primary, in the database of the inventory's [connection]; replicas get
-- it by replication. Every statement may be run again. Set a password, or use a certificate.
DO $replctl$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = E'replctl') THEN
        CREATE ROLE "replctl" LOGIN;
    END IF;
END
$replctl$;
DO $replctl$
BEGIN
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), E'replctl');
END
$replctl$;
GRANT pg_monitor TO "replctl";
CREATE SCHEMA IF NOT EXISTS replctl;
CREATE TABLE IF NOT EXISTS replctl.state (
    key text PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
GRANT USAGE ON SCHEMA replctl TO "replctl";
GRANT SELECT ON replctl.state TO "replctl";
ALTER ROLE "replctl" REPLICATION;
GRANT pg_signal_backend TO "replctl";
GRANT pg_checkpoint TO "replctl";
GRANT pg_use_reserved_connections TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_wal_replay_pause() TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_wal_replay_resume() TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO "replctl";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_all_file_settings() TO "replctl";
GRANT SELECT ON pg_catalog.pg_file_settings TO "replctl";
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name, synchronous_standby_names, wal_receiver_timeout, recovery_min_apply_delay, default_transaction_read_only, hot_standby_feedback, sync_replication_slots, synchronized_standby_slots TO "replctl";
GRANT INSERT, UPDATE, DELETE ON replctl.state TO "replctl";
