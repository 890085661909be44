//! Upstreams that are dead, slow, wrong or ourselves: F-04, F-11, F-12, and the limits.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::fake::{Act, Ask, Fake, Told, a, forwarding, record};
use super::replies::metrics;
use crate::harness::dns::{connect, framed, receive_framed};
use crate::harness::program::free_ports;
use crate::harness::{DEADLINE, Server, eventually, now};

/// What glibc and musl wait for a reply by default, in resolv.conf(5).
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
/// The names of a flood.
static NAMES: [&str; 4] = ["a.example.com", "b.example.com", "c.example.com", "d.example.com"];

#[test]
fn f_04_a_silent_upstream_is_servfail_in_time_and_kept() {
    let upstream = Fake::start(|_| Vec::new());
    upstream.answers_probes(false);
    let server = forwarding(&[&upstream], &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    socket.set_read_timeout(Some(CLIENT_PATIENCE)).expect("an option of a socket of ours");
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!((told.rcode(), told.flags().as_str(), told.ede().0), (2, "rd ra", 22));
    assert!(told.ede().1.starts_with(&format!("no reply from {}", upstream.address)), "{:?}", told.ede());
    let tries = upstream.asked().len();
    assert!((1..=3).contains(&tries), "{tries} tries");
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!((told.rcode(), told.ede().0), (2, 13), "it was kept");
    assert_eq!(upstream.asked().len(), tries);
}

#[test]
fn f_04_an_upstream_that_is_not_there_is_servfail_at_once() {
    let [port] = free_ports::<1>();
    let server = Server::start(&["--forward", &format!("127.0.0.1:{port}")]);
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!((told.rcode(), told.ede()), (2, (23, format!("127.0.0.1:{port}: connection refused"))));
}

#[test]
fn f_04_others_are_asked_where_one_fails() {
    let silent = Fake::start(|_| Vec::new());
    let refusing = Fake::start(|asked| vec![Act::Send(asked.reply(5, &[]))]);
    let garbled = Fake::start(|asked| {
        let mut octets = asked.reply(0, &[]);
        octets[7] = 9; // nine answers, none of them there
        vec![Act::Send(octets)]
    });
    let good = Fake::start(|asked| vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))]);
    for bad in [&silent, &refusing, &garbled] {
        let server = forwarding(&[bad, &good], &[]);
        assert_eq!(Ask::a("www.example.com").ask(&server).answers(), ["192.0.2.80"]);
    }
    assert_eq!(good.asked().len(), 3);
    let server = forwarding(&[&refusing], &[]);
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!((told.rcode(), told.ede().0), (2, 0), "that somebody refuses us is our trouble");
}

/// What goes out as an empty answer with RA is kept as an absence by whoever asked. A server that knows no more than others' names,
/// or nothing, has not said that there is none.
#[test]
fn f_04_a_referral_is_no_answer() {
    const RA: u8 = 0x80;
    let referring = Fake::start(|asked| {
        let servers = [record(2, 300, b"\x01a\x04gtld\x07example\0")];
        vec![Act::Send(asked.with_sections(0, [&[], &servers, &[]]))]
    });
    let lame = Fake::start(|asked| {
        let mut octets = asked.reply(0, &[]);
        octets[3] &= !RA;
        vec![Act::Send(octets)]
    });
    let good = Fake::start(|asked| vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))]);
    for bad in [&referring, &lame] {
        let server = forwarding(&[bad, &good], &[]);
        assert_eq!(Ask::a("www.example.com").ask(&server).answers(), ["192.0.2.80"]);
        let server = forwarding(&[bad], &[]);
        let told = Ask::edns("www.example.com").ask(&server);
        assert_eq!((told.rcode(), told.flags().as_str(), told.ede().0), (2, "rd ra", 22));
        let text = format!("{} does not know, and asks nobody", bad.address);
        assert_eq!(told.ede().1, text);
    }
    assert_eq!(good.asked().len(), 2);
    // A resolver, or an authoritative server, may say in as few words that there is none.
    let empty = Fake::start(|asked| vec![Act::Send(asked.reply(0, &[]))]);
    let authoritative = Fake::start(|asked| {
        let mut octets = asked.reply(0x400, &[]);
        octets[3] &= !RA;
        vec![Act::Send(octets)]
    });
    for terse in [&empty, &authoritative] {
        let told = Ask::edns("www.example.com").ask(&forwarding(&[terse], &[]));
        assert_eq!((told.rcode(), told.answers().len(), told.ede().0), (0, 0, u16::MAX));
    }
}

