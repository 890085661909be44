#!/usr/bin/env bash
# 50 restarts with SIGTERM and 50 with SIGKILL under 20,000 queries a second, on sockets that a parent holds
# (tests/restarts/activation.rs), in rounds of ten.
#
#   tests/long/restarts.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/restarts.sh --wait      the same in the foreground
#   tests/long/restarts.sh --status    how far it is
#
# With a release binary, built first. Each round is two lines in target/long/, one for each signal; the sum
# becomes a line of bench/long.md. A round in which a query is lost that should not be, or answered wrongly,
# ends the run. CALLSIGN_RATE is how many queries a second are asked for; the figure says how many were asked.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=restarts total=${CALLSIGN_TOTAL:-50} round=10 sources=tests/restarts
export CALLSIGN_RATE=${CALLSIGN_RATE:-20000} CALLSIGN_RESTARTS=$round
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
done_so_far() { awk '$2 == "SIGTERM" { sum += $1 } END { print sum + 0 }' "$rounds"; }
begin "$@"

cargo build --release --locked
cargo test --locked --no-run --test restarts
export CALLSIGN_TEST_BIN=$PWD/target/release/callsign

while (($(done_so_far) < total)); do
    output=$(cargo test --locked --test restarts activation::sig -- --test-threads 1 --nocapture) || fail "$output" ""
    # restarts=1 signal=2 rate=3 seconds=4 asked=5 right=6 not_ready=7 lost=8 wrong=9 waiting_most=10
    # longest_ms=11 gap_p50_ms=12 gap_max_ms=13
    take "$output" 'restarts: restarts=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    {
        restarts[$2] += $1; seconds[$2] += $4; asked[$2] += $5; not_ready[$2] += $7
        lost[$2] += $8; wrong[$2] += $9
        if ($11 > longest[$2]) longest[$2] = $11
    }
    END {
        printf "| %s | %s | restarts.sh | - | %d + %d restarts, %d queries |", date, commit,
            restarts["SIGTERM"], restarts["SIGKILL"], asked["SIGTERM"] + asked["SIGKILL"]
        for (signal in restarts) {
            printf "%s %s: %.0f queries a second, %d lost, %d wrong, %d not ready, longest wait %d ms", semicolon,
                signal, asked[signal] / seconds[signal], lost[signal], wrong[signal], not_ready[signal], longest[signal]
            semicolon = ";"
        }
        print " |"
    }'
