#!/bin/sh
# PgBouncer in a container: the users' passwords come from secrets, the databases from replctl.
set -eu
umask 077
PGBOUNCER_SECRETS=${PGBOUNCER_SECRETS:-/run/secrets}
PGBOUNCER_RUN=${PGBOUNCER_RUN:-/run/pgbouncer}       # its own
PGBOUNCER_CONFIG=${PGBOUNCER_CONFIG:-/config}        # shared with replctl: databases.ini
PGBOUNCER_ADDRESS=${PGBOUNCER_ADDRESS:-0.0.0.0}
PGBOUNCER_PORT=${PGBOUNCER_PORT:-6432}
: >"$PGBOUNCER_RUN/userlist.txt"
for user in app replctl; do
    password=$(cat "$PGBOUNCER_SECRETS/${user}_password")
    case $password in
        '' | *[!A-Za-z0-9._~-]*) echo "pgbouncer.sh: the secret of $user has other characters than A-Za-z0-9._~-" >&2; exit 1 ;;
    esac
    printf '"%s" "%s"\n' "$user" "$password" >>"$PGBOUNCER_RUN/userlist.txt"
done
cat >"$PGBOUNCER_RUN/pgbouncer.ini" <<INI
%include $PGBOUNCER_CONFIG/databases.ini

[pgbouncer]
listen_addr = $PGBOUNCER_ADDRESS
listen_port = $PGBOUNCER_PORT
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $PGBOUNCER_RUN/userlist.txt
admin_users = replctl
pool_mode = transaction
default_pool_size = 20
max_client_conn = 1000
server_login_retry = 1
server_round_robin = 1
ignore_startup_parameters = extra_float_digits
INI
exec "${PGBOUNCER_PROGRAM:-pgbouncer}" "$PGBOUNCER_RUN/pgbouncer.ini"
