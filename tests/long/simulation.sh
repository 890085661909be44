#!/usr/bin/env bash
# 10,000 simulated worlds (tests/simulation.rs), in rounds of 500 with a first seed each.
#
#   tests/long/simulation.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/simulation.sh --wait      the same in the foreground
#   tests/long/simulation.sh --status    how far it is
#
# The test is built with optimisation. Each round is a line in target/long/; the sum becomes a line of
# bench/long.md. A world that breaks a promise ends the run, and its seed is in the log with the last of what
# happened in it: CALLSIGN_SEED and CALLSIGN_SIMULATIONS=1 repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=simulation total=${CALLSIGN_TOTAL:-10000} round=500 sources=tests/simulation
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable simulation --release)" "$rounds.test"
fi

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round from seed %s on\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_SIMULATIONS=$round "$rounds.test" \
        no_world_breaks_a_promise --exact --nocapture 2>&1) || fail "$output" "$seed"
    # simulation: seed=1 worlds=2 lives=3 acknowledged=4 refused=5 unanswered=6 looks=7 transfers=8 simulated_s=9 wrong=10 seconds=11
    take "$output" '^simulation: seed=.* worlds=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; worlds += $2; lives += $3; said += $4; refused += $5; lost += $6; looks += $7; transfers += $8; simulated += $9; wrong += $10; seconds += $11 }
    END {
        printf "| %s | %s | simulation.sh | from %s … %s on (%d) | %d worlds, %d starts of the server, %d requests acknowledged, %d refused, %d never answered, %d looks at every instance, %d zones held against a difference | %d promises broken; %.1f simulated hours, %.0f worlds a minute |\n",
            date, commit, first, last, NR, worlds, lives, said, refused, lost, looks, transfers, wrong, simulated / 3600, worlds / seconds * 60
    }'
