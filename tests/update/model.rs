//! Random messages against a naive zone: the rules of RFC 2136 as they are written there, on lists.
//!
//! What is compared is the rcode of each message, and the zone as a secondary has it: from time to time whole, and by
//! differences, through restarts.

use std::collections::{BTreeMap, BTreeSet};

use crate::Updated;
use crate::harness::{Draws, seed};
use crate::message::{APEX, Update, full};
use crate::secondary::{Came, Line, Secondary, transfer};

/// Messages where nobody says how many.
const MESSAGES: usize = 600;
/// Names as they are written in a message; none is a service's.
const NAMES: [&str; 9] = ["a", "b", "x.a", "y.x.a", "*.b", "deep.er.c", "_t._s", "A", "service.local."];
/// Types, and data of each.
const DATA: [(&str, [&str; 3]); 4] = [
    ("A", ["10.1.0.1", "10.1.0.2", "10.1.0.3"]),
    ("MX", ["1 a.service.local.", "2 a.service.local.", "1 mail.example.com."]),
    ("CNAME", ["a.service.local.", "www.example.com.", "b.service.local."]),
    ("TXT", ["one", "two", "three"]),
];

type Key = (String, &'static str);

/// Sets by owner, in lower case, and type: a TTL and data.
#[derive(Clone, Default, PartialEq)]
struct Zone(BTreeMap<Key, (u32, BTreeSet<&'static str>)>);

impl Zone {
    fn types(&self, owner: &str) -> Vec<&'static str> {
        self.0.keys().filter(|(of, _)| of == owner).map(|(_, rtype)| *rtype).collect()
    }

    fn add(&mut self, owner: &str, rtype: &'static str, ttl: u32, data: &'static str) {
        let types = self.types(owner);
        let others = types.iter().any(|other| (*other == "CNAME") != (rtype == "CNAME"));
        if others {
            return;
        }
        let set = self.0.entry((owner.to_owned(), rtype)).or_default();
        if rtype == "CNAME" {
            set.1.clear();
        }
        set.0 = ttl;
        set.1.insert(data);
    }

    fn remove(&mut self, owner: &str, rtype: &'static str, data: &'static str) {
        let key = (owner.to_owned(), rtype);
        if let Some((_, set)) = self.0.get_mut(&key) {
            set.remove(data);
            if set.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// As a secondary has it.
    fn lines(&self) -> BTreeSet<Line> {
        let lines = self.0.iter().flat_map(|((owner, rtype), (ttl, data))| {
            data.iter()
                .map(move |data| (owner.clone(), rtype.parse().expect("a type"), *ttl, (*data).to_owned()))
        });
        lines.collect()
    }
}

/// One message in words, and what becomes of the zone.
fn message(zone: &mut Zone, draws: &mut Draws) -> (Update, &'static str) {
    let (mut update, mut after, mut rcode) = (Update::empty(), zone.clone(), "NOERROR");
    let pick = |draws: &mut Draws| {
        let name = NAMES[draws.below(NAMES.len())];
        let (rtype, data) = &DATA[draws.below(DATA.len())];
        (name, full(name).to_lowercase().to_string(), *rtype, data[draws.below(3)])
    };
    for _ in 0..draws.below(3) {
        let (name, owner, rtype, _) = pick(draws);
        let apex = owner == APEX;
        let set = zone.0.get(&(owner.clone(), rtype)).map(|(_, data)| data.clone());
        let (line, holds, unmet) = match draws.below(5) {
            0 => (format!("yx {name}"), apex || !zone.types(&owner).is_empty(), "NXDOMAIN"),
            1 => (format!("nx {name}"), !apex && zone.types(&owner).is_empty(), "YXDOMAIN"),
            2 => (format!("yxset {name} {rtype}"), set.is_some(), "NXRRSET"),
            3 => (format!("nxset {name} {rtype}"), set.is_none(), "YXRRSET"),
            _ => {
                let (_, data) = DATA.iter().find(|(known, _)| *known == rtype).expect("a known type");
                let wanted: BTreeSet<&str> = match (&set, draws.below(4)) {
                    (Some(set), 1..) => set.clone(),
                    _ => data[..1 + draws.below(3)].iter().copied().collect(),
                };
                for data in &wanted {
                    assert!(update.says(&format!("is {name} {rtype} {data}")));
                }
                // Of a set that is demanded all the sets are looked at last.
                if set.as_ref() != Some(&wanted) {
                    rcode = if rcode == "NOERROR" { "NXRRSET" } else { rcode };
                }
                return (update, finish(zone, after, rcode));
            }
        };
        assert!(update.says(&line));
        if !holds && rcode == "NOERROR" {
            rcode = unmet;
        }
    }
    for _ in 0..1 + draws.below(6) {
        let (name, owner, rtype, data) = pick(draws);
        let apex = owner == APEX;
        let line = match draws.below(8) {
            0 => {
                after.0.retain(|(of, _), _| *of != owner);
                format!("del {name}")
            }
            1 => {
                after.0.remove(&(owner, rtype));
                format!("delset {name} {rtype}")
            }
            2 | 3 => {
                after.remove(&owner, rtype, data);
                format!("delrr {name} {rtype} {data}")
            }
            // At the apex there is a SOA, so an alias is passed over: we refuse it, which a client hears.
            _ if apex && rtype == "CNAME" => continue,
            _ => {
                let ttl = 60 + draws.below(2) as u32;
                after.add(&owner, rtype, ttl, data);
                format!("add {name} {ttl} {rtype} {data}")
            }
        };
        assert!(update.says(&line));
    }
    (update, finish(zone, after, rcode))
}

fn finish(zone: &mut Zone, after: Zone, rcode: &'static str) -> &'static str {
    if rcode == "NOERROR" {
        *zone = after;
    }
    rcode
}

#[test]
fn random_messages_do_what_rfc_2136_says() {
    let seed = seed();
    let messages = match std::env::var("CALLSIGN_CHANGES") {
        Ok(text) => text.parse().expect("CALLSIGN_CHANGES is a number"),
        Err(_) => MESSAGES,
    };
    println!("update: seed {seed}");
    let mut updated = Updated::start(&[]);
    let mut draws = Draws(seed);
    let whole = |updated: &Updated| -> Came {
        transfer(updated.server.dns[0], APEX, None).unwrap_or_else(|said| panic!("no zone but {said}"))
    };
    let mut secondary = Secondary::new(&whole(&updated));
    let own: BTreeSet<Line> = secondary.lines.clone();
    let mut zone = Zone::default();
    let mut way = updated.udp();
    let (mut carried_out, mut instead) = (0, 0);
    for number in 0..messages {
        let (update, rcode) = message(&mut zone, &mut draws);
        let said = way.say(&update);
        assert_eq!(said.rcode, rcode, "message {number}: {said:?} {update:?}");
        carried_out += usize::from(rcode == "NOERROR");
        if draws.below(8) == 0 {
            let came = transfer(updated.server.dns[0], APEX, Some(secondary.serial))
                .unwrap_or_else(|said| panic!("{said}"));
            match came.records.len() > 1 && !came.is_difference() {
                true => {
                    instead += 1;
                    secondary = Secondary::new(&came);
                }
                false => secondary.apply(&came).expect("a difference that fits"),
            }
            let is_soa = |line: &&Line| line.1 == hickory_proto::rr::RecordType::SOA;
            let theirs: BTreeSet<Line> =
                secondary.lines.iter().filter(|line| !is_soa(line)).cloned().collect();
            let ours = own.iter().filter(|line| !is_soa(line)).cloned().chain(zone.lines()).collect();
            assert_eq!(theirs, ours, "after message {number}");
        }
        if draws.below(150) == 0 {
            let killed = draws.below(2) == 0;
            updated.restart(killed);
            way = updated.udp();
        }
    }
    let mut fresh = Secondary::new(&whole(&updated));
    let came =
        transfer(updated.server.dns[0], APEX, Some(secondary.serial)).unwrap_or_else(|said| panic!("{said}"));
    if came.records.len() == 1 || came.is_difference() {
        secondary.apply(&came).expect("a difference that fits");
        secondary.lines.retain(|line| line.1 != hickory_proto::rr::RecordType::SOA);
        fresh.lines.retain(|line| line.1 != hickory_proto::rr::RecordType::SOA);
        assert_eq!(secondary.lines, fresh.lines, "differences lead to the whole");
    }
    println!(
        "update: {carried_out} of {messages} messages carried out, {instead} whole zones instead of a difference"
    );
    assert!(carried_out > messages / 4, "most messages are carried out");
}
