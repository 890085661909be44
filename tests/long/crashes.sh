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

readonly TOTAL=${CALLSIGN_TOTAL:-1000000} ROUND=100000
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- src tests/store tests/harness || commit+=-changed
readonly commit log=target/long/crashes-$commit.log rounds=target/long/crashes-$commit.rounds
mkdir -p target/long
touch "$rounds"

done_so_far() { awk '{ sum += $2 } END { print sum + 0 }' "$rounds"; }

case "${1:-}" in
--status)
    echo "crashes: $(done_so_far) of $TOTAL on $commit"
    tail -n 3 "$log" 2>/dev/null || true
    exit 0
    ;;
--wait) ;;
'')
    setsid --fork "$0" --wait >>"$log" 2>&1 </dev/null
    echo "crashes: started; $0 --status says how far it is, the log is $log"
    exit 0
    ;;
*)
    echo "crashes.sh: unknown argument $1; the only ones are --wait and --status" >&2
    exit 2
    ;;
esac

exec 9>"$rounds.lock"
flock --nonblock 9 || { echo "crashes.sh: another run of this commit is under way" >&2; exit 1; }

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    test=$(cargo test --release --locked --no-run --message-format=json --test store |
        sed -nE 's/.*"name":"store".*"executable":"([^"]+)".*/\1/p' | tail -n 1)
    cp "$test" "$rounds.test"
fi

while (($(done_so_far) < TOTAL)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_CRASHES=$ROUND "$rounds.test" \
        crashes::a_crash_leaves_all_of_a_commit_or_nothing --exact --nocapture 2>&1) || {
        printf '%s\n' "$output"
        echo "crashes.sh: FAILED with seed $seed on $commit" >&2
        exit 1
    }
    # crashes: seed=1 points=2 recoveries=3 all=4 nothing=5 seconds=6
    line=$(grep '^crashes: seed=.* points=' <<<"$output")
    printf '%s\n' "$line"
    sed -E 's/[a-z]+=//g; s/^crashes: //' <<<"$line" >>"$rounds"
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
        { last = $1; points += $2; recoveries += $3; all += $4; nothing += $5; seconds += $6 }
        END {
            printf "| %s | %s | crashes.sh | %s … %s (%d) | %d crash points, %d of them in a recovery | 0 wrong; the commit was there %d times, not there %d times; %.0f points a second |\n",
                date, commit, first, last, NR, points, recoveries, all, nothing, points / seconds
        }' "$rounds" | tee -a bench/long.md
    touch "$rounds.reported"
fi
