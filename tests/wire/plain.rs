//! The two ways to a reply over UDP say the same: what `reply_plainly` answers at all is, octet for octet, what `accept`
//! answers. Over drawn registries, drawn questions and messages that are nearly plain.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use callsign::answer::Over;
use callsign::balance::{Balance, Draws, Policy, SrvWeights};
use callsign::clock::Clock;
use callsign::dns::edns::Cookie;
use callsign::dns::wire::{self, Arrival, Responder, UDP_OCTETS_MAX};
use callsign::instance::{Fallback, Health, Lease, Location, Port, ServiceSettings, Transport};
use callsign::name::{Name, ServiceName};
use callsign::time::{Now, Wall};
use callsign::view::Zones;
use callsign::zone::Kind;

use super::fixture::{Live, Wanted, policy, services, zone, zones};
use super::fuzz::Chance;
use super::judge::read;
use super::query;
use super::{CLIENT, ROWS};

/// Registries, and questions to each of them; 120,000 pairs. `CALLSIGN_SEED` draws others.
const VIEWS: u64 = 300;
const QUESTIONS: usize = 400;
/// Types that are asked for, the usual ones more often.
const TYPES: [u16; 17] = [1, 1, 1, 28, 28, 33, 33, 33, 16, 12, 65, 64, 15, 255, 48, 65_281, 5];
/// Sizes of the OPT record; 0 is none.
const SIZES: [u16; 6] = [0, 0, 512, 700, 1232, 4096];
const SERVICES: [&str; 5] = ["web", "db", "ns-2", "a", "cache"];
const PORTS: [&str; 3] = ["http", "admin", "dns"];
const TAGS: [&str; 3] = ["v1", "eu", "canary"];

