#!/bin/sh
# Runs replctl in a container: its password comes from a secret, as a file for it alone.
set -eu
umask 077
REPLCTL_SECRETS=${REPLCTL_SECRETS:-/run/secrets}
PGPASSFILE=${PGPASSFILE:-${TMPDIR:-/tmp}/pgpass-$(id -u)}
export PGPASSFILE
password=$(cat "$REPLCTL_SECRETS/replctl_password")
new=$(mktemp "$PGPASSFILE.XXXXXX") # what others may have left at the name is not written into
printf '*:*:*:replctl:%s\n' "$password" >"$new"
mv -f "$new" "$PGPASSFILE"
exec replctl "$@"
