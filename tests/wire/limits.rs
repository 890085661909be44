//! Response rate limiting: what is counted together, what is not counted, and what becomes of the rest.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use callsign::answer::Over;
use callsign::clock::Clock;
use callsign::counters::Limited;
use callsign::dns::cookie::Secret;
use callsign::dns::limit::Limiter;
use callsign::dns::wire::{Arrival, Policy, Responder};
use callsign::time::Now;

use super::UDP_OCTETS_MAX;
use super::cookies::cookie_of;
use super::fixture::{fixture, policy};
use super::judge::{Read, judge, read};
use super::query::{octets_of, wire_name};

/// Replies a second.
const RATE: usize = 5;

struct Limits {
    responder: Responder,
    counts: Arc<Limited>,
    now: Now,
}

impl Limits {
    fn new(policy: Policy) -> Self {
        let counts = Arc::new(Limited::default());
        let limiter = Some(Limiter::new(RATE as u32, Secret([3; 16]), counts.clone()));
        let responder = Responder { limiter, ..Responder::new(fixture(), policy, Clock::start()) };
        Self { responder, counts, now: Now::default().after(Duration::from_secs(1000)) }
    }

    fn ask(&self, client: &str, over: Over, query: &[u8]) -> Option<Read> {
        let client = SocketAddr::new(client.parse().unwrap(), 40_000);
        let reply = self.responder.accept_at(self.now, &Arrival { client, over, draw: 1 }, query)?;
        // A reply that slips is truncated to nothing, which no other may be.
        let (judged, faults) = judge(query, over, UDP_OCTETS_MAX, &reply);
        let read = read(&reply).unwrap_or_else(|fault| panic!("{fault:?}"));
        let slips = read.truncated() && read.sections.iter().all(Vec::is_empty);
        assert!(judged.is_some() && (slips || faults.is_empty()), "{faults:?}");
        assert!(!slips || reply.len() <= query.len(), "{} octets for {}", reply.len(), query.len());
        Some(read)
    }

    /// What becomes of a query asked `times` times: answered, truncated, BADCOOKIE, nothing.
    fn asked(&self, client: &str, over: Over, query: &[u8], times: usize) -> [usize; 4] {
        let mut fates = [0; 4];
        for _ in 0..times {
            let fate = match self.ask(client, over, query) {
                None => 3,
                Some(read) if read.rcode() == 23 => 2,
                Some(read) if read.truncated() && read.sections[0].is_empty() => 1,
                Some(_) => 0,
            };
            fates[fate] += 1;
        }
        fates
    }
}

/// With an OPT record that has this cookie, where there is one.
fn query(name: &str, qtype: u16, cookie: Option<&[u8]>) -> Vec<u8> {
    let mut query = octets_of(0, "4242 0000 0001 0000 0000");
    query.extend(u16::from(cookie.is_some()).to_be_bytes());
    query.extend([wire_name(0, name), qtype.to_be_bytes().to_vec(), vec![0, 1]].concat());
    if let Some(cookie) = cookie {
        query.extend(octets_of(0, "00 0029 04d0 00000000"));
        query.extend((4 + cookie.len() as u16).to_be_bytes());
        query.extend(octets_of(0, "000a"));
        query.extend((cookie.len() as u16).to_be_bytes());
        query.extend(cookie);
    }
    query
}

fn web() -> Vec<u8> {
    query("web.service.local", 1, None)
}

#[test]
fn over_the_limit_every_second_reply_slips() {
    let mut limits = Limits::new(policy(false));
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &web(), RATE + 10), [RATE, 5, 0, 5]);
    assert_eq!((limits.counts.slipped.read(), limits.counts.dropped.read()), (5, 5));
    // The network as a whole, and any spelling of the name; nobody else, and no other answer.
    let shouted = query("WEB.Service.LOCAL", 1, None);
    assert_eq!(limits.asked("192.0.2.99", Over::Udp, &shouted, 2), [0, 1, 0, 1]);
    assert_eq!(limits.asked("192.0.3.1", Over::Udp, &web(), 1), [1, 0, 0, 0]);
    let other = query("v6.service.local", 28, None);
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &other, 1), [1, 0, 0, 0]);
    // A fifth of a second pays for one reply, a second for all of them.
    limits.now = limits.now.after(Duration::from_millis(200));
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &web(), 3), [1, 1, 0, 1]);
    limits.now = limits.now.after(Duration::from_secs(1));
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &web(), RATE), [RATE, 0, 0, 0]);
}

