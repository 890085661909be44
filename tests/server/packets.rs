//! Bad input on the DNS sockets: the right code or silence, and everybody else is served.
//!
//! `wire.rs` has the rules of right messages; here is what nobody should send, how much of it, and how slowly.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use serde_json::json;

use crate::harness::dns::{addresses, connect, framed, ports, query, read, receive_framed, send_framed};
use crate::harness::process::{descriptors, processor_time, resident_kib};
use crate::harness::{DEADLINE, Draws, Resolver, Server, eventually, now, seed, srv, stays};

/// What an abuse may leave behind: buffers that the allocator keeps.
const GROWTH_KIB_MAX: u64 = 16 * 1024;
const HEADER_OCTETS: usize = 12;
const NAME: &str = "web.service.local.";

fn server_with_web() -> Server {
    server_with_web_under(&[])
}

fn server_with_web_under(before: &[&str]) -> Server {
    let server = Server::start_under(before, &[]);
    let form = json!({"service": "web", "id": "web-1", "address": "10.0.0.7", "port": 80, "lease": "none"});
    server.client().done("registered", &json!({ "register": form }));
    server
}

/// A right question has its right answer.
fn is_served(resolver: &mut Resolver) {
    assert_eq!(ports(&resolver.udp(&srv("web"), RecordType::SRV)).into_values().collect::<Vec<_>>(), [80]);
}

/// A message: id, flags, the four counts, and what follows.
fn message(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xab, 0xcd];
    octets.extend(flags.to_be_bytes());
    octets.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    octets.extend(rest);
    octets
}

/// `web.service.local`, type and class.
fn question(qtype: u16, class: u16) -> Vec<u8> {
    let mut octets = b"\x03web\x07service\x05local\0".to_vec();
    octets.extend(qtype.to_be_bytes());
    octets.extend(class.to_be_bytes());
    octets
}

/// A question for A with an OPT record of this version and data.
fn with_opt(version: u8, data: &[u8]) -> Vec<u8> {
    let mut octets = question(1, 1);
    octets.extend([0, 0, 41, 0x04, 0xd0, 0, version, 0, 0]);
    octets.extend(u16::try_from(data.len()).expect("the data of a record").to_be_bytes());
    octets.extend(data);
    message(0, [1, 0, 0, 1], &octets)
}

/// A question, a record whose data is a chain of pointers, each to the one before it, and a record whose owner
/// is the last of them: a decoder that follows them all takes 2,000 steps for one name.
fn pointers(octets: usize) -> Vec<u8> {
    const RECORD_OCTETS: usize = 11;
    let mut rest = question(1, 1);
    let chain_at = HEADER_OCTETS + rest.len() + RECORD_OCTETS;
    let links = (octets - chain_at - RECORD_OCTETS - 1) / 2;
    rest.extend([0, 0, 10, 0, 1, 0, 0, 0, 0]); // the root, type NULL
    rest.extend(u16::try_from(2 * links).expect("the data of a record").to_be_bytes());
    let mut to = HEADER_OCTETS;
    for link in 0..links {
        rest.extend((0xc000 | to as u16).to_be_bytes());
        to = chain_at + 2 * link;
    }
    rest.extend((0xc000 | to as u16).to_be_bytes());
    rest.extend([0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, 1]);
    message(0, [1, 0, 0, 2], &rest)
}

/// Of a name that is no apex: over TCP nobody has a zone of that name (RFC 5936 section 2.2.1).
const TRANSFER: &str = "a transfer";

