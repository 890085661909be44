//! Zones from their records, and what is found in them.

use super::*;
use crate::record::Data;
use crate::zone_file;

const SOA: &str = "@ 3600 IN SOA ns1 hostmaster 7 3600 600 86400 60\n@ NS ns1\n";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn load(kind: Kind, text: &str) -> Result<(Zone, Vec<ZoneWarning>), ZoneError> {
    let apex = name("corp.test");
    Zone::new(apex.clone(), kind, zone_file::read(text.as_bytes(), &apex)?)
}

/// Line and reason of the refusal of a primary: the SOA is on line 1, the NS on line 2.
fn refused(rest: &str) -> String {
    load(Kind::Primary, &format!("{SOA}{rest}")).unwrap_err().to_string()
}

/// The fixture of the conformance table.
fn fixture() -> Zone {
    let text = "\
        $ORIGIN corp.test.\n$TTL 300\n\
        @ 3600 IN SOA ns1 hostmaster 7 3600 600 86400 60\n\
        @ IN NS ns1\n\
        ns1 IN A 10.9.0.53\n\
        WWW IN A 10.9.0.80\n\
        alias IN CNAME www\n\
        *.wild IN A 10.9.0.99\n\
        foo.wild IN TXT \"x\"\n\
        a.b.ent IN A 10.9.0.7\n\
        sub IN NS ns.sub\n\
        ns.sub IN A 10.9.1.53\n\
        *.sub IN A 10.9.1.54\n\
        a.*.ents IN A 10.9.0.8\n\
        _sip._tcp IN SRV 0 5 5060 www\n\
        old IN DNAME new\n\
        x.new IN A 10.9.0.81\n\
        unk IN TYPE65280 \\# 3 abcdef\n";
    let (zone, warnings) = load(Kind::Primary, text).unwrap();
    assert_eq!(warnings, []);
    zone
}

/// What `find` says, as a word, the node and its types.
fn found(zone: &Zone, qname: &str) -> String {
    let (word, node) = match zone.find(&name(qname)) {
        Found::Node(node) => ("node", node),
        Found::Wildcard(node) => ("wildcard", node),
        Found::Delegation(node) => ("delegation", node),
        Found::Renamed(node) => ("renamed", node),
        Found::Nothing => return "nothing".to_owned(),
    };
    let types: Vec<_> = node.sets.iter().map(|set| set.rtype.to_string()).collect();
    format!("{word} {} {}", node.name, types.join(" ")).trim_end().to_owned()
}

#[test]
fn the_walk_finds_what_rfc_1034_and_4592_say() {
    let zone = fixture();
    for (qname, expected) in [
        ("corp.test", "node corp.test. SOA NS"),
        ("www.corp.test", "node WWW.corp.test. A"),
        ("wWw.CORP.test", "node WWW.corp.test. A"),
        ("alias.corp.test", "node alias.corp.test. CNAME"),
        ("unk.corp.test", "node unk.corp.test. TYPE65280"),
        ("any.wild.corp.test", "wildcard *.wild.corp.test. A"), // W-01
        ("a.b.wild.corp.test", "wildcard *.wild.corp.test. A"),
        ("foo.wild.corp.test", "node foo.wild.corp.test. TXT"), // W-02
        ("x.foo.wild.corp.test", "nothing"),                    // W-03
        ("*.wild.corp.test", "node *.wild.corp.test. A"),       // W-05
        ("x.*.wild.corp.test", "nothing"),
        ("wild.corp.test", "node wild.corp.test."), // W-06
        ("x.ents.corp.test", "wildcard *.ents.corp.test."),
        ("www.sub.corp.test", "delegation sub.corp.test. NS"), // N-01, and no wildcard below a cut
        ("sub.corp.test", "delegation sub.corp.test. NS"),     // N-02
        ("ns.sub.corp.test", "delegation sub.corp.test. NS"),  // N-04
        ("ent.corp.test", "node ent.corp.test."),              // Z-01
        ("b.ent.corp.test", "node b.ent.corp.test."),
        ("c.b.ent.corp.test", "nothing"),
        ("_tcp.corp.test", "node _tcp.corp.test."),
        ("nope.corp.test", "nothing"),
        ("x.nope.corp.test", "nothing"),
        ("old.corp.test", "node old.corp.test. DNAME"), // C-11
        ("b.a.old.corp.test", "renamed old.corp.test. DNAME"), // C-10
        ("new.corp.test", "node new.corp.test."),
        ("test", "nothing"),
        (".", "nothing"),
        ("corp.example", "nothing"),
        ("www.mycorp.test", "nothing"),
        // The octets of the apex, in a label.
        ("\\004corp.test", "nothing"),
        ("my\\004corp.test", "nothing"),
        ("x.my\\004corp.test", "nothing"),
    ] {
        assert_eq!(found(&zone, qname), expected, "{qname}");
    }
}

