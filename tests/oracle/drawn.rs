//! Static zones drawn from a seed: everything that a zone file may say, over few labels, so that names meet. And questions
//! about them.
//!
//! A group is up to four zones that point at each other, one or two of them within another. What every server refuses (data
//! beside a CNAME, names below a DNAME) is not drawn, nor is what BIND refuses: NS at a wildcard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use callsign::name::Name;

use crate::harness::Draws;
use crate::judges::File;
use crate::queries::{Query, octets_of};

/// The usual ones more often, so that names meet.
const LABELS: [&str; 16] =
    ["a", "b", "c", "a", "b", "c", "a", "b", "d", "*", "*", "ns", "_tcp", "x\\.y", "\\000", "e\\032f"];
const TTLS: [u32; 6] = [0, 5, 60, 300, 3600, 86_400];
/// Types that are asked for; 65281 nobody has.
const TYPES: [u16; 22] =
    [1, 1, 1, 1, 1, 1, 28, 28, 2, 5, 6, 12, 15, 16, 33, 35, 39, 43, 64, 65, 65_280, 65_281];
/// Questions about each group.
pub const QUESTIONS: usize = 60;
const EVERY_TYPE: [(&str, u16); 16] = [
    ("A", 1),
    ("AAAA", 28),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DNAME", 39),
    ("DS", 43),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("CAA", 257),
    ("TYPE65280", 65_280),
];

/// A name's records: TTL and data by type.
type Sets = BTreeMap<&'static str, (u32, BTreeSet<String>)>;

/// A zone as it grows; owners in lower-case wire form.
struct Zone {
    apex: Name,
    owners: BTreeMap<Vec<u8>, (Name, Sets)>,
}

/// Some zones that know of each other.
pub struct Group {
    zones: Vec<Zone>,
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn key(name: &Name) -> Vec<u8> {
    name.to_lowercase().as_wire().to_vec()
}

impl Draws {
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn chance(&mut self, of_100: usize) -> bool {
        self.below(100) < of_100
    }

    /// A name of up to three labels below `above`.
    fn below_name(&mut self, above: &Name) -> Name {
        let depth = *self.pick(&[1, 1, 1, 2, 2, 3]);
        let mut owner = above.clone();
        for _ in 0..depth {
            let label = name(&format!("{}.", self.pick(&LABELS)));
            let label = label.labels().next().expect("one label");
            owner = owner.prepend_all(&[label]).unwrap_or(owner);
        }
        owner
    }

    fn any_case(&mut self, name: &Name) -> Name {
        let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
        for octet in labels.iter_mut().flatten() {
            if octet.is_ascii_alphabetic() && self.below(2) == 0 {
                *octet ^= 0x20;
            }
        }
        let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        Name::root().prepend_all(&labels).expect("as long as before")
    }
}

impl Zone {
    fn has(&self, owner: &Name, rtype: &str) -> bool {
        self.owners.get(&key(owner)).is_some_and(|(_, sets)| sets.contains_key(rtype))
    }

