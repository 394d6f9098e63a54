# What docker-compose.yml builds: replctl and PgBouncer, each small and run by a user without rights.
# Both have the same user, since replctl writes the files that PgBouncer reads.

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY replctl ./replctl
RUN python -m venv /opt/replctl && /opt/replctl/bin/pip install --no-cache-dir '.[server]'

FROM python:3.12-slim-bookworm AS replctl
RUN groupadd --system --gid 10001 replctl \
    && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin replctl \
    # A new volume takes over the owner of the directory that it is mounted on.
    && install -d -o replctl -g replctl -m 0755 /config /config/pgbouncer /config/haproxy /config/prometheus \
    && install -d -o replctl -g replctl -m 0700 /var/lib/replctl /run/haproxy
COPY --from=build /opt/replctl /opt/replctl
COPY deploy /deploy
ENV PATH=/opt/replctl/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    REPLCTL_INVENTORY=/deploy/replctl.toml \
    REPLCTL_STATE_DIR=/var/lib/replctl
USER 10001:10001
ENTRYPOINT ["/deploy/replctl.sh"]
CMD ["status"]

FROM debian:bookworm-slim AS pgbouncer
RUN apt-get update \
    && apt-get install -y --no-install-recommends pgbouncer \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 replctl \
    && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin replctl
COPY deploy/pgbouncer.sh /deploy/pgbouncer.sh
USER 10001:10001
ENTRYPOINT ["/deploy/pgbouncer.sh"]
