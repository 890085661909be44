//! UDP beside the message: from where, to where, and nothing from ourselves.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use callsign::answer::Over;
use callsign::balance::Draws;
use callsign::clock::Clock;
use callsign::dns::udp;
use callsign::dns::wire::{Arrival, Policy, Responder, accept};
use callsign::view::View;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::UDP_OCTETS_MAX;
use super::fixture::{DEADLINE, fixture};
use super::judge::judge;
use super::query::octets_of;

/// Any number: what the loop draws follows from it.
const SEED: u64 = 7;

fn web_srv() -> Vec<u8> {
    octets_of(0, "4242 0000 0001 0000 0000 0000 03\"web\"07\"service\"05\"local\"00 0021 0001")
}

/// The loop on `socket`, until the set is dropped.
fn serve(socket: UdpSocket, view: &Arc<View>) -> JoinSet<io::Result<()>> {
    let mut tasks = JoinSet::new();
    let responder = Arc::new(Responder::new(view.clone(), Policy::default(), Clock::start()));
    let sockets = vec![socket.into_std().unwrap()];
    tasks.spawn(udp::run(sockets, responder, SEED, CancellationToken::new()));
    tasks
}

/// The reply that a socket connected to `server` accepts: one from that very address.
async fn ask(server: SocketAddr) -> Vec<u8> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => "0.0.0.0:0".parse().unwrap(),
        SocketAddr::V6(_) => "[::]:0".parse().unwrap(),
    };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&web_srv()).await.unwrap();
    let mut buffer = [0; 512];
    let received = timeout(DEADLINE, socket.recv(&mut buffer)).await;
    let octets = received.unwrap_or_else(|_| panic!("no reply from {server}")).unwrap();
    buffer[..octets].to_vec()
}

#[tokio::test]
async fn replies_leave_from_the_address_that_was_asked() {
    let view = fixture();
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let _tasks = serve(socket, &view);
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.1.2.3"] {
        ask(SocketAddr::new(address.parse().unwrap(), port)).await;
    }
}

/// One socket for both families, as `[::]` is where nothing says otherwise.
#[tokio::test]
async fn replies_leave_from_the_ipv6_address_that_was_asked() {
    let view = fixture();
    let socket = match Socket::new(Domain::IPV6, Type::DGRAM, None) {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("this machine has no IPv6 ({error}): nothing to show");
            return;
        }
    };
    socket.set_only_v6(false).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0).into()).unwrap();
    let socket = UdpSocket::from_std(socket.into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let _tasks = serve(socket, &view);
    for address in ["127.0.0.2", "127.0.0.3"] {
        ask(SocketAddr::new(address.parse().unwrap(), port)).await;
    }
    // A machine may know IPv6 and have no such loopback.
    match UdpSocket::bind("[::1]:0").await {
        Ok(_) => drop(ask(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)).await),
        Err(error) => eprintln!("this machine has no ::1 ({error}): only IPv4 was shown"),
    }
}

/// Each message that is looked at takes one draw, and the order of the records shows which: so the reply
/// to the first stranger tells whether the loop had looked at its own message before.
#[tokio::test]
async fn a_datagram_from_ourselves_is_dropped() {
    let view = fixture();
    let nth = |n: usize, client: SocketAddr| {
        let mut draws = Draws::new(SEED);
        let draw = (0..=n).map(|_| draws.next_u64()).last().unwrap();
        accept(&view, &Policy::default(), &Arrival { client, over: Over::Udp, draw }, &web_srv()).unwrap()
    };
    for wildcard in [false, true] {
        let address = if wildcard { "0.0.0.0:0" } else { "127.0.0.1:0" };
        let socket = UdpSocket::bind(address).await.unwrap();
        if wildcard {
            // What comes before the loop starts is told its destination too.
            udp::set_up(&socket).unwrap();
        }
        let server = SocketAddr::new("127.0.0.1".parse().unwrap(), socket.local_addr().unwrap().port());
        socket.send_to(&web_srv(), server).await.unwrap();
        let _tasks = serve(socket, &view);
        let reply = ask(server).await;
        assert_ne!(nth(0, server), nth(1, server), "the draws tell nothing apart");
        assert_eq!(reply, nth(0, server), "wildcard: {wildcard}");
    }
}

/// What waits for the worker is answered in one batch, and the replies of one length to one client go out as one message:
/// each arrives by itself, to whom it belongs, from where it was asked. The third client's are of another length.
#[tokio::test]
async fn replies_that_go_out_together_arrive_apart() {
    for (bound, asked) in [
        ("127.0.0.1:0", &["127.0.0.1"][..]),
        ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2"]),
        ("[::1]:0", &["::1"]),
        ("[::]:0", &["::1"]),
    ] {
        // A machine may know IPv6 and have no such loopback.
        match (UdpSocket::bind(bound).await, UdpSocket::bind((asked[0], 0)).await) {
            (Ok(socket), Ok(_)) => replies_arrive_apart(socket, asked).await,
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("{error}: it was not shown on {bound}");
            }
        }
    }
}

async fn replies_arrive_apart(socket: UdpSocket, asked: &[&str]) {
    const EACH: u16 = 20;
    let view = fixture();
    // A parent may have asked for this too, and then it comes first.
    setsockopt(&socket, sockopt::ReceiveTimestamp, &true).unwrap();
    udp::set_up(&socket).unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut clients = Vec::new();
    for at in 0..3 {
        let server = SocketAddr::new(asked[at % asked.len()].parse().unwrap(), port);
        let client = UdpSocket::bind((server.ip(), 0)).await.unwrap();
        client.connect(server).await.unwrap();
        clients.push(client);
    }
    let question = |at: usize, id: u16| {
        let mut query = web_srv();
        query[..2].copy_from_slice(&id.to_be_bytes());
        if at == 2 && id.is_multiple_of(2) {
            let types = query.len() - 4;
            query[types..types + 2].copy_from_slice(&1u16.to_be_bytes());
        }
        query
    };
    for id in 0..EACH {
        for (at, client) in clients.iter().enumerate() {
            client.send(&question(at, id)).await.unwrap();
        }
    }
    let _tasks = serve(socket, &view);
    for (at, client) in clients.iter().enumerate() {
        let mut missing: Vec<u16> = (0..EACH).collect();
        while !missing.is_empty() {
            let mut buffer = [0; 1500];
            let octets = timeout(DEADLINE, client.recv(&mut buffer)).await.expect("a reply to each").unwrap();
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            let place = missing.iter().position(|waiting| *waiting == id).expect("one reply to each");
            missing.remove(place);
            let (_, faults) = judge(&question(at, id), Over::Udp, UDP_OCTETS_MAX, &buffer[..octets]);
            assert!(faults.is_empty(), "{faults:?}");
        }
    }
}

/// A client that is gone answers our reply with an ICMP message, and the loop goes on.
#[tokio::test]
async fn who_is_gone_concerns_nobody_else() {
    let view = fixture();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let _tasks = serve(socket, &view);
    for _ in 0..50 {
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        gone.send_to(&web_srv(), server).await.unwrap();
        drop(gone);
        ask(server).await;
    }
}
