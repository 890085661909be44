//! An RRset as signatures see it (RFC 4034 section 6): names in lower case, nothing compressed, records in order.

use crate::answer::CLASS_IN;
use crate::name::Name;
use crate::record::{Data, Type, names_from};

/// The records of one owner and type, as they stand behind the fields of an RRSIG in what is signed (RFC 4034 section
/// 3.1.8.1). Duplicates are there once.
pub fn rrset<'d>(owner: &Name, rtype: Type, ttl: u32, data: impl IntoIterator<Item = &'d Data>) -> Vec<u8> {
    let mut each: Vec<Vec<u8>> = data.into_iter().map(rdata).collect();
    each.sort_unstable();
    each.dedup();
    let mut fixed = owner.as_wire().to_ascii_lowercase();
    fixed.extend([rtype.0, CLASS_IN].map(u16::to_be_bytes).concat());
    fixed.extend(ttl.to_be_bytes());
    let mut out = Vec::with_capacity(each.iter().map(|data| fixed.len() + 2 + data.len()).sum());
    for data in each {
        out.extend_from_slice(&fixed);
        out.extend((data.len() as u16).to_be_bytes()); // a zone file and a registration know no longer data
        out.extend(data);
    }
    out
}

/// The data of one record; names of the types of RFC 4034 section 6.2 in lower case, all others as they are (RFC 3597
/// section 7, RFC 6840 section 5.1).
fn rdata(data: &Data) -> Vec<u8> {
    let lower = |name: &Name| name.as_wire().to_ascii_lowercase();
    match data {
        Data::A(address) => address.octets().to_vec(),
        Data::Aaaa(address) => address.octets().to_vec(),
        Data::Srv { priority, weight, port, target } => {
            let numbers = [*priority, *weight, *port].map(u16::to_be_bytes).concat();
            [numbers, lower(target)].concat()
        }
        Data::Cname(name) | Data::Dname(name) | Data::Ns(name) | Data::Ptr(name) => lower(name),
        Data::Mx { preference, exchange } => [preference.to_be_bytes().to_vec(), lower(exchange)].concat(),
        Data::Soa(soa) => {
            let numbers = [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum];
            [lower(&soa.mname), lower(&soa.rname), numbers.map(u32::to_be_bytes).concat()].concat()
        }
        Data::Svcb { priority, target, params, .. } => {
            [&priority.to_be_bytes()[..], target.as_wire(), params].concat()
        }
        Data::Other { rtype, octets } => {
            let mut octets = octets.to_vec();
            if let Some(names) = names_from(*rtype, &octets).and_then(|at| octets.get_mut(at..)) {
                names.make_ascii_lowercase(); // lengths are at most 63, below `A`
            }
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn other(rtype: u16, octets: &[u8]) -> Data {
        Data::Other { rtype: Type(rtype), octets: octets.into() }
    }

    #[test]
    fn records_stand_in_order_and_once() {
        let [a, b] = [[10, 0, 0, 2], [10, 0, 0, 1]].map(|octets| Data::A(octets.into()));
        let octets = rrset(&name("Web.Test"), Type::A, 5, [&a, &b, &a]);
        let each = |low| [&b"\x03web\x04test\0\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0"[..], &[low]].concat();
        assert_eq!(octets, [each(1), each(2)].concat());
    }

    #[test]
    fn names_are_folded_where_the_rfc_says_so() {
        let folded = |data: Data| rdata(&data);
        assert_eq!(folded(Data::Ptr(name("A.B"))), b"\x01a\x01b\0");
        let srv = Data::Srv { priority: 1, weight: 2, port: 3, target: name("X") };
        assert_eq!(folded(srv), b"\0\x01\0\x02\0\x03\x01x\0");
        assert_eq!(folded(other(16, b"\x02AB")), b"\x02AB", "TXT is no name");
        assert_eq!(folded(other(18, b"\0A\x01A\0")), b"\0A\x01a\0", "AFSDB, behind its number");
        let naptr = b"\0\x01\0\x02\x01S\x01U\x02!R\x01A\x01B\0";
        assert_eq!(folded(other(35, naptr)), b"\0\x01\0\x02\x01S\x01U\x02!R\x01a\x01b\0");
        assert_eq!(folded(other(35, b"\0\0\0\0\x09A")), b"\0\0\0\0\x09A", "what is cut is left alone");
        let svcb =
            Data::Svcb { rtype: Type::SVCB, priority: 1, target: name("A"), params: b"P".as_slice().into() };
        assert_eq!(folded(svcb), b"\0\x01\x01A\0P", "not among those of the RFC");
    }
}