    fn file(&self, draws: &mut Draws) -> File {
        let mut text = String::new();
        // The SOA comes first in a file.
        for first in [true, false] {
            for (owner, sets) in self.owners.values() {
                let owner = if draws.chance(20) { draws.any_case(owner) } else { owner.clone() };
                for (rtype, (ttl, data)) in sets.iter().filter(|(rtype, _)| (**rtype == "SOA") == first) {
                    for data in data {
                        writeln!(text, "{owner} {ttl} IN {rtype} {data}").expect("a text");
                    }
                }
            }
        }
        File { apex: self.apex.to_string().trim_end_matches('.').to_owned(), text }
    }
}

impl Group {
    /// Adds a record, unless some server would refuse a zone for it; NSD looks at names below a DNAME in all its zones.
    fn add(
        &mut self,
        at: usize,
        owner: &Name,
        rtype: &'static str,
        ttl: u32,
        data: impl Into<String>,
    ) -> bool {
        let zone = &self.zones[at];
        let at_apex = *owner == zone.apex;
        let none = Sets::new();
        let sets = zone.owners.get(&key(owner)).map_or(&none, |(_, sets)| sets);
        let is_wildcard = owner.labels().next() == Some(b"*");
        let owners = || self.zones.iter().flat_map(|zone| zone.owners.values());
        let is_below = |name: &Name, above: &Name| name != above && name.is_within(above);
        let hidden = owners().any(|(other, sets)| sets.contains_key("DNAME") && is_below(owner, other));
        let fits = owner.is_within(&zone.apex)
            && !hidden
            && !sets.contains_key("CNAME")
            && (rtype != "A" || !sets.contains_key("DS"))
            && match rtype {
                "CNAME" => !at_apex && sets.is_empty(),
                "DNAME" => {
                    let above_some = owners().any(|(other, _)| is_below(other, owner));
                    let above_zone =
                        self.zones.iter().any(|other| other.apex != zone.apex && other.apex.is_within(owner));
                    let may_be = at_apex || !sets.contains_key("NS");
                    may_be && !sets.contains_key("DNAME") && !is_wildcard && !above_some && !above_zone
                }
                "NS" => !is_wildcard && (at_apex || !sets.contains_key("DNAME")),
                // BIND takes DS at the name of a server for one at the apex, where the address comes first.
                "DS" => !at_apex && sets.contains_key("NS") && !sets.contains_key("A"),
                _ => true,
            };
        if fits {
            let owners = &mut self.zones[at].owners;
            let (_, sets) = owners.entry(key(owner)).or_insert_with(|| (owner.clone(), Sets::new()));
            sets.entry(rtype).or_insert((ttl, BTreeSet::new())).1.insert(data.into());
        }
        fits
    }

    pub fn draw(number: usize, draws: &mut Draws) -> Self {
        let mut apexes = vec![name(&format!("g{number}.test"))];
        if draws.chance(50) {
            apexes.push(name(&format!("a.g{number}.test")));
            if draws.chance(30) {
                apexes.push(name(&format!("b.c.a.g{number}.test")));
            }
        }
        if draws.chance(50) {
            apexes.push(name(&format!("h{number}.test")));
        }
        let zones = apexes.into_iter().map(|apex| Zone { apex, owners: BTreeMap::new() }).collect();
        let mut group = Self { zones };
        for at in 0..group.zones.len() {
            group.fill(at, draws);
        }
        group
    }

    pub fn apexes(&self) -> Vec<Name> {
        self.zones.iter().map(|zone| zone.apex.clone()).collect()
    }

    pub fn files(&self, draws: &mut Draws) -> Vec<File> {
        self.zones.iter().map(|zone| zone.file(draws)).collect()
    }

    /// The records of one zone.
    fn fill(&mut self, at: usize, draws: &mut Draws) {
        let apex = self.zones[at].apex.clone();
        let (ttl, minimum) = (*draws.pick(&TTLS), *draws.pick(&TTLS));
        let mname = self.target(at, draws);
        self.add(at, &apex, "SOA", ttl, format!("{mname} hostmaster.{apex} 1 3600 600 86400 {minimum}"));
        // A DNAME at the apex leaves no name below it.
        let alone = !self.zones.iter().any(|zone| zone.apex != apex && zone.apex.is_within(&apex));
        let renamed = alone && draws.chance(8);
        let ttl = *draws.pick(&TTLS);
        // BIND takes no zone whose own servers have no address in it.
        let server = match draws.below(6) {
            _ if renamed => name("ns.other.example"),
            0 => name("ns.other.example"),
            1 => apex.clone(),
            2 => name(&format!("ns.a.{apex}")),
            _ => name(&format!("ns.{apex}")),
        };
        let found = !server.is_within(&apex) || self.add(at, &server, "A", ttl, "10.5.0.1");
        let server = if found { server } else { name("ns.other.example") };
        self.add(at, &apex, "NS", ttl, server.to_string());
        if renamed {
            let target = self.target(at, draws);
            self.add(at, &apex, "DNAME", *draws.pick(&TTLS), target.to_string());
            return;
        }
        // The zones within this one, mostly as they should be.
        for child in 0..self.zones.len() {
            let child = self.zones[child].apex.clone();
            if child != apex && child.is_within(&apex) && draws.chance(80) {
                self.cut(at, &child, draws);
            }
        }
        if draws.chance(15) {
            self.chain(at, draws);
        }
        for _ in 0..4 + draws.below(24) {
            let owner = if draws.chance(4) { apex.clone() } else { draws.below_name(&apex) };
            self.record(at, &owner, draws);
        }
    }

