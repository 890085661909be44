#!/usr/bin/env bash
# 1,000,000 signed messages with one bit changed (tests/transfers/signed.rs), in rounds of 100,000 with a seed each: none is
# believed.
#
#   tests/long/flips.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/flips.sh --wait      the same in the foreground
#   tests/long/flips.sh --status    how far it is
#
# Each round is a line in target/long/; the sum becomes a line of bench/long.md. A round that fails ends the run, and its
# seed is in the log: CALLSIGN_SEED and CALLSIGN_FLIPS repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=flips total=${CALLSIGN_TOTAL:-1000000} round=100000 sources=tests/transfers
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable transfers)" "$rounds.test"
    cp target/debug/callsign "$rounds.callsign"
fi
export CALLSIGN_TEST_BIN=$PWD/$rounds.callsign

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_FLIPS=$round "$rounds.test" --nocapture flipped 2>&1) || fail "$output" "$seed"
    # flips: seed=1 flips=2 accepted=3 silent=4 seconds=5
    take "$output" 'flips: seed=.* flips=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; flips += $2; accepted += $3; silent += $4; seconds += $5 }
    END {
        printf "| %s | %s | flips.sh | %s … %s (%d) | %d signed messages with a bit changed | %d believed;",
            date, commit, first, last, NR, flips, accepted
        printf " %d without a reply; %.0f a second |\n", silent, flips / seconds
    }'
