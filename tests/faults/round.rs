//! A round: everything runs, goes wrong as the schedule says, is healed, and what clients saw is judged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::clients::{self, Curtain, PROCESSES, Phase, Stage};
use crate::harness::{Client, DEADLINE, Draws, eventually};
use crate::history::{self, History, Limits, Listing, Micros, Outcome, Pause, Rule, Run, Verb, Violation};
use crate::machines::{MEMBERS, Machines, NODES, Node};
use crate::schedule::{self, Episode, Fault};

/// What is promised after the healing.
const SETTLE: Duration = Duration::from_secs(5);
/// The longest lease, the time to settle, and some: by then nobody who is silent may be there.
const ENDING: Duration = Duration::from_secs(10);
/// Violations that are printed, and lives of each rule whose whole story is.
const TOLD_MAX: usize = 40;
const STORIES_MAX: usize = 2;
/// How often what is due is looked at.
const TICK: Duration = Duration::from_millis(10);

/// Runs one: prints its figures, and how many rules it broke.
pub fn run(seed: u64, etcd: &Path) -> usize {
    let mut draws = Draws(seed);
    let episodes = schedule::drawn(&mut draws);
    let mut machines = Machines::start(seed, etcd);
    let sockets = machines.nodes.iter().map(|node| node.socket()).collect();
    let dns = machines.nodes.iter().map(|node| node.dns).collect();
    let stage = Stage::new(sockets, dns);
    stage.write(|journal| {
        journal.runs.extend((0..NODES).map(|node| Run { node, begun: 0, ready: Some(0), ended: None }));
    });
    let lifted = std::thread::scope(|scope| {
        let curtain = Curtain(&stage);
        for place in 0..PROCESSES {
            let (stage, draws) = (&stage, Draws(draws.next()));
            scope.spawn(move || clients::live(stage, place, draws));
        }
        for node in 0..NODES {
            let stage = &stage;
            scope.spawn(move || clients::ask(stage, node));
        }
        let lifted = Trouble::new(&mut machines, &stage).pass(&episodes);
        stage.set_phase(Phase::Ending);
        end(&stage, &machines);
        drop(curtain);
        lifted
    });
    let (carried, lost) = machines.set(&Default::default());
    let history = stage.journal.into_inner().expect("nobody panicked with the journal in hand");
    let violations = judge(&history, seed, lifted, &format!("packets={carried} lost={lost}"));
    if !violations.is_empty() {
        tell(&history, &episodes, &violations);
        machines.last_words();
    }
    violations.len()
}

/// Prints the figures.
fn judge(history: &History, seed: u64, lifted: Micros, network: &str) -> Vec<Violation> {
    let settled = history::settled(history).map_or(0, |at| at.saturating_sub(history.healed));
    let violations = history::check(history, Limits { settle: SETTLE.as_micros() as Micros });
    let count = |outcome: Outcome| history.words.iter().filter(|word| word.outcome == outcome).count();
    let of = |verb: Verb| {
        history.words.iter().filter(|word| word.verb == verb && word.outcome == Outcome::Done).count()
    };
    println!(
        "cluster: seed={seed} lives={} registered={} renewed={} deregistered={} unknown={} absent={} answers={} kept_s={} \
         {network} ready_ms={} settled_ms={} stood={} violations={}",
        history.lives.len(),
        of(Verb::Register),
        of(Verb::Heartbeat),
        of(Verb::Deregister),
        count(Outcome::Unknown),
        count(Outcome::Absent),
        history.sights.len(),
        history::kept(history) / 1_000_000,
        (history.healed - lifted) / 1000,
        settled / 1000,
        history.stood.len(),
        violations.len(),
    );
    violations
}

/// Prints what went wrong, what is said to be wrong, and all that is known of who it is said of.
fn tell(history: &History, episodes: &[Episode], violations: &[Violation]) {
    for Episode { from, to, fault } in episodes {
        println!("from {:.3} to {:.3}: {fault:?}", from.as_secs_f64(), to.as_secs_f64());
    }
    println!("healed at {:.3}", history.healed as f64 / 1e6);
    for violation in violations.iter().take(TOLD_MAX) {
        println!("{violation}");
    }
    let mut told: BTreeMap<u16, Rule> = BTreeMap::new();
    for Violation { rule, port, .. } in violations {
        let known = told.values().filter(|known| *known == rule).count();
        if let Some(port) = port.filter(|_| known < STORIES_MAX) {
            told.insert(port, *rule);
        }
    }
    for port in told.into_keys() {
        history::story(history, port).iter().for_each(|line| println!("    {line}"));
    }
}

/// Lists what there is until it is the same everywhere, and until who is silent is gone.
fn end(stage: &Stage, machines: &Machines) {
    let healed = stage.journal.lock().expect("nobody panics with the journal in hand").healed;
    let mut equal = false;
    let mut until = healed + ENDING.as_micros() as Micros;
    let absences = || machines.nodes.iter().map(Node::absences).sum::<usize>();
    let mut known = absences();
    eventually("the same at all nodes", 2 * DEADLINE, || {
        let found = absences();
        if found > known || !stage.sockets.iter().all(|path| is_well(path)) {
            known = found;
            let at = stage.at();
            stage.write(|journal| journal.stood.push(at));
            until = at + ENDING.as_micros() as Micros;
        }
        if !equal || stage.at() >= until {
            let nodes: Vec<BTreeMap<u16, u64>> = stage.sockets.iter().map(|path| listed(path)).collect();
            equal = nodes.windows(2).all(|two| two[0] == two[1]);
            stage.write(|journal| journal.listings.push(Listing { at: stage.at(), nodes }));
        }
        (equal && stage.at() >= until).then_some(())
    });
}

