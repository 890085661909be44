//! Compact denial of existence (RFC 9824): one NSEC at the name that is asked for, which says what is there, and denies
//! nothing else: the name behind it is the next one that there can be.

use crate::name::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX, Name};
use crate::record::{Data, Type};

/// NSEC at a name with these types, beside its own two (RFC 4034 section 4.1).
pub fn nsec(next: &Name, types: &[Type]) -> Data {
    let mut types: Vec<Type> = types.iter().copied().chain([Type::RRSIG, Type::NSEC]).collect();
    types.sort_unstable();
    types.dedup();
    let mut octets = next.as_wire().to_vec();
    for window in types.chunk_by(|a, b| a.0 >> 8 == b.0 >> 8) {
        let mut bits = [0u8; 32];
        let mut used = 0;
        for rtype in window {
            let low = usize::from(rtype.0 & 0xff);
            bits[low / 8] |= 0x80 >> (low % 8);
            used = low / 8 + 1;
        }
        octets.extend([(window[0].0 >> 8) as u8, used as u8]);
        octets.extend_from_slice(&bits[..used]);
    }
    Data::Other { rtype: Type::NSEC, octets: octets.into() }
}

/// The first name behind `name`, as long as there can be one: `\000` in front of it (RFC 9824 section 3.1). It is in lower case
/// however the question was spelt, for it is signed as it stands (RFC 6840 section 5.1), and one signature is enough.
pub fn behind(name: &Name, apex: &Name) -> Name {
    name.to_lowercase().prepend(b"\0").unwrap_or_else(|_| beside(name, apex))
}

/// The first name behind `name` and everything below it: `\000` at the end of its first label (RFC 9824 section 3.4), or, where
/// that is too long, its last octet raised.
pub fn beside(name: &Name, apex: &Name) -> Name {
    let mut rest = name.to_lowercase();
    while rest != *apex {
        let mut labels = rest.labels();
        let Some(first) = labels.next() else { break };
        let Ok(above) = Name::from_wire(&rest.as_wire()[1 + first.len()..]) else { break };
        let mut label = first.to_vec();
        if label.len() < LABEL_OCTETS_MAX && rest.as_wire().len() < NAME_OCTETS_MAX {
            label.push(0);
        } else {
            raise(&mut label);
        }
        match above.prepend(&label) {
            Ok(next) => return next,
            Err(_) => rest = above, // nothing is behind this label: the next name is beside the one above
        }
    }
    apex.clone() // the last name of the zone is followed by its first (RFC 4034 section 4.1.1)
}

/// The next label of at most as many octets; empty where there is none. `label` is in lower case, and so is what is made.
fn raise(label: &mut Vec<u8>) {
    while label.last() == Some(&0xff) {
        label.pop();
    }
    if let Some(last) = label.last_mut() {
        *last = if *last == b'@' { b'[' } else { *last + 1 }; // between them stand the capitals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn bitmaps_are_as_in_the_rfc() {
        // The example of RFC 4034 section 4.3.
        let types = [Type::A, Type::MX, Type::RRSIG, Type::NSEC, Type(1234)];
        let Data::Other { octets, .. } = nsec(&name("host.example.com."), &types) else { panic!("no NSEC") };
        let mut expected = b"\x04host\x07example\x03com\0".to_vec();
        expected.extend([0, 6, 0x40, 0x01, 0, 0, 0, 3, 4, 27]);
        expected.extend([0; 26]);
        expected.push(0x20);
        assert_eq!(*octets, *expected);
        let Data::Other { octets, .. } = nsec(&Name::root(), &[Type::NXNAME]) else { panic!("no NSEC") };
        assert_eq!(*octets, [0, 0, 17, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    }

    #[test]
    fn the_next_name_is_the_first_that_can_be() {
        let apex = name("service.local");
        assert_eq!(behind(&name("Web.service.local"), &apex).as_wire()[..6], *b"\x01\0\x03web");
        assert_eq!(beside(&name("Web.service.local"), &apex), name("web\\000.service.local"));
        assert_eq!(behind(&apex, &apex), name("\\000.service.local"));
        // Too long for another label: another octet, then a raised one, then the name beside the one above.
        let long = |octets: usize, fill: u8| {
            let mut long = apex.clone();
            while long.as_wire().len() < octets {
                let label = (octets - long.as_wire().len() - 1).min(63);
                long = long.prepend(&vec![fill; label]).unwrap();
            }
            assert_eq!(long.as_wire().len(), octets);
            long
        };
        let first = |name: &Name| name.labels().next().unwrap().to_vec();
        let next = behind(&long(254, b'x'), &apex);
        assert_eq!((next.as_wire().len(), first(&next).last()), (255, Some(&0)));
        let next = behind(&long(255, b'@'), &apex);
        assert_eq!((next.as_wire().len(), first(&next).last()), (255, Some(&b'[')));
        let all = long(255, 0xff);
        assert_eq!(behind(&all, &apex), apex, "the last name that there can be");
    }
}