impl Chance {
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn wanted(&mut self, service: &str, number: usize) -> Wanted {
        let address = |chance: &mut Self| match chance.below(3) {
            0 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, chance.below(500) as u16)),
            _ => IpAddr::V4(Ipv4Addr::new(10, chance.below(2) as u8, 0, chance.below(250) as u8)),
        };
        let mut addresses: Vec<IpAddr> = (0..=self.below(3)).map(|_| address(self)).collect();
        addresses.sort_unstable_by_key(|_| self.0.next_u64());
        addresses.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        let location = match self.below(40) {
            0 => Location::Target(Name::parse("db.example.com").expect("a name")),
            _ => Location::Addresses(addresses.into()),
        };
        let mut ports = Vec::new();
        for name in [None].into_iter().chain(PORTS.map(Some)) {
            if self.below(3) == 0 {
                let transport = if self.below(4) == 0 { Transport::Udp } else { Transport::Tcp };
                ports.push(Port {
                    name: name.map(Into::into),
                    number: 1 + self.below(65_535) as u16,
                    transport,
                });
            }
        }
        Wanted {
            location,
            ports,
            tags: TAGS.into_iter().filter(|_| self.below(3) == 0).collect(),
            weight: self.pick(&[0, 1, 1, 1, 10, 65_535]),
            priority: self.pick(&[0, 0, 0, 1, 7]),
            lease: self.pick(&[Lease::None, Lease::None, Lease::Timed(Duration::from_secs(3))]),
            ..Wanted::new(service, &format!("i{number}"), &[], 1)
        }
    }

    /// Some services, with instances that are live, draining, ill, gone and held.
    pub fn registry(&mut self) -> Live {
        let mut live = Live::new(if self.below(4) == 0 { zones() } else { Zones::default() });
        for service in SERVICES {
            let number = self.pick(&[0, 1, 1, 2, 3, 5, 30, 90]);
            let guarded = self.below(3) == 0;
            let number = if guarded { self.pick(&[6, 8, 12]) } else { number };
            if guarded {
                let guard = self.pick(&[Some(1), Some(30)]);
                live.configure(service, ServiceSettings { guard, ..self.settings() });
            }
            let mut registered = Vec::new();
            for number in 0..number {
                let wanted = self.wanted(service, number);
                registered.push(wanted.clone());
                live.register(&wanted);
                match self.below(10) {
                    0 => live.drain(&wanted),
                    1 => live.report(&wanted, Health::Critical),
                    2 => live.report(&wanted, Health::Warning),
                    3 => live.deregister(&wanted),
                    _ => {}
                }
            }
            if guarded {
                // Enough of them expire or fail for the guard to begin, most of the time.
                live.wait(Duration::from_secs(1));
                live.wait(Duration::from_secs(2));
                registered.retain(|_| self.below(2) == 0);
                for wanted in registered.iter().filter(|wanted| wanted.lease == Lease::None) {
                    live.report_if_there(wanted, Health::Critical);
                }
            } else if self.below(3) > 0 {
                live.configure(service, self.settings());
            }
        }
        live.view.set_ready();
        if self.below(4) == 0 {
            live.view.set_stale(Some(live.now), live.now);
        }
        live
    }

    /// Balance and bounds, the usual ones spelt out among them.
    fn settings(&mut self) -> ServiceSettings {
        let balance = Balance { policy: self.pick(&Policy::ALL), one: self.below(6) == 0 };
        ServiceSettings {
            ttl: self.pick(&[None, Some(0), Some(60)]),
            balance: Some(balance).filter(|_| self.below(4) > 0),
            max_answers: self.pick(&[None, None, None, None, Some(0), Some(1), Some(2), Some(3)]),
            failover: match self.below(4) {
                0 => Some(["spare", "cache.example.com"].map(|name| Fallback::parse(name).unwrap()).into()),
                _ => None,
            },
            srv_weights: self.pick(&[None, Some(SrvWeights::Plain), Some(SrvWeights::Haproxy)]),
            ..ServiceSettings::default()
        }
    }

    /// Of networks with a region and without.
    pub fn client(&mut self) -> SocketAddr {
        let low = self.below(256) as u8;
        let address: IpAddr = match self.below(8) {
            0 => CLIENT.ip(),
            1 => Ipv4Addr::new(10, 2, low, 9).into(),
            2 => Ipv6Addr::new(0x2001, 0xdb8, 9, low.into(), 0, 0, 0, 9).into(),
            _ => Ipv4Addr::new(10, 1, low, 9).into(),
        };
        (address, CLIENT.port()).into()
    }

    pub fn qtype(&mut self) -> u16 {
        self.pick(&TYPES)
    }

    pub fn name(&mut self) -> Vec<Vec<u8>> {
        let (service, port, tag) = (self.pick(&SERVICES), self.pick(&PORTS), self.pick(&TAGS));
        let transport = self.pick(&["_tcp", "_udp"]);
        let instance = format!("i{}", self.below(6));
        let text = match self.below(12) {
            0..4 => service.to_owned(),
            4 => format!("_{service}.{transport}"),
            5 | 6 => format!("_{port}.{transport}.{service}"),
            7 => format!("_{service}._{tag}"),
            8 => format!("{tag}.{service}"),
            9 => format!("{instance}.{service}"),
            10 => format!("{instance}.x.{service}"),
            _ => self
                .pick(&["", "ns", "hostmaster", "_v1", "_tcp", "x.ns", "printer", "1.2.3.4.5.6", "no-such"])
                .to_owned(),
        };
        let mut labels: Vec<Vec<u8>> = text
            .split('.')
            .filter(|label| !label.is_empty())
            .map(|label| label.as_bytes().to_vec())
            .collect();
        match self.below(12) {
            0 if !labels.is_empty() => {
                // Another octet somewhere: mostly a name that nobody has.
                let at = self.below(labels.len());
                let octet = self.below(labels[at].len());
                labels[at][octet] = self.pick(b"xX_-\x00\x1f\x7f\xc3. ");
            }
            1 => labels.insert(0, self.pick(&[&b"x"[..], b"_x", b"\xc3\xbc", b"_tcp"]).to_vec()),
            _ => {}
        }
        let apex = self.pick(&[
            "service.local",
            "service.local",
            "service.local",
            "service.local",
            "local",
            "consul",
        ]);
        labels.extend(apex.split('.').map(|label| label.as_bytes().to_vec()));
        if self.below(4) == 0 {
            for octet in labels.iter_mut().flatten() {
                if self.below(2) == 0 {
                    octet.make_ascii_uppercase();
                }
            }
        }
        labels
    }

    /// Mostly none; else a cookie as this client has it at first, or one that it was given a while ago, or nearly one.
    fn options(&mut self, client: SocketAddr, now: Now) -> Vec<u8> {
        let cookie = match self.below(6) {
            0 => vec![7; 8],
            1 => {
                // Good, to be renewed, too old, and of the future.
                let age_ms = self.pick(&[0, 60, 2000, 3599, 3601, -200, -400]) * 1000;
                let then = Wall { unix_ms: now.wall.unix_ms - age_ms };
                let first = Cookie { client: [7; 8], server: &[] };
                let cookies = policy(true).cookies.expect("they have them");
                cookies.judge(&first, client.ip(), then).cookie.to_vec()
            }
            2 => vec![7; self.pick(&[0, 7, 9, 15, 16, 24, 40, 41])],
            _ => return Vec::new(),
        };
        let code = if self.below(10) == 0 { 3 } else { 10 };
        [&[0, code, 0, cookie.len() as u8], &cookie[..]].concat()
    }

    fn question(&mut self, client: SocketAddr, now: Now) -> Vec<u8> {
        let labels = self.name();
        self.question_for(&labels, client, now)
    }

    /// Asks for a name; flags, type and size are drawn.
    fn question_for(&mut self, labels: &[Vec<u8>], client: SocketAddr, now: Now) -> Vec<u8> {
        let mut message = (self.below(65_536) as u16).to_be_bytes().to_vec();
        let (flags, size) = (self.pick(&[0u16, 0x0100, 0x0110, 0x0120]), self.pick(&SIZES));
        for number in [flags, 1, 0, 0, u16::from(size > 0)] {
            message.extend(number.to_be_bytes());
        }
        for label in labels {
            message.push(label.len() as u8);
            message.extend(label);
        }
        message.extend([0, 0, 0, 0, 1]);
        let at = message.len() - 4;
        message[at..at + 2].copy_from_slice(&self.qtype().to_be_bytes());
        if size > 0 {
            message.extend([0, 0, 41]);
            message.extend(size.to_be_bytes());
            message.extend([0, 0, self.pick(&[0, 0x80]), 0]);
            let options = self.options(client, now);
            message.extend((options.len() as u16).to_be_bytes());
            message.extend(options);
        }
        // Now and then one octet of it is something else, and what comes of it may be anything.
        if self.below(20) == 0 {
            let at = self.below(message.len());
            message[at] ^= 1 << self.below(8);
        }
        message
    }
}

