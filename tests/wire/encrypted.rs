//! DNS over TLS, HTTPS and QUIC: every row of the table that holds over TCP, and what each transport has of its own.
//!
//! Real sockets on ports of the kernel's choosing, with a certificate of our own making that the clients do not look at.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use callsign::answer::Over;
use callsign::clock::Clock;
use callsign::connections::tls::{Acceptor, HANDSHAKE_TIME_MAX, Handshakes, Identity, Source};
use callsign::connections::{Connections, Streams};
use callsign::dns::wire::{Arrival, Policy, Responder, accept, fresh_s, has_option};
use callsign::dns::{quic, tcp};
use callsign::http::doh;
use callsign::view::View;
use h2::client::SendRequest;
use hickory_proto::op::Message;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_util::sync::CancellationToken;

use super::fixture::{DEADLINE, fixture, policy, services};
use super::judge::judge;
use super::query::{self, Expected, Row, octets_of};
use super::{CLIENT, Outcome, ROWS, ask_stream, differences, report, stream, tls, with_id};

const TCP_KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
/// DOQ_PROTOCOL_ERROR (RFC 9250 section 8.4).
const PROTOCOL_ERROR: u32 = 2;

/// One server of each kind, as `serve.rs` starts them.
struct Encrypted {
    tls: SocketAddr,
    https: SocketAddr,
    quic: SocketAddr,
    handshakes: Arc<Handshakes>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Encrypted {
    async fn start(view: &Arc<View>, policy: Policy) -> Self {
        let listener = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dot, web) = (listener().await, listener().await);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let addresses = [dot.local_addr(), web.local_addr(), socket.local_addr()].map(Result::unwrap);
        let identity = Identity::new(Source::SelfSigned(vec!["localhost".to_owned()])).unwrap();
        let responder = Arc::new(Responder::new(view.clone(), policy, Clock::start()));
        let streams = Streams::new(tcp::CONNECTIONS_MAX);
        let handshakes = Arc::<Handshakes>::default();
        let acceptor = |alpn: &[&[u8]]| {
            Acceptor::new(identity.config(alpn).unwrap(), streams.clone(), handshakes.clone())
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let layer = tcp::Layer::Tls(acceptor(&[b"dot"]));
        let running = tcp::run(dot, layer, responder.clone(), streams.clone(), 1, stop.clone());
        tasks.spawn(async { running.await.unwrap() });
        let acceptor = acceptor(&[b"h2", b"http/1.1"]);
        let running = doh::run(web, acceptor, streams.clone(), answering(responder.clone()), stop.clone());
        tasks.spawn(async { running.await.unwrap() });
        let connections = Connections::new(quic::CONNECTIONS_MAX);
        let service = quic::Service { responder, streams, connections };
        let running = quic::run(socket, quic::config(&identity).unwrap(), service, 2, stop.clone());
        tasks.spawn(async { running.await.unwrap() });
        let [tls, https, quic] = addresses;
        Self { tls, https, quic, handshakes, stop, _tasks: tasks }
    }
}

fn answering(responder: Arc<Responder>) -> doh::Answering {
    Arc::new(move |client, message| {
        let arrival = Arrival { client, over: Over::Https, draw: 3 };
        let accepted = responder.accept(&arrival, &message);
        Box::pin(async {
            accepted.reply().await.map(|octets| doh::Reply { fresh_s: fresh_s(&octets), octets })
        })
    })
}

// --- clients ------------------------------------------------------------------------------------------

async fn connect(
    server: SocketAddr,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(tls::client(versions, alpn))).connect(tls::localhost(), stream).await
}

/// One connection of HTTP/2, and what drives it.
async fn http2(server: SocketAddr, tasks: &mut JoinSet<()>) -> SendRequest<Bytes> {
    let stream = connect(server, &[&TLS13], &[b"h2"]).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tasks.spawn(async { drop(connection.await) });
    send
}

