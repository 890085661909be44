//! Valid queries: every name of the zones, what is above, below and beside it, of every type, in any case and size.

use std::collections::BTreeSet;

use callsign::name::Name;

use crate::harness::Draws;
use crate::zone::Zone;

/// Types that are asked for; the last is one that nobody has.
const TYPES: [u16; 14] = [1, 28, 33, 16, 12, 65, 64, 2, 6, 15, 5, 48, 43, 65_281];
/// Sizes of the OPT record; 0 is none. What a client offers above 1,232 no server here takes.
const SIZES: [u16; 6] = [0, 0, 512, 600, 1232, 4096];

/// From one pair of name and type to the next: a prime larger than their number, so that each comes once before one
/// comes again, and neighbours are far apart.
const STRIDE: usize = 2_147_483_647;

pub struct Query {
    pub name: Name,
    pub qtype: u16,
    pub size: u16,
    pub tcp: bool,
    pub octets: Vec<u8>,
}

pub struct Queries {
    names: Vec<Name>,
    /// Names that are an alias in a zone file, and in the registry something besides: only addresses are asked for.
    aliases: BTreeSet<String>,
    draws: Draws,
    next: usize,
}

impl Queries {
    pub fn new(zones: &[Zone], draws: Draws) -> Self {
        let (mut names, mut aliases) = (BTreeSet::new(), BTreeSet::new());
        for zone in zones {
            for (owner, sets) in &zone.sets {
                let name = Name::parse(owner).expect("an owner name");
                if sets.contains_key("CNAME") {
                    aliases.insert(name.to_string());
                }
                // What is above is there too, down to the apex and beyond.
                names.extend((0..=name.labels().count()).map(|count| name.last_labels(count).to_string()));
            }
        }
        for text in ["x.lab", "y.x.lab"] {
            names.insert(format!("{text}.{}.", zones[0].apex));
        }
        let names = names.iter().map(|name| Name::parse(name).expect("a name")).collect();
        Self { names, aliases, draws, next: 0 }
    }

    /// How many different questions for names that are there.
    pub fn pairs(&self) -> usize {
        self.names.len() * TYPES.len()
    }

    /// The next queries; their ids are their places.
    pub fn next_window(&mut self, count: usize) -> Vec<Query> {
        (0..count).map(|id| self.draw(id as u16)).collect()
    }

    /// Every pair of name and type once, and between them names that are not there.
    fn draw(&mut self, id: u16) -> Query {
        let (name, mut qtype) = match self.draws.below(3) {
            0 => (self.miss(), TYPES[self.draws.below(TYPES.len())]),
            _ => {
                self.next = (self.next + STRIDE) % (self.names.len() * TYPES.len());
                (self.names[self.next / TYPES.len()].clone(), TYPES[self.next % TYPES.len()])
            }
        };
        if self.aliases.contains(&name.to_lowercase().to_string()) && !matches!(qtype, 1 | 28) {
            qtype = 1;
        }
        let size = SIZES[self.draws.below(SIZES.len())];
        let tcp = self.draws.below(16) == 0;
        let name = self.in_any_case(&name);
        let octets = octets_of(&mut self.draws, id, &name, qtype, size);
        Query { name, qtype, size, tcp, octets }
    }

    /// A name that is nearly there: a label more, one octet otherwise, or one of its labels gone.
    fn miss(&mut self) -> Name {
        let name = self.names[self.draws.below(self.names.len())].clone();
        let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
        let more = [&b"x"[..], b"_x", b"_tcp", b"*", b"v1", b"_sub", b"\xff", b"n1"];
        match self.draws.below(3) {
            0 => labels.insert(0, more[self.draws.below(more.len())].to_vec()),
            1 if !labels.is_empty() => {
                let label = self.draws.below(labels.len());
                let octet = self.draws.below(labels[label].len());
                labels[label][octet] ^= 1 << self.draws.below(3);
            }
            _ if labels.len() > 1 => drop(labels.remove(self.draws.below(labels.len()))),
            _ => {}
        }
        let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        Name::root().prepend_all(&labels).unwrap_or(name)
    }

    fn in_any_case(&mut self, name: &Name) -> Name {
        let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
        if self.draws.below(2) == 0 {
            for octet in labels.iter_mut().flatten() {
                if octet.is_ascii_alphabetic() && self.draws.below(2) == 0 {
                    *octet ^= 0x20;
                }
            }
        }
        let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        Name::root().prepend_all(&labels).expect("as long as before")
    }
}

/// A query in wire form; flags that make no difference are drawn.
pub fn octets_of(draws: &mut Draws, id: u16, name: &Name, qtype: u16, size: u16) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    // RD, which none of the servers serves, now and then.
    let flags: u16 = if draws.below(2) == 0 { 0x0100 } else { 0 };
    for number in [flags, 1, 0, 0, u16::from(size > 0)] {
        octets.extend(number.to_be_bytes());
    }
    octets.extend(name.as_wire());
    octets.extend(qtype.to_be_bytes());
    octets.extend([0, 1]);
    if size > 0 {
        octets.extend([0, 0, 41]);
        octets.extend(size.to_be_bytes());
        // DO, which signs nothing here, now and then.
        octets.extend([0, 0, if draws.below(2) == 0 { 0x80 } else { 0 }, 0, 0, 0]);
    }
    octets
}
