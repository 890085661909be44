#!/usr/bin/env bash
# 10,000 changes of a registry, followed by Knot, NSD and BIND (tests/secondaries.rs), in rounds of 1,000 with a seed each; in
# every round the server is restarted once, and each secondary killed and started again.
#
#   tests/long/secondaries.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/secondaries.sh --wait      the same in the foreground
#   tests/long/secondaries.sh --status    how far it is
#
# Each round is a line in target/long/; the sum becomes a line of bench/long.md. A round that fails ends the run, and its
# seed is in the log: CALLSIGN_SEED and CALLSIGN_CHANGES repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=secondaries total=${CALLSIGN_TOTAL:-10000} round=1000 sources=tests/transfers
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable secondaries)" "$rounds.test"
    cp target/debug/callsign "$rounds.callsign"
fi
export CALLSIGN_TEST_BIN=$PWD/$rounds.callsign

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_CHANGES=$round "$rounds.test" --nocapture 2>&1) || fail "$output" "$seed"
    # secondaries: seed=1 changes=2 records=3 incremental=4 full=5 instead=6 starts=7 slowest_ms=8 after_start_ms=9
    take "$output" 'secondaries: seed=.* changes=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; changes += $2; incremental += $4; full += $5; instead += $6; starts += $7; if ($8 > slowest) slowest = $8 }
    END {
        printf "| %s | %s | secondaries.sh | %s … %s (%d) | %d changes, %d starts of Knot, NSD and BIND | %d whole zones in the place of differences;",
            date, commit, first, last, NR, changes, starts, instead
        printf " %d differences, %d whole zones; the slowest of 20 changes at all three: %d ms |\n",
            incremental, full, slowest
    }'
