//! One world from beginning to end: what clients do, what goes wrong, and what must be when nothing does any more.

mod clients;
mod planted;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use callsign::instance::{Instance, Key};
use callsign::name::{HostName, InstanceId, ServiceName};
use callsign::registry::Registry;
use nix::libc::{EIO, ENOSPC};
use tokio::io::{AsyncWrite, DuplexStream};
use tokio::time::{advance, sleep};

use clients::{Client, deliver, has_ended, idle};
pub use planted::Planted;

use crate::disk::{Fault, Kind};
use crate::expected::{Lease, Seen, Verb};
use crate::harness::Draws;
use crate::server::Server;
use crate::world::{Cut, IDS, INSTANCES_MAX, KEYS, SERVICES, Shared, step_wall};

/// What happens in one world before it heals.
const STEPS: usize = 140;
const CLIENTS: usize = INSTANCES_MAX;
/// When all is well again, everything that is asked is answered within this time.
const ANSWERED_MAX: Duration = Duration::from_secs(2);
/// Everything is looked at so often at least, in milliseconds.
const PIECE_MS_MAX: usize = 500;
/// How often a client asks again when it was refused, while the world heals.
const TRIES: usize = 3;

/// What became of a world.
pub struct Outcome {
    pub wrong: Option<String>,
    /// The last lines of what happened.
    pub lines: String,
    /// Of all that happened.
    pub digest: u64,
    pub traced: u64,
    pub looks: u64,
    pub transfers: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unanswered: u64,
    /// How often the server was started.
    pub lives: u64,
    pub simulated: Duration,
}

/// The world of a seed.
pub fn run(seed: u64, planted: Option<Planted>) -> Outcome {
    let world = Shared::new(seed);
    let clients = (0..CLIENTS).map(|_| Client::default()).collect();
    let draws = Draws(world.lock().draws.next());
    let (cells, older) = (Default::default(), None);
    let mut run = Run {
        world,
        draws,
        planted,
        clients,
        following: None,
        steps: STEPS,
        healed: false,
        made: 0,
        ports: 0,
        cells,
        older,
    };
    let (mut image, mut lives) = (Some(Vec::new()), 0);
    while let Some(left) = image {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        image = runtime.block_on(run.life(left));
        lives += 1;
    }
    let world = run.world.lock();
    Outcome {
        wrong: world.wrong.clone(),
        lines: world.lines(),
        digest: world.digest(),
        traced: world.traced,
        looks: world.looks,
        transfers: world.transfers,
        acknowledged: world.expected.acknowledged,
        refused: world.expected.refused,
        unanswered: world.expected.unanswered,
        lives,
        simulated: Duration::from_nanos(world.now_ns()),
    }
}

struct Run {
    world: Shared,
    draws: Draws,
    planted: Option<Planted>,
    clients: Vec<Client>,
    /// The follower's end of its connection.
    following: Option<DuplexStream>,
    /// Left until the world heals.
    steps: usize,
    healed: bool,
    /// Connections made.
    made: u64,
    /// Registrations made.
    ports: u16,
    /// For what is planted: instances as they were when they were last there, and everything as it once was.
    cells: [Option<Arc<Instance>>; KEYS],
    older: Option<Registry>,
}

/// How a life of the server ends.
enum End {
    Power,
    Kill,
    Order,
    /// The world ends with it.
    World,
}