/// What a datagram is answered with: a code, or nothing.
fn expectations() -> Vec<(&'static str, Vec<u8>, Option<ResponseCode>)> {
    use ResponseCode::{BADVERS, FormErr, NoError, NotImp, Refused};
    let a = || question(1, 1);
    let twice = |octets: Vec<u8>| [octets.clone(), octets].concat();
    let label_of_64 = [&[64][..], &[b'a'; 64], b"\0\0\x01\0\x01"].concat();
    let name_of_300 = [b"\x3b".to_vec(), vec![b'a'; 59]].concat().repeat(5);
    let mut many = a();
    many.extend(b"\0\0\x10\0\x01\0\0\0\0\0\0".repeat(300));
    vec![
        ("a right question", message(0, [1, 0, 0, 0], &a()), Some(NoError)),
        ("nothing", Vec::new(), None),
        ("one octet", vec![0], None),
        ("half a header", vec![0; HEADER_OCTETS - 1], None),
        ("a response", message(0x8000, [1, 0, 0, 0], &a()), None),
        ("a response with every flag", message(0xffff, [1, 0, 0, 0], &a()), None),
        ("no question", message(0, [0, 0, 0, 0], &[]), Some(FormErr)),
        ("no question, and octets", message(0, [0, 0, 0, 0], &a()), Some(FormErr)),
        ("two questions", message(0, [2, 0, 0, 0], &twice(a())), Some(FormErr)),
        ("65,535 questions", message(0, [65_535, 0, 0, 0], &a()), Some(FormErr)),
        ("65,535 of everything", message(0, [65_535; 4], &a()), Some(FormErr)),
        ("a question that is not there", message(0, [1, 0, 0, 0], &[]), Some(FormErr)),
        ("half a question", message(0, [1, 0, 0, 0], &a()[..10]), Some(FormErr)),
        ("a question without a class", message(0, [1, 0, 0, 0], &a()[..a().len() - 2]), Some(FormErr)),
        ("an answer in a query", message(0, [1, 1, 0, 0], &twice(a())), Some(FormErr)),
        ("300 additional records", message(0, [1, 0, 0, 300], &many), Some(FormErr)),
        ("an additional record that is not there", message(0, [1, 0, 0, 1], &a()), Some(FormErr)),
        ("a label of 64 octets", message(0, [1, 0, 0, 0], &label_of_64), Some(FormErr)),
        (
            "a name of 300 octets",
            message(0, [1, 0, 0, 0], &[name_of_300, vec![0, 0, 1, 0, 1]].concat()),
            Some(FormErr),
        ),
        ("a reserved label type", message(0, [1, 0, 0, 0], b"\x80web\0\0\x01\0\x01"), Some(FormErr)),
        ("a pointer to itself", message(0, [1, 0, 0, 0], b"\xc0\x0c\0\x01\0\x01"), Some(FormErr)),
        (
            "two pointers to each other",
            message(0, [1, 0, 0, 0], b"\xc0\x0e\xc0\x0c\0\x01\0\x01"),
            Some(FormErr),
        ),
        ("a pointer behind the end", message(0, [1, 0, 0, 0], b"\xff\xff\0\x01\0\x01"), Some(FormErr)),
        ("a pointer into the header", message(0, [1, 0, 0, 0], b"\xc0\x00\0\x01\0\x01"), Some(FormErr)),
        (
            "a label, then a pointer to it",
            message(0, [1, 0, 0, 0], b"\x01a\xc0\x0c\0\x01\0\x01"),
            Some(FormErr),
        ),
        ("4 KiB of pointers", pointers(4096), Some(NoError)),
        ("opcode IQUERY", message(1 << 11, [1, 0, 0, 0], &a()), Some(NotImp)),
        ("opcode STATUS", message(2 << 11, [1, 0, 0, 0], &a()), Some(NotImp)),
        ("an opcode without a name", message(3 << 11, [1, 0, 0, 0], &a()), Some(NotImp)),
        ("opcode NOTIFY", message(4 << 11, [1, 0, 0, 0], &a()), Some(NotImp)),
        ("an UPDATE of what is no zone", message(5 << 11, [1, 0, 0, 0], &a()), Some(FormErr)),
        ("opcode DSO", message(6 << 11, [0, 0, 0, 0], &[]), Some(NotImp)),
        ("opcode 15", message(15 << 11, [1, 0, 0, 0], &a()), Some(NotImp)),
        ("class CH", message(0, [1, 0, 0, 0], &question(16, 3)), Some(Refused)),
        ("class HS", message(0, [1, 0, 0, 0], &question(1, 4)), Some(Refused)),
        ("a class without a name", message(0, [1, 0, 0, 0], &question(1, 0xff00)), Some(Refused)),
        (TRANSFER, message(0, [1, 0, 0, 0], &question(252, 1)), Some(Refused)),
        ("type 0", message(0, [1, 0, 0, 0], &question(0, 1)), Some(FormErr)),
        ("type OPT", message(0, [1, 0, 0, 0], &question(41, 1)), Some(FormErr)),
        ("a type without a name", message(0, [1, 0, 0, 0], &question(65_280, 1)), Some(NoError)),
        ("EDNS", with_opt(0, &[]), Some(NoError)),
        ("EDNS version 1", with_opt(1, &[]), Some(BADVERS)),
        ("EDNS version 255", with_opt(255, &[]), Some(BADVERS)),
        ("an EDNS option that says more than is there", with_opt(0, b"\0\x0a\xff\xff"), Some(FormErr)),
        ("an unknown EDNS option", with_opt(0, b"\xfd\xe9\0\x02hi"), Some(NoError)),
    ]
}

