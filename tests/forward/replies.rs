//! What upstreams are asked, and what becomes of their replies: F-03, F-05, F-06, F-07, and the cache.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::fake::{Act, Ask, Asked, Fake, Told, a, forwarding, record};
use crate::harness::dns::read;
use crate::harness::{DEADLINE, Server, eventually};

/// A SOA of `example.com` with this minimum, its owner the name that was asked for.
fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut data = vec![0, 0];
    for number in [1_u32, 3600, 600, 86_400, minimum] {
        data.extend(number.to_be_bytes());
    }
    record(6, ttl, &data)
}

fn many(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| a(&format!("10.0.{}.{}", number / 256, number % 256), 300)).collect()
}

#[test]
fn f_03_what_is_cut_is_asked_for_over_tcp() {
    let upstream = Fake::start(|asked| {
        vec![Act::Send(if asked.tcp { asked.reply(0, &many(1000)) } else { asked.reply(0x200, &many(3)) })]
    });
    let server = forwarding(&[&upstream], &[]);
    let whole = Ask::a("big.example.com").tcp(server.dns[0]);
    assert_eq!((whole.answers().len(), whole.flags().as_str()), (1000, "rd ra"));
    let asked = upstream.asked();
    assert_eq!(asked.iter().map(|asked| asked.tcp).collect::<Vec<_>>(), [false, true]);
    // By the client's own size, in whole records, from what was kept.
    for (ask, octets_max) in [
        (Ask::a("big.example.com"), 512),
        (Ask::edns("big.example.com"), 1232),
        (Ask { edns: Some((4096, false)), ..Ask::a("big.example.com") }, 1232),
    ] {
        let told = ask.ask(&server);
        let opt = if ask.edns.is_some() { 11 } else { 0 };
        assert_eq!(told.flags(), "tc rd ra");
        assert_eq!(told.answers().len(), (octets_max - 12 - 21 - opt) / 16, "as many whole ones as fit");
        assert!(told.octets.len() <= octets_max);
    }
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn f_03_what_no_message_of_ours_holds_is_no_answer() {
    /// SRV with a target that points at the question: 20 octets there, 35 here, where no target is compressed.
    const RECORDS: usize = 3_270;
    let upstream = Fake::start(|asked| {
        let srv = record(33, 300, &[0, 0, 0, 0, 0, 80, 0xc0, 12]);
        let count = if asked.tcp { RECORDS } else { 20 };
        let message = asked.reply(if asked.tcp { 0x20 } else { 0x200 }, &vec![srv; count]);
        assert_eq!(message.len(), 33 + 20 * count);
        vec![Act::Send(message)]
    });
    let server = forwarding(&[&upstream], &[]);
    let plain = Ask { qtype: 33, ..Ask::a("big.example.com") };
    let edns = Ask { qtype: 33, ad: true, ..Ask::edns("big.example.com") };
    for (ask, octets_max, records) in [(&plain, 512, (512 - 33) / 35), (&edns, 1232, (1232 - 33 - 11) / 35)] {
        let told = ask.ask(&server);
        assert_eq!((told.rcode(), told.flags().contains("tc"), told.answers().len()), (0, true, records));
        assert!(told.octets.len() <= octets_max);
    }
    assert_eq!((plain.tcp(server.dns[0]).rcode(), plain.tcp(server.dns[0]).octets.len()), (2, 33));
    let told = edns.tcp(server.dns[0]);
    assert_eq!((told.rcode(), told.flags().as_str(), told.answers().len()), (2, "rd ra", 0));
    assert_eq!(told.ede(), (0, "the answer is larger than a DNS message".to_owned()));
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn f_03_the_longest_message_passes_whole() {
    /// Header and question are 31 octets, an address 16: 65,535.
    const RECORDS: usize = 4_094;
    let upstream = Fake::start(|asked| {
        vec![Act::Send(if asked.tcp { asked.reply(0, &many(RECORDS)) } else { asked.reply(0x200, &[]) })]
    });
    let server = forwarding(&[&upstream], &[]);
    let told = Ask::a("b.example.com").tcp(server.dns[0]);
    assert_eq!((told.octets.len(), told.rcode(), told.answers().len()), (65_535, 0, RECORDS));
    // The client's OPT record is eleven octets too many.
    let told = Ask::edns("b.example.com").tcp(server.dns[0]);
    assert_eq!((told.rcode(), told.answers().len(), told.ede().0), (2, 0, 0));
}

#[test]
fn f_03_an_upstream_without_tcp_gives_what_it_has() {
    let upstream =
        Fake::start(
            |asked| {
                if asked.tcp { Vec::new() } else { vec![Act::Send(asked.reply(0x200, &many(3)))] }
            },
        );
    let server = forwarding(&[&upstream], &[]);
    let told = Ask::a("big.example.com").ask(&server);
    assert_eq!((told.answers().len(), told.flags().as_str()), (3, "tc rd ra"));
    let told = Ask::edns("big.example.com").tcp(server.dns[0]);
    assert_eq!((told.rcode(), told.answers().len()), (2, 0), "over TCP nothing can be said to be cut");
}

#[test]
fn f_05_do_and_cd_are_passed_on_and_ad_where_it_is_asked_for() {
    // Its own flags say what it was asked.
    let upstream = Fake::start(|asked| {
        let message = asked.message();
        let dnssec_ok = message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let address =
            format!("10.0.{}.{}", u8::from(dnssec_ok), u8::from(message.metadata.checking_disabled));
        vec![Act::Send(asked.reply(0x20, &[a(&address, 300)]))]
    });
    let server = forwarding(&[&upstream], &[]);
    let plain = Ask::a("www.example.com");
    let with = |dnssec_ok| Some((1232, dnssec_ok));
    for (ask, address, flags) in [
        (plain.clone(), "10.0.0.0", "rd ra"),
        (Ask { ad: true, ..plain.clone() }, "10.0.0.0", "rd ra ad"),
        (Ask { edns: with(false), ..plain.clone() }, "10.0.0.0", "rd ra"),
        (Ask { edns: with(true), ..plain.clone() }, "10.0.1.0", "rd ra ad"),
        (Ask { cd: true, ..plain.clone() }, "10.0.0.1", "rd ra cd"),
        (Ask { cd: true, edns: with(true), ..plain.clone() }, "10.0.1.1", "rd ra ad cd"),
    ] {
        let told = ask.ask(&server);
        assert_eq!((told.answers(), told.flags().as_str()), (vec![address.to_owned()], flags));
        let dnssec_ok = told.message.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
        assert_eq!(dnssec_ok, ask.edns.map(|(_, dnssec_ok)| dnssec_ok), "DO comes back as it was set");
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 4, "each of DO and CD is another question, AD and the size are not");
    for asked in &asked {
        let message = asked.message();
        let edns = message.edns.as_ref().expect("an OPT of our own");
        assert!(message.metadata.recursion_desired && message.metadata.authentic_data);
        assert_eq!((edns.max_payload(), edns.options().options.len()), (1232, 0));
    }
}

#[test]
fn f_06_every_query_has_a_port_an_id_and_a_case_of_its_own() {
    let upstream = Fake::start(|asked| vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 0)]))]);
    let server = forwarding(&[&upstream], &[]);
    const QUERIES: usize = 200;
    for _ in 0..QUERIES {
        assert_eq!(Ask::a("www.a-rather-long-name.example.com").ask(&server).rcode(), 0);
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), QUERIES, "TTL 0 is not kept");
    let distinct = |of: fn(&Asked) -> Vec<u8>| asked.iter().map(of).collect::<BTreeSet<_>>().len();
    // Drawn from 28,000 ports and 65,536 ids, 200 have about one pair; from 2^27 cases none.
    assert!(distinct(|asked| asked.from.port().to_be_bytes().to_vec()) > 180);
    assert!(distinct(|asked| asked.id().to_be_bytes().to_vec()) > 180);
    assert!(distinct(|asked| asked.question().to_vec()) > 195);
}

