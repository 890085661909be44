//! CoreDNS in front of Consul's names: what it forwards and keeps is what we answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::RecordType;
use serde_json::json;

use crate::agent::peer;
use crate::harness::dns::{addresses, connect, ports, query, read, receive_framed, send_framed};
use crate::harness::program::{Program, free_ports};
use crate::harness::{DEADLINE, Server, eventually};

#[test]
fn coredns_forwards_the_alias_zone_and_keeps_the_last_answers() {
    let mut server = Server::start(&["--store", "memory", "--consul-domain", "consul"]);
    let mut client = server.client();
    let web = |id: &str, address: &str| json!({"register": {"service": "web", "id": id, "address": address, "port": 8080, "lease": "none", "tags": ["v2"]}});
    client.done("registered", &web("web-1", "10.0.0.7"));
    let directory = tempfile::tempdir().expect("a directory");
    let [port] = free_ports();
    let corefile = directory.path().join("Corefile");
    let text = format!(
        "consul:{port} {{\n    bind 127.0.0.1\n    errors\n    cache 1 {{\n        serve_stale 1h verify\n    }}\n    forward . {}\n}}\n",
        server.dns[0]
    );
    std::fs::write(&corefile, text).expect("writing a file");
    let words = ["-conf".to_owned(), corefile.display().to_string()];
    let mut coredns = Program::start(&peer("coredns"), directory, &words);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut asked = 0;
    let mut becomes = |wanted: &[&str]| {
        let wanted: BTreeSet<IpAddr> = wanted.iter().map(|text| text.parse().expect("an address")).collect();
        eventually("what CoreDNS answers", DEADLINE, || {
            coredns.must_run();
            let mut stream = std::net::TcpStream::connect(at).ok()?; // it is still starting
            stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
            asked += 1;
            let question = query(asked, "v2.web.service.consul.", RecordType::A, None);
            send_framed(&mut stream, &question.to_vec().expect("a wire form")).ok()?;
            let reply = read(&receive_framed(&mut stream).ok()?);
            (addresses(&reply) == wanted).then_some(())
        });
    };
    becomes(&["10.0.0.7"]);
    client.done("registered", &web("web-2", "10.0.0.8"));
    becomes(&["10.0.0.7", "10.0.0.8"]);
    client.done("deregistered", &json!({"deregister": {"service": "web", "id": "web-1"}}));
    becomes(&["10.0.0.8"]);
    let mut stream = connect(at);
    let srv = query(7, "_web._tcp.service.consul.", RecordType::SRV, None);
    send_framed(&mut stream, &srv.to_vec().expect("a wire form")).expect("sending a question");
    let reply = read(&receive_framed(&mut stream).expect("a reply"));
    assert_eq!(ports(&reply).into_values().collect::<Vec<_>>(), [8080], "{reply}");
    // We are away, and its clients do not notice.
    server.crash();
    becomes(&["10.0.0.8"]);
}
