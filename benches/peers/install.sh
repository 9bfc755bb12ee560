#!/usr/bin/env bash
# Installs Redis and memcached from Debian's packages, for the comparison; the benchmarks start them themselves, on free
# ports of loopback, and skip with a word what is not installed. Run as root.
set -euo pipefail

apt-get install --yes --no-install-recommends redis-server memcached
# The packages start both as services, which would only take memory.
for service in redis-server memcached; do
    systemctl disable --now "$service" 2>/dev/null || service "$service" stop || true
done