#[test]
fn bad_datagrams_get_the_right_code_or_silence() {
    let server = server_with_web();
    let mut resolver = server.resolver();
    let silent = query(1, NAME, RecordType::A, None).to_vec().expect("a query");
    for (what, octets, expected) in expectations() {
        resolver.send(&octets);
        if expected.is_none() {
            // One loop answers in order: what comes first is the reply to what has one.
            resolver.send(&silent);
            let reply = read(&resolver.receive(DEADLINE).expect("a reply to the right question"));
            assert_eq!(reply.metadata.id, 1, "{what} is answered");
            continue;
        }
        let reply = resolver.receive(DEADLINE).unwrap_or_else(|| panic!("{what}: no reply"));
        is_reply(what, &octets, &reply, expected);
    }
    is_served(&mut resolver);
}

#[test]
fn the_same_over_tcp() {
    let server = server_with_web();
    for (what, octets, expected) in expectations() {
        let expected = if what == TRANSFER { Some(ResponseCode::NotAuth) } else { expected };
        let mut stream = connect(server.dns[0]);
        send_framed(&mut stream, &octets).expect("sending a message");
        if octets.len() < HEADER_OCTETS {
            assert_eq!(rest_of(&mut stream), 0, "{what}: no reply, and the connection is closed");
            continue;
        }
        // The right question behind it is answered on the same connection, in any case.
        send_framed(&mut stream, &query(1, NAME, RecordType::A, None).to_vec().expect("a query"))
            .expect("sending");
        if expected.is_some() {
            let reply = receive_framed(&mut stream).unwrap_or_else(|error| panic!("{what}: {error}"));
            is_reply(what, &octets, &reply, expected);
        }
        let reply =
            read(&receive_framed(&mut stream).unwrap_or_else(|error| panic!("after {what}: {error}")));
        assert_eq!((reply.metadata.id, addresses(&reply).len()), (1, 1), "after {what}");
    }
}

/// Its id, its code, QR, and no record where there is no answer.
fn is_reply(what: &str, sent: &[u8], octets: &[u8], expected: Option<ResponseCode>) {
    assert_eq!(octets[..2], sent[..2], "{what}: the id");
    assert_eq!(octets[2] & 0x80, 0x80, "{what}: a reply");
    assert_eq!(octets[2] & 0x78, sent[2] & 0x78, "{what}: the opcode");
    let reply = Message::from_vec(octets).unwrap_or_else(|error| panic!("{what}: {error}: {octets:02x?}"));
    // As numbers: 16 is BADVERS, and in another context BADSIG.
    assert_eq!(Some(u16::from(reply.metadata.response_code)), expected.map(u16::from), "{what}");
    assert!(expected == Some(ResponseCode::NoError) || reply.answers.is_empty(), "{what}");
}

/// Octets until the end of the stream; a reset is an end.
fn rest_of(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest.len(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest.len(),
        Err(error) => panic!("the connection is not closed: {error}"),
    }
}