#[test]
fn f_12_a_bad_upstream_rests_and_comes_back() {
    let alive = Arc::new(AtomicUsize::new(0));
    let for_script = alive.clone();
    let first = Fake::start(move |asked| match for_script.load(Ordering::SeqCst) {
        0 => Vec::new(),
        _ => vec![Act::Send(asked.reply(0, &[a("192.0.2.1", 0)]))],
    });
    first.answers_probes(false);
    let second = Fake::start(|asked| vec![Act::Send(asked.reply(0, &[a("192.0.2.2", 0)]))]);
    let server = forwarding(&[&first, &second], &[]);
    let rests = |page: &str| {
        let line = format!("callsign_upstream_rests{{upstream=\"{}\"}} 1", first.address);
        page.lines().any(|known| known == line)
    };
    eventually("the first to rest", DEADLINE, || {
        assert_eq!(Ask::a("www.example.com").ask(&server).answers(), ["192.0.2.2"], "nobody hears of it");
        rests(&metrics(&server)).then_some(())
    });
    let asked = first.asked().len();
    for _ in 0..20 {
        assert_eq!(Ask::a("www.example.com").ask(&server).answers(), ["192.0.2.2"]);
    }
    assert_eq!(first.asked().len(), asked, "who rests is not asked first");
    assert_eq!(server.stderr().matches("a name server does not answer").count(), 1, "{}", server.stderr());
    alive.store(1, Ordering::SeqCst);
    first.answers_probes(true);
    eventually("the first to come back", DEADLINE, || (!rests(&metrics(&server))).then_some(()));
    assert_eq!(Ask::a("www.example.com").ask(&server).answers(), ["192.0.2.1"], "it is the first again");
    assert_eq!(server.stderr().matches("a name server answers again").count(), 1, "{}", server.stderr());
}

#[test]
fn f_11_ourselves_by_name_is_refused_at_start() {
    let [port] = free_ports::<1>();
    let (own, wildcard) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    for (dns, upstream) in [(&own, own.clone()), (&wildcard, format!("127.0.0.9:{port}"))] {
        let words = ["--dns", dns, "--forward", &upstream, "--allow-unauthenticated"];
        let Err(ended) = Server::launch(&[], &words) else { panic!("it started with itself as upstream") };
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(&format!("{upstream} is this server itself")), "{}", ended.stderr);
    }
}

