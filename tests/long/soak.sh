#!/usr/bin/env bash
# Two hours of everything at once, each a little (tests/long/soak.py), in rounds of half an hour: what grows, what fails?
#
#   tests/long/soak.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/soak.sh --wait      the same in the foreground
#   tests/long/soak.sh --status    how far it is
#
# With a release binary, built first. The server lives twice in a round, a quarter of an hour each. A round in which anything fails
# ends the run, and the log says what; the sum becomes a line of bench/long.md.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=soak total=${CALLSIGN_TOTAL:-120} round=30 sources=tests/long/soak.py
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
done_so_far() { awk '{ sum += $1 } END { print sum + 0 }' "$rounds"; }
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.callsign ]]; then
    cargo build --release --locked
    cp target/release/callsign "$rounds.callsign"
fi

while (($(done_so_far) < total)); do
    seed=$(date +%s)
    output=$(tests/long/soak.py --minutes "$round" --life $((round / 2)) --seed "$seed" --server "$PWD/$rounds.callsign" 2>&1) ||
        fail "$output" "$seed"
    grep -E '^(life|did)' <<<"$output"
    # soak: minutes=1 lives=2 did=3 wrong=4 memory_mib=5 more_mib=6 descriptors=7
    take "$output" 'soak: minutes=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    { minutes += $1; lives += $2; did += $3; wrong += $4; if ($5 > memory) memory = $5; if ($6 > more) more = $6; if ($7 > descriptors) descriptors = $7 }
    END {
        printf "| %s | %s | soak.sh | - | %d minutes, %d lives of the server, %d questions, requests and transfers | %d wrong; %d MiB and %d descriptors at most, and %.1f MiB more at a life'"'"'s end than in its second quarter at most |\n",
            date, commit, minutes, lives, did, wrong, memory, descriptors, more
    }'
