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

readonly TOTAL=${CALLSIGN_TOTAL:-1000000} ROUND=50000
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- src tests/server tests/harness || commit+=-changed
readonly commit log=target/long/visible-$commit.log rounds=target/long/visible-$commit.rounds
mkdir -p target/long
touch "$rounds"

done_so_far() { awk '{ sum += $2 } END { print sum + 0 }' "$rounds"; }

case "${1:-}" in
--status)
    echo "visible: $(done_so_far) of $TOTAL on $commit"
    tail -n 3 "$log" 2>/dev/null || true
    exit 0
    ;;
--wait) ;;
'')
    setsid --fork "$0" --wait >>"$log" 2>&1 </dev/null
    echo "visible: started; $0 --status says how far it is, the log is $log"
    exit 0
    ;;
*)
    echo "visible.sh: unknown argument $1; the only ones are --wait and --status" >&2
    exit 2
    ;;
esac

exec 9>"$rounds.lock"
flock --nonblock 9 || { echo "visible.sh: another run of this commit is under way" >&2; exit 1; }

cargo build --release --locked
cargo test --locked --no-run --test server
export CALLSIGN_TEST_BIN=$PWD/target/release/callsign

while (($(done_so_far) < TOTAL)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_OPERATIONS=$ROUND cargo test --locked --test server \
        visible:: -- --test-threads 1 --nocapture) || {
        printf '%s\n' "$output"
        echo "visible.sh: FAILED with seed $seed on $commit" >&2
        exit 1
    }
    # visible: seed=1 operations=2 answers=3 lost=4 stale=5 seconds=6 store=memory
    lines=$(grep -o 'visible: seed=.* operations=.*' <<<"$output")
    printf '%s\n' "$lines"
    sed -E 's/[a-z]+=//g; s/^visible: //' <<<"$lines" >>"$rounds"
done

if [[ ! -e $rounds.reported ]]; then
    # shellcheck disable=SC2016 # backquotes of Markdown
    [[ -e bench/long.md ]] || {
        mkdir -p bench
        printf '%s\n' '# Long runs' '' \
            'One line for each sum that `tests/long/` reached; the scripts append to it.' '' \
            '| date | commit | script | seeds | count | figure |' '|---|---|---|---|---|---|' >bench/long.md
    }
    awk -v date="$(date +%F)" -v commit="$commit" '
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
        }' "$rounds" | tee -a bench/long.md
    touch "$rounds.reported"
fi