#[test]
fn random_octets_hurt_nobody() {
    const DATAGRAMS: usize = 100_000;
    const BETWEEN_QUESTIONS: usize = 500;
    let seed = seed();
    println!("random octets: seed {seed}");
    let mut draws = Draws(seed);
    let server = server_with_web();
    let (mut resolver, noise) = (server.resolver(), server.resolver());
    let right: Vec<Vec<u8>> =
        expectations().into_iter().map(|(_, octets, _)| octets).filter(|octets| !octets.is_empty()).collect();
    let before = resident_kib(server.pid());
    let mut replies = 0;
    for number in 1..=DATAGRAMS {
        let octets = if number % 2 == 0 {
            let octets = draws.below(600);
            draws.octets(octets)
        } else {
            // One of ours with a few octets changed, or cut short.
            let mut octets = right[draws.below(right.len())].clone();
            for _ in 0..1 + draws.below(4) {
                let at = draws.below(octets.len());
                octets[at] = draws.next() as u8;
            }
            octets.truncate(1 + draws.below(octets.len() + 20));
            octets
        };
        noise.send(&octets);
        if number % BETWEEN_QUESTIONS == 0 {
            is_served(&mut resolver);
            while let Some(reply) = noise.receive(Duration::from_millis(1)) {
                assert!(reply.len() >= HEADER_OCTETS && reply[2] & 0x80 != 0, "seed {seed}: {reply:02x?}");
                replies += 1;
            }
        }
    }
    let after = resident_kib(server.pid());
    println!(
        "random octets: {DATAGRAMS} datagrams, {replies} replies; {before} KiB before, {after} KiB after"
    );
    assert!(replies > 0, "the server says what is wrong");
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
    is_served(&mut resolver);
}

/// Two servers that somebody makes talk to each other say one thing each: what is a reply has none.
#[test]
fn no_reply_is_answered() {
    let (one, other) = (server_with_web(), server_with_web());
    let (asking, telling) = (one.resolver(), other.resolver());
    let silent = query(1, NAME, RecordType::A, None).to_vec().expect("a query");
    let mut told = 0;
    for (what, octets, expected) in expectations() {
        if expected.is_none() {
            continue;
        }
        asking.send(&octets);
        telling.send(&asking.receive(DEADLINE).unwrap_or_else(|| panic!("{what}: no reply")));
        // One loop answers in order: what comes first is the reply to what has one.
        telling.send(&silent);
        let next = read(&telling.receive(DEADLINE).expect("a reply to the question"));
        assert_eq!(next.metadata.id, 1, "the reply to {what} is answered");
        told += 1;
    }
    println!("{told} replies, of every kind: 0 were answered");
    assert!(told > 20, "{told}");
}

/// Names that somebody invents, faster than they can be answered: nothing is kept of them, and changes go on.
#[test]
fn a_flood_of_invented_names_costs_no_memory_and_nobody_else() {
    const NAMES: usize = 400_000;
    const FLOODERS: usize = 2;
    let server = server_with_web();
    let before = resident_kib(server.pid());
    let acknowledged = std::thread::scope(|scope| {
        let flood = |flooder: usize| {
            let socket = server.resolver(); // whose replies nobody reads
            scope.spawn(move || {
                let mut draws = Draws(seed() + flooder as u64);
                for number in 0..NAMES / FLOODERS {
                    let name = format!("x{:x}-{number}.web.service.local.", draws.next());
                    socket.send(&query(number as u16, &name, RecordType::A, None).to_vec().expect("a query"));
                }
            })
        };
        let floods: Vec<_> = (0..FLOODERS).map(flood).collect();
        let (mut client, mut acknowledged) = (server.client(), 0);
        while !floods.iter().all(|flood| flood.is_finished()) {
            let form = json!({"service": "other", "id": "one", "address": "10.0.0.8", "port": 1 + acknowledged % 9999,
                              "lease": "none"});
            client.done("registered", &json!({ "register": form }));
            acknowledged += 1;
        }
        acknowledged
    });
    let after = resident_kib(server.pid());
    println!(
        "{NAMES} invented names: {acknowledged} changes meanwhile; {before} KiB before, {after} KiB after"
    );
    assert!(acknowledged > 0);
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
    // What comes to a full queue is lost, whoever sends it.
    eventually("the end of the queue", DEADLINE, || (waiting(&server) == 0).then_some(()));
    is_served(&mut server.resolver());
}

