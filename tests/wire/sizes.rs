//! Many sizes of service, every size of reply: what goes out is never too large, never needlessly short.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use callsign::answer::Over;
use callsign::dns::wire::{Arrival, Policy, accept};
use callsign::view::{View, Zones};

use super::fixture::{Live, Wanted, fixture};
use super::judge::{Read, judge};
use super::query::{octets_of, wire_name};

/// Octets of a query for the one question, with an OPT record of that size where there is one.
fn query(name: &str, qtype: u16, edns: Option<u16>) -> Vec<u8> {
    let mut query = octets_of(0, "1234 0000 0001 0000 0000");
    query.extend(u16::from(edns.is_some()).to_be_bytes());
    query.extend(wire_name(0, name));
    query.extend(qtype.to_be_bytes());
    query.extend([0, 1]);
    if let Some(size) = edns {
        query.extend(octets_of(0, "00 0029"));
        query.extend(size.to_be_bytes());
        query.extend([0; 6]);
    }
    query
}

const A: u16 = 1;
const SRV: u16 = 33;
const PTR: u16 = 12;
/// Octets that the loopback of the sizes allows.
const LOOPBACK_OCTETS: usize = 4096;

fn ask(view: &View, query: &[u8], client: IpAddr, over: Over, draw: u64) -> Read {
    let arrival = Arrival { client: SocketAddr::new(client, 40_000), over, draw };
    let policy = Policy { udp_octets_loopback: LOOPBACK_OCTETS, ..Policy::default() };
    let reply = accept(view, &policy, &arrival, query).unwrap();
    let (read, faults) = judge(query, over, LOOPBACK_OCTETS, &reply);
    assert_eq!(faults, [], "{query:02x?}");
    read.unwrap()
}

/// The most instances of a service that is looked at.
const INSTANCES_MAX: usize = 10_000;
/// Up to here every number of instances is looked at, whatever is chosen.
const EACH_UP_TO: usize = 300;

/// The numbers of instances: every one where `CALLSIGN_SIZES` says `all`, else those up to `EACH_UP_TO`, and
/// behind them each a sixth larger than the last, and the ones around what 64 KiB hold.
fn counts() -> Vec<usize> {
    match std::env::var("CALLSIGN_SIZES").as_deref() {
        Ok("all") => return (1..=INSTANCES_MAX).collect(),
        Ok(other) => panic!("CALLSIGN_SIZES may be `all`, not `{other}`"),
        Err(_) => {}
    }
    let mut counts: BTreeSet<usize> = (1..=EACH_UP_TO).collect();
    let mut count = EACH_UP_TO;
    while count < INSTANCES_MAX {
        count += count / 6;
        counts.insert(count.min(INSTANCES_MAX));
    }
    // Addresses, targets of 23 octets with their numbers, and the same in the alias zone; and the words' place.
    for each in [12 + 4, 12 + 6 + 25, 12 + 6 + 26] {
        counts.extend((65_535 - 120) / each..=65_535 / each);
    }
    counts.into_iter().collect()
}

/// What a reply with `count` records of `each` octets has to be: no record more or less than fits, and the words.
struct Case<'a> {
    name: &'a str,
    qtype: u16,
    count: usize,
    each: usize,
    /// Octets that an address beside a record needs at most; none are there for a target of others.
    beside: Option<usize>,
}

impl Case<'_> {
    fn check(&self, view: &View) {
        for (over, edns, limit) in [
            (Over::Udp, None, 512),
            (Over::Udp, Some(512), 512),
            (Over::Udp, Some(1232), 1232),
            (Over::Udp, Some(4096), 4096),
            (Over::Tcp, None, 65_535),
            (Over::Tcp, Some(1232), 65_535),
        ] {
            let Self { name, qtype, count, each, .. } = *self;
            let query = query(name, qtype, edns);
            let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let read = ask(view, &query, client, over, count as u64);
            let case = format!("{count} {name} {qtype} {over:?} {edns:?}");
            let before = 12 + wire_name(0, name).len() + 4 + if edns.is_some() { 11 } else { 0 };
            let whole = before + count * each <= limit;
            // On a stream the words that say how many are missing have a place of their own.
            let words = if over == Over::Tcp && !whole { 66 } else { 0 };
            let fitting = ((limit - before - words) / each).min(count);
            let answers = read.sections[0].len();
            assert!(read.octets <= limit, "{case}: {} octets", read.octets);
            assert_eq!(answers, fitting, "{case}");
            assert_eq!(read.truncated(), !whole && over == Over::Udp, "{case}");
            assert_eq!(read.opt.is_some(), edns.is_some(), "{case}");
            let said = (over == Over::Tcp && !whole && edns.is_some())
                .then(|| (0, format!("many: {answers} of {count} records fit")));
            assert_eq!(read.ede(), said, "{case}");
            let beside = read.sections[2].len();
            match self.beside {
                None => assert_eq!(beside, 0, "{case}"),
                Some(octets) => {
                    let all_there = beside == answers || read.octets + octets > limit;
                    assert!(all_there, "{case}: {beside} beside {answers} in {} octets", read.octets);
                }
            }
        }
    }
}

