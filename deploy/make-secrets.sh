#!/bin/sh
# Makes the passwords that docker-compose.yml hands to the containers; leaves those that are there.
#
# The directory is for its owner alone, the files in it for everybody: each container reads its own as another
# user, but only Docker, as root, comes to them.
set -eu
directory=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$directory"
chmod 0700 "$directory"
for name in superuser_password replication_password replctl_password app_password; do
    [ ! -s "$directory/$name" ] || continue
    od -An -N 24 -tx1 /dev/urandom | tr -d ' \n' >"$directory/.$name.new"
    chmod 0444 "$directory/.$name.new"
    mv "$directory/.$name.new" "$directory/$name"
done
echo "passwords are in $directory"