#[test]
fn f_06_only_the_reply_to_the_query_counts() {
    let upstream = Fake::start(|asked| {
        let good = asked.reply(0, &[a("192.0.2.80", 300)]);
        let wrong = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut octets = asked.reply(0, &[a("203.0.113.66", 300)]);
            change(&mut octets);
            Act::Send(octets)
        };
        vec![
            wrong(&|octets| octets[0] ^= 1),
            wrong(&|octets| octets[1] ^= 0x80),
            wrong(&|octets| octets[13] = b'x'),
            wrong(&|octets| octets[2] &= 0x7f),
            wrong(&|octets| octets.truncate(11)),
            wrong(&|octets| {
                let at = 12 + asked.question().len() - 3;
                octets[at] = 28;
            }),
            Act::FromElsewhere(asked.reply(0, &[a("203.0.113.66", 300)])),
            Act::Send(good),
        ]
    });
    let server = forwarding(&[&upstream], &[]);
    for name in ["a.example.com", "b.example.com", "c.example.com"] {
        assert_eq!(Ask::a(name).ask(&server).answers(), ["192.0.2.80"]);
    }
    assert!(upstream.asked().iter().all(|asked| !asked.tcp), "none of them was worth a second query");
    assert_eq!(upstream.asked().len(), 3);
}

