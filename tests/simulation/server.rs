//! One life of the server: what `serve` wires together, over the world's disk and connections, on the thread of the test.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use callsign::access::{Access, Identity};
use callsign::clock::Clock;
use callsign::connections::Connections;
use callsign::connections::mistakes::Mistakes;
use callsign::desk::{Desk, Figures};
use callsign::dns::transfer::{Allowed, Transfers};
use callsign::dns::wire::{Policy, Responder};
use callsign::name::{Apex, HostName};
use callsign::protocol::ServerForm;
use callsign::registry::{FORGET_AFTER, Registry};
use callsign::socket;
use callsign::store::embedded::{self, Job, Thread};
use callsign::store::{Limits, Store};
use callsign::view::{Node, Settings, View, Zones};
use callsign::writer::{Handle, Writer};
use futures_util::stream::poll_fn;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::harness::Draws;
use crate::run::Planted;
use crate::secondary;
use crate::world::{INSTANCES_MAX, ServerEnd, Shared, chance, wall};

/// Small enough to be full in every few seeds.
const REDO_OCTETS: u64 = 24 * 1024;
/// Few enough for the quietest to be closed now and then.
const CONNECTIONS_MAX: usize = 6;
/// Octets on the way in one direction of a connection.
const PIPE_OCTETS: usize = 4096;
/// How long a server may take to stop in order: who does not read is given up, and what waits is stored, which on the slowest
/// disk may be a commit for each of many requests about one instance.
const STOP_MAX: Duration = Duration::from_secs(180);
/// The user that the server and its clients run as.
const USER: u32 = 1000;

pub struct Server {
    pub view: Arc<View>,
    pub handle: Handle,
    desk: Arc<Desk>,
    coming: mpsc::Sender<(ServerEnd, Identity)>,
    stop: CancellationToken,
    writing: JoinHandle<()>,
    storing: JoinHandle<()>,
    serving: JoinHandle<io::Result<()>>,
    transfers: Arc<Transfers>,
    following: JoinHandle<()>,
}

