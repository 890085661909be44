#!/usr/bin/env bash
# 100,000,000 texts that nobody means to serve through the reader of zone files (tests/zone_files/fuzz.rs), in rounds of
# 1,000,000 with a seed each.
#
#   tests/long/zone_files.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/zone_files.sh --wait      the same in the foreground
#   tests/long/zone_files.sh --status    how far it is
#
# The test is built with optimisation. Each round is a line in target/long/; the sums become a line of bench/long.md. A
# round that finds something wrong ends the run, and its seed is in the log: CALLSIGN_SEED and CALLSIGN_CASES repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=zone_files total=${CALLSIGN_TOTAL:-100000000} round=1000000 sources=tests/zone_files
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable zone_files --release)" "$rounds.test"
fi

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_CASES=$round "$rounds.test" \
        fuzz::no_text_does_harm --exact --nocapture --test-threads 1 2>&1) ||
        fail "$output" "$seed"
    # zone_files: seed=1 cases=2 read=3 refused=4 zones=5 records=6 seconds=7
    take "$output" 'zone_files: seed=.* seconds=[0-9]*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; cases += $2; read += $3; refused += $4; zones += $5; records += $6; seconds += $7 }
    END {
        printf "| %s | %s | zone_files.sh | %s … %s (%d) | %d texts | 0 wrong; ", date, commit, first, last, NR, cases
        printf "%d read, with %d records, and %d of them zones; %d refused; %.0f a second |\n", read, records, zones, refused, cases / seconds
    }'