#[test]
fn f_06_who_guesses_many_times_is_left_for_tcp() {
    let upstream = Fake::start(|asked| {
        if asked.tcp {
            return vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))];
        }
        let guess = |number: u16| {
            let mut octets = asked.reply(0, &[a("203.0.113.66", 300)]);
            octets[..2].copy_from_slice(&(asked.id() ^ (1 + number)).to_be_bytes());
            Act::Send(octets)
        };
        (0..40).map(guess).collect()
    });
    let server = forwarding(&[&upstream], &[]);
    assert_eq!(Ask::a("www.example.com").ask(&server).answers(), ["192.0.2.80"]);
    assert!(upstream.asked()[1].tcp);
}

#[test]
fn f_06_an_upstream_that_keeps_no_case_is_asked_without() {
    fn lower(asked: &Asked) -> Vec<u8> {
        let mut octets = asked.reply(0, &[a("192.0.2.80", 300)]);
        octets[12..12 + asked.question().len() - 4].make_ascii_lowercase();
        octets
    }
    for tcp in [true, false] {
        let upstream =
            Fake::start(
                move |asked| {
                    if asked.tcp && !tcp { Vec::new() } else { vec![Act::Send(lower(asked))] }
                },
            );
        let server = forwarding(&[&upstream], &[]);
        for name in ["a.long-name-of-one.example.com", "a.long-name-of-two.example.com"] {
            assert_eq!(Ask::a(name).ask(&server).answers(), ["192.0.2.80"], "with TCP: {tcp}");
        }
        let asked = upstream.asked();
        let last = asked.last().expect("it was asked");
        assert!(!last.tcp && last.octets[12..].iter().all(|octet| !octet.is_ascii_uppercase()), "{asked:?}");
    }
}

#[test]
fn an_upstream_without_edns_is_asked_without() {
    let upstream = Fake::start(|asked| {
        vec![Act::Send(if asked.message().edns.is_some() {
            let mut octets = asked.octets[..2].to_vec();
            octets.extend([0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]); // FORMERR, and not even the question
            octets
        } else {
            asked.reply(0, &[a("192.0.2.80", 300)])
        })]
    });
    let server = forwarding(&[&upstream], &[]);
    assert_eq!(Ask::edns("a.example.com").ask(&server).answers(), ["192.0.2.80"]);
    let before = upstream.asked().len();
    assert_eq!(Ask::edns("b.example.com").ask(&server).answers(), ["192.0.2.80"]);
    assert_eq!(upstream.asked().len(), before + 1, "it is known by now");
}

#[test]
fn f_07_what_nobody_knows_passes_as_it_is() {
    // A type of RFC 6895's private range, data that looks like a pointer, 700 octets of it, and an unknown option.
    let upstream = Fake::start(|asked| {
        let data: Vec<u8> = (0..700).map(|at| if at % 2 == 0 { 0xc0 } else { at as u8 }).collect();
        let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 5, 0xfd, 0xe9, 0, 1, 7].to_vec();
        let answers = [record(65_280, 300, &data), record(65_280, 300, &[1, 2])];
        vec![Act::Send(asked.with_sections(0, [&answers, &[], &[opt]]))]
    });
    let server = forwarding(&[&upstream], &[]);
    let told = Ask { qtype: 65_280, ..Ask::edns("www.example.com") }.ask(&server);
    let data: Vec<u8> = (0..700).map(|at| if at % 2 == 0 { 0xc0 } else { at as u8 }).collect();
    let contains = |wanted: &[u8]| told.octets.windows(wanted.len()).any(|window| window == wanted);
    assert!(contains(&data) && contains(&[0, 2, 1, 2]));
    assert_eq!(told.message.answers.len(), 2);
    assert_eq!(upstream.asked()[0].qtype(), 65_280);
    let options = told.message.edns.as_ref().expect("OPT").options().options.len();
    assert_eq!(options, 0, "options are between two servers (RFC 6891 section 6.2.6)");
}

#[test]
fn what_upstreams_say_in_words_is_passed_on() {
    let upstream = Fake::start(|asked| {
        let opt =
            [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11, 0, 15, 0, 7, 0, 6, b'b', b'o', b'g', b'u', b's'].to_vec();
        vec![Act::Send(asked.with_sections(2, [&[], &[], &[opt]]))]
    });
    let server = forwarding(&[&upstream], &[]);
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!((told.rcode(), told.ede()), (2, (6, "bogus".to_owned())));
    let tries = upstream.asked().len();
    assert!(tries <= 3, "{tries} tries");
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!((told.rcode(), told.ede()), (2, (13, "bogus".to_owned())), "13: it was kept");
    assert_eq!(upstream.asked().len(), tries);
}

