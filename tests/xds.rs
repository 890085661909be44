//! xDS as no client of ours would speak it: what it refuses, and what a client costs that rejects, never confirms, asks for
//! too much or stops reading.
//!
//! The client here is h2 and octets. Real ones are in tests/mesh.rs and tests/endpoints.rs; what a stream says and when
//! is tested in src/xds/session.rs.

mod harness;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use callsign::protobuf::{Fields, Message, Value};
use callsign::xds::Kind;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use harness::process::resident_kib;
use harness::{Client, DEADLINE, Server, eventually, tls};

const AGGREGATED: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A connection and one stream on it.
struct Stream {
    runtime: Runtime,
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    received: Vec<u8>,
}

/// A response: what it is of, its nonce and the resources in it.
#[derive(Debug, PartialEq)]
struct Response {
    kind: Kind,
    nonce: String,
    resources: usize,
}

impl Stream {
    /// A stream, or the status and the sentence with which it is refused.
    fn open(address: SocketAddr, path: &str, token: Option<&str>) -> Result<Self, (String, String)> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (sending, receiving) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("a connection");
            let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            runtime.spawn(connection);
            let mut sender: SendRequest<Bytes> = sender.ready().await.expect("a stream");
            let mut head =
                Request::post(format!("http://{address}{path}")).header("content-type", "application/grpc");
            if let Some(token) = token {
                head = head.header("x-consul-token", token);
            }
            let (response, sending) =
                sender.send_request(head.body(()).expect("a head"), false).expect("a stream");
            let response = response.await.expect("headers");
            let text = |name: &str| {
                response.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
            };
            match text("grpc-status") {
                Some(status) => Err((status, text("grpc-message").unwrap_or_default())),
                None => Ok((sending, response.into_body())),
            }
        })?;
        Ok(Self { runtime, sending, receiving, received: Vec::new() })
    }

    fn send(&mut self, request: &Message) {
        self.send_octets(&request.octets());
    }

    fn send_octets(&mut self, message: &[u8]) {
        let mut octets = vec![0];
        octets.extend_from_slice(&(message.len() as u32).to_be_bytes());
        octets.extend_from_slice(message);
        // What the other side has no room for yet waits here; it may end the stream before.
        let _ = self.sending.send_data(octets.into(), false);
    }

    /// The next response, or how the stream ended.
    fn next(&mut self) -> Result<Response, (String, String)> {
        loop {
            if let Some((head, rest)) = self.received.split_at_checked(5) {
                let length = u32::from_be_bytes(head[1..].try_into().expect("four octets")) as usize;
                if rest.len() >= length {
                    let response = read(&rest[..length]);
                    self.received.drain(..5 + length);
                    return Ok(response);
                }
            }
            let receiving = &mut self.receiving;
            let data =
                self.runtime.block_on(async { tokio::time::timeout(DEADLINE, receiving.data()).await });
            match data.expect("a response in time") {
                Some(Ok(data)) => {
                    let _ = self.receiving.flow_control().release_capacity(data.len());
                    self.received.extend_from_slice(&data);
                }
                Some(Err(error)) => return Err(("reset".to_owned(), error.to_string())),
                None => {
                    let trailers = self.runtime.block_on(self.receiving.trailers()).expect("the end");
                    let trailers = trailers.expect("trailers");
                    let text = |name: &str| trailers[name].to_str().expect("text").to_owned();
                    return Err((text("grpc-status"), text("grpc-message")));
                }
            }
        }
    }

    /// True where nothing comes for a while: what must not come cannot be waited for.
    fn is_silent(&mut self) -> bool {
        const A_WHILE: Duration = Duration::from_millis(300);
        let receiving = &mut self.receiving;
        self.runtime.block_on(async { tokio::time::timeout(A_WHILE, receiving.data()).await }).is_err()
    }
}

fn stream(server: &Server, path: &str) -> Stream {
    Stream::open(server.http[0], path, None).unwrap_or_else(|refused| panic!("{refused:?}"))
}

/// `DiscoveryResponse` and `DeltaDiscoveryResponse` have the same numbers for what is looked at here.
fn read(octets: &[u8]) -> Response {
    let mut response = Response { kind: Kind::Cluster, nonce: String::new(), resources: 0 };
    for field in Fields::of(octets) {
        match field.expect("a message") {
            (2, _) => response.resources += 1,
            (4, url) => response.kind = Kind::of_type_url(url.text().expect("text")).expect("a kind"),
            (5, nonce) => response.nonce = nonce.text().expect("text").to_owned(),
            _ => {}
        }
    }
    response
}