#[test]
fn f_11_ourselves_by_a_detour_is_servfail_and_no_storm() {
    // A stub that asks us again, in the words in which it was asked.
    let server_at: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let [port] = free_ports::<1>();
    let stub = UdpSocket::bind(format!("127.0.0.1:{port}")).expect("a free port");
    let (relayed, target) = (Arc::new(AtomicUsize::new(0)), server_at.clone());
    let counting = relayed.clone();
    let ends = Arc::new(AtomicUsize::new(0));
    let end = ends.clone();
    stub.set_read_timeout(Some(Duration::from_millis(20))).expect("an option");
    let thread = std::thread::spawn(move || {
        let back = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        back.set_nonblocking(true).expect("an option");
        let mut waiting: HashMap<[u8; 2], SocketAddr> = HashMap::new();
        let mut buffer = vec![0; 4096];
        while end.load(Ordering::SeqCst) == 0 {
            while let Ok((octets, _)) = back.recv_from(&mut buffer) {
                if let Some(client) = waiting.remove(&[buffer[0], buffer[1]]) {
                    drop(stub.send_to(&buffer[..octets], client));
                }
            }
            let Ok((octets, from)) = stub.recv_from(&mut buffer) else { continue };
            let Some(server) = *target.lock().expect("two threads") else { continue };
            counting.fetch_add(1, Ordering::SeqCst);
            waiting.insert([buffer[0], buffer[1]], from);
            drop(back.send_to(&buffer[..octets], server));
        }
    });
    let server = Server::start(&["--forward", &format!("127.0.0.1:{port}")]);
    // Before a probe came back: the question meets itself, and waits for itself.
    *server_at.lock().expect("two threads") = Some(server.dns[0]);
    let told = Ask::edns("www.example.com").ask(&server);
    assert_eq!(told.rcode(), 2, "{told:?}");
    eventually("the loop to be seen", DEADLINE, || {
        server.stderr().contains("leads back to this server").then_some(())
    });
    let before = relayed.load(Ordering::SeqCst);
    assert!(before < 20, "{before} queries went round");
    for name in NAMES {
        let told = Ask::edns(name).ask(&server);
        assert_eq!(
            (told.rcode(), told.ede()),
            (2, (22, "no other server is known, or each leads back to this one".to_owned()))
        );
    }
    let after = relayed.load(Ordering::SeqCst) - before;
    assert!(after < 4, "{after} more queries went round, probes apart none should");
    ends.store(1, Ordering::SeqCst);
    thread.join().expect("the stub");
}

#[test]
fn one_question_of_many_clients_is_asked_once_and_a_client_may_go() {
    let (go, wait) = mpsc::sync_channel::<()>(1);
    let wait = Mutex::new(wait);
    let upstream = Fake::start(move |asked| {
        let _ = wait.lock().expect("one thread").recv_timeout(DEADLINE);
        vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))]
    });
    let server = forwarding(&[&upstream], &[]);
    // The first, whose question it is, does not wait.
    let mut gone = connect(server.dns[0]);
    std::io::Write::write_all(&mut gone, &framed(&Ask::a("www.example.com").octets(9))).expect("sending");
    let count = |line: &str| {
        let page = metrics(&server);
        let value = page.lines().find_map(|known| known.strip_prefix(line)).map(str::trim);
        value.and_then(|value| value.parse::<usize>().ok()).unwrap_or(0)
    };
    let joined = "callsign_forwarded_total{outcome=\"joined\"}";
    eventually("its query", DEADLINE, || {
        (count("callsign_forwarded_total{outcome=\"asked\"}") == 1).then_some(())
    });
    drop(gone);
    let clients: Vec<(UdpSocket, Vec<u8>)> = (0..50_u16)
        .map(|id| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
            socket.set_read_timeout(Some(DEADLINE)).expect("an option");
            let query = Ask::a(if id % 2 == 0 { "www.example.com" } else { "WWW.Example.COM" }).octets(id);
            socket.send_to(&query, server.dns[0]).expect("sending on loopback");
            (socket, query)
        })
        .collect();
    eventually("fifty who wait", DEADLINE, || (count(joined) == 50).then_some(()));
    go.send(()).expect("the upstream is there");
    for (socket, query) in clients {
        let mut buffer = [0; 512];
        let octets = socket.recv(&mut buffer).expect("a reply");
        assert_eq!(Told::check(&query, &buffer[..octets]).answers(), ["192.0.2.80"]);
    }
    // A second try may have been on its way; fifty were not.
    assert!(upstream.asked().len() <= 3, "{}", upstream.asked().len());
}