    fn record(&mut self, at: usize, owner: &Name, draws: &mut Draws) {
        let ttl = *draws.pick(&TTLS);
        let target = self.target(at, draws);
        let byte = draws.below(200);
        match draws.below(100) {
            0..18 => {
                for more in 0..=draws.below(3) {
                    self.add(at, owner, "A", ttl, format!("10.0.{byte}.{more}"));
                }
            }
            18..26 => drop(self.add(at, owner, "AAAA", ttl, format!("2001:db8::{byte:x}"))),
            26..32 => drop(self.add(
                at,
                owner,
                "TXT",
                ttl,
                format!("\"{byte}\" \"\" \"a;b\\\"\" {}", "x".repeat(byte)),
            )),
            32..38 => drop(self.add(at, owner, "MX", ttl, format!("{byte} {target}"))),
            38..42 => drop(self.add(at, owner, "SRV", ttl, format!("1 2 {byte} {target}"))),
            42 => drop(self.add(at, owner, "SRV", ttl, "0 0 0 .")),
            43..60 => drop(self.add(at, owner, "CNAME", ttl, target.to_string())),
            60..68 => {
                let long = format!("{}.{}.{}.{target}", "l".repeat(63), "m".repeat(63), "n".repeat(55));
                let target = if draws.chance(15) { long } else { target.to_string() };
                self.add(at, owner, "DNAME", ttl, target);
            }
            68..80 => self.cut(at, owner, draws),
            80..84 => {
                let text = match draws.below(4) {
                    0 => "1 . alpn=h2".to_owned(),
                    1 => format!("0 {target}"),
                    2 => format!("1 {target} port=8443 ipv4hint=10.0.0.1"),
                    _ => format!("16 {target}"),
                };
                let rtype = if draws.chance(70) { "HTTPS" } else { "SVCB" };
                self.add(at, owner, rtype, ttl, text);
            }
            84..87 => drop(self.add(at, owner, "NAPTR", ttl, format!("1 {byte} \"s\" \"x\" \"\" {target}"))),
            87..90 => drop(self.add(at, owner, "TYPE65280", ttl, format!("\\# 2 00{byte:02x}"))),
            90..93 => drop(self.add(at, owner, "PTR", ttl, target.to_string())),
            93..95 => drop(self.add(at, owner, "CAA", ttl, "0 issue \"ca.example\"")),
            _ => {
                // Names between that have nothing.
                let between = draws.below_name(owner);
                let deep = draws.below_name(&between);
                self.add(at, &deep, "A", ttl, format!("10.1.{byte}.1"));
            }
        }
    }

    /// Another zone begins at `owner`: name servers within it, beside it and elsewhere, with addresses or without.
    fn cut(&mut self, at: usize, owner: &Name, draws: &mut Draws) {
        let ttl = *draws.pick(&TTLS);
        if *owner == self.zones[at].apex {
            return;
        }
        for _ in 0..=draws.below(3) {
            let cuts: Vec<Name> = self.zones[at]
                .owners
                .values()
                .filter(|(_, sets)| sets.contains_key("NS"))
                .map(|(owner, _)| owner.clone())
                .collect();
            let server = match draws.below(10) {
                0..5 => draws.below_name(owner),
                5..7 => {
                    let other = draws.pick(&cuts).clone();
                    draws.below_name(&other)
                }
                7 => owner.clone(),
                _ => self.target(at, draws),
            };
            if server.labels().next() == Some(b"*") || !self.add(at, owner, "NS", ttl, server.to_string()) {
                continue;
            }
            if draws.chance(80) {
                self.add(at, &server, "A", ttl, format!("10.2.{}.{}", draws.below(250), draws.below(250)));
            }
            if draws.chance(30) {
                self.add(at, &server, "AAAA", ttl, format!("2001:db8:2::{:x}", draws.below(250)));
            }
        }
        if draws.chance(30) {
            let digest = format!("{:064x}", draws.below(1 << 30));
            self.add(at, owner, "DS", *draws.pick(&TTLS), format!("1 13 2 {digest}"));
        }
        if draws.chance(30) && self.zones[at].has(owner, "NS") {
            let hidden = draws.below_name(owner);
            let rtype = *draws.pick(&["A", "TXT", "MX"]);
            let data = if rtype == "A" {
                "10.3.0.1"
            } else if rtype == "TXT" {
                "hidden"
            } else {
                "1 ns.other.example."
            };
            self.add(at, &hidden, rtype, ttl, data);
        }
    }

