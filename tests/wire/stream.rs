//! DNS over TCP (RFC 7766): what a connection may do, and for how long.
//!
//! Nothing here sleeps: each test waits for the reply, or for the end of the connection, with a deadline.
//! Where the end comes of waiting, a test takes as long as that.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callsign::connections::Connections;
use callsign::dns::wire::Policy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fixture::{DEADLINE, Servers, fixture};
use super::id_of;
use super::query::octets_of;

/// The next reply; `None` where the connection ends instead, orderly or not.
pub async fn reply(connection: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = connection.read_u16().await.ok()?;
    let mut message = vec![0; usize::from(length)];
    connection.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// As `reply`, and it must come.
async fn next(connection: &mut TcpStream) -> Vec<u8> {
    timeout(DEADLINE, reply(connection)).await.expect("a reply in time").expect("a reply, not the end")
}

/// True where the connection ends, orderly or not; false where an octet comes.
async fn ended(connection: &mut TcpStream) -> bool {
    let mut octet = [0];
    let read = timeout(DEADLINE, connection.read(&mut octet)).await.expect("an end in time");
    !matches!(read, Ok(1))
}

/// `qtype` of `name` under that ID, with its length in front.
fn framed(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend(octets_of(0, "0000 0001 0000 0000 0000"));
    message.extend(super::query::wire_name(0, name));
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

const A: u16 = 1;
const AAAA: u16 = 28;

fn web(id: u16) -> Vec<u8> {
    framed(id, "web.service.local", A)
}

async fn served() -> Servers {
    Servers::ours(&fixture(), Policy::default()).await
}

async fn connect(server: SocketAddr) -> TcpStream {
    TcpStream::connect(server).await.unwrap()
}

#[tokio::test]
async fn three_queries_in_one_segment() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    let queries = [web(1), framed(2, "nope.service.local", A), framed(3, "www.corp.test", A)].concat();
    connection.write_all(&queries).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(id_of(&next(&mut connection).await).unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
}

/// As glibc does with `use-vc`.
#[tokio::test]
async fn two_queries_in_one_write() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    let queries = [framed(1, "web.service.local", A), framed(2, "web.service.local", AAAA)].concat();
    connection.write_all(&queries).await.unwrap();
    for id in [1, 2] {
        let reply = next(&mut connection).await;
        assert_eq!((id_of(&reply), reply[3] & 0xf), (Some(id), 0));
    }
    // Both were answered before any close: the connection is still good.
    connection.write_all(&web(3)).await.unwrap();
    assert_eq!(id_of(&next(&mut connection).await), Some(3));
}

#[tokio::test]
async fn a_thousand_queries_at_once() {
    let servers = served().await;
    let connection = connect(servers.tcp).await;
    let (mut reader, mut writer) = connection.into_split();
    let queries: Vec<u8> = (0..1000).flat_map(web).collect();
    // A client that writes everything before it reads would be one that does not read.
    let written = async { writer.write_all(&queries).await.unwrap() };
    let read = async {
        for id in 0..1000 {
            assert_eq!(id_of(&reply(&mut reader).await.unwrap()), Some(id));
        }
    };
    timeout(DEADLINE, async { tokio::join!(written, read) }).await.unwrap();
}

#[tokio::test]
async fn one_octet_at_a_time() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    connection.set_nodelay(true).unwrap();
    for octet in web(7) {
        connection.write_all(&[octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(id_of(&next(&mut connection).await), Some(7));
    // Length and message in segments of their own.
    let query = web(8);
    connection.write_all(&query[..2]).await.unwrap();
    tokio::task::yield_now().await;
    connection.write_all(&query[2..]).await.unwrap();
    assert_eq!(id_of(&next(&mut connection).await), Some(8));
}

#[tokio::test]
async fn a_half_closed_connection_is_answered() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    connection.write_all(&[web(1), web(2)].concat()).await.unwrap();
    connection.shutdown().await.unwrap();
    for id in [1, 2] {
        assert_eq!(id_of(&next(&mut connection).await), Some(id));
    }
    assert!(ended(&mut connection).await);
}

#[tokio::test]
async fn a_reply_is_one_write() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    connection.write_all(&web(9)).await.unwrap();
    let mut buffer = [0; 4096];
    let octets = timeout(DEADLINE, connection.read(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(octets, 2 + usize::from(u16::from_be_bytes([buffer[0], buffer[1]])));
}

/// A last reply is not lost to a reset, though more had come than was read (RFC 7766 section 6.2.4).
#[tokio::test]
async fn the_last_reply_arrives() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    let garbage = [web(1), vec![0, 0], vec![0xff; 20_000]].concat();
    connection.write_all(&garbage).await.unwrap();
    assert_eq!(id_of(&next(&mut connection).await), Some(1));
    assert!(ended(&mut connection).await);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "how long the server waited is what is asked")]
async fn an_idle_connection_is_closed() {
    let servers = served().await;
    let mut used = connect(servers.tcp).await;
    let mut silent = connect(servers.tcp).await;
    let mut half = connect(servers.tcp).await;
    half.write_all(&web(1)[..9]).await.unwrap();
    let start = Instant::now();
    // Half a message is given less time than none: its client is not idle but stuck.
    assert!(ended(&mut half).await);
    let half_after = start.elapsed();
    used.write_all(&web(1)).await.unwrap();
    next(&mut used).await;
    assert!(ended(&mut silent).await);
    let silent_after = start.elapsed();
    assert!(ended(&mut used).await);
    let used_after = start.elapsed();
    assert!(half_after >= Duration::from_secs(4), "half a message: {half_after:?}");
    assert!(silent_after >= Duration::from_secs(9), "silent: {silent_after:?}");
    // The message at half time started the wait anew.
    assert!(used_after >= silent_after + Duration::from_secs(3), "{used_after:?} and {silent_after:?}");
}

#[test]
fn the_quietest_connection_goes() {
    let stop = CancellationToken::new();
    let connections = Connections::new(2);
    let (first, second) = (connections.enter(&stop), connections.enter(&stop));
    first.touch();
    let third = connections.enter(&stop);
    let closing = [&first, &second, &third].map(|place| place.closing().is_cancelled());
    assert_eq!(closing, [false, true, false]);
    // A place that was left is free again.
    drop(second);
    drop(third);
    let fourth = connections.enter(&stop);
    assert!(!first.closing().is_cancelled() && !fourth.closing().is_cancelled());
    stop.cancel();
    assert!(first.closing().is_cancelled() && fourth.closing().is_cancelled());
}

/// Replies that nobody reads fill what the kernel has room for, and no more of ours; then the client goes.
#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let servers = served().await;
    let mut deaf = connect(servers.tcp).await;
    let query = framed(1, "big.service.local", 33);
    let queries = query.repeat(1000);
    // Until the server, which waits for us to read, reads no more itself, and then closes.
    let written = async { while deaf.write_all(&queries).await.is_ok() {} };
    let others = async {
        for id in 0..50 {
            let mut other = connect(servers.tcp).await;
            other.write_all(&web(id)).await.unwrap();
            assert_eq!(id_of(&next(&mut other).await), Some(id));
        }
    };
    timeout(DEADLINE, async { tokio::join!(written, others) }).await.expect("the deaf one is given up");
}

#[tokio::test]
async fn a_reset_concerns_nobody_else() {
    let servers = served().await;
    for id in 0..20 {
        let mut rude = connect(servers.tcp).await;
        rude.write_all(&web(id)).await.unwrap();
        socket2::SockRef::from(&rude).set_linger(Some(Duration::ZERO)).unwrap();
        drop(rude);
        let mut other = connect(servers.tcp).await;
        other.write_all(&web(id)).await.unwrap();
        assert_eq!(id_of(&next(&mut other).await), Some(id));
    }
}

/// The server that stops finishes what it is at, and its connections end.
#[tokio::test]
async fn a_stop_ends_the_connections() {
    let servers = served().await;
    let mut connection = connect(servers.tcp).await;
    connection.write_all(&web(1)).await.unwrap();
    next(&mut connection).await;
    servers.stop();
    assert!(ended(&mut connection).await);
}