/// The body of a POST over HTTP/2, and what it is answered with.
async fn post(send: &SendRequest<Bytes>, body: &[u8]) -> (StatusCode, Vec<u8>) {
    let request =
        Request::post("https://localhost/dns-query").header("content-type", "application/dns-message");
    let mut send = send.clone().ready().await.unwrap();
    let (response, mut sending) = send.send_request(request.body(()).unwrap(), false).unwrap();
    sending.send_data(Bytes::copy_from_slice(body), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut octets = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        octets.extend(piece);
    }
    (head.status, octets)
}

/// One request over HTTP/1.1 on a connection of its own.
async fn http1(server: SocketAddr, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = connect(server, &[&TLS13], &[b"http/1.1"]).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let asked = async {
        let (head, body) = send.send_request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    let (answered, _) =
        timeout(DEADLINE, async { tokio::join!(asked, connection) }).await.expect("a reply in time");
    answered
}

async fn quic_connection(server: SocketAddr) -> quinn::Connection {
    let config = QuicClientConfig::try_from(tls::client(&[&TLS13], &[b"doq"])).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    endpoint.connect_with(config, server, "localhost").unwrap().await.unwrap()
}

/// Octets on a stream of their own, and the message that comes back, if one does.
async fn ask_quic(connection: &quinn::Connection, octets: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    send.write_all(octets).await.ok()?;
    send.finish().ok()?;
    let read = receive.read_to_end(2 + 65_535).await.ok()?;
    let (length, message) = read.split_first_chunk()?;
    assert_eq!(message.len(), usize::from(u16::from_be_bytes(*length)), "one message, and its length");
    Some(message.to_vec())
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// A question under the ID 0, as HTTPS and QUIC have it.
fn question(name: &str, qtype: u16) -> Vec<u8> {
    let mut message = octets_of(0, "0000 0000 0001 0000 0000 0000");
    message.extend(query::wire_name(0, name));
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn web() -> Vec<u8> {
    question("web.service.local", 1)
}

// --- the table ----------------------------------------------------------------------------------------

/// What a transport that has no silence makes of it: there is no reply, as the row says in its own words.
fn outcome(row: &Row, reply: Option<Vec<u8>>) -> Outcome {
    match (reply, &row.expected) {
        (Some(reply), _) => Outcome::Reply(reply),
        (None, Expected::Closed) => Outcome::Closed,
        (None, _) => Outcome::Silence,
    }
}

/// Asks every row that holds over TCP, of a server that is ready and of one that is not, and compares.
async fn every_row(over: Over, ask: impl AsyncFn(&Encrypted, &Row, &[u8]) -> Outcome) {
    let view = fixture();
    let ready = Encrypted::start(&view, policy(false)).await;
    let named = Encrypted::start(&view, policy(true)).await;
    let unready = Encrypted::start(&services().view, policy(false)).await;
    let (rows, _) = query::read(ROWS);
    let (mut asked, mut wrong) = (0, String::new());
    for (number, row) in rows.iter().enumerate().filter(|(_, row)| row.over.contains(&Over::Tcp)) {
        let id = if over == Over::Quic { 0 } else { number as u16 };
        let query = with_id(row, id);
        if [TCP_KEEPALIVE, PADDING].iter().any(|option| has_option(&query, *option)) {
            continue; // `options_about_the_carrier`, and `what_quic_forbids_ends_the_connection`
        }
        let servers = match (row.unready, row.named) {
            (true, _) => &unready,
            (_, true) => &named,
            _ => &ready,
        };
        let asking = ask(servers, row, &query);
        let outcome = timeout(DEADLINE, asking).await.expect("an outcome within the deadline");
        for fault in differences(row, &query, over, &outcome) {
            wrong += &report(row, over, &fault);
        }
        asked += 1;
    }
    assert!(asked > 100, "{asked} rows");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[tokio::test]
async fn every_row_over_tls() {
    every_row(Over::Tls, async |servers, _, query| {
        ask_stream(connect(servers.tls, &[&TLS13], &[b"dot"]).await.unwrap(), query).await
    })
    .await;
}

#[tokio::test]
async fn every_row_over_https() {
    every_row(Over::Https, async |servers, row, query| {
        let mut tasks = JoinSet::new();
        let (status, body) = post(&http2(servers.https, &mut tasks).await, query).await;
        let reply = (status == StatusCode::OK).then_some(body);
        assert!(reply.is_some() || status == StatusCode::BAD_REQUEST, "{}: {status}", row.id);
        outcome(row, reply)
    })
    .await;
}

#[tokio::test]
async fn every_row_over_quic() {
    every_row(Over::Quic, async |servers, row, query| {
        outcome(row, ask_quic(&quic_connection(servers.quic).await, &framed(query)).await)
    })
    .await;
}

/// E-18 and E-19: the time of idle connections where there are such, and sizes that tell nothing.
#[tokio::test]
async fn options_about_the_carrier() {
    let servers = Encrypted::start(&fixture(), policy(false)).await;
    let with_options = |options: &str| {
        let mut message = web();
        message[11] = 1; // one additional record: root, OPT, 1232 octets, version 0, no flags
        let options = octets_of(0, options);
        message.extend(octets_of(0, "00 0029 04d0 0000 0000"));
        message.extend((options.len() as u16).to_be_bytes());
        message.extend(options);
        message
    };
    let both = with_options("000b 0000  000c 0000");
    let padding = with_options("000c 0000");
    let mut tasks = JoinSet::new();
    let tls = ask_stream(connect(servers.tls, &[&TLS13], &[b"dot"]).await.unwrap(), &both).await;
    let (_, https) = post(&http2(servers.https, &mut tasks).await, &both).await;
    let quic = ask_quic(&quic_connection(servers.quic).await, &framed(&padding)).await;
    let Outcome::Reply(tls) = tls else { panic!("no reply over TLS") };
    for (over, query, reply, expected) in [
        (Over::Tls, &both, tls, &[TCP_KEEPALIVE, PADDING][..]),
        (Over::Https, &both, https, &[PADDING]),
        (Over::Quic, &padding, quic.expect("a reply over QUIC"), &[PADDING]),
    ] {
        let (read, faults) = judge(query, over, usize::MAX, &reply);
        let faults: Vec<String> = faults.iter().map(|fault| fault.what.clone()).collect();
        assert_eq!(faults, Vec::<String>::new(), "{over:?}");
        let codes: Vec<u16> = read
            .iter()
            .flat_map(|read| &read.opt)
            .flat_map(|opt| &opt.options)
            .map(|option| option.0)
            .collect();
        assert_eq!(codes, expected, "{over:?}");
        assert_eq!(reply.len() % 468, 0, "{over:?}: RFC 8467 section 4.1");
    }
}

/// What carries a reply changes nothing in it, but for the options that are about what carries it.
#[test]
fn the_same_octets_as_over_tcp() {
    let (ready, unready) = (fixture(), services().view);
    let (rows, _) = query::read(ROWS);
    let mut compared = 0;
    for row in rows.iter().filter(|row| row.over.contains(&Over::Tcp)) {
        let query = with_id(row, 0);
        if [TCP_KEEPALIVE, PADDING].iter().any(|option| has_option(&query, *option)) {
            continue;
        }
        let view = super::view_for(row, &ready, &unready);
        let reply =
            |over| accept(&view, &Policy::default(), &Arrival { client: CLIENT, over, draw: 7 }, &query);
        for over in [Over::Tls, Over::Https, Over::Quic] {
            assert_eq!(reply(over), reply(Over::Tcp), "{} over {over:?}", row.id);
            compared += 1;
        }
    }
    assert!(compared > 300, "{compared}");
}

// --- TLS ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn tls_is_as_old_as_1_2_and_speaks_dot() {
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    for (version, alpn) in [(&TLS12, &[&b"dot"[..]][..]), (&TLS13, &[b"dot"]), (&TLS13, &[])] {
        let mut connection = connect(servers.tls, &[version], alpn).await.unwrap();
        assert_eq!(connection.get_ref().1.alpn_protocol(), alpn.first().copied());
        connection.write_all(&framed(&web())).await.unwrap();
        assert!(stream::reply(&mut connection).await.is_some(), "{version:?}");
    }
    // Another protocol is not DNS, and DNS without TLS not private: neither is spoken.
    assert!(connect(servers.tls, &[&TLS13], &[b"h2"]).await.is_err());
    assert!(matches!(
        ask_stream(TcpStream::connect(servers.tls).await.unwrap(), &web()).await,
        Outcome::Closed
    ));
    assert!(connect(servers.https, &[&TLS13], &[b"dot"]).await.is_err());
}

#[tokio::test]
async fn pipelined_queries_over_tls_are_answered_in_order() {
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let connection = connect(servers.tls, &[&TLS13], &[b"dot"]).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let ask = |id: u16| framed(&[&id.to_be_bytes()[..], &web()[2..]].concat());
    let queries: Vec<u8> = (0..1000).flat_map(ask).collect();
    let written = async {
        writer.write_all(&queries).await.unwrap();
        writer.flush().await.unwrap();
    };
    let read = async {
        for id in 0..1000 {
            assert_eq!(super::id_of(&stream::reply(&mut reader).await.unwrap()), Some(id));
        }
    };
    timeout(DEADLINE, async { tokio::join!(written, read) }).await.unwrap();
}

/// More clients than there may be handshakes say nothing, or half of a hello: who does speak is served at once, and the
/// silent ones go, the first of them to make room and the last of them when their time is over.
#[tokio::test]
async fn silent_handshakes_keep_nobody_out() {
    const SILENT: usize = 1500;
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut stream = TcpStream::connect(servers.tls).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
        }
        silent.push(stream);
        if number % 100 == 0 {
            let mut connection = connect(servers.tls, &[&TLS13], &[b"dot"]).await.unwrap();
            connection.write_all(&framed(&web())).await.unwrap();
            assert!(stream::reply(&mut connection).await.is_some(), "beside {number}");
        }
    }
    for mut stream in silent {
        assert!(timeout(DEADLINE, stream::reply(&mut stream)).await.expect("an end").is_none());
    }
    let slow = servers.handshakes.slow.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(slow, SILENT as u64, "within {HANDSHAKE_TIME_MAX:?}");
}

// --- HTTPS --------------------------------------------------------------------------------------------

fn request(method: &str, target: &str, media_type: Option<&str>, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target).header("host", "localhost");
    if let Some(media_type) = media_type {
        request = request.header("content-type", media_type);
    }
    request.header("connection", "close").body(Full::from(body)).unwrap()
}

