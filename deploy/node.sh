#!/bin/sh
# One PostgreSQL node of the cluster: makes its data where there is none, asks the other nodes whether it is
# still the primary where it was one, then becomes postgres. May be run again at any time, and killed.
#
#   NODE_NAME     this node, as in the inventory                     (pg1)
#   NODE_PEERS    the others as HOST:PORT, separated by blanks       (pg2:5432 pg3:5432)
#   NODE_MEMBERS  all nodes: ANY 1 of the others confirms every commit  (pg1 pg2 pg3)
#   NODE_FIRST    yes on the one node that makes a new cluster where no other node has one
#   NODE_FOUND_S  before that, for so many seconds in a row no other node may have been up  (30)
#   NODE_PORT NODE_DATA NODE_RUN NODE_SECRETS NODE_GRANTS NODE_BIN NODE_WAIT_S: see below
set -eu

: "${NODE_NAME:?}" "${NODE_PEERS:?}" "${NODE_MEMBERS:?}"
NODE_FIRST=${NODE_FIRST:-no}
NODE_FOUND_S=${NODE_FOUND_S:-30}
NODE_PORT=${NODE_PORT:-5432}
NODE_DATA=${NODE_DATA:-/var/lib/postgresql/data} # a volume; the data directory is below it
NODE_RUN=${NODE_RUN:-/var/run/postgresql}        # socket and password file
NODE_SECRETS=${NODE_SECRETS:-/run/secrets}
NODE_GRANTS=${NODE_GRANTS:-/deploy/grants.sql}   # what `replctl grants` prints
NODE_WAIT_S=${NODE_WAIT_S:-120}                  # then exit 1; a restart policy tries again
[ -z "${NODE_BIN:-}" ] || PATH=$NODE_BIN:$PATH
PGPASSFILE=$NODE_RUN/pgpass
PGCONNECT_TIMEOUT=2
LC_ALL=C
export PATH PGPASSFILE PGCONNECT_TIMEOUT LC_ALL
umask 077

data=$NODE_DATA/data
new=$NODE_DATA/data.new           # never started: what is interrupted is begun again
rewinding=$NODE_DATA/rewinding    # data that a rewind was not finished on is of no use
alone=$NODE_DATA/alone            # a new cluster in which no replica has been seen yet

say() { echo "node.sh: $NODE_NAME: $*" >&2; }
give_up() { say "$@"; exit 1; }

secret() {
    value=$(cat "$NODE_SECRETS/$1") || give_up "cannot read the secret $1"
    case $value in
        '' | *[!A-Za-z0-9._~-]*) give_up "the secret $1 is empty or has other characters than A-Za-z0-9._~-" ;;
    esac
    printf '%s' "$value"
}

# ---- asking the others

# Prints `primary TIMELINE IDENTIFIER HOST PORT` or `replica …` for each node that answers, and `closed 0 - …` for
# one that is up and does not let us in, as while it starts: it has data. The history files tell a timeline
# before the first checkpoint on it does.
ask_peers() {
    for peer in $NODE_PEERS; do
        host=${peer%:*} port=${peer##*:}
        answer=$(PGOPTIONS='-c statement_timeout=2s' psql -XAtq -F ' ' \
            "host=$host port=$port user=replicator dbname=postgres" 2>/dev/null <<'SQL'
SELECT CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'primary' END,
       greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT max(('x' || left(name, 8))::bit(32)::int) FROM pg_ls_waldir()
                 WHERE name ~ '^[0-9A-F]{8}[.]history$')),
       (SELECT system_identifier FROM pg_control_system())
SQL
        ) || answer=
        if [ -z "$answer" ]; then
            up=0
            pg_isready -q -t 2 -h "$host" -p "$port" || up=$?
            [ "$up" -le 1 ] || continue # 0 takes connections, 1 takes none yet
            answer="closed 0 -"
        fi
        echo "$answer $host $port"
    done
}

# Of these answers those of the cluster that this data belongs to: what others do is nothing to it.
of_our_cluster() {
    echo "$1" | awk -v own="$2" 'NF && ($3 == own || $3 == "-")'
}

own_identifier() {
    pg_controldata "$data" | sed -n 's/^Database system identifier: *//p'
}

