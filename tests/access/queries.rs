//! Who may ask over DNS, over every transport, and who hears that they may not.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::json;

use crate::harness::dns::{Resolver, query};
use crate::harness::{Server, callsign};

/// What the command line is told, asking from 127.0.0.1.
fn ask(server: &Server, over: &[&str]) -> String {
    let place = server.dns[0].to_string();
    let told = callsign(&[&["dig", "web.service.local", "A", "--dns", &place, "-o", "json"], over].concat());
    told.stdout
}

#[test]
fn who_may_not_ask_is_refused_with_the_reason() {
    let register =
        json!({"register": {"service": "web", "address": "10.0.0.7", "port": 80, "lease": "none"}});
    let open =
        Server::start(&["--store", "memory", "--query-allow", "127.0.0.0/8", "--query-allow", "10.0.0.0/8"]);
    open.client().done("registered", &register);
    let closed =
        Server::start(&["--store", "memory", "--query-allow", "10.0.0.0/8", "--query-allow", "127.0.0.2"]);
    closed.client().done("registered", &register);
    for over in [&[][..], &["+tcp"]] {
        let text = ask(&open, over);
        assert!(text.contains("10.0.0.7"), "{text}");
        let text = ask(&closed, over);
        assert!(
            text.contains("REFUSED") && text.contains("Prohibited") && !text.contains("10.0.0.7"),
            "{text}"
        );
    }
    // Whatever is asked, with EDNS and without: names that are not there, that are not ours, and CHAOS.
    let mut resolver = Resolver::new(closed.dns[0]);
    for name in
        ["web.service.local.", "none.service.local.", "service.local.", "other.example.", "id.server."]
    {
        for reply in [
            resolver.udp(name, RecordType::A),
            resolver.tcp(name, RecordType::TXT),
            resolver.udp_edns(name, RecordType::SRV, 1232),
        ] {
            assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{name}");
            assert!(
                reply.answers.is_empty() && reply.authorities.is_empty() && !reply.metadata.authoritative,
                "{name}"
            );
        }
    }
    // From the address that may.
    let socket = std::net::UdpSocket::bind("127.0.0.2:0").expect("an address of this machine");
    socket.set_read_timeout(Some(crate::harness::DEADLINE)).expect("an option of a socket of ours");
    let octets = query(7, "web.service.local.", RecordType::A, None).to_vec().expect("a message");
    socket.send_to(&octets, closed.dns[0]).expect("sending a question");
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).expect("a reply");
    assert_eq!((reply[3] & 0x0f, reply[7]), (0, 1), "{:?}", &reply[..length]);
}

#[test]
fn a_list_that_is_none_is_refused_at_start() {
    for (networks, phrase) in [("10.0.0.7/8", "10.0.0.0/8"), ("all", "must be a network")] {
        let Err(ended) = Server::launch(&[], &["--query-allow", networks]) else { panic!("{networks}") };
        assert!(ended.code == Some(2) && ended.stderr.contains(phrase), "{ended:?}");
    }
}