/// Octets that wait in the server's sockets of UDP, as the kernel counts them (`rx_queue` of `/proc/net/udp`).
fn waiting(server: &Server) -> u64 {
    let port = format!(":{:04X}", server.dns[0].port());
    let text = std::fs::read_to_string("/proc/net/udp").expect("the kernel's list of sockets");
    let queues = text.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        columns.nth(1).filter(|local| local.ends_with(&port))?;
        let (_, received) = columns.nth(2)?.split_once(':')?;
        u64::from_str_radix(received, 16).ok()
    });
    queues.sum()
}

#[test]
fn a_packet_of_pointers_costs_little() {
    const PACKETS: usize = 3_000;
    /// Following each pointer once costs 7 questions without optimisation; following them all for each is
    /// hundreds.
    const TIMES_MAX: u32 = 40;
    let server = server_with_web();
    let resolver = server.resolver();
    let cost = |octets: &[u8]| {
        let before = processor_time(server.pid());
        for _ in 0..PACKETS {
            resolver.send(octets);
            resolver.receive(DEADLINE).expect("a reply");
        }
        processor_time(server.pid()) - before
    };
    let plain = cost(&message(0, [1, 0, 0, 0], &question(1, 1)));
    let bad = cost(&pointers(4096));
    println!("{PACKETS} questions: {plain:?} of the processor; as many packets of pointers: {bad:?}");
    assert!(bad <= plain.max(Duration::from_millis(50)) * TIMES_MAX, "{plain:?}, {bad:?}");
}

#[test]
fn tcp_messages_of_65535_octets_are_read() {
    const MESSAGES: usize = 50;
    let server = server_with_web();
    let before = resident_kib(server.pid());
    let mut draws = Draws(seed());
    let mut stream = connect(server.dns[0]);
    // An OPT record with as much padding as a message holds.
    let padding = 65_535 - with_opt(0, &[]).len() - 4;
    let option = [&[0, 12][..], &(padding as u16).to_be_bytes(), &vec![0; padding]].concat();
    let long = with_opt(0, &option);
    assert_eq!(long.len(), 65_535);
    for _ in 0..MESSAGES {
        send_framed(&mut stream, &long).expect("sending 65,535 octets");
        let reply = read(&receive_framed(&mut stream).expect("a reply"));
        assert_eq!((reply.metadata.response_code, addresses(&reply).len()), (ResponseCode::NoError, 1));
        // The same length in octets that mean nothing, as a query.
        let mut noise = draws.octets(65_535);
        noise[2] = 0;
        noise[4..6].copy_from_slice(&[0, 1]);
        send_framed(&mut stream, &noise).expect("sending 65,535 octets");
        let reply = receive_framed(&mut stream).expect("a reply");
        assert_eq!(reply[..2], noise[..2]);
        assert_eq!(reply[3] & 0x0f, 1, "FORMERR");
    }
    let after = resident_kib(server.pid());
    println!("messages of 65,535 octets: {before} KiB before, {after} KiB after");
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
}

#[test]
fn slow_tcp_is_served_and_silence_is_not_waited_for() {
    let server = server_with_web();
    let right = query(7, NAME, RecordType::A, None).to_vec().expect("a query");
    // Octet by octet, each in a segment of its own.
    let mut slow = connect(server.dns[0]);
    for octet in framed(&right) {
        slow.write_all(&[octet]).expect("sending one octet");
    }
    assert_eq!(addresses(&read(&receive_framed(&mut slow).expect("a reply"))).len(), 1);
    // Half a length, half a message, a length that means nothing, silence: each ends, and nobody waits.
    let mut resolver = server.resolver();
    let starts: [&[u8]; 5] = [&[0], &framed(&right)[..10], &[0, 0], &[0, 11], &[]];
    let mut stuck: Vec<TcpStream> = starts
        .iter()
        .map(|start| {
            let mut stream = connect(server.dns[0]);
            stream.write_all(start).expect("sending the start of a message");
            stream
        })
        .collect();
    is_served(&mut resolver);
    assert_eq!(addresses(&resolver.tcp(NAME, RecordType::A)).len(), 1);
    for (stream, start) in stuck.iter_mut().zip(starts) {
        assert_eq!(rest_of(stream), 0, "after {start:02x?}");
    }
    // Who has asked and says that it will ask no more gets its answer.
    let mut half_closed = connect(server.dns[0]);
    send_framed(&mut half_closed, &right).expect("sending a query");
    half_closed.shutdown(std::net::Shutdown::Write).expect("an open connection");
    assert_eq!(addresses(&read(&receive_framed(&mut half_closed).expect("a reply"))).len(), 1);
}

