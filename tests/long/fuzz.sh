#!/usr/bin/env bash
# 100,000,000 messages of no client's making into the acceptance function (tests/wire/fuzz.rs), and as many frames of
# streams through the reading of our connections (tests/wire/framing.rs), in rounds of 2,000,000 of each with a seed
# each.
#
#   tests/long/fuzz.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/fuzz.sh --wait      the same in the foreground
#   tests/long/fuzz.sh --status    how far it is: of both together
#
# The tests are built with optimisation. Each round is two lines in target/long/; the sums become a line of
# bench/long.md. A round that finds something wrong ends the run, and its seed and case are in the log: CALLSIGN_SEED
# and CALLSIGN_CASES repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=fuzz total=${CALLSIGN_TOTAL:-200000000} round=2000000 sources=tests/wire
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cp "$(executable wire --release)" "$rounds.test"
fi

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_CASES=$round "$rounds.test" \
        fuzz::no_octets_do_harm framing::no_stream_does_harm --exact --nocapture --test-threads 1 2>&1) ||
        fail "$output" "$seed"
    # fuzz: seed=1 cases=2 answered=3 silent=4 seconds=5 framing=query
    take "$output" 'fuzz: seed=.* framing=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; cases[$6] += $2; answered[$6] += $3; silent[$6] += $4; seconds[$6] += $5 }
    END {
        printf "| %s | %s | fuzz.sh | %s … %s (%d) | %d messages, %d frames of streams | 0 wrong;",
            date, commit, first, last, NR / 2, cases["query"], cases["tcp"]
        for (framing in cases) {
            printf "%s %s: %d answered, %d not, %.0f a second", comma, framing, answered[framing], silent[framing],
                cases[framing] / seconds[framing]
            comma = ";"
        }
        print " |"
    }'
