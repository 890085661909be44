#!/usr/bin/env bash
# 1,000,000 valid queries asked of us, of Knot and of NSD (tests/oracle.rs), in rounds of 100,000 with a seed, and
# a registry, each.
#
#   tests/long/oracle.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/oracle.sh --wait      the same in the foreground
#   tests/long/oracle.sh --status    how far it is
#
# Each round is a line in target/long/; the sum becomes a line of bench/long.md. A round that finds a difference that
# is not listed ends the run, and its seed is in the log: CALLSIGN_SEED and CALLSIGN_QUERIES repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=oracle total=${CALLSIGN_TOTAL:-1000000} round=100000 sources=tests/oracle
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
    output=$(CALLSIGN_SEED=$seed CALLSIGN_QUERIES=$round "$rounds.test" --nocapture knot_and_nsd 2>&1) || fail "$output" "$seed"
    # oracle: seed=1 queries=2 replies=3 same=4 additional=5 choice=6 unexplained=7 seconds=8
    take "$output" 'oracle: seed=.* queries=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; queries += $2; replies += $3; same += $4; additional += $5; choice += $6; unexplained += $7; seconds += $8 }
    END {
        printf "| %s | %s | oracle.sh | %s … %s (%d) | %d queries, %d replies of Knot and NSD | %d unexplained;",
            date, commit, first, last, NR, queries, replies, unexplained
        printf " %d the same, %d cut answers, %d with other additional records; %.0f queries a second |\n",
            same, choice, additional, queries / seconds
    }'