/// A node says that it is a member and can ask etcd.
fn is_well(socket: &Path) -> bool {
    let status = Client::unix(socket).ask(&json!({"status": {}}));
    status["status"].is_object() && status["status"]["store_trouble"].is_null()
}

fn listed(socket: &Path) -> BTreeMap<u16, u64> {
    let entry = |one: &Value| Some((u16::try_from(one["port"].as_u64()?).ok()?, one["revision"].as_u64()?));
    Client::unix(socket).list().iter().filter_map(entry).collect()
}

/// What is wrong now.
struct Trouble<'a> {
    machines: &'a mut Machines,
    stage: &'a Stage,
    faults: Vec<Fault>,
}

impl<'a> Trouble<'a> {
    fn new(machines: &'a mut Machines, stage: &'a Stage) -> Self {
        Self { machines, stage, faults: Vec::new() }
    }

    /// Lets all episodes pass, and returns when the last trouble was lifted; it is healed then.
    fn pass(mut self, episodes: &[Episode]) -> Micros {
        let mut due: Vec<(Duration, bool, &Fault)> = Vec::new();
        for episode in episodes {
            due.extend([(episode.from, true, &episode.fault), (episode.to, false, &episode.fault)]);
        }
        due.sort_by_key(|(at, ..)| *at);
        for (at, begins, fault) in due {
            while self.stage.at() < at.as_micros() as Micros {
                self.look();
                self.stage.wait(TICK);
            }
            match begins {
                true => self.begin(fault),
                false => self.lift(fault),
            }
        }
        let lifted = self.stage.at();
        eventually("nodes that are ready", DEADLINE, || {
            self.look();
            let ready = self.machines.nodes.iter().all(|node| node.is_ready());
            (ready && self.stage.sockets.iter().all(|path| is_well(path))).then_some(())
        });
        self.look();
        let healed = self.stage.at();
        self.stage.write(|journal| journal.healed = healed);
        lifted
    }

    /// Notes who has become ready.
    fn look(&mut self) {
        for node in 0..NODES {
            let is_ready = self.machines.nodes[node].is_ready();
            let at = self.stage.at();
            self.stage.write(|journal| {
                let run = journal.runs.iter_mut().rfind(|run| run.node == node && run.ended.is_none());
                if let Some(run) = run.filter(|run| run.ready.is_none() && is_ready) {
                    run.ready = Some(at);
                }
            });
        }
    }

    fn begin(&mut self, fault: &Fault) {
        self.faults.push(fault.clone());
        let node = |host: usize| host - MEMBERS - 1;
        match fault {
            Fault::KillNode(host) => {
                let node = node(*host);
                self.stage.absent[node].fetch_add(1, Ordering::SeqCst);
                let at = self.stage.at();
                self.machines.nodes[node].kill();
                self.stage.write(|journal| {
                    let run = journal.runs.iter_mut().rfind(|run| run.node == node);
                    run.expect("a run of every node").ended = Some(at);
                });
            }
            Fault::KillMember(host) => self.machines.members[host - 1].kill(),
            Fault::PauseNode(host) => {
                let node = node(*host);
                self.stage.absent[node].fetch_add(1, Ordering::SeqCst);
                let from = self.stage.at();
                self.stage.write(|journal| journal.pauses.push(Pause { node, from, to: Micros::MAX }));
                self.machines.nodes[node].signal(Signal::SIGSTOP);
            }
            Fault::PauseMember(host) => self.machines.members[host - 1].signal(Signal::SIGSTOP),
            Fault::FillDisk(host) => self.machines.fill_disk(host - 1),
            Fault::StepClock(host, seconds) => {
                let path = self.machines.nodes[node(*host)].clock();
                fs::write(path, format!("{seconds:+}\n")).expect("writing a file");
            }
            Fault::Cut { .. } | Fault::Alone(_) | Fault::Lossy(_) | Fault::Slow(..) => self.connect(),
        }
    }

    fn lift(&mut self, fault: &Fault) {
        let at = self.faults.iter().position(|known| known == fault).expect("it has begun");
        self.faults.remove(at);
        let node = |host: usize| host - MEMBERS - 1;
        match fault {
            Fault::KillNode(host) => {
                let node = node(*host);
                let begun = self.stage.at();
                self.stage.write(|journal| journal.runs.push(Run { node, begun, ready: None, ended: None }));
                self.machines.start_node(node);
                self.stage.absent[node].fetch_sub(1, Ordering::SeqCst);
            }
            Fault::KillMember(host) => self.machines.start_member(host - 1),
            Fault::PauseNode(host) => {
                let node = node(*host);
                self.machines.nodes[node].signal(Signal::SIGCONT);
                let at = self.stage.at();
                self.stage.write(|journal| {
                    let pause = journal.pauses.iter_mut().rfind(|pause| pause.node == node);
                    pause.expect("it has begun").to = at;
                });
                self.stage.absent[node].fetch_sub(1, Ordering::SeqCst);
            }
            Fault::PauseMember(host) => self.machines.members[host - 1].signal(Signal::SIGCONT),
            Fault::FillDisk(host) => {
                self.machines.empty_disk(host - 1);
                if self.machines.members[host - 1].has_ended() {
                    self.machines.start_member(host - 1);
                }
            }
            // A clock that is put right is a second step.
            Fault::StepClock(host, _) => {
                let path = self.machines.nodes[node(*host)].clock();
                fs::write(path, "+0\n").expect("writing a file");
            }
            Fault::Cut { .. } | Fault::Alone(_) | Fault::Lossy(_) | Fault::Slow(..) => self.connect(),
        }
    }

    fn connect(&mut self) {
        let troubles = schedule::troubles(self.faults.iter());
        self.machines.set(&troubles);
    }
}