#[test]
fn answers_are_kept_as_long_as_they_say_and_counted_down() {
    let upstream = Fake::start(|asked| {
        vec![Act::Send(match asked.name().as_str() {
            "none.example.com." => asked.with_sections(3, [&[], &[soa(300, 60)], &[]]),
            "empty.example.com." => asked.with_sections(0, [&[], &[soa(30, 60)], &[]]),
            "silent.example.com." => asked.reply(3, &[]),
            "long.example.com." => asked.reply(0, &[a("192.0.2.80", 2_000_000)]),
            "odd.example.com." => asked.reply(0, &[a("192.0.2.80", 0x8000_0001)]),
            "short.example.com." => asked.reply(0, &[a("192.0.2.80", 2)]),
            _ => asked.reply(0, &[a("192.0.2.80", 300), a("192.0.2.81", 200)]),
        })]
    });
    let server = forwarding(&[&upstream], &[]);
    let mut asked = 0;
    for (name, rcode, kept) in [
        ("www.example.com", 0, true),
        ("none.example.com", 3, true),
        ("empty.example.com", 0, true),
        ("silent.example.com", 3, false), // no SOA (RFC 2308 section 5)
        ("long.example.com", 0, true),
        ("odd.example.com", 0, false),
    ] {
        assert_eq!(Ask::a(name).ask(&server).rcode(), rcode);
        assert_eq!(Ask::a(name).ask(&server).rcode(), rcode);
        asked += if kept { 1 } else { 2 };
        assert_eq!(upstream.asked().len(), asked, "{name}");
    }
    assert!(Ask::a("long.example.com").ask(&server).ttl() <= 86_400);
    // Counted down, to its end, and then asked for again.
    let short = || Ask::a("short.example.com").ask(&server);
    assert_eq!(short().ttl(), 2);
    eventually("a lower TTL", DEADLINE, || (short().ttl() == 1).then_some(()));
    assert_eq!(upstream.asked().len(), asked + 1);
    eventually("another query", DEADLINE, || (short().ttl() == 2).then_some(()));
    assert_eq!(upstream.asked().len(), asked + 2);
}

#[test]
fn upstreams_are_counted() {
    let upstream = Fake::start(|asked| vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))]);
    let server = forwarding(&[&upstream], &[]);
    eventually("the first probe", DEADLINE, || (upstream.probes() == 1).then_some(()));
    Ask::a("a.example.com").ask(&server);
    Ask::a("a.example.com").ask(&server);
    let page = metrics(&server);
    let at = upstream.address;
    for line in [
        "callsign_forwarded_total{outcome=\"asked\"} 1".to_owned(),
        "callsign_forwarded_total{outcome=\"kept\"} 1".to_owned(),
        "callsign_forwarded_kept 1".to_owned(),
        format!("callsign_upstream_total{{upstream=\"{at}\",outcome=\"asked\"}} 1"),
        format!("callsign_upstream_total{{upstream=\"{at}\",outcome=\"replied\"}} 1"),
        format!("callsign_upstream_total{{upstream=\"{at}\",outcome=\"failed\"}} 0"),
        format!("callsign_upstream_rests{{upstream=\"{at}\"}} 0"),
    ] {
        assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
    }
}

pub fn metrics(server: &Server) -> String {
    let address: SocketAddr = server.http[0];
    crate::harness::ask::get(address, "/metrics").text()
}

#[test]
fn t_06_a_fast_answer_overtakes_a_slow_one() {
    use crate::harness::dns::{connect, framed, receive_framed};
    use std::io::Write;
    use std::sync::{Arc, Mutex, mpsc};
    // The upstream answers when the test lets it.
    let (go, wait) = mpsc::sync_channel::<()>(1);
    let wait = Arc::new(Mutex::new(wait));
    let upstream = Fake::start(move |asked| {
        let _ = wait.lock().expect("one thread").recv_timeout(DEADLINE);
        vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))]
    });
    let server = forwarding(&[&upstream], &[]);
    let mut stream = connect(server.dns[0]);
    let slow = Ask::a("www.example.com").octets(1);
    let fast = Ask::a("nope.service.local").octets(2);
    // In one segment; and nothing more will come.
    stream.write_all(&[framed(&slow), framed(&fast)].concat()).expect("sending");
    stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
    let first = receive_framed(&mut stream).expect("the fast reply");
    assert_eq!(Told::check(&fast, &first).rcode(), 3);
    go.send(()).expect("the upstream is there");
    let second = receive_framed(&mut stream).expect("the slow reply");
    assert_eq!(Told::check(&slow, &second).answers(), ["192.0.2.80"]);
    assert_eq!(read(&second).metadata.id, 1);
}