#[test]
fn a_thousand_questions_to_a_dead_upstream_are_servfail_and_ours_are_answered() {
    let upstream = Fake::start(|_| Vec::new());
    upstream.answers_probes(false);
    let server = forwarding(&[&upstream], &[]);
    let clients = clients(20);
    for id in 0..1000_u16 {
        let name: &'static str = Box::leak(format!("{id}.example.com").into_boxed_str());
        let client = &clients[usize::from(id) % clients.len()];
        client.send_to(&Ask::a(name).octets(id), server.dns[0]).expect("sending on loopback");
    }
    // Meanwhile what is ours is answered: each of these would fail its own deadline otherwise.
    let begun = now();
    for _ in 0..200 {
        assert_eq!(Ask::a("nope.service.local").ask(&server).rcode(), 3);
    }
    println!("200 names of ours while 1,000 others wait: {:?}", begun.elapsed());
    let mut failed = BTreeSet::new();
    let mut buffer = [0; 512];
    for at in 0..1000 {
        clients[at % clients.len()].recv(&mut buffer).expect("a reply within the patience of a client");
        assert_eq!(buffer[3] & 0xf, 2);
        failed.insert([buffer[0], buffer[1]]);
    }
    assert_eq!(failed.len(), 1000, "one SERVFAIL for each");
    println!("1,000 of SERVFAIL after {:?}", begun.elapsed());
}

/// Sockets of clients who wait as long as clients do; few replies each, for what a socket holds is little.
fn clients(count: usize) -> Vec<UdpSocket> {
    let client = |_| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        socket.set_read_timeout(Some(CLIENT_PATIENCE)).expect("an option of a socket of ours");
        socket
    };
    (0..count).map(client).collect()
}

#[test]
fn more_than_may_wait_are_told_so() {
    let upstream = Fake::start(|_| Vec::new());
    upstream.answers_probes(false);
    let server = forwarding(&[&upstream], &[]);
    // One question that thousands of clients wait for: the limit is on those who wait.
    let clients = clients(84);
    for id in 0..4200_u16 {
        let client = &clients[usize::from(id) % clients.len()];
        let query = Ask::edns("www.example.com").octets(id);
        client.send_to(&query, server.dns[0]).expect("sending on loopback");
        if id % 100 == 99 {
            // Not faster than the server reads.
            assert_eq!(Ask::a("nope.service.local").ask(&server).rcode(), 3);
        }
    }
    let mut buffer = [0; 512];
    let mut refused = 0;
    for at in 0..4200 {
        let octets = clients[at % clients.len()].recv(&mut buffer).expect("a reply to each");
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        let told = Told::check(&Ask::edns("www.example.com").octets(id), &buffer[..octets]);
        assert_eq!(told.rcode(), 2);
        refused += usize::from(told.ede().1.starts_with("too many"));
    }
    assert_eq!(refused, 4200 - 4096);
}

#[test]
fn one_connection_waits_for_so_many_and_no_more() {
    let (go, wait) = mpsc::sync_channel::<()>(200);
    let wait = Mutex::new(wait);
    let upstream = Fake::start(move |asked| {
        let _ = wait.lock().expect("one thread").recv_timeout(DEADLINE);
        vec![Act::Send(asked.reply(0, &[a("192.0.2.80", 300)]))]
    });
    let server = forwarding(&[&upstream], &[]);
    let mut stream = connect(server.dns[0]);
    let mut octets = Vec::new();
    // One name, so that the upstream is asked few times; a hundred replies that are waited for.
    for id in 0..100 {
        octets.extend(framed(&Ask::a("www.example.com").octets(id)));
    }
    std::io::Write::write_all(&mut stream, &octets).expect("sending");
    let joined = || {
        let page = metrics(&server);
        let line =
            page.lines().find_map(|line| line.strip_prefix("callsign_forwarded_total{outcome=\"joined\"} "));
        line.and_then(|value| value.parse::<usize>().ok()).unwrap_or(0)
    };
    eventually("as many as one connection may have", DEADLINE, || (joined() == 63).then_some(()));
    // On another connection things go on.
    assert_eq!(Ask::a("nope.service.local").tcp(server.dns[0]).rcode(), 3);
    assert_eq!(joined(), 63);
    for _ in 0..3 {
        go.send(()).expect("the upstream is there");
    }
    for _ in 0..100 {
        let reply = receive_framed(&mut stream).expect("a reply to each");
        assert_eq!(reply[3] & 0xf, 0);
    }
}