# The newest timeline that this data directory knows of.
own_timeline() {
    timeline=$(pg_controldata "$data" | sed -n "s/^Latest checkpoint's TimeLineID: *//p")
    for file in "$data"/pg_wal/????????.history; do
        [ -e "$file" ] || continue
        hex=$(basename "$file" .history)
        found=$(printf '%d' "0x$hex")
        [ "$found" -le "$timeline" ] || timeline=$found
    done
    echo "$timeline"
}

# ---- making data

# Called where errexit does not hold, as everything below: each step says what its failure means.
initialise() {
    say "making a new cluster"
    rm -rf "$new"
    pwfile=$NODE_RUN/superuser
    secret superuser_password >"$pwfile" || exit 1
    initdb -D "$new" -U postgres --auth-local=trust --auth-host=scram-sha-256 --data-checksums \
        --pwfile="$pwfile" --encoding=UTF8 --locale=C >/dev/null || give_up "initdb failed"
    rm -f "$pwfile"
    configure || give_up "the configuration could not be written"
    make_roles || give_up "the roles could not be made"
    : >"$alone"
    mv "$new" "$data" || give_up "$data could not be made"
}

configure() {
    cat >>"$new/postgresql.conf" <<CONF &&
listen_addresses = '*'
wal_level = replica
wal_log_hints = on
max_wal_senders = 10
max_replication_slots = 10
max_slot_wal_keep_size = '4GB'
synchronous_standby_names = 'ANY 1 ($(echo "$NODE_MEMBERS" | sed 's/  */, /g'))'
# Only this user reaches the socket, which is trusted.
unix_socket_permissions = 0700
CONF
        cat >"$new/pg_hba.conf" <<'HBA'
local all all trust
# HAProxy's checks cannot answer a challenge; the role can do nothing.
host postgres haproxy_check samenet trust
host all haproxy_check all reject
host all,replication all samenet scram-sha-256
HBA
}

# On a server that nobody else can reach yet. Passwords come from files, never from a command line.
make_roles() {
    for name in replication_password replctl_password app_password; do secret "$name" >/dev/null || exit 1; done
    pg_ctl -D "$new" -w -t 60 -s -l "$NODE_RUN/initialise.log" start \
        -o "-c listen_addresses='' -c synchronous_standby_names='' -p $NODE_PORT -k '$NODE_RUN'" || return 1
    made=0
    roles_sql | psql -Xq -v ON_ERROR_STOP=1 -h "$NODE_RUN" -p "$NODE_PORT" -U postgres -d postgres >/dev/null ||
        made=1
    pg_ctl -D "$new" -w -t 60 -s -m fast stop || return 1
    return "$made"
}