#[test]
fn a_label_that_ends_like_the_apex_is_not_within() {
    for kind in [Kind::Primary, Kind::Tree] {
        let soa = if kind == Kind::Primary { SOA } else { "" };
        let (zone, _) = load(kind, &format!("{soa}* A 10.0.0.1\nmy A 10.0.0.2\n")).unwrap();
        for qname in ["\\004corp.test", "my\\004corp.test", "x.my\\004corp.test"] {
            assert_eq!(found(&zone, qname), "nothing", "{qname}");
            assert!(zone.holds(&name(qname)).is_none(), "{qname}");
        }
        assert_eq!(found(&zone, "x.corp.test"), "wildcard *.corp.test. A");
    }
}

#[test]
fn every_name_of_a_zone_is_found_unless_it_is_under_a_cut() {
    let zone = fixture();
    for node in zone.nodes() {
        match zone.find(&node.name) {
            Found::Node(found) => assert!(std::ptr::eq(found, node), "{}", node.name),
            Found::Delegation(cut) => assert!(node.name.is_within(&cut.name)),
            other => panic!("{}: {other:?}", node.name),
        }
    }
    assert_eq!(zone.nodes().count(), 22);
}

#[test]
fn the_longest_names_are_walked() {
    let long = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(51));
    let owner = name(&format!("{long}corp.test"));
    assert_eq!(owner.as_wire().len(), 255);
    let (zone, _) = load(Kind::Tree, &format!("{owner} A 10.0.0.1\n* A 10.0.0.2\n")).unwrap();
    assert!(matches!(zone.find(&owner), Found::Node(node) if node.sets.len() == 1));
    let many = name(&format!("{}b.corp.test", "a.".repeat(121)));
    assert_eq!(many.as_wire().len(), 255);
    assert!(matches!(zone.find(&many), Found::Wildcard(_)));
}

