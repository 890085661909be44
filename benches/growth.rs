//! What grows with the registry, and what does not: `cargo bench --bench growth [-- MODE]`.
//!
//!     memory     octets of our own per instance
//!     changes    time of one change, by size of its service and by size of the registry
//!     queries    time of one query on the general path, by size of the registry
//!     misses     time of one query for a name that a service does not have, by size of the service
//!     balance    time of one query under each balance, as a worker of UDP answers it, and its ratio to `weighted`
//!     guard      time of the batches in which 10,000 instances of a service expire and come back, with a guard and without
//!     churn      queries a second beside 10,000 changes a second
//!     zones      time to read a zone file, by its records, and of a look for a name that is not in it
//!
//! Registrations are read from lines, as the socket reads them; store and sockets are left out. Medians of one run;
//! compare within it only.

use std::alloc::System as Heap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use callsign::answer::Over;
use callsign::balance::Region;
use callsign::clock::Clock;
use callsign::dns::wire::{Arrival, Policy, Responder, UDP_OCTETS_MAX, accept};
use callsign::name::{Apex, HostName};
use callsign::protocol::{self, Peer, Request};
use callsign::registry::{Author, Change, Command, FORGET_AFTER, Reason, Registry, What};
use callsign::time::Now;
use callsign::view::{Settings, View, Zones};
use callsign::zone::{Found, Kind, Zone};
use callsign::zone_file::{self, ERRORS_MAX};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<Heap> = &INSTRUMENTED_SYSTEM;

/// Commands of one batch, as the writer takes them.
const BATCH: usize = 1024;
/// Changes and queries that a median is of.
const SAMPLES: usize = 2001;
/// Instances that expire and come back, and how many at a time.
const GUARDED: usize = 10_000;
const GUARDED_BATCH: usize = 100;
/// How long each half of a comparison under churn lasts, and how often both are measured.
const CHURN: Duration = Duration::from_secs(1);
const CHURN_ROUNDS: usize = 8;
const CHURN_RATE: u32 = 10_000;
/// Queries of one measurement under a balance, and how often each is measured, in turns.
const BALANCE_QUERIES: u64 = 1000;
const BALANCE_ROUNDS: usize = 101;
/// Times that a zone file is read, and looks for names that are not in it.
const ZONE_ROUNDS: usize = 5;
const ZONE_LOOKS: u32 = 1_000_000;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|word| word == what);
    if wants("memory") {
        memory();
    }
    if wants("changes") {
        changes();
    }
    if wants("queries") {
        queries();
    }
    if wants("misses") {
        misses();
    }
    if wants("balance") {
        balance();
    }
    if wants("guard") {
        guard();
    }
    if wants("churn") {
        churn();
    }
    if wants("zones") {
        zones();
    }
}