/// One service that grows: addresses of its own, or targets that others have to know.
#[test]
fn every_size_is_right() {
    let mut live = Live::new(Zones::default());
    live.view.set_ready();
    let mut registered = 0;
    for count in counts() {
        let new = registered..count;
        registered = count;
        live.register_all(new.clone().map(|n| {
            let address = Ipv4Addr::from(0x0a00_0000 + n as u32).to_string();
            Wanted::new("many", &format!("i{n:05}"), &[&address], 80)
        }));
        live.register_all(
            new.map(|n| {
                Wanted::new("bare", &format!("i{n:05}"), &[], 80).at(&format!("h{n:05}.example.com"))
            }),
        );
        let srv = |target: &str| 12 + 6 + wire_name(0, target).len();
        // A label and a pointer to the service's name, or that of a whole target where that is out of a pointer's reach.
        let (own, alias) = ("many.service.local", "many.service.consul");
        let target = "0a000000.addr.dc1.consul";
        for case in [
            Case { name: own, qtype: A, count, each: 12 + 4, beside: None },
            Case { name: alias, qtype: A, count, each: 12 + 4, beside: None },
            Case {
                name: own,
                qtype: SRV,
                count,
                each: srv(&format!("i00000.{own}")),
                beside: Some(7 + 2 + 14),
            },
            Case {
                name: alias,
                qtype: SRV,
                count,
                each: srv(target),
                beside: Some(wire_name(0, target).len() + 14),
            },
        ] {
            case.check(&live.view);
        }
        without_addresses(&live.view, count, srv("h00000.example.com"));
    }
    println!("sizes: {} sizes up to {registered}", counts().len());
}

fn without_addresses(view: &View, count: usize, each: usize) {
    for (over, edns, limit) in
        [(Over::Udp, None, 512), (Over::Udp, Some(1232), 1232), (Over::Tcp, None, 65_535)]
    {
        let query = query("bare.service.local", SRV, edns);
        let read = ask(view, &query, IpAddr::V4(Ipv4Addr::LOCALHOST), over, count as u64);
        let before = 12 + wire_name(0, "bare.service.local").len() + 4 + if edns.is_some() { 11 } else { 0 };
        let whole = before + count * each <= limit;
        let words = if over == Over::Tcp && !whole { 66 } else { 0 };
        let case = format!("{count} bare {over:?} {edns:?}");
        assert_eq!(read.sections[0].len(), ((limit - before - words) / each).min(count), "{case}");
        assert_eq!(read.sections[2].len(), 0, "{case}");
        assert_eq!(read.truncated(), !whole && over == Over::Udp, "{case}");
    }
}

/// RFC 2181 section 9: of the additional section what fits, RRset by RRset.
#[test]
fn additional_sets_are_whole() {
    let view = fixture();
    let mut sizes = BTreeSet::new();
    for edns in 512..=1232 {
        let query = query("wide.service.local", SRV, Some(edns));
        let client = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
        let read = ask(&view, &query, client, Over::Udp, u64::from(edns));
        assert_eq!((read.sections[0].len(), read.truncated()), (10, false), "{edns}");
        let mut sets: HashMap<(&str, u16), usize> = HashMap::new();
        for record in &read.sections[2] {
            *sets.entry((&record.owner, record.rtype)).or_default() += 1;
        }
        for ((owner, rtype), records) in sets {
            assert_eq!(records, if rtype == A { 3 } else { 2 }, "{edns}: {owner}");
        }
        // Nothing that would still fit is left out: the smallest set is 3 of 16 octets.
        assert!(read.octets + 48 > usize::from(edns), "{edns}: {} octets", read.octets);
        sizes.insert(read.sections[2].len());
    }
    assert!(sizes.len() > 5, "{sizes:?}");
}