/// What can be invented without end is one answer: names that do not exist, names below a cut, errors.
#[test]
fn invented_names_are_counted_together() {
    let limits = Limits::new(policy(false));
    let mut fates: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for number in 0..20 {
        for (kind, name, qtype) in [
            ("denied", format!("nope{number}.service.local"), 1),
            ("denied elsewhere", format!("nope{number}.corp.test"), 1),
            ("below a cut", format!("x{number}.sub.corp.test"), 1),
            ("refused", format!("x{number}.example.com"), 1),
            ("malformed", format!("x{number}.service.local"), 128),
        ] {
            let now = limits.asked("192.0.2.1", Over::Udp, &query(&name, qtype, None), 1);
            let sum = fates.entry(kind).or_default();
            *sum = std::array::from_fn(|fate| sum[fate] + now[fate]);
        }
    }
    for (kind, found) in fates {
        assert_eq!(found, [5, 8, 0, 7], "{kind}");
    }
}

#[test]
fn who_is_there_for_sure_is_not_counted() {
    let limits = Limits::new(policy(false));
    for client in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(limits.asked(client, Over::Udp, &web(), 50), [50, 0, 0, 0], "{client}");
    }
    assert_eq!(limits.asked("192.0.2.1", Over::Tcp, &web(), 50), [50, 0, 0, 0]);
    // A client with half a cookie is told to come again with the other half, and is then past the limit.
    let half = query("web.service.local", 1, Some(&[7; 8]));
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &half, RATE), [RATE, 0, 0, 0]);
    let told = limits.ask("192.0.2.1", Over::Udp, &half).unwrap();
    assert_eq!((told.rcode(), told.sections[0].len()), (23, 0));
    let whole = query("web.service.local", 1, Some(&cookie_of(&told).unwrap()));
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &whole, 50), [50, 0, 0, 0]);
    // From elsewhere it is worth nothing, and one that was invented is not either.
    assert_eq!(limits.asked("192.0.2.2", Over::Udp, &whole, 4), [0, 0, 2, 2]);
    let forged = query("web.service.local", 1, Some(&[7; 24]));
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &forged, 4), [0, 0, 2, 2]);
    assert_eq!(limits.asked("192.0.2.1", Over::Udp, &web(), 4), [0, 2, 0, 2]);
    // Over TCP there is no BADCOOKIE (RFC 7873 section 5.2.3).
    assert_eq!(limits.asked("192.0.2.1", Over::Tcp, &forged, 50), [50, 0, 0, 0]);
}

/// Octets out for octets in, while one query is forged from one address a thousand times a second: what reflection
/// would gain.
#[test]
fn reflection_gains_nothing() {
    let mut limits = Limits::new(policy(false));
    let client = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 53);
    let queries = ["big.service.local", "web.service.local", "nope.service.local"]
        .iter()
        .flat_map(|name| [1u16, 16, 28, 33, 255].map(|qtype| query(name, qtype, Some(&[]))))
        .map(|mut query| {
            query.truncate(query.len() - 4); // OPT without an option
            let length_at = query.len() - 2;
            query[length_at..].fill(0);
            query
        });
    let (mut into, mut out) = (0, 0);
    for query in queries {
        for _ in 0..2_000 {
            limits.now = limits.now.after(Duration::from_millis(1));
            let arrival = Arrival { client, over: Over::Udp, draw: 1 };
            into += query.len();
            out += limits.responder.accept_at(limits.now, &arrival, &query).map_or(0, |reply| reply.len());
        }
    }
    assert!(out < into, "{out} octets for {into}");
}