impl Run {
    /// One life of the server; what its disk holds afterwards, where there is to be another.
    async fn life(&mut self, image: Vec<u8>) -> Option<Vec<u8>> {
        let is_new = image.is_empty();
        self.world.lock().begin(image);
        // A new file has its name only when it is whole, which is not this disk's to show.
        if !is_new && self.steps > 0 && self.draws.below(8) == 0 {
            let steps = self.draws.below(12);
            self.world.lock().cut = Some(Cut::Steps(steps));
        }
        let end = match Server::start(&self.world, self.planted) {
            Ok(mut server) => match self.live(&mut server).await {
                End::Order => {
                    self.clients.iter_mut().for_each(|client| client.connection = None);
                    self.world.lock().trace("stop".to_owned());
                    let stopped = server.stop().await;
                    if let Err(what) = stopped
                        && self.world.lock().has_power()
                    {
                        self.wrong(what);
                    }
                    if self.healed {
                        self.world.lock().expected.all_stored();
                    }
                    End::Order
                }
                end => end,
            },
            Err(what) if self.world.lock().has_power() => {
                self.wrong(what);
                End::World
            }
            Err(_) => End::Power,
        };
        self.clients.iter_mut().for_each(|client| *client = Client::default());
        self.following = None;
        let pause = Duration::from_millis([0, 10, 700, 8000][self.draws.below(4)]);
        let mut world = self.world.lock();
        let left = match end {
            End::Power => world.left.take(),
            End::Kill | End::Order => Some(world.left.take().unwrap_or_else(|| world.disk.image())),
            End::World => None,
        };
        world.end(pause);
        left.filter(|_| world.wrong.is_none())
    }

