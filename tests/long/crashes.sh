#!/usr/bin/env bash
# 1,000,000 crash points of the store (tests/store/crashes.rs), in rounds of 100,000 with a seed each.
#
#   tests/long/crashes.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/crashes.sh --wait      the same in the foreground
#   tests/long/crashes.sh --status    how far it is
#
# The test is built with optimisation. Each round is a line in target/long/; the sum becomes a line of
# bench/long.md. A round that finds a state that must not be ends the run, and its seed is in the log:
# CALLSIGN_SEED and CALLSIGN_CRASHES repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=crashes total=${CALLSIGN_TOTAL:-1000000} round=100000 sources=tests/store
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable store --release)" "$rounds.test"
fi

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_CRASHES=$round "$rounds.test" \
        crashes::a_crash_leaves_all_of_a_commit_or_nothing --exact --nocapture 2>&1) || fail "$output" "$seed"
    # crashes: seed=1 points=2 recoveries=3 all=4 nothing=5 seconds=6
    take "$output" '^crashes: seed=.* points=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; points += $2; recoveries += $3; all += $4; nothing += $5; seconds += $6 }
    END {
        printf "| %s | %s | crashes.sh | %s … %s (%d) | %d crash points, %d of them in a recovery | 0 wrong; the commit was there %d times, not there %d times; %.0f points a second |\n",
            date, commit, first, last, NR, points, recoveries, all, nothing, points / seconds
    }'