impl Server {
    /// Opens what the disk holds, and serves it; none where the power went meanwhile.
    #[expect(
        clippy::disallowed_methods,
        reason = "they end with the runtime, which is one life of the server"
    )]
    pub fn start(world: &Shared, planted: Option<Planted>) -> Result<Self, String> {
        let clock = Clock::with_wall(wall);
        let apexes = vec![Apex::parse("service.local").expect("a name")];
        let view = Arc::new(View::new(Settings::new(apexes), Zones::default()));
        let everybody = vec![Allowed { network: None, key: None }];
        let transfers = Arc::new(Transfers::new(view.clone(), clock, everybody, Arc::default()));
        let responder = Responder {
            transfers: Some(transfers.clone()),
            ..Responder::new(view.clone(), Policy::default(), clock)
        };
        let responder = Arc::new(responder);
        world.lock().responder = Some(responder.clone());
        world.lock().asks_in_vain();
        let disk = world.clone();
        let opened = embedded::over(move || disk.disk(), REDO_OCTETS, Limits::default(), clock.now());
        let (embedded, thread, loaded) = opened.map_err(|error| format!("the store: {error}"))?;
        let mut registry = Registry::new(INSTANCES_MAX, FORGET_AFTER);
        registry.restore(loaded.kept, clock.now());
        view.set_serial_base(loaded.serial_base);
        view.publish_all(&registry);
        let store = Store::Embedded(embedded);
        let history = store.history();
        let access = Arc::new(Access { own_user: USER, ..Access::default() });
        let (writer, handle) = Writer::new(registry, store, view.clone(), clock, access.clone());
        let writing = tokio::spawn(writer.run());
        let storing = tokio::spawn(store_changes(thread, world.clone(), planted));
        transfers.begin(handle.clone(), history.clone());
        view.set_ready();
        world.lock().look_again();
        let draws = Draws(world.lock().draws.next());
        let following = tokio::spawn(secondary::keep(world.clone(), responder, draws));
        let node = Node {
            name: "here".into(),
            addresses: Vec::new(),
            dns: 53,
            listener: None,
            slots: 0,
            is_own: true,
        };
        let desk = Arc::new(Desk {
            view: view.clone(),
            writer: handle.clone(),
            clock,
            access,
            mistakes: Mistakes::default(),
            host: HostName::parse("here").expect("a name"),
            addresses: vec![[10, 0, 0, 1].into()],
            loopback_allowed: true,
            history,
            figures: Figures::new(Arc::default(), Arc::default(), FORGET_AFTER),
            searches: Default::default(),
            connections: Connections::new(CONNECTIONS_MAX),
            node,
            told: Default::default(),
            signing: Default::default(),
            chance,
            server: form(),
        });
        let (coming, mut came) = mpsc::channel(CONNECTIONS_MAX * 2);
        let stop = CancellationToken::new();
        let streams = poll_fn(move |context| came.poll_recv(context).map(|came| came.map(Ok)));
        let serving = tokio::spawn(socket::run_over(streams, desk.clone(), stop.clone()));
        Ok(Self { view, handle, desk, coming, stop, writing, storing, serving, transfers, following })
    }

    /// A new connection to it; the client's end. None where too many wait already.
    pub fn connect(&self, world: &Shared, connection: u64) -> Option<DuplexStream> {
        let (client, stream) = tokio::io::duplex(PIPE_OCTETS);
        let end = ServerEnd { stream, connection, world: world.clone(), line: Vec::new() };
        self.coming.try_send((end, Identity::user(USER, USER))).ok()?;
        Some(client)
    }

    /// Whether one of its tasks has ended that should not.
    pub fn ended(&self) -> Option<&'static str> {
        let tasks = [
            ("writer", self.writing.is_finished()),
            ("store", self.storing.is_finished()),
            ("socket", self.serving.is_finished()),
            ("secondary", self.following.is_finished()),
        ];
        tasks.into_iter().find(|(_, ended)| *ended).map(|(name, _)| name)
    }

    /// Whether nothing is stored any more until it is started again.
    pub fn is_broken(&self) -> bool {
        self.view.store_trouble().is_some_and(|trouble| trouble.contains("restart the server"))
    }

    /// Down, in the order of `serve`.
    pub async fn stop(self) -> Result<(), String> {
        let Self { view: _, handle, desk, coming, stop, writing, storing, serving, transfers, following } =
            self;
        stop.cancel();
        following.abort();
        transfers.end();
        drop((handle, desk, coming));
        let down = async {
            let served = serving.await.map_err(|error| error.to_string())?;
            served.map_err(|error| error.to_string())?;
            writing.await.map_err(|error| error.to_string())?;
            storing.await.map_err(|error| error.to_string())
        };
        timeout(STOP_MAX, down).await.map_err(|_| format!("not stopped after {STOP_MAX:?}"))?
    }
}

/// The store's thread, as a task: a commit takes as long as the disk of the world does.
async fn store_changes(mut thread: Thread, world: Shared, planted: Option<Planted>) {
    while let Some(Job { changes, facts, reserve, mut done }) = thread.next().await {
        let slow_ms = {
            let mut world = world.lock();
            let slow_ms = world.slow_ms;
            world.draws.below(slow_ms + 1) as u64
        };
        if planted == Some(Planted::AcknowledgedBeforeCommit) {
            let (later, _nobody) = oneshot::channel();
            drop(std::mem::replace(&mut done, later).send(Ok(())));
            sleep(Duration::from_millis(2)).await; // tidy: may sleep: simulated time, in which it is not yet stored
        }
        if slow_ms > 0 {
            world.lock().writing.waits = true;
            sleep(Duration::from_millis(slow_ms)).await; // tidy: may sleep: simulated time, which the disk takes
            let mut world = world.lock();
            world.writing.waits = false;
            world.writing.until_ns = world.now_ns();
        }
        world.lock().disk.mark();
        thread.commit(Job { changes, facts, reserve, done });
    }
}

fn form() -> ServerForm {
    ServerForm { version: "1".to_owned(), ready: true, store: "embedded".to_owned(), ..ServerForm::default() }
}