    async fn live(&mut self, server: &mut Server) -> End {
        while self.steps > 0 {
            self.steps -= 1;
            if let Some(end) = self.step(server).await {
                return end;
            }
            if let Err(end) = self.pass(server, Duration::from_millis(1)).await {
                return end;
            }
        }
        if self.healed {
            let looked = self.pass(server, Duration::from_millis(1)).await;
            return looked.err().unwrap_or(End::World); // it has what the last one left
        }
        match self.heal(server).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn step(&mut self, server: &mut Server) -> Option<End> {
        self.misbehave(server).await;
        let which = self.draws.below(self.clients.len());
        match self.draws.below(100) {
            0..42 => {
                let verb = self.verb();
                let key = if self.draws.below(5) > 0 { which } else { self.draws.below(KEYS) };
                self.ask(server, which, key, verb);
            }
            42..44 => {
                for _ in 0..20 {
                    let (key, verb) = (self.draws.below(KEYS), self.verb());
                    self.ask(server, which, key, verb);
                }
            }
            44..52 => return self.wait(server, 60).await,
            52..59 => return self.wait(server, 1500).await,
            59..62 => return self.wait(server, 6000).await,
            62..68 => self.cut(which),
            68..72 => self.with(which, |connection| connection.lags = !connection.lags),
            72..77 => self.deliver_some(which),
            77..79 => self.with(which, |connection| connection.deaf = !connection.deaf),
            79..82 => self.break_disk(),
            82..86 => self.world.lock().disk.fail(None),
            86..89 => {
                let slow_ms = [0, 0, 3, 40, 600, 2500][self.draws.below(6)];
                self.world.lock().slow_ms = slow_ms;
            }
            89..91 => self.stop_for_a_while().await,
            91..93 => {
                let by_ms = self.draws.below(200_000_000) as i64 - 100_000_000;
                step_wall(by_ms);
                self.world.lock().trace(format!("the wall clock goes by {by_ms} ms"));
            }
            93..96 => {
                let cut = match self.draws.below(3) {
                    0 => Cut::Steps(self.draws.below(20)),
                    _ => Cut::Replies(self.draws.below(3)),
                };
                self.world.lock().cut = Some(cut);
            }
            96 => {
                self.world.lock().cut_power();
            }
            97 => return Some(self.ends(End::Kill, "kill")),
            98 => return Some(self.ends(End::Order, "restart")),
            _ => self.connect(server, which),
        }
        // A store that needs it is started again, sometime.
        (server.is_broken() && self.draws.below(6) == 0)
            .then(|| self.ends(End::Kill, "kill, for the store is broken"))
    }

    fn ends(&mut self, end: End, what: &str) -> End {
        self.world.lock().trace(what.to_owned());
        end
    }

    fn break_disk(&mut self) {
        let code = [ENOSPC, EIO][self.draws.below(2)];
        let lasting = self.draws.below(3) > 0;
        let (on, code) = match self.draws.below(8) {
            0 => (Kind::Sync, EIO),
            1 => (Kind::WriteAfterSync, code),
            _ => (Kind::Write, code),
        };
        let fault = Fault { steps: self.draws.below(4), code, lasting, on, done: self.draws.below(4) == 0 };
        let mut world = self.world.lock();
        world.trace(format!("{fault:?}"));
        world.disk.fail(Some(fault));
    }

    /// As SIGSTOP does it: what arrives meanwhile waits.
    async fn stop_for_a_while(&mut self) {
        let away = Duration::from_millis([120, 240, 300, 800, 950, 1500, 20_000][self.draws.below(7)]);
        {
            let mut world = self.world.lock();
            let then_ns = world.now_ns() + away.as_nanos() as u64;
            world.trace(format!("stopped for {away:?}"));
            world.expected.stopped(away, then_ns);
        }
        advance(away).await;
    }

    async fn wait(&mut self, server: &mut Server, most_ms: usize) -> Option<End> {
        let for_ms = self.draws.below(most_ms) as u64;
        self.pass(server, Duration::from_millis(for_ms)).await.err()
    }

    /// Time goes by: clients do what they do by themselves, and everything is looked at.
    async fn pass(&mut self, server: &mut Server, time: Duration) -> Result<(), End> {
        let mut left = time;
        loop {
            let piece = left.min(Duration::from_millis(1 + self.draws.below(PIECE_MS_MAX) as u64));
            self.carry(server).await;
            sleep(piece).await; // tidy: may sleep: this is simulated time, and what goes by
            self.carry(server).await;
            left -= piece;
            if self.planted.is_some() {
                self.remember(server);
            }
            let mut world = self.world.lock();
            if !world.has_power() {
                return Err(End::Power);
            }
            world.look();
            if let Some(task) = server.ended() {
                let what = format!("the task of the {task} has ended");
                world.trace(what.clone());
                world.wrong.get_or_insert(what);
            }
            if world.wrong.is_some() {
                return Err(End::World);
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// Reads what the follower is told, which goes on where it was when it was cut off.
    async fn follow(&mut self, server: &Server) {
        let following = self.world.lock().follower.connection != 0;
        if let Some(end) = self.following.as_mut().filter(|_| following) {
            has_ended(end).await;
            return;
        }
        self.made += 1;
        self.following = server.connect(&self.world, self.made);
        let mut world = self.world.lock();
        if world.follower.since.is_none() {
            world.follower.told = Default::default();
        }
        let since = world.follower.since.map(|since| format!(r#","since":{since}"#)).unwrap_or_default();
        let line = format!("{{\"feed\":{{\"mark\":true{since}}}}}\n");
        if let Some(end) = &mut self.following
            && Pin::new(end).poll_write(&mut idle(), line.as_bytes()).is_ready()
        {
            world.follower.connection = self.made;
            world.trace(format!("{}: {}", self.made, line.trim_end()));
        }
    }

    /// Delivers what does not lag, reads what is there, renews what is to be renewed.
    async fn carry(&mut self, server: &Server) {
        self.follow(server).await;
        for which in 0..self.clients.len() {
            let now_ns = self.world.lock().now_ns();
            let client = &mut self.clients[which];
            if let Some((lease, last_ns)) = &mut client.keeps
                && now_ns - *last_ns > lease.as_nanos() as u64 / 3
            {
                *last_ns = now_ns;
                self.ask(server, which, which, Verb::Heartbeat);
            }
            let Some(connection) = &mut self.clients[which].connection else { continue };
            if !connection.lags {
                deliver(&self.world, connection, usize::MAX);
            }
            if !connection.deaf && has_ended(&mut connection.end).await {
                self.clients[which].connection = None;
            }
        }
    }

    /// Nothing goes wrong any more: everything is answered, everything comes, and everything goes in its time.
    async fn heal(&mut self, server: &mut Server) -> Result<End, End> {
        {
            let mut world = self.world.lock();
            world.trace("healing".to_owned());
            (world.cut, world.slow_ms) = (None, 0);
            world.disk.fail(None);
        }
        (0..self.clients.len()).for_each(|which| self.cut(which));
        self.clients.iter_mut().for_each(|client| client.keeps = None);
        if server.is_broken() {
            return Ok(End::Kill);
        }
        self.pass(server, ANSWERED_MAX * 2).await?; // what was under way, a slow commit too
        if server.is_broken() {
            return Ok(End::Kill);
        }
        self.all_answered()?;
        self.repeat(server, |run, server| run.ask(server, 0, KEYS - 1, Verb::Deregister)).await?;
        self.repeat(server, |run, server| {
            for which in 0..INSTANCES_MAX {
                let registration = run.registration();
                run.ask(server, which, which, registration);
                run.ask(server, which, which, Verb::Report { critical: false });
                if let Verb::Register { lease: Lease::Timed(duration), .. } = registration {
                    run.clients[which].keeps = Some((duration, run.world.lock().now_ns()));
                }
            }
        })
        .await?;
        self.pass(server, Duration::from_secs(3)).await?;
        let seen = self.world.lock().see_all();
        if seen[..INSTANCES_MAX].iter().any(|seen| !matches!(seen, Some((_, true)))) {
            return Err(self.wrong(format!("not all came back: {seen:?}")));
        }
        self.told_as(&seen)?;
        // Now they fall silent, and their leases end.
        self.clients.iter_mut().for_each(|client| client.keeps = None);
        self.pass(server, Duration::from_millis(12_100)).await?;
        (0..self.clients.len()).for_each(|which| self.cut(which));
        self.pass(server, Duration::from_millis(100)).await?;
        self.repeat(server, |run, server| {
            (0..INSTANCES_MAX).for_each(|which| run.ask(server, which, which, Verb::Deregister));
        })
        .await?;
        let seen = self.world.lock().see_all();
        if seen.iter().any(Option::is_some) {
            return Err(self.wrong(format!("not all went: {seen:?}")));
        }
        self.told_as(&seen)?;
        self.healed = true;
        Ok(End::Order)
    }

    /// Asks, and again where something was refused; all is answered in time.
    async fn repeat(&mut self, server: &mut Server, ask: impl Fn(&mut Self, &Server)) -> Result<(), End> {
        for _ in 0..TRIES {
            let refused = self.world.lock().expected.refused;
            ask(self, server);
            self.pass(server, ANSWERED_MAX).await?;
            if server.is_broken() {
                return Err(End::Kill); // a disk that was doubtful is known to be only when it is asked
            }
            self.all_answered()?;
            if self.world.lock().expected.refused == refused {
                return Ok(());
            }
        }
        Err(self.wrong(format!("refused {TRIES} times, and nothing is wrong any more")))
    }

    /// The follower has been told what everybody sees.
    fn told_as(&mut self, seen: &[Seen]) -> Result<(), End> {
        let told = self.world.lock().follower.told;
        match told.iter().zip(seen).all(|(told, seen)| *told == seen.map(|(port, _)| port)) {
            true => Ok(()),
            false => Err(self.wrong(format!("the follower was told {told:?}, and {seen:?} is there"))),
        }
    }

    fn all_answered(&mut self) -> Result<(), End> {
        let (waits, now_ns) = {
            let world = self.world.lock();
            (world.expected.waits_since(), world.now_ns())
        };
        match waits.filter(|since_ns| now_ns - since_ns >= ANSWERED_MAX.as_nanos() as u64) {
            Some(since_ns) => Err(self.wrong(format!("not answered since {} ms", since_ns / 1_000_000))),
            None => Ok(()),
        }
    }

    fn wrong(&mut self, what: String) -> End {
        let mut world = self.world.lock();
        world.trace(format!("WRONG: {what}"));
        world.wrong.get_or_insert(what);
        End::World
    }
}

fn key_of(key: usize) -> Key {
    Key::new(
        ServiceName::parse(SERVICES[key / IDS.len()]).expect("a name"),
        InstanceId::parse(IDS[key % IDS.len()]).expect("an id"),
        HostName::parse("here").expect("a host"),
    )
}