#[test]
fn the_order_varies_and_the_choice_is_stable() {
    let view = fixture();
    let client = IpAddr::V4(Ipv4Addr::new(10, 20, 30, 40));
    // S-10: who is first, in fifty repeats of one question.
    for (name, qtype) in
        [("web.service.local", SRV), ("_web._tcp.service.local", SRV), ("web.service.local", A)]
    {
        let query = query(name, qtype, None);
        let first: BTreeSet<String> = (0..50)
            .map(|draw| ask(&view, &query, client, Over::Udp, draw).sections[0][0].data.clone())
            .collect();
        assert_eq!(first.len(), 3, "{name} {qtype}: {first:?}");
    }
    // What stays does not depend on chance, nor on the client's port; its order does.
    for qtype in [A, SRV] {
        let query = query("big.service.local", qtype, None);
        let kept = |draw| {
            let read = ask(&view, &query, client, Over::Udp, draw);
            assert!(read.truncated());
            read.sections[0].iter().map(|record| record.data.clone()).collect::<Vec<String>>()
        };
        let one = kept(1);
        let set: BTreeSet<&String> = one.iter().collect();
        let mut orders = BTreeSet::new();
        for draw in 2..=100 {
            let other = kept(draw);
            assert_eq!(other.iter().collect::<BTreeSet<&String>>(), set);
            orders.insert(other);
        }
        assert!(orders.len() > 80, "{} orders", orders.len());
    }
}

#[test]
fn clients_share_the_instances() {
    let view = fixture();
    // 29 addresses or 11 ports of 120 at 2000 clients: 483 and 183 each on average, with deviations of 19 and 13.
    for (qtype, least, most) in [(A, 380, 590), (SRV, 120, 250)] {
        let query = query("big.service.local", qtype, None);
        let mut kept: HashMap<String, u32> = HashMap::new();
        for client in 0..2000u32 {
            let client = IpAddr::V4(Ipv4Addr::from(0x0a40_0000 + client));
            for record in &ask(&view, &query, client, Over::Udp, 1).sections[0] {
                *kept.entry(record.data.clone()).or_default() += 1;
            }
        }
        assert_eq!(kept.len(), 120, "an instance that no client keeps");
        let (fewest, highest) = (kept.values().min().unwrap(), kept.values().max().unwrap());
        assert!(*fewest > least && *highest < most, "{qtype}: between {fewest} and {highest} times");
    }
}

/// Service types and names of an address are compressed against each other, so what fits is not a sum.
#[test]
fn pointers_fill_a_datagram() {
    let mut live = Live::new(Zones::default());
    live.view.set_ready();
    for count in 1..=120 {
        live.register(&Wanted::new(&format!("s{count:03}"), &format!("i{count:03}"), &["10.0.0.1"], 80));
        for (name, each, first) in [
            // `_s000` and a pointer to `_tcp.service.local`, which the first one has whole.
            ("_services._dns-sd._udp.service.local", 12 + 6 + 2, 5),
            // `i000.s000` and a pointer to `service.local`, which the first one has whole.
            ("1.0.0.10.in-addr.arpa", 12 + 5 + 5 + 2, 15 - 2),
        ] {
            for (over, edns, limit) in [
                (Over::Udp, None, 512),
                (Over::Udp, Some(600), 600),
                (Over::Udp, Some(1232), 1232),
                (Over::Tcp, None, 65_535),
            ] {
                let query = query(name, PTR, edns);
                let client = IpAddr::V4(Ipv4Addr::new(10, 8, 7, 6));
                let reads: Vec<Read> =
                    (0..3).map(|draw| ask(&live.view, &query, client, over, draw)).collect();
                let before = 12 + wire_name(0, name).len() + 4 + if edns.is_some() { 11 } else { 0 } + first;
                let whole = before + count * each <= limit;
                let case = format!("{count} {name} {over:?} {edns:?}");
                for read in &reads {
                    assert_eq!(read.sections[0].len(), ((limit - before) / each).min(count), "{case}");
                    assert_eq!(read.truncated(), !whole, "{case}");
                }
                let kept = |read: &Read| -> BTreeSet<String> {
                    read.sections[0].iter().map(|record| record.data.clone()).collect()
                };
                assert!(reads.iter().all(|read| kept(read) == kept(&reads[0])), "{case}");
            }
        }
    }
}