fn get(message: &[u8]) -> String {
    format!("/dns-query?dns={}", data_encoding::BASE64URL_NOPAD.encode(message))
}

#[tokio::test]
async fn requests_that_hold_no_question() {
    const DNS: Option<&str> = Some("application/dns-message");
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let response = [&web()[..2], &[0x80], &web()[3..]].concat();
    let good = get(&web());
    let padded = format!("/dns-query?dns={}=", data_encoding::BASE64URL_NOPAD.encode(&web()));
    for (what, request, status, words) in [
        ("a GET", request("GET", &good, None, Vec::new()), 200, ""),
        ("a POST", request("POST", "/dns-query", DNS, web()), 200, ""),
        ("a parameter", request("POST", "/dns-query", Some("Application/DNS-Message; a=b"), web()), 200, ""),
        ("a HEAD", request("HEAD", &good, None, Vec::new()), 200, ""),
        ("no question", request("GET", "/dns-query", None, Vec::new()), 400, "one `dns`"),
        ("two", request("GET", &format!("{good}&dns=AAAA"), None, Vec::new()), 400, "one `dns`"),
        ("other parameters", request("GET", &format!("{good}&a=b"), None, Vec::new()), 200, ""),
        ("base64", request("GET", "/dns-query?dns=AA%2B%2F", None, Vec::new()), 400, "not base64url"),
        ("padding", request("GET", &padded, None, Vec::new()), 400, "not base64url"),
        ("an empty message", request("GET", "/dns-query?dns=", None, Vec::new()), 400, "no DNS query"),
        ("a short message", request("GET", &get(&[0; 11]), None, Vec::new()), 400, "no DNS query"),
        ("a reply", request("POST", "/dns-query", DNS, response), 400, "no DNS query"),
        ("an empty body", request("POST", "/dns-query", DNS, Vec::new()), 400, "no DNS query"),
        ("no media type", request("POST", "/dns-query", None, web()), 415, "application/dns-message"),
        (
            "JSON",
            request("POST", "/dns-query", Some("application/dns-json"), web()),
            415,
            "not `application/dns-json`",
        ),
        ("too much", request("POST", "/dns-query", DNS, vec![0; 65_536]), 413, "65535 octets at most"),
        ("far too much", request("POST", "/dns-query", DNS, vec![0; 4 << 20]), 413, "65535 octets at most"),
        ("another method", request("PUT", "/dns-query", DNS, web()), 405, "GET and POST are"),
        ("DELETE", request("DELETE", &good, None, Vec::new()), 405, "GET and POST are"),
        ("another path", request("GET", "/", None, Vec::new()), 404, "/dns-query"),
        ("a path below", request("POST", "/dns-query/x", DNS, web()), 404, "/dns-query"),
        ("a long head", request("GET", &get(&[7; 40_000]), None, Vec::new()), 431, ""),
    ] {
        let head = request.method() == Method::HEAD;
        let answered = http1(servers.https, request).await;
        let text = String::from_utf8_lossy(answered.body());
        assert_eq!(answered.status().as_u16(), status, "{what}: {text}");
        let media_type = answered.headers().get("content-type").map(|value| value.to_str().unwrap());
        if status == 200 {
            assert_eq!(media_type, DNS, "{what}");
            let reply = Message::from_vec(answered.body());
            assert!(head || reply.is_ok_and(|reply| reply.answers.len() == 3), "{what}");
        } else {
            assert!(text.contains(words), "{what}: {text}");
        }
        if status == 405 {
            let allowed = answered.headers().get("allow").expect("what is allowed").to_str().unwrap();
            assert!(allowed.contains("GET") && allowed.contains("POST"), "{what}: {allowed}");
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let mut connection = connect(servers.https, &[&TLS13], &[b"http/1.1"]).await.unwrap();
    let head = "POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\nContent-Length: 40\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    let read = tokio::io::AsyncReadExt::read_exact(&mut connection, &mut line);
    timeout(DEADLINE, read).await.expect("a reply in time").unwrap();
    assert_eq!(&line, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_reply_says_how_long_it_is_fresh() {
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    for (name, qtype, rcode, fresh) in [
        ("web.service.local", 1, 0, 5),
        ("brief.service.local", 1, 0, 1),
        ("www.corp.test", 1, 0, 300),
        ("alias.corp.test", 1, 0, 300),
        ("v6.service.local", 1, 0, 2),   // NODATA: the SOA
        ("nope.service.local", 1, 3, 2), // NXDOMAIN: the same
        ("nope.corp.test", 1, 3, 60),    // the SOA's minimum, not its TTL
        ("dang.corp.test", 1, 3, 60),    // an alias of 300 s that leads nowhere
        ("www.example.com", 1, 5, 0),    // REFUSED is nothing to keep
        ("web.service.local", 252, 5, 0),
    ] {
        let answered =
            http1(servers.https, request("GET", &get(&question(name, qtype)), None, Vec::new())).await;
        assert_eq!(answered.status(), StatusCode::OK, "an error of DNS is none of HTTP: {name}");
        assert_eq!(answered.body()[3] & 0xf, rcode, "{name} {qtype}");
        assert_eq!(answered.headers()["cache-control"], format!("max-age={fresh}"), "{name} {qtype}");
    }
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    const REQUESTS: usize = 500;
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let mut tasks = JoinSet::new();
    let send = http2(servers.https, &mut tasks).await;
    post(&send, &web()).await; // from then on the client knows how many may be under way
    let mut asked = JoinSet::new();
    for _ in 0..REQUESTS {
        let send = send.clone();
        asked.spawn(async move { post(&send, &web()).await });
    }
    let answered = async {
        let mut answered = 0;
        while let Some(reply) = asked.join_next().await {
            assert_eq!(reply.unwrap().0, StatusCode::OK);
            answered += 1;
        }
        answered
    };
    assert_eq!(timeout(DEADLINE, answered).await.expect("all in time"), REQUESTS);
}

// --- QUIC ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn any_number_of_queries_on_one_quic_connection() {
    const QUERIES: usize = 1000;
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let connection = quic_connection(servers.quic).await;
    // One that never ends, and holds up no other.
    let (mut open, _receive) = connection.open_bi().await.unwrap();
    open.write_all(&framed(&web())[..9]).await.unwrap();
    let mut asked = JoinSet::new();
    for _ in 0..QUERIES {
        let connection = connection.clone();
        asked.spawn(async move { ask_quic(&connection, &framed(&web())).await.is_some() });
    }
    let answered = async { asked.join_all().await.into_iter().filter(|answered| *answered).count() };
    assert_eq!(timeout(DEADLINE, answered).await.expect("all in time"), QUERIES);
    assert!(connection.close_reason().is_none());
}

#[tokio::test]
async fn what_quic_forbids_ends_the_connection() {
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    let with_id = [&[0, 1][..], &web()[2..]].concat();
    let keepalive =
        [&web()[..11], &[1], &web()[12..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]].concat();
    let padding =
        [&web()[..11], &[1], &web()[12..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 12, 0, 0]].concat();
    let reply = [&web()[..2], &[0x80], &web()[3..]].concat();
    for (what, octets, forbidden) in [
        ("a query", framed(&web()), false),
        ("an option that is allowed", framed(&padding), false),
        ("an ID", framed(&with_id), true),
        ("TCP's keepalive", framed(&keepalive), true),
        ("nothing", Vec::new(), true),
        ("half a length", vec![0], true),
        ("half a message", framed(&web())[..20].to_vec(), true),
        ("two messages", [framed(&web()), framed(&web())].concat(), true),
        ("more than a message", vec![0; 70_000], true),
        ("a short message", framed(&[0; 11]), true),
        ("a reply", framed(&reply), true),
    ] {
        let connection = quic_connection(servers.quic).await;
        let asked = timeout(DEADLINE, ask_quic(&connection, &octets)).await.expect("an outcome in time");
        assert_eq!(asked.is_some(), !forbidden, "{what}");
        if forbidden {
            match timeout(DEADLINE, connection.closed()).await.expect("an end in time") {
                quinn::ConnectionError::ApplicationClosed(close) => {
                    assert_eq!(
                        close.error_code,
                        quinn::VarInt::from_u32(PROTOCOL_ERROR),
                        "{what}: {close:?}"
                    );
                }
                other => panic!("{what}: {other}"),
            }
        }
    }
    // A stream in one direction is none that the client may open.
    let connection = quic_connection(servers.quic).await;
    let query = framed(&web());
    let opened = tokio::select! {
        opened = connection.open_uni() => opened.is_ok(),
        answered = ask_quic(&connection, &query) => answered.is_none(),
    };
    assert!(!opened);
}

/// Clients that begin a handshake and say no more keep nobody out, and where there are many an address has to be shown
/// first, which costs the server a packet and no handshake.
#[tokio::test]
async fn quic_handshakes_that_stall_keep_nobody_out() {
    const STALLED: usize = 300;
    /// The first octet of a Retry packet, without the four bits that mean nothing (RFC 9000 section 17.2.5).
    const RETRY: u8 = 0xf0;
    let servers = Encrypted::start(&fixture(), Policy::default()).await;
    // A relay that lets a client's first packet pass, and no answer.
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = QuicClientConfig::try_from(tls::client(&[&TLS13], &[b"doq"])).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut stalled = Vec::new();
    let (mut passed, mut retries, mut buffer) = (0, 0, vec![0; 2048]);
    while passed < STALLED || retries == 0 {
        if passed < STALLED {
            let to = relay.local_addr().unwrap();
            stalled.push(endpoint.connect_with(config.clone(), to, "localhost").unwrap());
        }
        let received = timeout(DEADLINE, relay.recv_from(&mut buffer));
        let (octets, from) = received.await.expect("a packet in time").unwrap();
        if from == servers.quic {
            retries += usize::from(buffer[0] & RETRY == RETRY);
        } else {
            relay.send_to(&buffer[..octets], servers.quic).await.unwrap();
            passed += 1;
        }
    }
    let connection = timeout(DEADLINE, quic_connection(servers.quic)).await.expect("a connection in time");
    assert!(timeout(DEADLINE, ask_quic(&connection, &framed(&web()))).await.unwrap().is_some());
}