roles_sql() {
    # What cannot be read must not look like roles that need nothing.
    cat "$NODE_GRANTS" || echo 'SELECT 1/0;'
    cat <<SQL
\\set replication \`cat '$NODE_SECRETS/replication_password'\`
\\set replctl \`cat '$NODE_SECRETS/replctl_password'\`
\\set app \`cat '$NODE_SECRETS/app_password'\`
SQL
    cat <<'SQL'
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication';
GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO replicator;
-- What pg_rewind reads with: `replctl grants --role rewind`.
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO replicator;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
ALTER ROLE replctl PASSWORD :'replctl';
CREATE ROLE haproxy_check LOGIN CONNECTION LIMIT 20;
CREATE ROLE app LOGIN PASSWORD :'app';
CREATE DATABASE app OWNER app;
SQL
}

# A slot of our own on the primary, so that it keeps the WAL that we need.
make_slot() {
    psql -XAtq -v ON_ERROR_STOP=1 -v slot="$NODE_NAME" "$1 dbname=postgres" >/dev/null <<'SQL'
SELECT pg_create_physical_replication_slot(:'slot', true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = :'slot');
SQL
}

# Makes a stopped data directory follow. Later settings win, and replctl changes the same file.
follow() {
    sed -i '/^ *primary_conninfo *=/d; /^ *primary_slot_name *=/d' "$1/postgresql.auto.conf" || return 1
    cat >>"$1/postgresql.auto.conf" <<CONF || return 1
primary_conninfo = '$2 passfile=$PGPASSFILE application_name=$NODE_NAME'
primary_slot_name = '$NODE_NAME'
CONF
    : >"$1/standby.signal"
}

clone() {
    say "cloning from $1"
    rm -rf "$new"
    make_slot "$1" || return 1
    pg_basebackup -D "$new" -d "$1" -X stream -S "$NODE_NAME" -c fast || return 1
    follow "$new" "$1" && mv "$new" "$data"
}

rewind() {
    say "another node has been promoted; becoming a replica of it: $1"
    make_slot "$1" || return 1
    : >"$rewinding"
    pg_rewind -D "$data" --source-server="$1 dbname=postgres" ||
        give_up "pg_rewind failed; remove $data and $rewinding to have this node cloned"
    follow "$data" "$1" && rm -f "$rewinding"
}

# ---- deciding

# What to do now that the peers have answered so: `initialise`, `clone CONNINFO`, `rewind CONNINFO`, `start`, or
# nothing: ask again. $3 = the seconds for which none of them has been up.
decide() {
    own=$1 answers=$2 nobody_s=$3
    best=$(echo "$answers" | sort -k2,2n | grep '^primary ' | tail -n 1)
    newest=$(echo "$answers" | sort -k2,2n | tail -n 1 | cut -d ' ' -f 2)
    from=
    if [ -n "$best" ]; then
        # shellcheck disable=SC2086 # five words without blanks
        set -- $best
        [ "$2" -lt "$newest" ] || from="host=$4 port=$5 user=replicator"
    fi
    if [ -z "$own" ]; then
        # Of two clusters nobody knows which one is meant.
        clusters=$(echo "$answers" | awk 'NF && $3 != "-" {print $3}' | sort -u | wc -l)
        if [ -n "$from" ] && [ "$clusters" -eq 1 ]; then
            echo "clone $from"
        elif [ -z "$answers" ] && [ "$NODE_FIRST" = yes ] && [ "$nobody_s" -ge "$NODE_FOUND_S" ]; then
            echo initialise
        fi
    elif [ -n "$newest" ] && [ "$newest" -gt "$own" ]; then
        [ -z "$from" ] || echo "rewind $from"
    elif [ -n "$from" ] && [ "$newest" -eq "$own" ]; then
        echo refuse
    elif echo "$answers" | grep -q '^replica '; then
        echo start # nobody has a newer history, and there is somebody to confirm commits
    elif [ -z "$answers" ] && [ -e "$alone" ]; then
        echo start
    fi
}

act() {
    case $1 in
        initialise) initialise ;;
        'clone '*) clone "${1#clone }" ;;
        'rewind '*) rewind "${1#rewind }" ;;
        refuse) give_up "another primary is on the same timeline; two of them must not run" ;;
    esac
}

main() {
    mkdir -p "$NODE_DATA" "$NODE_RUN"
    echo "*:*:*:replicator:$(secret replication_password)" >"$PGPASSFILE"
    [ ! -e "$rewinding" ] || give_up "a rewind was interrupted; remove $data and $rewinding to have it cloned"
    until_s=$(($(date +%s) + NODE_WAIT_S)) said=no foreign=no seen_s=$(date +%s)
    # A replica starts as what it is: it does no harm, and the others need its answer.
    while [ ! -e "$data/standby.signal" ]; do
        own=
        all=$(ask_peers)
        answers=$all
        if [ -e "$data/PG_VERSION" ]; then
            own=$(own_timeline)
            answers=$(of_our_cluster "$all" "$(own_identifier)")
            if [ "$answers" != "$all" ] && [ "$foreign" = no ]; then
                say "a node of another cluster answers and is ignored"
                foreign=yes
            fi
        fi
        [ -z "$all" ] || seen_s=$(date +%s)
        step=$(decide "$own" "$answers" "$(($(date +%s) - seen_s))")
        if [ "$step" = start ]; then
            [ -z "$answers" ] || rm -f "$alone"
            break
        fi
        if [ -n "$step" ]; then
            act "$step" && break
            say "that failed; trying again"
        fi
        [ "$said" = yes ] || say "waiting for the other nodes" && said=yes
        [ "$(date +%s)" -lt "$until_s" ] || give_up "no node answered as needed within $NODE_WAIT_S s"
        sleep 1
    done
    say "starting"
    exec postgres -D "$data" -p "$NODE_PORT" -k "$NODE_RUN" -c "cluster_name=$NODE_NAME"
}

main