/// Zone files of hosts with an address, an alias or a text.
fn zones() {
    println!("| records | file | read | made a zone | looked over | together | a name that is not there |");
    println!("|---|---|---|---|---|---|---|");
    let apex = callsign::name::Name::parse("corp.test").expect("a name");
    for records in [1_000, 10_000, 100_000, 1_000_000 - 3] {
        let mut text = "$TTL 1h\n@ SOA ns1 h 1 3600 600 86400 60\n@ NS ns1\nns1 A 10.0.0.1\n".to_owned();
        for n in 0..records {
            let [_, a, b, c] = (n as u32).to_be_bytes();
            text += &match n % 10 {
                8 => format!("host-{n}.lab IN CNAME host-{}.lab\n", n - 1),
                9 => format!("host-{n}.lab 60 IN TXT \"number {n}\"\n"),
                _ => format!("host-{n}.lab IN A 10.{a}.{b}.{c}\n"),
            };
        }
        let mut times = [(); 4].map(|()| Vec::new());
        let mut looks = Vec::new();
        for _ in 0..ZONE_ROUNDS {
            let begun = clock();
            let reading = zone_file::read_all("", text.as_bytes(), &apex, &mut |_, _| Err("none".to_owned()));
            assert!(reading.errors.is_empty(), "{:?}", reading.errors);
            let read = begun.elapsed();
            let (zone, _, errors) = Zone::build(apex.clone(), Kind::Primary, reading.records, ERRORS_MAX);
            assert!(errors.is_empty(), "{errors:?}");
            let made = begun.elapsed();
            assert!(zone_file::advice(&zone).is_empty());
            let all = begun.elapsed();
            for (times, time) in times.iter_mut().zip([read, made - read, all - made, all]) {
                times.push(time);
            }
            let missing = callsign::name::Name::parse("nobody.host-7.lab.corp.test").expect("a name");
            let begun = clock();
            for _ in 0..ZONE_LOOKS {
                assert!(matches!(
                    std::hint::black_box(&zone).find(std::hint::black_box(&missing)),
                    Found::Nothing
                ));
            }
            looks.push(begun.elapsed() / ZONE_LOOKS);
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let [read, made, advised, all] = times.each_mut().map(median);
        println!(
            "| {} | {:.1} MiB | {read:.1?} | {made:.1?} | {advised:.1?} | {all:.1?} | {:?} |",
            records + 3,
            text.len() as f64 / f64::from(1 << 20),
            median(&mut looks)
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn in_use() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

struct System {
    registry: Registry,
    view: View,
    peer: Peer,
}

impl System {
    fn new(reverse: &[&str]) -> Self {
        let settings = Settings {
            reverse: reverse.iter().map(|network| network.parse().unwrap()).collect(),
            ..Settings::new(vec![Apex::parse("service.local").unwrap()])
        };
        let view = View::new(settings, Zones::default());
        view.set_ready();
        let peer = Peer {
            host: HostName::parse("machine-1").unwrap(),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            loopback_allowed: true,
            connection: 1,
        };
        Self { registry: Registry::new(2_000_000, FORGET_AFTER), view, peer }
    }

    /// `instances` in services of `each`.
    fn filled(instances: usize, each: usize, reverse: &[&str]) -> Self {
        let mut system = Self::new(reverse);
        for first in (0..instances).step_by(BATCH) {
            let last = instances.min(first + BATCH);
            let lines: Vec<String> = (first..last).map(|number| line(number / each, number)).collect();
            system.batch(&lines);
        }
        system
    }

    fn command(&self, line: &str) -> Command {
        match protocol::decode(line.as_bytes()).unwrap() {
            Request::Register(form) => {
                Command::Register(Box::new(form.registration(&self.peer, 0x0123_4567_89ab_cdef).unwrap()))
            }
            other => panic!("{other:?} is no registration"),
        }
    }

    /// One batch as the writer does it, without the store.
    fn batch(&mut self, lines: &[String]) {
        let commands: Vec<Command> = lines.iter().map(|line| self.command(line)).collect();
        self.carry_out(&commands);
    }

    fn carry_out(&mut self, commands: &[Command]) {
        self.carry_out_at(commands, Now::default());
    }

    fn carry_out_at(&mut self, commands: &[Command], now: Now) {
        let mut changes: Vec<Change> = Vec::with_capacity(commands.len());
        for command in commands {
            for (reason, what) in self.registry.check(command, now).unwrap() {
                let revision = self.registry.revision() + 1 + changes.len() as u64;
                changes.push(Registry::change(revision, reason, what, Author::Server, now));
            }
        }
        for change in &changes {
            self.registry.apply(change, now);
        }
        let found = self.registry.settle(&changes, now);
        self.happen(found, &mut changes, now);
        self.view.publish(&self.registry, &changes);
    }

    /// What time has changed, as the writer takes it.
    fn look(&mut self, now: Now) -> usize {
        let mut changes = Vec::new();
        let found = self.registry.due(now, BATCH);
        self.happen(found, &mut changes, now);
        let of_time = changes.len();
        let found = self.registry.settle(&changes, now);
        self.happen(found, &mut changes, now);
        self.view.publish(&self.registry, &changes);
        of_time
    }

    fn happen(&mut self, found: Vec<(Reason, What)>, changes: &mut Vec<Change>, now: Now) {
        for (reason, what) in found {
            let change = Registry::change(self.registry.revision() + 1, reason, what, Author::Server, now);
            self.registry.apply(&change, now);
            changes.push(change);
        }
    }

    /// Sets something for the service `s0`; the words are a member of the request.
    fn set(&mut self, words: &str) {
        let line = format!(r#"{{"settings":{{"service":"s0",{words}}}}}"#);
        let Request::Settings(form) = protocol::decode(line.as_bytes()).unwrap() else { panic!("{line}") };
        let (_, configuration) = form.configuration(&self.view.settings.apexes).unwrap();
        self.carry_out(&[Command::Configure(configuration.unwrap())]);
    }

    fn ask(&self, query: &[u8]) -> usize {
        let client = SocketAddr::from(([10, 0, 0, 9], 40_000));
        accept(&self.view, &Policy::default(), &Arrival { client, over: Over::Udp, draw: 7 }, query)
            .unwrap()
            .len()
    }
}

/// The instance `number` of the service: name, id, one address, one port.
fn line(service: usize, number: usize) -> String {
    let [_, b, c, d] = (number as u32).to_be_bytes();
    format!(
        r#"{{"register":{{"service":"s{service}","id":"i{number}","address":"10.{b}.{c}.{d}","port":8080,"lease":"15s"}}}}"#
    )
}

fn query(name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
    message.to_vec().unwrap()
}

/// Microseconds: the median, and the 99th in a hundred.
fn timed(mut what: impl FnMut(usize), samples: usize) -> (f64, f64) {
    let mut times: Vec<Duration> = (0..samples)
        .map(|sample| {
            let started = clock();
            what(sample);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |share: usize| times[(samples - 1) * share / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

fn memory() {
    println!("\noctets of our own per instance (name, id, one address, one port):");
    println!(
        "| instances | in services of | octets | with names of addresses | after every one registered again |"
    );
    println!("|---|---|---|---|---|");
    for (instances, each) in
        [(100_000, 10), (1_000_000, 10), (100_000, 3), (1_000_000, 3), (100_000, 1000), (1_000_000, 1000)]
    {
        let each_octets = |before: usize| (in_use() - before) as f64 / instances as f64;
        let before = in_use();
        let named = System::filled(instances, each, &["10.0.0.0/8"]);
        let with_names = each_octets(before);
        drop(named);
        settle();
        let before = in_use();
        let mut system = System::filled(instances, each, &[]);
        settle();
        let plain = each_octets(before);
        for first in (0..instances).step_by(BATCH) {
            let last = instances.min(first + BATCH);
            let lines: Vec<String> = (first..last).map(|number| line(number / each, number)).collect();
            system.batch(&lines);
        }
        settle();
        println!("| {instances} | {each} | {plain:.0} | {with_names:.0} | {:.0} |", each_octets(before));
        drop(system);
        settle();
    }
}

/// What readers might still hold is given back by the maps when they are used again.
fn settle() {
    let mut system = System::new(&[]);
    for number in 0..1000 {
        system.batch(&[line(number, number)]);
    }
}

fn changes() {
    println!(
        "\none change (check, apply, publish), by instances of its service; microseconds, median and 99th:"
    );
    println!("| instances | registered again | one more, one less |");
    println!("|---|---|---|");
    for instances in [1, 10, 100, 1000, 10_000, 100_000] {
        let mut system = System::filled(instances, instances, &[]);
        change_row(&mut system, instances, &|_| 0);
    }
    println!("\nthe same, by instances of the registry, in services of 3:");
    println!("| instances | registered again | one more, one less |");
    println!("|---|---|---|");
    for instances in [10, 1000, 100_000, 1_000_000] {
        let mut system = System::filled(instances, 3, &[]);
        change_row(&mut system, instances, &|number| number / 3);
    }
}

/// Changes of instances all over the registry; `service` says which service an instance is of.
fn change_row(system: &mut System, instances: usize, service: &dyn Fn(usize) -> usize) {
    let samples = SAMPLES.min(200_001 / instances.max(1) + 201);
    let place = |sample: usize| sample.wrapping_mul(7919) % instances;
    let again: Vec<Command> =
        (0..samples).map(|sample| system.command(&line(service(place(sample)), place(sample)))).collect();
    let (again, again_99) = timed(|sample| system.carry_out(&again[sample..=sample]), samples);
    let new: Vec<Command> = (0..samples)
        .map(|sample| system.command(&line(service(place(sample)), 9_000_000 + sample)))
        .collect();
    let (more, more_99) = timed(
        |sample| {
            system.carry_out(&new[sample..=sample]);
            let Command::Register(registration) = &new[sample] else { return };
            let holder = callsign::registry::Holder { key: registration.key.clone(), lease_id: None };
            system.carry_out(&[Command::Deregister(holder)]);
        },
        samples,
    );
    println!("| {instances} | {again:.1}, {again_99:.1} | {more:.1}, {more_99:.1} |");
}

fn queries() {
    println!(
        "\none query on the general path, by instances of the registry, in services of 3; microseconds, median:"
    );
    println!("| instances | A, the same service | A, any service | SRV, any | NXDOMAIN |");
    println!("|---|---|---|---|---|");
    for instances in [10, 1000, 100_000, 1_000_000] {
        let system = System::filled(instances, 3, &[]);
        let services = instances.div_ceil(3);
        let any = |qtype: RecordType| -> Vec<Vec<u8>> {
            let name = |sample: usize| format!("s{}.service.local.", sample.wrapping_mul(7919) % services);
            (0..SAMPLES).map(|sample| query(&name(sample), qtype)).collect()
        };
        let ask = |queries: &[Vec<u8>]| {
            timed(|sample| assert!(system.ask(&queries[sample]) > 0), SAMPLES);
            timed(|sample| assert!(system.ask(&queries[sample]) > 0), SAMPLES).0
        };
        let (same, none) =
            (query("s1.service.local.", RecordType::A), query("no.service.local.", RecordType::A));
        println!(
            "| {instances} | {:.2} | {:.2} | {:.2} | {:.2} |",
            ask(&vec![same; SAMPLES]),
            ask(&any(RecordType::A)),
            ask(&any(RecordType::SRV)),
            ask(&vec![none; SAMPLES]),
        );
    }
}

/// Whoever floods us with names that are not there must not find one that costs a look at every instance.
fn misses() {
    println!(
        "\none query on the general path for a name that is not there, by instances of the service; microseconds, median:"
    );
    println!(
        "| instances | `x.s0` | `_x._tcp.s0` | `_tcp.s0` | `_s0._udp` | `_s0._x` | `_x._sub._s0._tcp` | `_sub._s0._tcp` |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for instances in [10, 1000, 10_000] {
        let system = System::filled(instances, instances, &[]);
        let row =
            ["x.s0", "_x._tcp.s0", "_tcp.s0", "_s0._udp", "_s0._x", "_x._sub._s0._tcp", "_sub._s0._tcp"];
        let row = row.map(|name| {
            let query = query(&format!("{name}.service.local."), RecordType::SRV);
            timed(|_| assert!(system.ask(&query) > 0), SAMPLES);
            format!("{:.2}", timed(|_| assert!(system.ask(&query) > 0), SAMPLES).0)
        });
        println!("| {instances} | {} |", row.join(" | "));
    }
}

/// A query as a worker of UDP answers it, without the kernel: the fast path, or where that passes it on the general one.
fn balance() {
    let settings = [
        ("weighted", r#""balance":"weighted""#),
        ("rotate", r#""balance":"rotate""#),
        ("first", r#""balance":"first""#),
        ("nearest", r#""balance":"nearest""#),
        ("affinity", r#""balance":"affinity""#),
        ("one", r#""balance":"one""#),
        ("max-answers 3", r#""max_answers":3"#),
    ];
    let responders = settings.map(|(name, set)| {
        let mut system = System::filled(5, 5, &[]);
        system.view.settings.regions =
            vec![Region { name: "here".into(), network: "10.0.0.0/8".parse().unwrap() }];
        system.set(set);
        let responder = Responder::new(Arc::new(system.view), Policy::default(), Clock::start());
        (name, Arc::new(responder))
    });
    let types = [RecordType::A, RecordType::SRV];
    // Nanoseconds of a query by type and balance, one a round.
    let mut times = vec![vec![Vec::with_capacity(BALANCE_ROUNDS); settings.len()]; types.len()];
    let mut out = [0; UDP_OCTETS_MAX];
    let mut is_plain = settings.map(|_| false);
    for _ in 0..BALANCE_ROUNDS {
        for (of_type, qtype) in times.iter_mut().zip(types) {
            let query = query("s0.service.local.", qtype);
            for (at, (_, responder)) in responders.iter().enumerate() {
                let (started, now) = (clock(), responder.clock.now());
                for draw in 0..BALANCE_QUERIES {
                    let client = SocketAddr::from(([10, 0, 0, 9], 40_000));
                    let arrival = Arrival { client, over: Over::Udp, draw };
                    is_plain[at] = responder.reply_plainly(now, &arrival, &query, &mut out).is_some();
                    if !is_plain[at] {
                        let reply = responder.accept_at(now, &arrival, &query);
                        assert!(reply.is_some_and(|reply| reply.len() > 40));
                    }
                }
                of_type[at].push(started.elapsed().as_secs_f64() * 1e9 / BALANCE_QUERIES as f64);
            }
        }
    }
    println!(
        "\none query of a service of five, without the kernel; nanoseconds, median, and ratio to weighted:"
    );
    println!("| balance | path | A | ratio | SRV | ratio |");
    println!("|---|---|---|---|---|---|");
    let median = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (at, (name, _)) in responders.iter().enumerate() {
        let path = if is_plain[at] { "fast" } else { "general" };
        let columns = times.iter().map(|of_type| {
            let ratios = of_type[at].iter().zip(&of_type[0]).map(|(own, weighted)| own / weighted);
            format!(" {:.0} | {:.2} |", median(of_type[at].clone()), median(ratios.collect()))
        });
        println!("| {name} | {path} |{}", columns.collect::<String>());
    }
}

/// One service, all of whose instances expire batch after batch, and come back so.
fn guard() {
    println!(
        "\n{GUARDED} instances of one service expire and come back, {GUARDED_BATCH} at a time; milliseconds of a batch, median and longest, and of all:"
    );
    println!("| guard | expire: a batch | all | come back: a batch | all |");
    println!("|---|---|---|---|---|");
    for share in ["off", "90%", "50%", "10%"] {
        let mut system = System::new(&[]);
        system.set(&format!(r#""guard":"{share}""#));
        let commands: Vec<Command> = (0..GUARDED).map(|number| system.command(&line(0, number))).collect();
        let step = Duration::from_millis(100);
        let mut now = Now::default();
        for batch in commands.chunks(GUARDED_BATCH) {
            now = now.after(step);
            system.carry_out_at(batch, now);
        }
        // The first batch expires 15 s after it was registered, which is 5.1 s after the last was.
        let started = now.after(Duration::from_millis(5100));
        let expire = batches(|batch| system.look(started.after(step * batch as u32)));
        assert_eq!((system.registry.instances(), system.view.guards()), (0, u64::from(share != "off")));
        let ended = started.after(step * (GUARDED / GUARDED_BATCH) as u32);
        let come_back = batches(|batch| {
            let commands = &commands[batch * GUARDED_BATCH..][..GUARDED_BATCH];
            system.carry_out_at(commands, ended.after(step * batch as u32));
            commands.len()
        });
        assert_eq!((system.registry.instances(), system.registry.guards().count()), (GUARDED, 0));
        println!("| {share} | {expire} | {come_back} |");
    }
}

/// Milliseconds of each of the batches that `what` works on; it says how many instances a batch had.
fn batches(mut what: impl FnMut(usize) -> usize) -> String {
    let mut times: Vec<f64> = (0..GUARDED / GUARDED_BATCH)
        .map(|batch| {
            let started = clock();
            assert_eq!(what(batch), GUARDED_BATCH);
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (median, longest, all): (f64, f64, f64) =
        (times[times.len() / 2], times[times.len() - 1], times.iter().sum());
    format!("{median:.2}, {longest:.2} | {all:.0}")
}

/// One thread asks; beside it nothing changes, or one instance after the other registers again.
fn churn() {
    println!(
        "\nqueries a second of one thread, beside {CHURN_RATE} changes a second (30,000 instances in services of 3):"
    );
    let mut system = System::filled(30_000, 3, &[]);
    let queries: Vec<Vec<u8>> =
        (0..SAMPLES).map(|sample| query(&format!("s{}.service.local.", sample * 5), RecordType::A)).collect();
    let commands: Vec<Command> =
        (0..30_000).map(|number| system.command(&line(number / 3, number))).collect();
    let (mut quiet, mut busy, mut made) = (Vec::new(), Vec::new(), 0);
    for round in 0..2 * CHURN_ROUNDS {
        let stop = AtomicBool::new(false);
        let System { registry, view, .. } = &mut system;
        let view = &*view;
        let asked = thread::scope(|scope| {
            let (queries, stop) = (&queries, &stop);
            let asking = scope.spawn(move || {
                let (mut asked, started) = (0, clock());
                let client = SocketAddr::from(([10, 0, 0, 9], 40_000));
                let arrival = Arrival { client, over: Over::Udp, draw: 7 };
                while !stop.load(Ordering::Relaxed) {
                    for query in queries {
                        assert!(accept(view, &Policy::default(), &arrival, query).is_some());
                    }
                    asked += queries.len();
                }
                asked as f64 / started.elapsed().as_secs_f64()
            });
            let (begun, mut changed) = (clock(), 0u32);
            while begun.elapsed() < CHURN {
                if round % 2 == 1 {
                    // Each is published alone, where the writer would publish those together that wait.
                    for _ in 0..10 {
                        let command = &commands[(changed as usize * 7919) % commands.len()];
                        let changes = apply(registry, command);
                        view.publish(registry, &changes);
                        changed += 1;
                    }
                }
                let due = begun + (CHURN / CHURN_RATE) * changed.max(1);
                thread::park_timeout(due.saturating_duration_since(clock()).max(Duration::from_micros(50)));
            }
            stop.store(true, Ordering::Relaxed);
            made += changed;
            asking.join().expect("it asks to the end")
        });
        if round % 2 == 1 { busy.push(asked) } else { quiet.push(asked) }
    }
    let mut ratios: Vec<f64> = quiet.iter().zip(&busy).map(|(quiet, busy)| busy / quiet).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = |figures: &mut Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let (quiet, busy) = (middle(&mut quiet), middle(&mut busy));
    println!(
        "medians: quiet {quiet:.0}, beside changes {busy:.0}, ratio {:.3}; in pairs {:.3} ({:.3} to {:.3}); {} changes a second",
        busy / quiet,
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
        u64::from(made) / (CHURN_ROUNDS as u64 * CHURN.as_secs()),
    );
}

fn apply(registry: &mut Registry, command: &Command) -> Vec<Change> {
    let now = Now::default();
    let mut changes = Vec::with_capacity(1);
    for (reason, what) in registry.check(command, now).unwrap() {
        let change = Registry::change(registry.revision() + 1, reason, what, Author::Server, now);
        registry.apply(&change, now);
        changes.push(change);
    }
    changes
}
