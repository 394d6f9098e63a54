#!/bin/sh
# The proxies' first configuration, before they start; afterwards replctl keeps it. And Prometheus's rules, which
# the inventory alone decides. Run again, it changes only what is not right any more.
set -eu
CONFIG=${CONFIG:-/config}
replctl_sh=$(dirname "$0")/replctl.sh
render() {
    # As the cluster is; where it does not answer, as the file before or the inventory says.
    "$replctl_sh" "render-$1" --out "$2" || "$replctl_sh" "render-$1" --offline --out "$2"
}
render pgbouncer "$CONFIG/pgbouncer/databases.ini"
render haproxy "$CONFIG/haproxy/haproxy.cfg"
"$replctl_sh" render-prometheus --out "$CONFIG/prometheus/replctl.rules.yml"
