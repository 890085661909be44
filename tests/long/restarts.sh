#!/usr/bin/env bash
# 50 restarts with SIGTERM and 50 with SIGKILL under 20,000 queries a second, on sockets that a parent holds
# (tests/restarts/activation.rs), in rounds of ten.
#
#   tests/long/restarts.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/restarts.sh --wait      the same in the foreground
#   tests/long/restarts.sh --status    how far it is
#
# With a release binary, built first. Each round is two lines in target/long/, one for each signal; the sum
# becomes a line of bench/long.md. A round in which a query is lost that should not be, or answered wrongly,
# ends the run. CALLSIGN_RATE is how many queries a second are asked for; the figure says how many were asked.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly TOTAL=${CALLSIGN_TOTAL:-50} ROUND=10
export CALLSIGN_RATE=${CALLSIGN_RATE:-20000} CALLSIGN_RESTARTS=$ROUND
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- src tests/restarts tests/harness || commit+=-changed
readonly commit log=target/long/restarts-$commit.log rounds=target/long/restarts-$commit.rounds
mkdir -p target/long
touch "$rounds"

done_so_far() { awk '$2 == "SIGTERM" { sum += $1 } END { print sum + 0 }' "$rounds"; }

case "${1:-}" in
--status)
    echo "restarts: $(done_so_far) of $TOTAL on $commit"
    tail -n 3 "$log" 2>/dev/null || true
    exit 0
    ;;
--wait) ;;
'')
    setsid --fork "$0" --wait >>"$log" 2>&1 </dev/null
    echo "restarts: started; $0 --status says how far it is, the log is $log"
    exit 0
    ;;
*)
    echo "restarts.sh: unknown argument $1; the only ones are --wait and --status" >&2
    exit 2
    ;;
esac

exec 9>"$rounds.lock"
flock --nonblock 9 || { echo "restarts.sh: another run of this commit is under way" >&2; exit 1; }

cargo build --release --locked
cargo test --locked --no-run --test restarts
export CALLSIGN_TEST_BIN=$PWD/target/release/callsign

while (($(done_so_far) < TOTAL)); do
    output=$(cargo test --locked --test restarts activation::sig -- --test-threads 1 --nocapture) || {
        printf '%s\n' "$output"
        echo "restarts.sh: FAILED on $commit" >&2
        exit 1
    }
    # restarts=1 signal=2 rate=3 seconds=4 asked=5 right=6 not_ready=7 lost=8 wrong=9 waiting_most=10
    # longest_ms=11 gap_p50_ms=12 gap_max_ms=13
    lines=$(grep -o 'restarts: restarts=.*' <<<"$output")
    printf '%s\n' "$lines"
    sed -E 's/[a-z_0-9]+=//g; s/^restarts: //' <<<"$lines" >>"$rounds"
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
        {
            restarts[$2] += $1; seconds[$2] += $4; asked[$2] += $5; not_ready[$2] += $7
            lost[$2] += $8; wrong[$2] += $9
            if ($11 > longest[$2]) longest[$2] = $11
        }
        END {
            printf "| %s | %s | restarts.sh | - | %d + %d restarts, %d queries |", date, commit,
                restarts["SIGTERM"], restarts["SIGKILL"], asked["SIGTERM"] + asked["SIGKILL"]
            for (signal in restarts) {
                printf "%s %s: %.0f queries a second, %d lost, %d wrong, %d not ready, longest wait %d ms", semicolon,
                    signal, asked[signal] / seconds[signal], lost[signal], wrong[signal], not_ready[signal], longest[signal]
                semicolon = ";"
            }
            print " |"
        }' "$rounds" | tee -a bench/long.md
    touch "$rounds.reported"
fi
