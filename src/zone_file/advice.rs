//! What is suspicious in a zone, though it can be served: what other servers say when they load it.

use crate::name::{Name, is_ldh_label};
use crate::record::{Data, Type};
use crate::zone::{Found, Kind, Node, WARNINGS_MAX, Zone, ZoneWarning};

/// CNAMEs in a row that are followed; a resolver gives up after as many.
const CHAIN_MAX: usize = 16;

/// What whoever wrote the zone should know, in the order of lines, [`WARNINGS_MAX`] at most.
///
/// Costs a few look-ups for each record that names another name.
pub fn advice(zone: &Zone) -> Vec<ZoneWarning> {
    let mut warnings = Vec::new();
    for node in zone.nodes() {
        let line = node.line;
        of_node(zone, node, &mut |reason| warnings.push(ZoneWarning { line, reason }));
    }
    warnings.sort_by(|a, b| (a.line, &a.reason).cmp(&(b.line, &b.reason)));
    warnings.truncate(WARNINGS_MAX);
    warnings
}

fn of_node(zone: &Zone, node: &Node, warn: &mut dyn FnMut(String)) {
    let name = &node.name;
    let cut = match zone.find(name) {
        Found::Delegation(cut) => Some(&cut.name),
        _ => None,
    };
    // An origin that was added to what was meant to be a whole name.
    let below = name.as_wire().strip_suffix(zone.apex.as_wire()).unwrap_or_default();
    let apex = zone.apex.as_wire().strip_suffix(b"\0").unwrap_or_default();
    if !node.sets.is_empty()
        && !apex.is_empty()
        && below.to_ascii_lowercase().ends_with(&apex.to_ascii_lowercase())
    {
        warn(format!("{name} ends with {} twice; is the dot at its end missing?", zone.apex));
    }
    for set in &node.sets {
        match set.rtype {
            Type::A | Type::AAAA if cut.is_none() && !is_host(name) => {
                warn(format!(
                    "{name} has an address and is no host name (RFC 952): letters, digits and hyphens"
                ));
            }
            Type::A | Type::AAAA | Type::NS | Type::DS | Type::NSEC => {}
            _ if cut.is_some_and(|cut| cut != name) => {
                warn(format!(
                    "{name} is below the cut at {}: its records {} are never answered",
                    cut.unwrap_or(name),
                    set.rtype
                ));
            }
            _ => {}
        }
        if set.rtype == Type::DS && node.set(Type::NS).is_none() {
            warn(format!("{name} has a DS and no NS: nothing is delegated there"));
        }
        for data in &set.data {
            match data {
                Data::Cname(target) => chain(zone, name, target, warn),
                Data::Ns(target) => server(zone, node, target, warn),
                Data::Mx { exchange: target, .. } | Data::Srv { target, .. }
                    if target.as_wire().len() > 1 =>
                {
                    pointed(zone, &format!("{} of {name}", set.rtype), target, warn);
                }
                _ => {}
            }
        }
    }
}

/// A name that may have an address by RFC 952 and RFC 1123; a wildcard stands for such names.
fn is_host(name: &Name) -> bool {
    name.labels().enumerate().all(|(at, label)| is_ldh_label(label) || at == 0 && label == b"*")
}

/// RFC 1034 section 3.6.1, RFC 2181 section 10.3: what points to a host points to its name, not to an alias of it.
fn pointed(zone: &Zone, whose: &str, target: &Name, warn: &mut dyn FnMut(String)) {
    match zone.find(target) {
        Found::Node(node) | Found::Wildcard(node) if node.set(Type::CNAME).is_some() => {
            warn(format!("the {whose} names {target}, which is an alias (RFC 2181 section 10.3)"));
        }
        Found::Node(node) | Found::Wildcard(node) if !has_address(node) && is_all(zone) => {
            warn(format!("the {whose} names {target}, which has no address"));
        }
        Found::Nothing if target.is_within(&zone.apex) && is_all(zone) => {
            warn(format!(
                "the {whose} names {target}, which is not in the zone; is a dot missing at its end?"
            ));
        }
        _ => {}
    }
}

/// False for the plain records of a live zone, which may name services.
fn is_all(zone: &Zone) -> bool {
    zone.kind == Kind::Primary
}

fn has_address(node: &Node) -> bool {
    // What DNAME makes of a name is not looked at.
    [Type::A, Type::AAAA, Type::DNAME].iter().any(|rtype| node.set(*rtype).is_some())
}

/// The server of the zone, or of one below it, which needs glue.
fn server(zone: &Zone, node: &Node, target: &Name, warn: &mut dyn FnMut(String)) {
    let is_apex = node.name == zone.apex;
    if !is_apex && target.is_within(&node.name) {
        if !zone.node(target).is_some_and(has_address) {
            warn(format!(
                "the NS of {} names {target}, which is below it and has no address here (glue)",
                node.name
            ));
        }
        return;
    }
    pointed(zone, &format!("NS of {}", node.name), target, warn);
}

