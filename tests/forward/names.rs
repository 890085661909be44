//! Which names go to upstreams, and whose: F-02, F-08 to F-10, F-13, F-14, P-04, C-06, A-03.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use callsign::answer::Over;
use callsign::clock::Clock;
use callsign::dns::forward::{self, Forwarder, Source};
use callsign::dns::wire::{Accepted, Arrival, Policy, Responder};
use callsign::name::{Apex, Datacenter};
use callsign::special::Exceptions;
use callsign::view::{ConsulZone, Settings, View, Zones};
use hickory_proto::rr::RecordType;
use serde_json::json;

use super::fake::{Act, Ask, Fake, Told, a, forwarding, record};
use crate::harness::{Server, callsign};

/// Answers every question with one address.
fn anything() -> Fake {
    Fake::start(|asked| vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))])
}

#[test]
fn f_01_the_upstreams_answer_in_the_clients_words() {
    let upstream = anything();
    let server = forwarding(&[&upstream], &[]);
    let told = Ask::a("wWw.ExAmPlE.com").ask(&server);
    assert_eq!((told.rcode(), told.flags().as_str()), (0, "rd ra"));
    assert_eq!(told.answers(), ["192.0.2.80"]);
    assert_eq!(
        told.message.answers[0].name.to_string(),
        "wWw.ExAmPlE.com.",
        "the owner's case is the question's"
    );
    let told = Ask::edns("www.example.com").tcp(server.dns[0]);
    assert_eq!((told.rcode(), told.answers()), (0, vec!["192.0.2.80".to_owned()]));
    assert_eq!(upstream.asked().len(), 1, "the second was kept");
}

