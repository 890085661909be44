#!/usr/bin/env bash
# 1,000,000 acknowledged changes, each looked for in the very next answer (tests/server/visible.rs), in rounds
# with a seed each: 50,000 with the store in memory, and as many with the one on disk.
#
#   tests/long/visible.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/visible.sh --wait      the same in the foreground
#   tests/long/visible.sh --status    how far it is
#
# With a release binary, built first. Each round is a line in target/long/; the sum becomes a line of
# bench/long.md. A round that finds something lost or stale ends the run, and its seed is in the log:
# CALLSIGN_SEED and CALLSIGN_OPERATIONS repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=visible total=${CALLSIGN_TOTAL:-1000000} round=50000 sources=tests/server
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
begin "$@"

cargo build --release --locked
cargo test --locked --no-run --test server
export CALLSIGN_TEST_BIN=$PWD/target/release/callsign

while (($(done_so_far) < total)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_OPERATIONS=$round cargo test --locked --test server \
        visible:: -- --test-threads 1 --nocapture) || fail "$output" "$seed"
    # visible: seed=1 operations=2 answers=3 lost=4 stale=5 seconds=6 store=memory
    take "$output" 'visible: seed=.* operations=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; operations += $2; answers += $3; lost += $4; stale += $5 }
    { changes[$7] += $2; seconds[$7] += $6 }
    END {
        printf "| %s | %s | visible.sh | %s … %s (%d) | %d changes, %d answers | %d lost, %d stale;",
            date, commit, first, last, NR / 2, operations, answers, lost, stale
        for (store in changes) {
            printf "%s %d in %s at %.0f a second", comma, changes[store], store, changes[store] / seconds[store]
            comma = ","
        }
        print " |"
    }'