fn chain(zone: &Zone, name: &Name, target: &Name, warn: &mut dyn FnMut(String)) {
    let mut next = target.clone();
    for _ in 0..CHAIN_MAX {
        let node = match zone.find(&next) {
            Found::Node(node) | Found::Wildcard(node) => node,
            Found::Nothing if next.is_within(&zone.apex) && is_all(zone) => {
                return warn(format!(
                    "the CNAME of {name} leads to {next}, which is not in the zone; is a dot missing at its end?"
                ));
            }
            Found::Delegation(_) | Found::Renamed(_) | Found::Nothing => return,
        };
        match node.set(Type::CNAME).and_then(|set| set.data.first()) {
            Some(Data::Cname(target)) => next = target.clone(),
            _ => return,
        }
    }
    warn(format!("the CNAME of {name} leads to no end after {CHAIN_MAX} more"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone_file::read;

    fn advised(rest: &str) -> Vec<String> {
        let apex = Name::parse("corp.test").unwrap();
        let text = format!("@ 60 SOA ns1 h 7 3600 600 86400 60\n@ NS ns1\nns1 A 10.0.0.1\n{rest}");
        let (zone, _) =
            Zone::new(apex.clone(), Kind::Primary, read(text.as_bytes(), &apex).unwrap()).unwrap();
        advice(&zone).into_iter().map(|warning| format!("{} {}", warning.line, warning.reason)).collect()
    }

    #[test]
    fn a_good_zone_needs_no_advice() {
        assert_eq!(
            advised(
                "www A 10.0.0.2\n*.dev A 10.0.0.3\nalias CNAME www\nfar CNAME x.example.\n\
                 other CNAME \\004corp.test.\nout NS \\004corp.test.\nout NS my\\004corp.test.\n@ MX 10 www\nnone MX 0 .\n\
                 _sip._tcp SRV 0 5 5060 www\nsub NS ns.sub\nsub NS ns1\nns.sub A 10.0.1.1\nsub TYPE43 \\# 4 00010802\n_x TXT y\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn plain_records_may_name_services() {
        let apex = Name::parse("service.local").unwrap();
        let text = b"alias 60 CNAME web\n_x._tcp 60 SRV 0 0 1 a.web\nlab 60 NS ns.lab\nb 60 MX 1 alias\n";
        let (zone, _) = Zone::new(apex.clone(), Kind::Tree, read(text, &apex).unwrap()).unwrap();
        let lines: Vec<usize> = advice(&zone).iter().map(|warning| warning.line).collect();
        assert_eq!(lines, [3, 4], "glue, and an alias of the file's own");
    }

    #[test]
    fn what_is_suspicious_is_said_with_its_line() {
        for (rest, expected) in [
            (
                "@ MX 10 alias\nalias CNAME ns1\n",
                "1 the MX of corp.test. names alias.corp.test., which is an alias (RFC 2181 section 10.3)",
            ),
            (
                "x SRV 0 0 1 y\ny TXT z\n",
                "4 the SRV of x.corp.test. names y.corp.test., which has no address",
            ),
            (
                "\nx MX 5 10.0.0.1\n",
                "5 the MX of x.corp.test. names 10.0.0.1.corp.test., which is not in the zone; is a dot missing at its end?",
            ),
            (
                "sub NS ns.sub\n",
                "4 the NS of sub.corp.test. names ns.sub.corp.test., which is below it and has no address here (glue)",
            ),
            (
                "sub NS ns1\nx.sub TXT y\n",
                "5 x.sub.corp.test. is below the cut at sub.corp.test.: its records TXT are never answered",
            ),
            ("a CNAME b\nb CNAME a\n", "4 the CNAME of a.corp.test. leads to no end after 16 more"),
            (
                "a CNAME b\n",
                "4 the CNAME of a.corp.test. leads to b.corp.test., which is not in the zone; is a dot missing at its end?",
            ),
            (
                "www.Corp.Test A 10.0.0.1\n",
                "4 www.Corp.Test.corp.test. ends with corp.test. twice; is the dot at its end missing?",
            ),
            (
                "my_host A 10.0.0.1\n",
                "4 my_host.corp.test. has an address and is no host name (RFC 952): letters, digits and hyphens",
            ),
            ("d TYPE43 \\# 4 00010802\n", "4 d.corp.test. has a DS and no NS: nothing is delegated there"),
        ] {
            let advised = advised(rest);
            assert_eq!(advised.first().map(String::as_str), Some(expected), "{rest}: {advised:?}");
        }
    }
}