    /// Aliases one after the other, in a circle or to an end.
    fn chain(&mut self, at: usize, draws: &mut Draws) {
        let apex = self.zones[at].apex.clone();
        let link = |number: usize| name(&format!("k{number}.{apex}"));
        let links = 2 + draws.below(14);
        for number in 0..links {
            self.add(at, &link(number), "CNAME", 60, link(number + 1).to_string());
        }
        let end = match draws.below(4) {
            0 => link(draws.below(links)),
            1 => self.target(at, draws),
            2 => {
                self.add(at, &link(links), "A", 60, "10.4.0.1");
                return;
            }
            _ => return,
        };
        self.add(at, &link(links), "CNAME", 60, end.to_string());
    }

    /// What a record may point at: in this zone most of the time, there or not; in another one, or nowhere.
    fn target(&self, at: usize, draws: &mut Draws) -> Name {
        let zone = &self.zones[at];
        match draws.below(12) {
            0..5 => draws.below_name(&zone.apex).to_lowercase(),
            5..8 if !zone.owners.is_empty() => {
                let owners: Vec<&Name> = zone.owners.values().map(|(owner, _)| owner).collect();
                draws.pick(&owners).to_lowercase()
            }
            8 => zone.apex.clone(),
            9 | 10 => {
                let other = draws.pick(&self.zones).apex.clone();
                draws.below_name(&other).to_lowercase()
            }
            _ => name("host.other.example"),
        }
    }

    /// A question about a name that is there, above, below or beside one.
    pub fn question(&self, id: u16, draws: &mut Draws) -> Query {
        let zone = draws.pick(&self.zones);
        let owners: Vec<&(Name, Sets)> = zone.owners.values().collect();
        let (owner, sets) = draws.pick(&owners);
        let mut types = TYPES.to_vec();
        let known =
            EVERY_TYPE.into_iter().filter(|(text, _)| sets.contains_key(text)).map(|(_, number)| number);
        types.extend(known.flat_map(|number| [number; 8]));
        let asked = match draws.below(20) {
            0..6 => owner.clone(),
            6..8 => owner.last_labels(owner.labels().count() - draws.below(2)),
            8..14 => draws.below_name(owner),
            14..16 => draws.below_name(&zone.apex),
            16 => self.target(0, draws),
            17 => name(&format!("k{}.{}", draws.below(8), zone.apex)),
            18 => {
                // Long enough for what a DNAME makes of it to be too long.
                let label = "z".repeat(20 + draws.below(43));
                let renamed: Vec<_> = owners.iter().filter(|(_, sets)| sets.contains_key("DNAME")).collect();
                let owner = if renamed.is_empty() { owner } else { &draws.pick(&renamed).0 };
                owner.prepend_all(&[label.as_bytes(); 2]).unwrap_or_else(|_| owner.clone())
            }
            _ => name("www.nowhere.example"),
        };
        let asked = if draws.chance(20) { draws.any_case(&asked) } else { asked };
        let qtype = *draws.pick(&types);
        let size = if draws.chance(90) { 1232 } else { 0 };
        let tcp = draws.chance(3);
        let octets = octets_of(draws, id, &asked, qtype, size);
        Query { name: asked, qtype, size, tcp, octets }
    }
}