fn world(kind: Kind, names: &[String], nonce: &str) -> Message {
    Message::new()
        .with(2, "node", Message::new().with(1, "id", "a-node"))
        .with(3, "resource_names", names.iter().map(String::as_str).collect::<Value>())
        .with(4, "type_url", kind.type_url())
        .with(5, "response_nonce", nonce)
}

fn rejected(request: Message) -> Message {
    request.with(6, "error_detail", Message::new().with(1, "code", 3).with(2, "message", "not\nfor me"))
}

fn register(client: &mut Client, service: &str, port: u16) {
    let form =
        json!({"service": service, "id": service, "address": "10.0.0.7", "port": port, "lease": "none"});
    client.done("registered", &json!({"register": form}));
}

fn web() -> Vec<String> {
    vec!["web".to_owned()]
}

#[test]
fn what_is_no_stream_of_ours_is_refused_in_words() {
    let server = Server::start(&["--store", "memory"]);
    for path in
        ["/", "/grpc.health.v1.Health/Check", "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"]
    {
        let (status, text) = Stream::open(server.http[0], path, None).err().expect("a refusal");
        assert_eq!((status.as_str(), text.contains("streams of xDS v3")), ("12", true), "{path}: {text}");
    }
    for (octets, status, sentence) in [
        (&[0, 0, 0, 0, 3, 0x1a, 9, 1][..], "3", "no protocol buffer"),
        (&[1, 0, 0, 0, 1, 0], "12", "compressed"),
        (&[0, 0xff, 0, 0, 0, 0], "8", "may have 4194304"),
    ] {
        let mut stream = stream(&server, AGGREGATED);
        stream.sending.send_data(octets.to_vec().into(), false).expect("an open stream");
        let (code, text) = stream.next().expect_err("an end");
        assert_eq!((code.as_str(), text.contains(sentence)), (status, true), "{text}");
    }
    // What begins as HTTP/2 and is none is closed; HTTP/1.1 is on the same port as ever.
    let mut broken = std::net::TcpStream::connect(server.http[0]).expect("a connection");
    broken.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
    broken.write_all(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").expect("an open connection");
    // It may end with a reset, where what was sent is not read.
    match broken.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(server.http().get("/v1/status/leader").status, 200);
}

/// A stream tells of every service there is, so it is for whoever may watch them all, and for as long as they may.
#[test]
fn who_may_not_watch_everything_has_no_stream() {
    const DENIED: &str = "7";
    let server = Server::start(&["--store", "memory", "--access", "allow anyone read"]);
    let token = |name: &str, allow: &[&str], deny: &[&str]| {
        let create = json!({"token": {"create": {"name": name, "allow": allow, "deny": deny}}});
        server.client().done("created", &create)["token"].as_str().expect("a token").to_owned()
    };
    let watches = token("watches", &["watch"], &[]);
    for (token, is_allowed) in [
        (None, false),
        (Some("callsign_0000000000000007_00".to_owned()), false),
        (Some(token("reads", &["read", "register", "report"], &[])), false),
        (Some(token("watches-some", &["watch:web*"], &[])), false),
        (Some(token("watches-most", &["watch"], &["watch:db"])), false),
        (Some(token("does-all-but-watch", &["*"], &["watch"])), false),
        (Some(watches.clone()), true),
        (Some(token("administrates", &["admin"], &[])), true),
    ] {
        for path in [AGGREGATED, DELTA] {
            let opened = Stream::open(server.http[0], path, token.as_deref());
            let status = opened.err().map(|(status, _)| status);
            assert_eq!(status.as_deref(), (!is_allowed).then_some(DENIED), "{path} with {token:?}");
        }
    }
    let mut open = Stream::open(server.http[0], AGGREGATED, Some(&watches)).expect("a stream");
    open.send(&world(Kind::Cluster, &[], ""));
    open.next().expect("a response");
    server.client().done("revoked", &json!({"token": {"revoke": {"name": "watches"}}}));
    assert_eq!(open.next().expect_err("the end of the stream").0, DENIED);
}

#[test]
fn a_hundred_thousand_names_are_refused_in_words() {
    let server = Server::start(&["--store", "memory"]);
    let names: Vec<String> = (0..100_000).map(|number| format!("s{number}")).collect();
    let delta = Message::new().with(2, "type_url", Kind::Endpoints.type_url()).with(
        3,
        "resource_names_subscribe",
        names.iter().map(String::as_str).collect::<Value>(),
    );
    for (path, request) in [(AGGREGATED, world(Kind::Endpoints, &names, "")), (DELTA, delta)] {
        let mut stream = stream(&server, path);
        stream.send(&request);
        let (code, text) = stream.next().expect_err("an end");
        assert_eq!((code.as_str(), text.starts_with("100000 names")), ("8", true), "{text}");
    }
    let mut stream = stream(&server, AGGREGATED);
    stream.send(&world(Kind::Endpoints, &["x".repeat(256)], ""));
    assert!(stream.next().expect_err("an end").1.contains("256 octets"));
}

#[test]
fn all_streams_together_have_a_bound_and_what_one_leaves_is_free() {
    const EACH: usize = 20_000;
    const ALL: usize = 500_000;
    let server = Server::start(&["--store", "memory"]);
    let names: Vec<String> = (0..EACH).map(|number| format!("s{number}")).collect();
    let open = |names: &[String]| {
        let mut stream = stream(&server, AGGREGATED);
        stream.send(&world(Kind::Cluster, names, ""));
        stream
    };
    let mut streams: Vec<Stream> = (0..ALL / EACH).map(|_| open(&names)).collect();
    for stream in &mut streams {
        assert_eq!(stream.next().expect("a response").resources, 0);
    }
    let (code, text) = open(&names).next().expect_err("an end");
    assert_eq!((code.as_str(), text.contains("500000 names")), ("8", true), "{text}");
    let mut first = streams.swap_remove(0);
    first.send(&world(Kind::Cluster, &web(), "1"));
    assert_eq!(first.next().expect("a response").nonce, "2");
    assert_eq!(open(&names[1..]).next().expect("a response").resources, 0);
}

#[test]
fn what_is_rejected_is_said_once_and_sent_again_when_it_is_another_one() {
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    register(&mut client, "web", 8080);
    let mut stream = stream(&server, AGGREGATED);
    stream.send(&world(Kind::Endpoints, &web(), ""));
    let first = stream.next().expect("a response");
    assert_eq!(first, Response { kind: Kind::Endpoints, nonce: "1".to_owned(), resources: 1 });
    stream.send(&rejected(world(Kind::Endpoints, &web(), "1")));
    let said = || {
        server.stderr().lines().filter(|line| line.contains("rejects") && line.contains("not for me")).count()
    };
    eventually("a line in the log", DEADLINE, || (said() == 1).then_some(()));
    register(&mut client, "db", 5432);
    assert!(stream.is_silent(), "another service is no reason");
    register(&mut client, "web", 8081);
    assert_eq!(stream.next().expect("a response").nonce, "2");
    assert_eq!(said(), 1);
}

#[test]
fn who_never_confirms_gets_one_response_and_costs_nothing() {
    const CHANGES: u16 = 2_000;
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    register(&mut client, "web", 8080);
    let mut stream = stream(&server, AGGREGATED);
    stream.send(&world(Kind::Endpoints, &web(), ""));
    assert_eq!(stream.next().expect("a response").nonce, "1");
    let change = |client: &mut Client, number: u16| register(client, "web", 10_000 + number);
    (0..CHANGES).for_each(|number| change(&mut client, number));
    let before = resident_kib(server.pid());
    (0..CHANGES).for_each(|number| change(&mut client, number));
    let grown = resident_kib(server.pid()).saturating_sub(before);
    assert!(grown < 2_048, "{grown} KiB more after {CHANGES} changes");
    assert!(stream.is_silent());
    // When it does, it hears what is true then, at once.
    stream.send(&world(Kind::Endpoints, &web(), "1"));
    assert_eq!(stream.next().expect("a response").nonce, "2");
    stream.send(&world(Kind::Endpoints, &web(), "2"));
    assert!(stream.is_silent());
}

#[test]
fn who_stops_reading_is_cut_off_and_the_others_go_on() {
    /// More than a window of HTTP/2 holds.
    const INSTANCES: u16 = 3_000;
    let server = Server::start(&["--store", "memory"]);
    let mut client = server.client();
    for number in 0..INSTANCES {
        let form = json!({"service": "web", "id": format!("w{number}"), "address": "10.0.0.7", "port": 10_000 + number, "lease": "none"});
        client.done("registered", &json!({"register": form}));
    }
    let mut stuck = stream(&server, AGGREGATED);
    stuck.send(&world(Kind::Endpoints, &web(), ""));
    let mut other = stream(&server, AGGREGATED);
    other.send(&world(Kind::Endpoints, &web(), ""));
    assert_eq!(other.next().expect("a response").nonce, "1");
    let before = resident_kib(server.pid());
    for number in 0..200 {
        register(&mut client, "web", 20_000 + number);
        other.send(&world(Kind::Endpoints, &web(), &(number + 1).to_string()));
        assert_eq!(other.next().expect("a response").resources, 1);
    }
    let grown = resident_kib(server.pid()).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    // Its octets are there, up to the window; then the stream ends.
    eventually("the end of the stream", 2 * DEADLINE, || {
        server.stderr().contains("was not read within").then_some(())
    });
    assert_eq!(stuck.next().expect_err("a reset").0, "reset");
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `POST` of a body, as the static table has it (RFC 7541 appendix A).
fn head_of(path: &str, content: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [vec![0x83, 0x86, 4], text(path), vec![0x0f, 0x10], text(content)].concat()
}

/// A connection that is written to and not read, in the clear or not.
fn unread(address: SocketAddr, is_tls: bool) -> Box<dyn Write> {
    let stream = std::net::TcpStream::connect(address).expect("a connection");
    stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket of ours");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket of ours");
    if !is_tls {
        return Box::new(stream);
    }
    let config = tls::client(&[&TLS13], &[b"h2"]);
    let client = ClientConnection::new(config.into(), tls::localhost()).expect("a client of TLS");
    Box::new(StreamOwned::new(client, stream))
}

/// Says `first` and then `each` again and again, and reads nothing; how many frames were taken until the server ended it, or had
/// no room for more.
fn floods(mut stream: Box<dyn Write>, first: &[u8], each: &dyn Fn(u32) -> Vec<u8>, most: u32) -> u32 {
    const AT_ONCE: u32 = 50;
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"")[..], first].concat();
    if stream.write_all(&begin).is_err() {
        return 0;
    }
    for from in (0..most).step_by(AT_ONCE as usize) {
        let octets: Vec<u8> = (from..from + AT_ONCE).flat_map(each).collect();
        if stream.write_all(&octets).and_then(|()| stream.flush()).is_err() {
            return from;
        }
    }
    most
}