impl Live {
    /// The policy of the service that a question is about.
    fn policy_asked(&self, message: &[u8]) -> &'static str {
        let name = Name::from_wire(&message[12..]).expect("a name");
        let of = |label: &[u8]| {
            let label = label.strip_prefix(b"_").unwrap_or(label).to_ascii_lowercase();
            SERVICES.into_iter().find(|service| service.as_bytes() == label)
        };
        let service = name.labels().find_map(of).expect("a service of ours");
        self.view
            .settings_of(&ServiceName::parse(service).unwrap())
            .balance
            .unwrap_or_default()
            .policy
            .as_str()
    }
}

fn responder(live: &Live, policy: wire::Policy) -> Responder {
    Responder::new(live.view.clone(), policy, Clock::start())
}

/// What kind of reply the plain way gave; none where it gave none.
fn compare(responder: &Responder, live: &Live, arrival: &Arrival, message: &[u8]) -> Option<String> {
    let mut out = [0xaa; UDP_OCTETS_MAX];
    let octets = responder.reply_plainly(live.now, arrival, message, &mut out)?;
    let reply = &out[..octets];
    let expected = responder.accept_at(live.now, arrival, message);
    assert_eq!(Some(reply), expected.as_deref(), "to {message:02x?}");
    let read = read(reply).expect("a reply");
    let asked = u16::from_be_bytes([message[type_at(message)], message[type_at(message) + 1]]);
    let edns = match &read.opt {
        // The client's own comes back while it is good and young.
        Some(opt) if opt.options.iter().any(|(code, cookie)| *code == 10 && reply_says(message, cookie)) => {
            "good cookie"
        }
        Some(opt) if opt.options.iter().any(|(code, _)| *code == 10) => "cookie",
        Some(_) => "EDNS",
        None => "plain",
    };
    let kind = match (read.rcode(), message_counts(&out)) {
        (3, _) => "NXDOMAIN".to_owned(),
        (0, [0, ..]) => format!("no {}", if asked < 34 { asked } else { 0 }),
        (0, [1, ..]) => format!("one {asked}"),
        (0, _) => format!("many {asked}"),
        (rcode, _) => panic!("rcode {rcode} to {message:02x?}"),
    };
    let says = [
        ("cannot be followed", "stale: "),
        ("held by the guard", "held: "),
        ("no more are wanted", "bounded: "),
        (", near eu", "near: "),
    ];
    let said = says.into_iter().find(|(words, _)| reply_says(reply, words.as_bytes()));
    Some(format!("{}{kind}, {edns}", said.map_or("", |(_, said)| said)))
}

