#!/usr/bin/env bash
# What the server takes when nobody asks for anything: the binary's size, the time to start, and resident memory, on a data directory of
# 1,000 tenants. It prints figures and judges nothing; they depend on the machine.
#
#   tests/footprint.sh [TENANTS]          builds the release binary first
#   BIN=path tests/footprint.sh           measures this binary instead
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tenants=${1:-1000}
if [ -z "${BIN:-}" ]; then
    cargo build --release --quiet
    BIN=target/release/nimblesite
fi
command -v curl >/dev/null || { echo "footprint.sh needs curl" >&2; exit 1; }

work=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server" || true; }
    server=
}
trap 'stop; rm -rf "$work"' EXIT

export NIMBLESITE_DATA=$work/data NIMBLESITE_LISTEN=127.0.0.1:0 NIMBLESITE_OPERATOR_TOKEN=footprint-operator-token
export NIMBLESITE_LIMITS__TENANTS_PER_USER_MAX=1000000

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# Starts the server and waits until it answers; sets url and took_ms.
start() {
    local began
    rm -f "$work/out"
    began=$(now_ms)
    "$BIN" serve --json >"$work/out" 2>"$work/log" &
    server=$!
    until url=$(grep -so '"url": *"[^"]*"' "$work/out" | cut -d'"' -f4) && [ -n "$url" ]; do
        kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.002
    done
    curl --silent --fail --output /dev/null "$url/healthz"
    took_ms=$(($(now_ms) - began))
}

rss_mb() { awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$server/status"; }

printf 'correct horse battery staple\n' | "$BIN" user create --email owner@example.com --verified --password-stdin >/dev/null
start
printf 'empty directory   start %5d ms   idle %6s MB\n' "$took_ms" "$(sleep 1; rss_mb)"

echo "making $tenants tenants …" >&2
for n in $(seq "$tenants"); do
    printf 'url = "%s/api/v1/operator/tenants"\nheader = "Authorization: Bearer %s"\ndata = "{\\"name\\":\\"Tenant %d\\",\\"owner\\":\\"owner@example.com\\"}"\noutput = "/dev/null"\nnext\n' \
        "$url" "$NIMBLESITE_OPERATOR_TOKEN" "$n"
done | sed '$d' >"$work/curl"
curl --silent --fail --config "$work/curl"
printf 'after making them                  idle %6s MB\n' "$(sleep 1; rss_mb)"
stop

made=$(find "$NIMBLESITE_DATA/tenants" -name tenant.db | wc -l)
[ "$made" = "$tenants" ] || { echo "only $made tenants were made" >&2; exit 1; }
for _ in 1 2 3; do
    start
    printf '%d tenants      start %5d ms   idle %6s MB\n' "$made" "$took_ms" "$(sleep 1; rss_mb)"
    stop
done
printf 'binary            %s MB\n' "$(awk -v bytes="$(stat -c %s "$BIN")" 'BEGIN { printf "%.1f", bytes / 1024 / 1024 }')"