/// The attacks on HTTP/2 itself, where xDS is and where DNS over HTTPS is: streams that are reset as soon as they begin, headers
/// without an end, and frames that ask for a reply or say nothing. The first two end the connection; none costs memory, or
/// anybody else a stream.
#[test]
fn floods_of_frames_cost_nobody_else() {
    const FRAMES: u32 = 200_000;
    const GROWTH_KIB_MAX: u64 = 32 * 1024;
    let flags = ["--store", "memory", "--doh", "127.0.0.1:0", "--tls-self-signed"];
    let server = Server::start(&flags);
    register(&mut server.client(), "web", 80);
    let doh = server.lines.iter().find_map(|line| line.strip_prefix("doh ")?.parse().ok()).expect("a line");
    let before = resident_kib(server.pid());
    let long = [&[0, 1, b'x', 0x7f, 0xfb, 0x7b][..], &[b'a'; 16_000 - 6]].concat(); // a header of 16,000 octets
    type Each<'a> = &'a (dyn Fn(u32) -> Vec<u8> + Sync);
    for (place, address, path, content) in [
        ("xDS", server.http[0], AGGREGATED, "application/grpc"),
        ("DNS over HTTPS", doh, "/dns-query", "application/dns-message"),
    ] {
        let headers = |stream: u32, flags: u8| frame(1, flags, stream, &head_of(path, content));
        let reset = |stream: u32| [headers(stream, 4), frame(3, 0, stream, &8u32.to_be_bytes())].concat();
        let attacks: [(&str, Vec<u8>, Each<'_>, bool); 6] = [
            ("resets", Vec::new(), &|n| reset(2 * n + 1), true),
            ("headers without an end", headers(1, 0), &|_| frame(9, 0, 1, &long), true),
            ("empty headers without an end", headers(1, 0), &|_| frame(9, 0, 1, b""), true),
            ("empty data", headers(1, 4), &|_| frame(0, 0, 1, b""), false),
            ("pings", Vec::new(), &|_| frame(6, 0, 0, b"12345678"), false),
            ("settings", Vec::new(), &|_| frame(4, 0, 0, b""), false),
        ];
        for (what, first, each, ends) in attacks {
            let (taken, served) = std::thread::scope(|scope| {
                let attack = scope.spawn(|| floods(unread(address, place != "xDS"), &first, &each, FRAMES));
                let mut served = 0;
                loop {
                    let mut stream = stream(&server, AGGREGATED);
                    stream.send(&world(Kind::Endpoints, &web(), ""));
                    assert_eq!(stream.next().expect("what was asked for").resources, 1, "beside {what}");
                    assert_eq!(server.http().get("/v1/catalog/services").status, 200, "beside {what}");
                    served += 1;
                    if attack.is_finished() {
                        break (attack.join().expect("an attacker"), served);
                    }
                }
            });
            println!("{place}: {taken} frames of {what} were taken; {served} others, all of them served");
            assert!(!ends || taken < FRAMES, "{what}: all {FRAMES} were taken");
        }
    }
    eventually("what the attacks held", DEADLINE, || {
        (resident_kib(server.pid()) < before + GROWTH_KIB_MAX).then_some(())
    });
}

#[test]
fn over_rest_a_request_is_answered_refused_or_not_modified() {
    let server = Server::start(&["--store", "memory"]);
    register(&mut server.client(), "web", 8080);
    let mut http = server.http();
    let path = "/v3/discovery:endpoints";
    let mut ask = |path: &str, body: &serde_json::Value| http.ask("POST", path, body);
    let response = ask(path, &json!({"resource_names": ["web", "none", "No_Name"]}));
    let names: Vec<serde_json::Value> = response.json()["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["cluster_name"].clone())
        .collect();
    assert_eq!((response.status, names), (200, vec![json!("none"), json!("web")]));
    let version = response.json()["version_info"].clone();
    let again = ask(path, &json!({"version_info": version, "resource_names": ["web", "none", "No_Name"]}));
    assert_eq!(again.status, 304);
    for (body, sentence) in [
        (json!({"resource_names": "web"}), "no DiscoveryRequest"),
        (json!({"type_url": Kind::Cluster.type_url()}), "here it is"),
        (json!({"resource_names": vec!["web"; 20_001]}), "may have 20000"),
    ] {
        let refused = ask(path, &body);
        assert_eq!((refused.status, refused.text().contains(sentence)), (400, true), "{}", refused.text());
    }
    for kind in Kind::ALL {
        assert_eq!(ask(&format!("/v3/discovery:{}", kind.plural()), &json!({})).status, 200);
    }
    assert_eq!(ask("/v3/discovery:secrets", &json!({})).status, 404);
}

#[test]
fn requests_that_never_come_whole_are_bounded_together_and_end() {
    /// Each of a third of what all may have.
    const STREAMS: usize = 12;
    const OCTETS: usize = (4 << 20) - 1;
    let server = Server::start(&["--store", "memory"]);
    let before = resident_kib(server.pid());
    let mut streams: Vec<Stream> = (0..STREAMS).map(|_| stream(&server, AGGREGATED)).collect();
    let mut half = vec![0];
    half.extend((OCTETS as u32).to_be_bytes());
    half.resize(OCTETS, 0);
    let ends: Vec<String> = std::thread::scope(|scope| {
        let half = &half;
        let ended = |mut stream: Stream| {
            // One that is refused reads no further.
            let _ = stream.sending.send_data(half.clone().into(), false);
            stream.next().expect_err("the end of the stream").1
        };
        let threads: Vec<_> = streams.drain(..).map(|stream| scope.spawn(move || ended(stream))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect()
    });
    let refused = ends.iter().filter(|end| end.contains("too much of too many")).count();
    let late = ends.iter().filter(|end| end.contains("did not come whole within 10 s")).count();
    assert!(refused > 0 && late > 0 && refused + late == STREAMS, "{ends:?}");
    let grown = resident_kib(server.pid()).saturating_sub(before);
    assert!(grown < 96 * 1024, "{grown} KiB more");
}