fn reply_says(reply: &[u8], words: &[u8]) -> bool {
    reply.windows(words.len()).any(|window| window == words)
}

/// Where the question's type stands.
fn type_at(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 1
}

/// Records of the answer, the authority and the additional section.
fn message_counts(reply: &[u8]) -> [u16; 3] {
    [6, 8, 10].map(|at| u16::from_be_bytes([reply[at], reply[at + 1]]))
}

#[test]
fn plain_replies_are_what_the_general_path_says() {
    let seed = std::env::var("CALLSIGN_SEED").map_or(0x5eed, |text| text.parse().expect("a number"));
    println!("plain: seed {seed}");
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut policies: BTreeMap<&str, usize> = BTreeMap::new();
    for view in 0..VIEWS {
        let mut chance = Chance(Draws::new(seed ^ view << 20));
        let mut live = chance.registry();
        let responder = responder(&live, policy(true));
        for number in 0..QUESTIONS {
            let client = chance.client();
            let message = chance.question(client, live.now);
            let arrival = Arrival { client, over: Over::Udp, draw: chance.0.next_u64() };
            let kind = compare(&responder, &live, &arrival, &message);
            if kind.as_ref().is_some_and(|kind| kind.contains("many")) {
                *policies.entry(live.policy_asked(&message)).or_default() += 1;
            }
            *kinds.entry(kind.unwrap_or_else(|| "general".to_owned())).or_default() += 1;
            if number % 20 == 0 {
                let wanted = chance.wanted("web", number);
                live.register(&wanted);
            }
        }
    }
    println!("plain: {kinds:#?}, of many records {policies:?}");
    for edns in ["cookie", "EDNS", "plain"] {
        for kind in [
            "NXDOMAIN", "no 0", "no 1", "no 28", "no 33", "one 1", "one 28", "one 33", "many 1", "many 28",
            "many 33",
        ] {
            let kind = format!("{kind}, {edns}");
            let count = kinds.get(&kind).copied().unwrap_or_default();
            assert!(count > 50, "{kind}: {count} are too few to show anything");
        }
    }
    for kind in ["held: many 1", "held: many 28", "held: many 33"] {
        let count = kinds.get(&format!("{kind}, EDNS")).copied().unwrap_or_default();
        assert!(count > 50, "{kind}: {count} are too few to show anything");
    }
    for kind in ["bounded: one", "bounded: many", "near: ", "stale: one", "stale: many", "stale: NXDOMAIN"] {
        let count: usize =
            kinds.iter().filter(|(own, _)| own.starts_with(kind)).map(|(_, count)| count).sum();
        assert!(count > 20, "{kind}: {count} are too few to show anything");
    }
    let good: usize =
        kinds.iter().filter(|(kind, _)| kind.ends_with("good cookie")).map(|(_, count)| count).sum();
    assert!(good > 500, "{good} good cookies are too few to show anything");
    for policy in Policy::ALL {
        let count = policies.get(policy.as_str()).copied().unwrap_or_default();
        assert!(count > 50, "{policy:?}: {count} are too few to show anything");
    }
    // Half of the questions are odd ones; were all of them asked of the general path, nothing would be shown.
    let general = kinds["general"];
    assert!(general < VIEWS as usize * QUESTIONS * 2 / 3, "{general} were asked of the general path");
}

/// Questions about static zones.
const STATIC_QUESTIONS: usize = 40_000;

