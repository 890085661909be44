#!/usr/bin/env bash
# 10,000 idle, 1,000 dripping and 500 deaf connections, over TCP and over TLS, and who comes to ask beside them
# (tests/encrypted/crowd.rs): how many newcomers are answered within 50 ms, and what becomes of UDP.
#
#   tests/long/crowd.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/crowd.sh --wait      the same in the foreground
#   tests/long/crowd.sh --status    how far it is
#
# With a release binary, built first, and clients built so too. Server and clients share the machine, so the figures are of
# use only where it is quiet; they need 13,000 descriptors each. A round is TCP and TLS, 20 s each; the sum of all becomes two
# lines of bench/long.md.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=crowd total=${CALLSIGN_TOTAL:-10000} sources=tests/encrypted
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash

# Newcomers, the fifth figure of a line.
done_so_far() { awk '{ sum += $5 } END { print sum + 0 }' "$rounds"; }
begin "$@"

cargo build --release --locked
crowd=$(executable encrypted --release)
readonly crowd
export CALLSIGN_TEST_BIN=$PWD/target/release/callsign
export CALLSIGN_IDLE=10000 CALLSIGN_DRIPPING=1000 CALLSIGN_DEAF=500 CALLSIGN_SECONDS=20

while (($(done_so_far) < total)); do
    output=$("$crowd" newcomers_are_served --test-threads 1 --nocapture 2>&1) || fail "$output" ''
    take "$output" 'crowd: over=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    {
        rounds[$1]++; asked[$1] += $5; unanswered[$1] += $6; soon[$1] += $7 * $5
        if ($9 > p99[$1]) p99[$1] = $9
        if ($10 > longest[$1]) longest[$1] = $10
        lost[$1] += $13; udp[$1] += $14; udp_quiet[$1] += $15
        if ($17 > rss[$1]) { rss[$1] = $17; rss_before[$1] = $18 }
    }
    END {
        for (over in rounds)
            printf "| %s | %s | crowd.sh | - | %d newcomers over %s beside 10000 idle, 1000 dripping, 500 deaf | %d unanswered, %.2f %% within 50 ms (p99 %.1f ms, longest %.1f ms); UDP: %d lost, p99 %.2f ms, %.2f ms without the crowd; %d MiB, %d before |\n",
                date, commit, asked[over], over, unanswered[over], 100 * soon[over] / asked[over], p99[over],
                longest[over], lost[over], udp[over] / rounds[over], udp_quiet[over] / rounds[over], rss[over], rss_before[over]
    }'