#[test]
fn questions_sent_in_one_piece_are_all_answered() {
    const QUESTIONS: u16 = 10_000;
    let server = server_with_web();
    let mut stream = connect(server.dns[0]);
    let mut writer = stream.try_clone().expect("another descriptor");
    let writing = std::thread::spawn(move || {
        let ask = |id| framed(&query(id, NAME, RecordType::A, None).to_vec().expect("a query"));
        writer.write_all(&(0..QUESTIONS).flat_map(ask).collect::<Vec<u8>>()).expect("sending everything");
    });
    let mut ids: Vec<u16> =
        (0..QUESTIONS).map(|_| read(&receive_framed(&mut stream).expect("a reply")).metadata.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..QUESTIONS).collect::<Vec<_>>());
    writing.join().expect("everything was sent");
}

#[test]
fn a_client_that_asks_and_does_not_read_is_given_up() {
    let server = server_with_web();
    let before = resident_kib(server.pid());
    let mut greedy = connect(server.dns[0]);
    let asking = std::thread::spawn(move || {
        let ask = framed(&query(1, NAME, RecordType::A, None).to_vec().expect("a query")).repeat(1000);
        while greedy.write_all(&ask).is_ok() {}
    });
    let mut resolver = server.resolver();
    eventually("the end of who does not read", DEADLINE, || {
        is_served(&mut resolver);
        asking.is_finished().then_some(())
    });
    let after = resident_kib(server.pid());
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
}

#[test]
fn without_descriptors_udp_goes_on_and_nothing_spins() {
    const DESCRIPTORS: usize = 64;
    const CONNECTIONS: usize = 200;
    const LOOKED_AT: Duration = Duration::from_secs(3);
    /// A loop that fails at once, again and again, takes all of it.
    const PROCESSOR_MAX: Duration = Duration::from_millis(900);
    let limit = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
    let server = server_with_web_under(&["sh", "-c", &limit]);
    let mut resolver = server.resolver();
    let idle: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(server.dns[0])).collect();
    eventually("the last descriptor", DEADLINE, || {
        (descriptors(server.pid()) >= DESCRIPTORS - 2).then_some(())
    });
    let (start, before) = (now(), processor_time(server.pid()));
    let mut questions = 0;
    stays(LOOKED_AT, || {
        is_served(&mut resolver);
        questions += 1;
        true
    });
    let used = processor_time(server.pid()) - before;
    println!(
        "without descriptors: {used:?} of the processor in {:.1} s for {questions} questions over UDP",
        start.elapsed().as_secs_f64()
    );
    // What the questions cost is not what is looked for.
    let (start, mut asked) = (processor_time(server.pid()), 0);
    while asked < questions {
        is_served(&mut resolver);
        asked += 1;
    }
    let questions_alone = processor_time(server.pid()) - start;
    assert!(used < questions_alone + PROCESSOR_MAX, "{used:?} with, {questions_alone:?} without");
    // A newcomer is served in the end, because the quietest goes; and all is well once they are gone.
    assert_eq!(addresses(&resolver.tcp(NAME, RecordType::A)).len(), 1);
    drop(idle);
    eventually("free descriptors", DEADLINE, || (descriptors(server.pid()) < DESCRIPTORS / 2).then_some(()));
    resolver.hang_up();
    assert_eq!(addresses(&resolver.tcp(NAME, RecordType::A)).len(), 1);
    assert_eq!(server.client().list().len(), 1);
}