#[test]
fn plain_replies_from_files_are_what_the_general_path_says() {
    let seed = std::env::var("CALLSIGN_SEED").map_or(0x5eed, |text| text.parse().expect("a number"));
    println!("files: seed {seed}");
    let mut chance = Chance(Draws::new(seed));
    let mut live = services();
    live.view.set_ready();
    let responder = responder(&live, policy(true));
    // A zone that the one above has no name of, nor of what is between them.
    let mut zones = zones();
    zones.primary.push(zone("far.deep.corp.test.", Kind::Primary, "@ 60 SOA ns h 1 2 3 4 5\n@ 60 NS ns\n"));
    live.view.set_zones(&live.registry, zones);
    let zones = live.view.zones();
    let mut names: Vec<Name> =
        zones.primary.iter().flat_map(|zone| zone.nodes()).map(|node| node.name.clone()).collect();
    names.push(Name::parse("deep.corp.test").expect("a name"));
    let labels: Vec<Vec<u8>> = names.iter().flat_map(Name::labels).map(<[u8]>::to_vec).collect();
    let (mut plain, mut kinds) = (0, BTreeMap::<(u16, bool, bool), usize>::new());
    for number in 0..STATIC_QUESTIONS {
        // Labels of the zones in front of their names, so that a reply could point at more of the question.
        let name = &names[chance.below(names.len())];
        let mut asked: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
        for _ in 0..chance.pick(&[0, 0, 1, 1, 2]) {
            let label = match chance.below(4) {
                0 => b"x".to_vec(),
                1 => vec![chance.below(4) as u8],
                _ => labels[chance.below(labels.len())].clone(),
            };
            asked.insert(0, label);
        }
        if chance.below(4) == 0 {
            asked.iter_mut().flatten().for_each(u8::make_ascii_uppercase);
        }
        if asked.iter().map(|label| label.len() + 1).sum::<usize>() > 254 {
            continue;
        }
        let client = chance.client();
        let message = chance.question_for(&asked, client, live.now);
        let arrival = Arrival { client, over: Over::Udp, draw: chance.0.next_u64() };
        let mut out = [0xaa; UDP_OCTETS_MAX];
        if let Some(octets) = responder.reply_plainly(live.now, &arrival, &message, &mut out) {
            let expected = responder.accept_at(live.now, &arrival, &message);
            assert_eq!(Some(&out[..octets]), expected.as_deref(), "to {message:02x?}");
            let read = read(&out[..octets]).expect("a reply");
            let [answers, ..] = message_counts(&out);
            *kinds.entry((read.rcode(), read.authoritative(), answers > 0)).or_default() += 1;
            plain += 1;
        }
        // What is kept lasts while something else changes.
        if number % 1000 == 0 {
            live.register(&chance.wanted("web", number));
        }
    }
    println!("files: {plain} plain, {kinds:?}");
    let (no_error, name_error) = (0, 3);
    for kind in [
        (no_error, true, true),
        (no_error, true, false),
        (no_error, false, false),
        (name_error, true, false),
        (name_error, true, true),
    ] {
        let count = kinds.get(&kind).copied().unwrap_or_default();
        assert!(count > 50, "{kind:?}: {count} are too few to show anything");
    }
    assert!(plain > STATIC_QUESTIONS / 3, "only {plain} were answered plainly");
}

#[test]
fn the_rows_too_are_answered_alike() {
    let (rows, _) = query::read(ROWS);
    let live = services();
    live.view.set_ready();
    for named in [false, true] {
        let responder = responder(&live, policy(named));
        let mut plain = 0;
        for row in &rows {
            for port in [0, 1, 53, 40_000] {
                let client = SocketAddr::new(CLIENT.ip(), port);
                let arrival = Arrival { client, over: Over::Udp, draw: u64::from(port) };
                plain += usize::from(compare(&responder, &live, &arrival, &row.query).is_some());
            }
        }
        assert!(plain > 100, "{plain} of {} rows, each four times", rows.len());
    }
}

#[test]
fn nothing_is_plain_until_the_registry_is_loaded() {
    let live = services();
    let responder = responder(&live, wire::Policy::default());
    let arrival = Arrival { client: CLIENT, over: Over::Udp, draw: 1 };
    let mut chance = Chance(Draws::new(1));
    for _ in 0..1000 {
        let (question, mut out) = (chance.question(CLIENT, live.now), [0; UDP_OCTETS_MAX]);
        assert_eq!(responder.reply_plainly(live.now, &arrival, &question, &mut out), None);
    }
}
