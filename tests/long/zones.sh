#!/usr/bin/env bash
# 1,000,000 questions about drawn static zones asked of us, of Knot, of NSD and of BIND (tests/oracle.rs), in rounds of 30,000
# with a seed each, which draws some 1,000 zones.
#
#   tests/long/zones.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/zones.sh --wait      the same in the foreground
#   tests/long/zones.sh --status    how far it is
#
# Each round is a line in target/long/; the sum becomes a line of bench/long.md. A round in which the three agree, and we do
# not, ends the run, and its seed is in the log: CALLSIGN_SEED and CALLSIGN_QUERIES repeat it. CALLSIGN_TOTAL asks another number.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=zones total=${CALLSIGN_TOTAL:-1000000} round=30000 sources=tests/oracle
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable oracle)" "$rounds.test"
    cp target/debug/callsign "$rounds.callsign"
fi
export CALLSIGN_TEST_BIN=$PWD/$rounds.callsign

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_QUERIES=$round "$rounds.test" --nocapture static_zones_the_same 2>&1) ||
        fail "$output" "$seed"
    # zones: seed=1 queries=2 zones=3 agreed=4 differ=5 cut=6 unexplained=7 seconds=8
    take "$output" 'zones: seed=.* queries=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; queries += $2; zones += $3; agreed += $4; differ += $5; cut += $6; unexplained += $7; seconds += $8 }
    END {
        printf "| %s | %s | zones.sh | %s … %s (%d) | %d questions about %d static zones, of us, Knot, NSD and BIND | %d unexplained;",
            date, commit, first, last, NR, queries, zones, unexplained
        printf " %d the same in all four, in %d the three differ, %d cut; %.0f questions a second |\n",
            agreed, differ, cut, queries / seconds
    }'