#[test]
fn a_tree_that_was_edited_is_one_made_anew() {
    let (zone, _) = load(Kind::Tree, "a.b.c A 10.0.0.1\n").unwrap();
    let set = |text: &str| {
        let records = zone_file::read(text.as_bytes(), &zone.apex).unwrap();
        let data: Vec<Data> = records.iter().map(|(_, record)| record.data.clone()).collect();
        vec![RrSet { rtype: data[0].rtype(), ttl: 60, data }]
    };
    let names = |zone: &Zone| {
        let mut names: Vec<String> = zone.nodes().map(|node| node.name.to_string()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let begun = "a.b.c.corp.test. b.c.corp.test. c.corp.test. corp.test.";
    assert_eq!(names(&zone), begun);
    let edited = zone.edited([
        (name("x.b.c.corp.test"), set("x A 10.0.0.2\n")),
        (name("C.corp.test"), set("c TXT here\n")),
        (name("d.e.corp.test"), set("d NS ns.example.\n")),
    ]);
    assert_eq!(names(&zone), begun, "the one before is what it was");
    assert_eq!(found(&edited, "x.b.c.corp.test"), "node x.b.c.corp.test. A");
    assert_eq!(found(&edited, "y.d.e.corp.test"), "delegation d.e.corp.test. NS");
    // A name goes with its last record, and takes along those that were there for it alone.
    let edited = edited.edited([(name("a.b.c.corp.test"), Vec::new()), (name("d.e.corp.test"), Vec::new())]);
    assert_eq!(names(&edited), "C.corp.test. b.c.corp.test. corp.test. x.b.c.corp.test.");
    let edited = edited.edited([(name("x.b.c.corp.test"), Vec::new()), (name("none.corp.test"), Vec::new())]);
    assert_eq!(names(&edited), "C.corp.test. corp.test.");
    let edited = edited.edited([(name("c.corp.test"), Vec::new())]);
    assert_eq!(names(&edited), "corp.test.");
}

#[test]
fn a_zone_may_be_the_root() {
    let text = b". SOA a.ns. b.ns. 1 2 3 4 5\n. NS a.ns.\na.ns. A 10.0.0.1\n*. A 10.0.0.2\n";
    let records = zone_file::read(text, &Name::root()).unwrap();
    let (zone, _) = Zone::new(Name::root(), Kind::Primary, records).unwrap();
    assert_eq!(found(&zone, "."), "node . SOA NS");
    assert_eq!(found(&zone, "ns"), "node ns.");
    assert_eq!(found(&zone, "x"), "wildcard *. A");
}

#[test]
fn a_name_is_held_by_its_node_or_the_cut_above_it() {
    let tree = "\n\na.web A 10.0.0.1\nlab NS ns.lab\n*.x A 10.0.0.1\n";
    let (zone, _) = load(Kind::Tree, tree).unwrap();
    assert_eq!(zone.soa(), None);
    let line = |text: &str| zone.holds(&name(text)).map(|node| node.line);
    assert_eq!(line("a.web.corp.test"), Some(3));
    assert_eq!(line("web.corp.test"), Some(3));
    assert_eq!(line("x.y.lab.corp.test"), Some(4));
    assert_eq!(line("y.x.corp.test"), None);
    assert_eq!(line("db.corp.test"), None);
    let (empty, _) = load(Kind::Tree, "; nothing yet\n").unwrap();
    assert_eq!(found(&empty, "corp.test"), "node corp.test.");
}

#[test]
fn a_broken_zone_is_refused_with_its_line() {
    for (rest, expected) in [
        ("www A 10.0.0.1\nwww CNAME x\n", "line 4: www.corp.test. has a CNAME and other data"),
        ("www CNAME x\n\nWWW A 10.0.0.1\n", "line 5: www.corp.test. has a CNAME and other data"),
        ("www CNAME x\nwww CNAME y\n", "line 4: www.corp.test. has two CNAMEs"),
        ("a.example. A 10.0.0.1\n", "line 3: a.example. is not within the zone corp.test."),
        ("mycorp.test. A 10.0.0.1\n", "line 3: mycorp.test. is not within the zone corp.test."),
        ("@ SOA ns1 other 7 3600 600 86400 60\n", "line 3: a zone has one SOA, and this is the second"),
        (
            "sub SOA ns1 x 7 3600 600 86400 60\n",
            "line 3: a SOA stands at sub.corp.test., below the apex corp.test. of the zone",
        ),
        (
            "@ CNAME x.example.\n",
            "line 3: corp.test. is the apex, with a SOA and NS, so it cannot have a CNAME",
        ),
        ("old DNAME new\nold DNAME other\n", "line 4: old.corp.test. has two DNAMEs"),
        ("old DNAME new\nold CNAME x\n", "line 4: old.corp.test. has a CNAME and other data"),
        (
            "old NS ns1\nold TYPE39 \\# 3 016100\n",
            "line 4: old.corp.test. has NS and a DNAME; below the apex it has one of them",
        ),
        (
            "x.y.old A 10.0.0.1\nold DNAME new\n", // C-13
            "line 3: x.y.old.corp.test. is below the DNAME at old.corp.test., which hides it",
        ),
        ("* NS ns1\n", "line 3: NS at the wildcard *.corp.test. has no defined meaning"),
        ("w NSEC x A\n", "line 3: NSEC belongs to a signed zone; give the zone unsigned"),
        ("w TYPE255 \\# 0\n", "line 3: TYPE255 is not a type of data"),
        (
            "w 2147483648 A 10.0.0.1\n",
            "line 3: the TTL 2147483648 is larger than 2147483647 (RFC 2181 section 8)",
        ),
    ] {
        assert_eq!(refused(rest), expected, "{rest}");
    }
}

#[test]
fn an_apex_needs_its_soa_and_ns() {
    let error = |kind, text| load(kind, text).unwrap_err().to_string();
    let soa = "@ SOA ns1 x 7 3600 600 86400 60\n";
    assert_eq!(
        error(Kind::Primary, "\n@ NS ns1\n"),
        "line 2: the file ends without a record SOA at corp.test."
    );
    assert_eq!(error(Kind::Primary, soa), "line 1: the file ends without a record NS at corp.test.");
    assert_eq!(error(Kind::Primary, ""), "line 1: the file ends without a record SOA at corp.test.");
    assert_eq!(error(Kind::Tree, soa), "line 1: the SOA of corp.test. is made by the registry; leave it out");
    assert_eq!(
        error(Kind::Tree, "@ DNAME other.test.\n"),
        "line 1: a DNAME at corp.test. would hide every service; put it at a name below"
    );
}

#[test]
fn the_lowest_ttl_counts_and_duplicates_go() {
    let text = format!("{SOA}www 300 A 10.0.0.1\nwww 60 A 10.0.0.2\nWWW 60 A 10.0.0.1\n{SOA}");
    let (zone, warnings) = load(Kind::Primary, &text).unwrap();
    let reason = "the records A of www.corp.test. differ in TTL, 60 here and 300 before; 60 counts for all";
    assert_eq!(warnings, [ZoneWarning { line: 4, reason: reason.to_owned() }]);
    let Found::Node(node) = zone.find(&name("www.corp.test")) else { panic!() };
    let set = node.set(Type::A).unwrap();
    assert_eq!((set.ttl, set.data.len()), (60, 2));
    let (soa, ttl) = zone.soa().unwrap();
    assert_eq!((soa.minimum, ttl), (60, 3600));
}

#[test]
fn sets_and_warnings_are_bounded() {
    let mut text = SOA.to_owned();
    for number in 0..RRSET_RECORDS_MAX {
        text += &format!("many {} A 10.0.{}.{}\n", 60 + number % 2, number / 256, number % 256);
    }
    let (_, warnings) = load(Kind::Primary, &text).unwrap();
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    assert_eq!(warnings[WARNINGS_MAX].reason, "further warnings are left out");
    text += "many A 10.1.0.0\n";
    let error = load(Kind::Primary, &text).unwrap_err();
    assert_eq!(error.line, RRSET_RECORDS_MAX + 3);
    assert!(error.reason.starts_with("many.corp.test. has more than 4096 records A"));
}

#[test]
fn no_cut_in_a_record_tree_is_where_somebody_may_register() {
    for (owner, record) in [
        ("_tcp", "NS ns.example."),
        ("_web._TCP", "DNAME other.test."),
        ("_v2", "NS ns.example."),
        ("x._dns-sd._udp", "DNAME other.test."),
        ("NS", "NS ns.example."),
        ("a.callsign", "NS ns.example."),
    ] {
        let rtype = record.split(' ').next().unwrap();
        let refused = load(Kind::Tree, &format!("ok A 10.0.0.1\n{owner} {record}\n")).unwrap_err();
        let expected = format!(
            "line 2: {rtype} at {owner}.corp.test. would hide names that the registry has or may come to have; \
             put it at or below a name that a service could have"
        );
        assert_eq!(refused.to_string(), expected);
        assert!(load(Kind::Primary, &format!("{SOA}{owner} {record}\n")).is_ok(), "{owner}");
    }
    for good in
        ["web NS ns.example.\n", "_tcp.web DNAME other.test.\n", "_acme.a NS ns.example.\n", "_x CNAME a\n"]
    {
        assert!(load(Kind::Tree, good).is_ok(), "{good}");
    }
}

#[test]
fn no_alias_in_a_record_tree_is_where_the_registry_may_have_records() {
    for owner in [
        "NS",
        "a.ns",
        "callsign",
        "_callsign._tcp",
        "_services._dns-sd._udp",
        "b._dns-sd._UDP",
        "_web._tcp",
        "_Web._V2",
        "web-1._web._tcp",
        "_v2._sub._web._tcp",
    ] {
        let text = |record| format!("ok A 10.0.0.1\n{owner} {record}\n");
        let refused = load(Kind::Tree, &text("CNAME ok")).unwrap_err();
        let expected = format!(
            "line 2: a CNAME at {owner}.corp.test. would stand beside what the registry has or may come to have there"
        );
        assert_eq!(refused.to_string(), expected);
        assert!(load(Kind::Tree, &text("TXT \"beside\"")).is_ok(), "{owner}");
        assert!(load(Kind::Primary, &format!("{SOA}{owner} CNAME ok\n")).is_ok(), "{owner}");
    }
    // Names that nobody registers once they are there, and such as no registration has.
    for owner in [
        "web",
        "a.web",
        "_http._tcp.web",
        "_acme-challenge",
        "_acme-challenge.web",
        "s1._domainkey",
        "_443._tcp",
    ] {
        assert!(load(Kind::Tree, &format!("{owner} CNAME www.example.\n")).is_ok(), "{owner}");
    }
}
