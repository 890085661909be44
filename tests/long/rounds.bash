# What the scripts in this folder share: they run detached, go on where they were ended, tell how far they are, and
# put their sum into bench/long.md. Not a script of its own: each of them sets `name` (as its file is called),
# `total`, and `sources` (what the figure depends on beside src and tests/harness), then reads this file with its own
# arguments. `done_so_far` may be defined anew before `begin`.
#
# A round is one line or more in $rounds, the figures alone, parted by spaces.
# shellcheck shell=bash disable=SC2154 # set by who reads it

commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- src "$sources" tests/harness || commit+=-changed
readonly commit log=target/long/$name-$commit.log rounds=target/long/$name-$commit.rounds
mkdir -p target/long
touch "$rounds"

done_so_far() { awk '{ sum += $2 } END { print sum + 0 }' "$rounds"; }

# begin ARGUMENTS...: returns in the run itself, which is the only one of this commit.
begin() {
    case "${1:-}" in
    --status)
        echo "$name: $(done_so_far) of $total on $commit"
        tail -n 3 "$log" 2>/dev/null || true
        exit 0
        ;;
    --wait) ;;
    '')
        setsid --fork "$0" --wait >>"$log" 2>&1 </dev/null
        echo "$name: started; $0 --status says how far it is, the log is $log"
        exit 0
        ;;
    *)
        echo "$name.sh: unknown argument $1; the only ones are --wait and --status" >&2
        exit 2
        ;;
    esac
    exec 9>"$rounds.lock"
    flock --nonblock 9 || { echo "$name.sh: another run of this commit is under way" >&2; exit 1; }
}

# The executable of a test file, built with these words for cargo.
executable() {
    local test=$1
    shift
    cargo test "$@" --locked --no-run --message-format=json --test "$test" |
        sed -nE 's/.*"name":"'"$test"'".*"executable":"([^"]+)".*/\1/p' | tail -n 1
}

# take OUTPUT PATTERN: prints the lines that the test printed of its figures, and keeps them as a round.
take() {
    local lines
    lines=$(grep -o "$2" <<<"$1")
    printf '%s\n' "$lines"
    sed -E "s/[a-z_0-9]+=//g; s/^$name: //" <<<"$lines" >>"$rounds"
}

# fail OUTPUT SEED: what a round that failed has to say; an empty seed is none.
fail() {
    printf '%s\n' "$1"
    echo "$name.sh: FAILED${2:+ with seed $2} on $commit" >&2
    exit 1
}

# report PROGRAM: appends what the awk program makes of all rounds, once.
report() {
    [[ ! -e $rounds.reported ]] || return 0
    # shellcheck disable=SC2016 # backquotes of Markdown
    [[ -e bench/long.md ]] || {
        mkdir -p bench
        printf '%s\n' '# Long runs' '' \
            'One line for each sum that `tests/long/` reached; the scripts append to it.' '' \
            '| date | commit | script | seeds | count | figure |' '|---|---|---|---|---|---|' >bench/long.md
    }
    awk -v date="$(date +%F)" -v commit="$commit" "$1" "$rounds" | tee -a bench/long.md
    touch "$rounds.reported"
}
