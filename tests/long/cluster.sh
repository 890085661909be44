#!/usr/bin/env bash
# 100 rounds of three nodes and three members of etcd while everything goes wrong that can (tests/cluster_faults.rs), three
# at once, with a seed each.
#
#   tests/long/cluster.sh             starts, or goes on where an earlier run of this commit was ended; detached
#   tests/long/cluster.sh --wait      the same in the foreground
#   tests/long/cluster.sh --status    how far it is
#
# The etcd is Debian's; with CALLSIGN_PEERS=$PWD/target/peers/bin it is what `tests/peers/build etcd` built, and one run
# has one. Each round is a line in target/long/; the sum becomes a line of bench/long.md. A rule that is broken ends
# the run, and the seed is in the log with what went wrong when: CALLSIGN_SEED repeats it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=cluster total=${CALLSIGN_TOTAL:-100} sources=tests/faults
# shellcheck source=tests/long/rounds.bash
source tests/long/rounds.bash
done_so_far() { wc -l <"$rounds"; }
begin "$@"

# The rounds of one run are of one build and one etcd, whatever changes meanwhile.
etcd=$("${CALLSIGN_PEERS:+$CALLSIGN_PEERS/}etcd" --version | sed -n 's/^etcd Version: //p')
if [[ ! -x $rounds.test ]]; then
    cp "$(executable cluster_faults)" "$rounds.test"
    cp target/debug/callsign "$rounds.callsign"
    printf '%s\n' "$etcd" >"$rounds.etcd"
fi
[[ $(<"$rounds.etcd") == "$etcd" ]] || { echo "cluster.sh: this run began with etcd $(<"$rounds.etcd"), not $etcd" >&2; exit 1; }
export CALLSIGN_TEST_BIN=$PWD/$rounds.callsign

while (($(done_so_far) < total)); do
    # Three seeds follow each other.
    seed=$(($(date +%s) * 3))
    printf 'rounds with seeds from %s\n' "$seed"
    output=$(CALLSIGN_SEED=$seed "$rounds.test" what_clients --nocapture 2>&1) || fail "$output" "from $seed"
    # cluster: seed=1 lives=2 registered=3 renewed=4 deregistered=5 unknown=6 absent=7 answers=8 kept_s=9 packets=10 lost=11
    # ready_ms=12 settled_ms=13 stood=14 violations=15
    take "$output" 'cluster: seed=.* violations=.*'
done

# shellcheck disable=SC2016 # the awk program's own fields
report '
    NR == 1 { first = $1 }
    { last = $1; lives += $2; words += $3 + $4 + $5; unknown += $6; answers += $8; kept += $9; packets += $10; lost += $11
      stood += $14 > 0; broken += $15; ready[NR] = $12; settled[NR] = $13 }
    END {
        slowest = 0; longest = 0
        for (i in settled) { if (settled[i] > slowest) slowest = settled[i]; if (ready[i] > longest) longest = ready[i] }
        printf "| %s | %s | cluster.sh, etcd '"$etcd"' | %s … %s (%d) | %d troubles, %d registrations, %d requests acknowledged and %d not answered, %d answers, %d s of kept leases; %d packets lost of %d |",
            date, commit, first, last, NR, NR * 13, lives, words, unknown, answers, kept, lost, packets + lost
        printf " %d rules broken; the same at all nodes after %d ms at most, and all nodes members again %d ms at most after the last trouble; in %d rounds the machine had too much to do after it |\n",
            broken, slowest, longest, stood
    }'
