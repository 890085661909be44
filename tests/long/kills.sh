#!/usr/bin/env bash
# 10,000 kills of the server (tests/store/kills.rs), in rounds of 500 with a seed each.
#
#   tests/long/kills.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/kills.sh --wait      the same in the foreground
#   tests/long/kills.sh --status    how far it is
#
# With a release binary, built first. Each round is a line in target/long/; the sum becomes a line of
# bench/long.md. A round in which something is lost, back or wrong ends the run, and its seed is in the log:
# CALLSIGN_SEED and CALLSIGN_KILLS repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=kills total=${CALLSIGN_TOTAL:-10000} round=500 sources=tests/store
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cargo build --release --locked
    cp "${CARGO_TARGET_DIR:-target}/release/callsign" "$rounds.bin"
    cp "$(executable store)" "$rounds.test"
fi
export CALLSIGN_TEST_BIN=$PWD/$rounds.bin

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_KILLS=$round "$rounds.test" \
        kills::a_killed_server_loses_nothing_acknowledged --exact --nocapture 2>&1) || fail "$output" "$seed"
    # kills: seed=1 kills=2 early=3 acknowledged=4 lost=5 back=6 other=7 right=8 not_ready=9 wrong=10 seconds=11
    take "$output" '^kills: seed=.* kills=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; kills += $2; early += $3; acknowledged += $4; lost += $5; back += $6; other += $7; right += $8
      wrong += $10; seconds += $11 }
    END {
        printf "| %s | %s | kills.sh | %s … %s (%d) | %d kills and %d during a start, %d acknowledgements, %d answers | %d lost, %d back, %d other, %d wrong answers; %.1f kills a second |\n",
            date, commit, first, last, NR, kills, early, acknowledged, right, lost, back, other, wrong, kills / seconds
    }'
