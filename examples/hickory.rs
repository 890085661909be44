//! The live registry in a stock hickory server.
//!
//! Whoever runs a hickory server already can mount callsign's `Handler` in it: it answers from the view
//! that the writer publishes, by the rules that `callsign serve` follows. What the server around it does
//! otherwise on the wire is listed in `tests/stock.txt`.
//!
//!     cargo run --example hickory                      # or with an address: … -- 127.0.0.1:5301
//!     dig @127.0.0.1 -p 5301 web.service.local SRV

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use callsign::access::Identity;
use callsign::clock::Clock;
use callsign::dns::handler::Handler;
use callsign::dns::tcp::IDLE_MAX;
use callsign::dns::wire::{Policy, Responder};
use callsign::instance::{Key, Lease, Location, Port, Transport};
use callsign::name::{Apex, HostName, InstanceId, ServiceName};
use callsign::registry::{Command, FORGET_AFTER, INSTANCES_MAX, Registration, Registry, Unlisted};
use callsign::store::Store;
use callsign::view::{Settings, View, Zones};
use callsign::writer::Writer;
use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};

/// How many replies may wait on a TCP connection.
const REPLIES: usize = 32;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5301".to_owned());
    let address: SocketAddr = address.parse()?;

    // What queries see, and the one task that changes it.
    let apexes = vec![Apex::parse("service.local")?];
    let settings = Settings { ns_addresses: vec![address.ip()], ..Settings::new(apexes) };
    let view = Arc::new(View::new(settings, Zones::default()));
    let registry = Registry::new(INSTANCES_MAX, FORGET_AFTER);
    let (writer, handle) =
        Writer::new(registry, Store::memory(), view.clone(), Clock::start(), Arc::default());
    view.set_ready();

    // A hickory server as anybody would write one; the handler is ours.
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)?;
    let mut server = Server::new(Handler::new(
        Arc::new(Responder::new(view, Policy::default(), Clock::start())),
        u64::from_ne_bytes(seed),
    ));
    server.register_socket(UdpSocket::bind(address).await?);
    // As long as replies say that a connection may be idle.
    server.register_listener(TcpListener::bind(address).await?, IDLE_MAX, REPLIES);

    let register = async {
        let verdict = handle.command(Command::Register(Box::new(web()?)), Identity::server()).await?;
        let done = verdict.await??;
        println!(
            "web registered at revision {}; dig @{} -p {} web.service.local SRV",
            done.revision,
            address.ip(),
            address.port()
        );
        server.block_until_done().await?;
        anyhow::Ok(())
    };
    tokio::select! {
        () = writer.run() => anyhow::bail!("the writer has ended"),
        served = register => served,
    }
}

/// One instance of `web` on this machine, until it is deregistered.
fn web() -> anyhow::Result<Registration> {
    let key =
        Key::new(ServiceName::parse("web")?, InstanceId::parse("web-1")?, HostName::parse("localhost")?);
    Ok(Registration {
        key,
        location: Location::Addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)].into()),
        ports: vec![Port { name: None, number: 8080, transport: Transport::Tcp }],
        protocol: None,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        weight: 1,
        priority: 0,
        lease: Lease::None,
        lease_id: 0,
        checks: Vec::new(),
        unlisted: Unlisted::Go,
        source: None,
        consul: None,
        anonymous: false,
        displaces: None,
        owner: None,
    })
}
