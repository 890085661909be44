#!/usr/bin/env bash
# 10,000 kills of the server (tests/store/kills.rs), in rounds of 500 with a seed each.
#
#   tests/long/kills.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/kills.sh --wait      the same in the foreground
#   tests/long/kills.sh --status    how far it is
#
# With a release binary, built first. Each round is a line in target/long/; the sum becomes a line of
# bench/long.md. A round in which something is lost, back or wrong ends the run, and its seed is in the log:
# CALLSIGN_SEED and CALLSIGN_KILLS repeat it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly TOTAL=${CALLSIGN_TOTAL:-10000} ROUND=500
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- src tests/store tests/harness || commit+=-changed
readonly commit log=target/long/kills-$commit.log rounds=target/long/kills-$commit.rounds
mkdir -p target/long
touch "$rounds"

done_so_far() { awk '{ sum += $2 } END { print sum + 0 }' "$rounds"; }

case "${1:-}" in
--status)
    echo "kills: $(done_so_far) of $TOTAL on $commit"
    tail -n 3 "$log" 2>/dev/null || true
    exit 0
    ;;
--wait) ;;
'')
    setsid --fork "$0" --wait >>"$log" 2>&1 </dev/null
    echo "kills: started; $0 --status says how far it is, the log is $log"
    exit 0
    ;;
*)
    echo "kills.sh: unknown argument $1; the only ones are --wait and --status" >&2
    exit 2
    ;;
esac

exec 9>"$rounds.lock"
flock --nonblock 9 || { echo "kills.sh: another run of this commit is under way" >&2; exit 1; }

# The rounds of one run are of one build, whatever changes meanwhile in the sources.
if [[ ! -x $rounds.test ]]; then
    cargo build --release --locked
    cp "${CARGO_TARGET_DIR:-target}/release/callsign" "$rounds.bin"
    test=$(cargo test --locked --no-run --message-format=json --test store |
        sed -nE 's/.*"name":"store".*"executable":"([^"]+)".*/\1/p' | tail -n 1)
    cp "$test" "$rounds.test"
fi
export CALLSIGN_TEST_BIN=$PWD/$rounds.bin

while (($(done_so_far) < TOTAL)); do
    seed=$(date +%s%N)
    printf 'round with seed %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed CALLSIGN_KILLS=$ROUND "$rounds.test" \
        kills::a_killed_server_loses_nothing_acknowledged --exact --nocapture 2>&1) || {
        printf '%s\n' "$output"
        echo "kills.sh: FAILED with seed $seed on $commit" >&2
        exit 1
    }
    # kills: seed=1 kills=2 early=3 acknowledged=4 lost=5 back=6 other=7 right=8 not_ready=9 wrong=10 seconds=11
    line=$(grep '^kills: seed=.* kills=' <<<"$output")
    printf '%s\n' "$line"
    sed -E 's/[a-z_]+=//g; s/^kills: //' <<<"$line" >>"$rounds"
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
        { last = $1; kills += $2; early += $3; acknowledged += $4; lost += $5; back += $6; other += $7; right += $8
          wrong += $10; seconds += $11 }
        END {
            printf "| %s | %s | kills.sh | %s … %s (%d) | %d kills and %d during a start, %d acknowledgements, %d answers | %d lost, %d back, %d other, %d wrong answers; %.1f kills a second |\n",
                date, commit, first, last, NR, kills, early, acknowledged, right, lost, back, other, wrong, kills / seconds
        }' "$rounds" | tee -a bench/long.md
    touch "$rounds.reported"
fi