#[test]
fn f_02_without_rd_nothing_is_told_of_what_others_asked() {
    let upstream = anything();
    let server = forwarding(&[&upstream], &[]);
    assert_eq!(Ask::a("www.example.com").ask(&server).rcode(), 0);
    let told = Ask { rd: false, ..Ask::edns("www.example.com") }.ask(&server);
    assert_eq!((told.rcode(), told.flags().as_str(), told.ede().0), (5, "ra", 20));
    assert_eq!(told.answers(), [""; 0]);
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn a_03_who_may_forward_hears_so_in_every_answer() {
    let upstream = anything();
    let server = forwarding(&[&upstream], &[]);
    let registration = json!({"service": "web", "address": "10.0.0.1", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({"register": registration}));
    let told = Ask::a("web.service.local").ask(&server);
    assert_eq!((told.flags().as_str(), told.answers()), ("aa rd ra", vec!["10.0.0.1".to_owned()]));
    // Not RD: the answer is ours, and so is RA to say what we could.
    assert_eq!(Ask { rd: false, ..Ask::a("web.service.local") }.ask(&server).flags(), "aa ra");
    let alone = Server::start(&[]);
    assert_eq!(Ask::a("nope.service.local").ask(&alone).flags(), "aa rd");
}

#[test]
fn f_08_to_f_10_names_of_special_use_are_answered_here() {
    let upstream = anything();
    let server = forwarding(&[&upstream], &[]);
    for (name, qtype, rcode, answer) in [
        ("localhost", 1, 0, Some("127.0.0.1")),
        ("x.localhost", 28, 0, Some("::1")),
        ("localhost", 16, 0, None),
        ("invalid", 1, 3, None),
        ("a.test", 1, 3, None),
        ("a.onion", 1, 3, None),
        ("a.alt", 1, 3, None),
        ("local", 6, 0, None), // service.local is ours
        ("printer.local", 1, 3, None),
        ("nas.home.arpa", 1, 3, None),
        ("_dns.resolver.arpa", 64, 0, None),
        ("x.service.arpa", 1, 3, None),
        ("3.2.1.10.in-addr.arpa", 12, 3, None),
        ("4.3.168.192.in-addr.arpa", 12, 3, None),
        ("1.0.d.f.ip6.arpa", 12, 3, None),
    ] {
        let told = Ask { qtype, ..Ask::edns(name) }.ask(&server);
        assert_eq!((told.rcode(), told.flags().as_str()), (rcode, "aa rd ra"), "{name}");
        assert_eq!(told.answers(), Vec::from_iter(answer), "{name}");
        let authorities = told.message.authorities.len();
        assert_eq!(authorities, usize::from(answer.is_none()), "{name}: a SOA says how long this holds");
    }
    // They are for those who may forward; nobody else is told more than before.
    let told = Ask { rd: false, ..Ask::edns("localhost") }.ask(&server);
    assert_eq!((told.rcode(), told.ede().0), (5, 20));
    assert_eq!(upstream.asked().len(), 0, "none of them went out");
    // P-04: but a name like theirs did.
    assert_eq!(Ask { qtype: 12, ..Ask::a("8.8.8.8.in-addr.arpa") }.ask(&server).rcode(), 0);
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn f_09_f_10_the_operator_may_say_otherwise() {
    let upstream = anything();
    let server = forwarding(
        &[&upstream],
        &["--forward-special", "home.arpa", "--forward-special", "10.in-addr.arpa", "--claim-local"],
    );
    assert_eq!(Ask::a("nas.home.arpa").ask(&server).answers(), ["192.0.2.80"]);
    assert_eq!(Ask::a("3.2.1.10.in-addr.arpa").ask(&server).answers(), ["192.0.2.80"]);
    assert_eq!(upstream.asked().len(), 2);
    let told = Ask { qtype: 6, ..Ask::a("local") }.ask(&server);
    assert_eq!((told.rcode(), told.message.answers.len()), (0, 1));
    assert_eq!(Ask::a("printer.local").ask(&server).rcode(), 3);
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn f_13_names_of_ours_never_leave() {
    let upstream = anything();
    let zones = tempfile::tempdir().expect("a directory");
    let corp = "@ SOA ns1 hostmaster 7 3600 600 86400 60\n@ NS ns1\nns1 A 10.9.0.53\n";
    fs::write(zones.path().join("corp.test.zone"), corp).expect("writing a zone");
    let zones = zones.path().display().to_string();
    let server = forwarding(
        &[&upstream],
        &["--zones", &zones, "--consul-domain", "consul", "--reverse", "10.7.0.0/24"],
    );
    let mut questions = 0;
    for name in [
        "service.local",
        "nope.service.local",
        "NOPE.Service.Local",
        "a.b.c.nope.service.local",
        "_web._tcp.service.local",
        "corp.test",
        "nope.corp.test",
        "web.service.consul",
        "x.consul",
        "consul",
        "1.0.7.10.in-addr.arpa",
    ] {
        for qtype in [1, 6, 12, 16, 28, 33, 64, 65, 255, 65_280] {
            for (rd, edns) in [(true, Some((1232, true))), (false, None)] {
                let told = Ask { qtype, rd, edns, ..Ask::a(name) }.ask(&server);
                assert!(matches!(told.rcode(), 0 | 3), "{name} {qtype}: {told:?}");
                assert!(told.flags().starts_with("aa"), "{name} {qtype}");
                questions += 1;
            }
        }
    }
    assert_eq!((questions, upstream.asked().len()), (220, 0));
    // A sibling is not ours.
    assert_eq!(Ask::a("web.service.locale").ask(&server).answers(), ["192.0.2.80"]);
    assert_eq!(upstream.asked().len(), 1);
}

/// The DS of a zone is its parent's to say (RFC 4035 section 3.1.4.1), and whoever validates behind us asks for it.
#[test]
fn the_ds_of_a_zone_of_ours_is_asked_of_who_has_the_zone_above() {
    let upstream = Fake::start(|asked| {
        let ds = record(43, 300, &[&[0x30, 0x39, 13, 2][..], &[7; 32]].concat());
        let is_there = ["live.example.", "corp.example."].contains(&asked.name().as_str());
        vec![Act::Send(if is_there { asked.reply(0x20, &[ds]) } else { asked.reply(3, &[]) })]
    });
    let zones = tempfile::tempdir().expect("a directory");
    let corp = "@ SOA ns1 hostmaster 7 3600 600 86400 60\n@ NS ns1\nns1 A 10.9.0.53\n";
    let leads = format!("{corp}out CNAME inner\nup CNAME live.example.\n");
    for (file, text) in [("corp.example", leads.as_str()), ("inner.corp.example", corp), ("lab.test", corp)] {
        fs::write(zones.path().join(format!("{file}.zone")), text).expect("writing a zone");
    }
    let zones = zones.path().display().to_string();
    let domains = ["--domain", "service.local", "--domain", "live.example"];
    let server = forwarding(
        &[&upstream],
        &[&domains[..], &["--zones", &zones, "--forward-allow", "127.0.0.1"]].concat(),
    );
    let has_ds =
        |told: &Told| told.message.answers.iter().any(|record| record.record_type() == RecordType::DS);
    let ds = |name| Ask { qtype: RecordType::DS.into(), ad: true, ..Ask::edns(name) };
    for name in ["live.example", "Corp.Example"] {
        for told in [ds(name).ask(&server), ds(name).tcp(server.dns[0])] {
            assert_eq!((told.rcode(), told.flags().as_str()), (0, "rd ra ad"), "{name}");
            assert_eq!((told.message.answers.len(), has_ds(&told)), (1, true), "{name}");
        }
    }
    let told = ds("up.corp.example").ask(&server);
    assert_eq!((told.rcode(), told.flags().as_str()), (0, "aa rd ra"));
    assert_eq!((told.answers()[0].as_str(), has_ds(&told)), ("live.example.", true));
    assert_eq!(upstream.asked().len(), 2);

    // Without RD, and for who may not, what our own zone says; and where the zone above is ours, or a name of special use.
    let stranger = UdpSocket::bind("127.0.0.2:0").expect("all of 127.0.0.0/8 is loopback");
    for (name, soa) in [
        ("live.example", "live.example."),
        ("corp.example", "corp.example."),
        ("inner.corp.example", "corp.example."),
        ("out.corp.example", "corp.example."),
        ("service.local", "service.local."),
        ("lab.test", "lab.test."),
    ] {
        let mut asked = vec![
            ("without RD", "aa ra", Ask { rd: false, ..ds(name) }.ask(&server)),
            ("who may not", "aa rd", ds(name).from(&stranger, server.dns[0])),
        ];
        if !["live.example", "corp.example"].contains(&name) {
            asked.push(("RD", "aa rd ra", ds(name).ask(&server)));
        }
        for (who, flags, told) in asked {
            assert_eq!((told.rcode(), told.flags().as_str()), (0, flags), "{name}, {who}");
            assert_eq!(told.message.authorities[0].name.to_string(), soa, "{name}, {who}");
            assert!(!has_ds(&told), "{name}, {who}");
        }
    }
    // Another type of the same name never leaves.
    assert_eq!(
        Ask { qtype: RecordType::DNSKEY.into(), ..Ask::a("live.example") }.ask(&server).flags(),
        "aa rd ra"
    );
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn f_13_not_even_before_the_registry_is_loaded() {
    let upstream = anything();
    let apex = Apex::parse("service.local").expect("a name");
    let consul = ConsulZone {
        apex: Apex::parse("consul").expect("a name"),
        datacenter: Datacenter::parse("dc1").expect("a name"),
    };
    let reverse = vec!["10.7.0.0/24".parse().expect("a network")];
    let settings =
        Settings { ns_addresses: Vec::new(), consul: Some(consul), reverse, ..Settings::new(vec![apex]) };
    let forwarder = Forwarder::new(
        forward::Settings {
            sources: vec![Source::Server(upstream.address)],
            allow: vec![IpAddr::from([127, 0, 0, 1]).into()],
            exceptions: Exceptions::default(),
            trust_ad: false,
            own: Vec::new(),
        },
        Clock::start(),
        Arc::default(),
    );
    let view = Arc::new(View::new(settings, Zones::default())); // not ready
    let responder = Arc::new(Responder {
        forwarder: Some(forwarder.expect("an upstream that is not us")),
        ..Responder::new(view, Policy::default(), Clock::start())
    });
    let client = SocketAddr::from(([127, 0, 0, 1], 5353));
    let accept = |ask: &Ask| {
        let arrival = Arrival { client, over: Over::Udp, draw: 0 };
        responder.accept(&arrival, &ask.octets(7))
    };
    for name in [
        "service.local",
        "nope.service.local",
        "_web._tcp.service.local",
        "web.service.consul",
        "1.0.7.10.in-addr.arpa",
    ] {
        let Accepted::Reply(reply) = accept(&Ask::edns(name)) else { panic!("{name} is waited for") };
        let told = Told::check(&Ask::edns(name).octets(7), &reply);
        assert_eq!((told.rcode(), told.ede().0), (2, 14), "{name}");
    }
    assert!(matches!(accept(&Ask::edns("www.example.com")), Accepted::Pending(_)), "what is not ours may go");
    assert_eq!(upstream.asked().len(), 0);
}

#[test]
fn f_14_nobody_else_may_forward() {
    let upstream = anything();
    // 127.0.0.2 stands for another machine.
    let server = forwarding(&[&upstream], &["--forward-allow", "127.0.0.1", "--dns", "127.0.0.1:0"]);
    let stranger = UdpSocket::bind("127.0.0.2:0").expect("all of 127.0.0.0/8 is loopback");
    let told = Ask::edns("www.example.com").from(&stranger, server.dns[0]);
    assert_eq!((told.rcode(), told.flags().as_str(), told.ede().0), (5, "rd", 18));
    let told = Ask::edns("localhost").from(&stranger, server.dns[0]);
    assert_eq!((told.rcode(), told.ede().0), (5, 18));
    // What is kept is not for it either, and what is ours is.
    assert_eq!(Ask::a("www.example.com").ask(&server).rcode(), 0);
    assert_eq!(Ask::a("www.example.com").from(&stranger, server.dns[0]).rcode(), 5);
    let told = Ask::a("nope.service.local").from(&stranger, server.dns[0]);
    assert_eq!((told.rcode(), told.flags().as_str()), (3, "aa rd"));
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn c_06_aliases_that_lead_out_are_followed_for_those_who_may() {
    let upstream = Fake::start(|asked| {
        vec![Act::Send(match asked.name().as_str() {
            "host.example.com." => {
                let alias = record(5, 300, b"\x04real\xc0\x11"); // at `example.com` of the question
                let mut address = a("192.0.2.80", 300);
                let target = 12 + asked.question().len() + 12;
                address.splice(..2, [0xc0, target as u8]);
                asked.reply(0, &[alias, address])
            }
            "gone.example.com." => asked.reply(3, &[]),
            _ => asked.reply(2, &[]),
        })]
    });
    let zones = tempfile::tempdir().expect("a directory");
    let corp = "@ SOA ns1 hostmaster 7 3600 600 86400 60\n@ NS ns1\nns1 A 10.9.0.53\n\
                out CNAME host.example.com.\nfar CNAME out\ngone CNAME gone.example.com.\n\
                bad CNAME bad.example.com.\nhome CNAME x.localhost.\n";
    fs::write(zones.path().join("corp.test.zone"), corp).expect("writing a zone");
    let zones = zones.path().display().to_string();
    let server = forwarding(&[&upstream], &["--zones", &zones, "--forward-allow", "127.0.0.1"]);
    for told in [Ask::edns("far.corp.test").ask(&server), Ask::edns("far.corp.test").tcp(server.dns[0])] {
        assert_eq!((told.rcode(), told.flags().as_str()), (0, "aa rd ra"));
        assert_eq!(
            told.answers(),
            ["out.corp.test.", "host.example.com.", "real.example.com.", "192.0.2.80"]
        );
    }
    let told = Ask::edns("gone.corp.test").ask(&server);
    assert_eq!((told.rcode(), told.answers()), (3, vec!["gone.example.com.".to_owned()]));
    let told = Ask::edns("bad.corp.test").ask(&server);
    assert_eq!((told.rcode(), told.answers().len()), (2, 0), "not sure is SERVFAIL, not half an answer");
    assert_eq!(Ask::a("home.corp.test").ask(&server).answers(), ["x.localhost.", "127.0.0.1"]);
    // The alias alone for those who may not, and for who asks for it.
    let stranger = UdpSocket::bind("127.0.0.2:0").expect("all of 127.0.0.0/8 is loopback");
    let told = Ask::a("out.corp.test").from(&stranger, server.dns[0]);
    assert_eq!((told.rcode(), told.answers()), (0, vec!["host.example.com.".to_owned()]));
    let told = Ask { qtype: RecordType::CNAME.into(), ..Ask::a("out.corp.test") }.ask(&server);
    assert_eq!(told.answers(), ["host.example.com."]);
    let told = Ask { rd: false, ..Ask::a("out.corp.test") }.ask(&server);
    assert_eq!(told.answers(), ["host.example.com."]);
}

/// What it says of a name of ours gives way to what is known here, and to that nothing is known yet.
#[test]
fn an_upstreams_alias_to_a_name_of_ours_is_followed_here() {
    let upstream = Fake::start(|asked| {
        let target: &[u8] = match asked.name().as_str() {
            "app.corp.example." => b"\x03web\x07service\x05local\0",
            _ => b"\x04gone\x07service\x05local\0",
        };
        // It knows no such zone.
        vec![Act::Send(asked.reply(3, &[record(5, 300, target)]))]
    });
    let server = forwarding(&[&upstream], &["--forward-allow", "127.0.0.1"]);
    let form = json!({"service": "web", "id": "web-1", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    // From the upstream, and from what is kept of it; another type of it is absent, and so is another name.
    for _ in 0..2 {
        let told = Ask::edns("app.corp.example").ask(&server);
        assert_eq!((told.rcode(), told.flags().as_str()), (0, "rd ra"));
        assert_eq!(told.answers(), ["web.service.local.", "10.0.0.7"]);
    }
    let told = Ask { qtype: RecordType::AAAA.into(), ..Ask::edns("app.corp.example") }.ask(&server);
    assert_eq!((told.rcode(), told.answers()), (0, vec!["web.service.local.".to_owned()]));
    let told = Ask::edns("old.corp.example").ask(&server);
    assert_eq!((told.rcode(), told.answers()), (3, vec!["gone.service.local.".to_owned()]));
    let told = Ask { qtype: RecordType::CNAME.into(), ..Ask::edns("app.corp.example") }.ask(&server);
    assert_eq!(told.answers(), ["web.service.local."]);
}

/// The key of a signed zone signs what is ours, and nothing that an upstream says: it may say it of names of ours.
#[test]
fn what_an_upstream_says_behind_an_alias_of_a_signed_zone_is_not_signed() {
    let upstream = Fake::start(|asked| {
        // The alias goes on into our zone.
        let alias = record(5, 300, b"\x05admin\x07service\x05local\0");
        let mut address = a("192.0.2.66", 300);
        address.splice(..2, [0xc0, (12 + asked.question().len() + 12) as u8]);
        vec![Act::Send(asked.reply(0, &[alias, address]))]
    });
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name).display().to_string();
    let init = callsign(&["dnssec", "init", "service.local", "--keys", &path("keys")]);
    assert_eq!(init.code, Some(0), "{init:?}");
    fs::create_dir(path("zones")).expect("a directory for zones");
    fs::write(path("zones/service.local.zone"), "ext CNAME host.example.com.\n")
        .expect("writing the record tree");
    let server = forwarding(&[&upstream], &["--dnssec-keys", &path("keys"), "--zones", &path("zones")]);
    let told = Ask { edns: Some((4096, true)), ..Ask::a("ext.service.local") }.tcp(server.dns[0]);
    let signed: Vec<String> = told
        .message
        .answers
        .iter()
        .filter(|record| record.record_type() == RecordType::RRSIG)
        .map(|record| record.name.to_string())
        .collect();
    assert_eq!(signed, ["ext.service.local."], "{told:?}");
    assert!(!told.answers().contains(&"192.0.2.66".to_owned()), "a name of ours is ours to say: {told:?}");
}
