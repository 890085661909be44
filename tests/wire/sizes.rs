//! Many sizes of service, every size of reply: what goes out is never too large, never needlessly short.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

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

/// One service of each number of instances, their ids of one length.
fn services(counts: &[usize]) -> Arc<View> {
    let mut live = Live::new(Zones::default());
    for count in counts {
        live.register_all((0..*count).map(|n| {
            let address = Ipv4Addr::from(0x0a00_0000 + n as u32).to_string();
            Wanted::new(&format!("s{count:04}"), &format!("i{n:04}"), &[&address], 80)
        }));
    }
    live.view.set_ready();
    live.view
}

#[test]
fn every_size_is_right() {
    let counts: Vec<usize> = (1..=200).chain([1000, 4000]).collect();
    let view = services(&counts);
    let zones = ["service.local", "service.consul"];
    for (count, zone) in counts.into_iter().flat_map(|count| zones.map(|zone| (count, zone))) {
        let name = format!("s{count:04}.{zone}");
        let target = match zone {
            "service.local" => format!("i0000.{name}"),
            _ => "0a000000.addr.dc1.consul".to_owned(),
        };
        for qtype in [A, SRV] {
            // An address; or numbers and the target, which is never compressed (RFC 2782).
            let each = 12 + if qtype == A { 4 } else { 6 + wire_name(0, &target).len() };
            for (over, edns, limit) in [
                (Over::Udp, None, 512),
                (Over::Udp, Some(512), 512),
                (Over::Udp, Some(1232), 1232),
                (Over::Udp, Some(4096), 4096),
                (Over::Tcp, None, 65_535),
                (Over::Tcp, Some(1232), 65_535),
            ] {
                let query = query(&name, qtype, edns);
                let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
                let read = ask(&view, &query, client, over, count as u64);
                let case = format!("{name} {qtype} {over:?} {edns:?}");
                let before = 12 + wire_name(0, &name).len() + 4 + if edns.is_some() { 11 } else { 0 };
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
                    .then(|| (0, format!("s{count:04}: {answers} of {count} records fit")));
                assert_eq!(read.ede(), said, "{case}");
            }
        }
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
        for draw in 2..50 {
            let other = kept(draw);
            assert_eq!(other.iter().collect::<BTreeSet<&String>>(), set);
            orders.insert(other);
        }
        assert!(orders.len() > 40, "{} orders", orders.len());
    }
}

#[test]
fn clients_share_the_instances() {
    let view = fixture();
    let query = query("big.service.local", A, None);
    let mut kept: HashMap<String, u32> = HashMap::new();
    for client in 0..2000u32 {
        let client = IpAddr::V4(Ipv4Addr::from(0x0a40_0000 + client));
        for record in &ask(&view, &query, client, Over::Udp, 1).sections[0] {
            *kept.entry(record.data.clone()).or_default() += 1;
        }
    }
    assert_eq!(kept.len(), 120, "an instance that no client keeps");
    // 29 of 120 at 2000 clients: 483 each on average, with a deviation of 19.
    let (least, most) = (kept.values().min().unwrap(), kept.values().max().unwrap());
    assert!(*least > 380 && *most < 590, "between {least} and {most} times");
}
