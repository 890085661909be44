//! Runs `tests/scenarios/*.txt`: terminal sessions on the core, with a clock that only `wait` moves.
//!
//! A line that begins with `> ` is a command; what follows is what it must print. `UPDATE=1 cargo test
//! --test scenarios` writes the files anew, for the diff to be reviewed. Commands:
//!
//! ```text
//! apex NAME…  zone NAME … end           before the first command: what is served
//! reverse NETWORK…                      the networks whose addresses have names
//! regions NAME=NETWORK…                  the networks whose region is known
//! consul NAME DATACENTER                the alias zone, where there is one
//! > register SERVICE ID ADDR:PORT|PORT  [lease L] [tag T]… [meta K=V]… [protocol P] [weight N] [priority N]
//!                                       [host H] [target NAME] [also ADDR]… [port-name N=PORT[/udp]]… [check ID[=STATUS]]…
//! > {"register":{…}}                    any request of the protocol that changes something
//! > heartbeat|deregister|drain SERVICE ID [host H] [lease-id X]
//! > report SERVICE ID STATUS [check ID] [output TEXT]     > report-host HOST STATUS [check ID]
//! > host HOST [ADDR]… [meta K=V]…       what is said of a host
//! > probe SERVICE ID CHECK OUTCOMES     outcomes of probes in a row: `+` went well, `~` warned, `-` failed
//! > close N                             connection N ends (`lease connection` binds to connection 1, `… 2` to 2)
//! > wait DURATION                       prints what time did
//! > clock on|back DURATION              somebody sets the wall clock; no time passes
//! > dig NAME TYPE [+tcp] [+noedns] [+bufsize=N] [from ADDR] [+order]
//! > availability [SERVICE] [log DURATION]        live time over registered time; of a log that is so long
//! > explain NAME        > list [key value]…        > not-ready        > restart
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use callsign::answer::Over;
use callsign::availability::{Known, Past, SPANS, Times};
use callsign::balance::Region;
use callsign::check::{Streak, worst};
use callsign::dns::wire::{Arrival, Policy, accept};
use callsign::instance::{Health, Host, Key, Lease, ServiceSettings};
use callsign::name::{Apex, Datacenter, HostName, InstanceId, Name, ServiceName};
use callsign::protocol::{self, FilterForm, Peer, Problem, Request, SettingsShown};
use callsign::registry::{
    Author, Change, Command, FORGET_AFTER, Holder, HostRegistration, Kept, Reason, Registry, Report,
    ReportOf, Subject, What,
};
use callsign::store::record;
use callsign::time::{Now, format_duration, parse_duration, parse_time};
use callsign::view::{ConsulZone, Settings, View, Zones};
use callsign::zone::{Kind, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{RData, Record, RecordType};

#[test]
fn scenarios() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "the scenarios are not where they should be");
    let mut failed = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text);
        if played == text {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, played).unwrap();
        } else {
            failed.push(format!("{}:\n{}", path.display(), difference(&text, &played)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The lines around the first that differ.
fn difference(expected: &str, played: &str) -> String {
    let (expected, played): (Vec<_>, Vec<_>) = (expected.lines().collect(), played.lines().collect());
    let first = expected.iter().zip(&played).take_while(|(a, b)| a == b).count();
    let show = |lines: &[&str]| {
        lines
            .iter()
            .skip(first.saturating_sub(3))
            .take(12)
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    format!("  line {}, expected\n{}  played\n{}", first + 1, show(&expected), show(&played))
}

fn play(text: &str) -> String {
    let mut stage = Stage::new(text);
    let mut played = String::new();
    let mut output = true; // what follows a command is its output, until a comment or a command
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(played, "{line}").unwrap();
            let printed = stage.run(command).unwrap_or_else(|problem| match &problem.field {
                Some(field) => format!("refused {} {field}: {}\n", problem.code, problem.message),
                None => format!("refused {}: {}\n", problem.code, problem.message),
            });
            played.push_str(&printed);
            output = true;
        } else if line.is_empty()
            || line.starts_with('#')
            || !played.contains("\n> ") && !played.starts_with("> ")
        {
            writeln!(played, "{line}").unwrap();
            output = false;
        } else {
            assert!(output, "`{line}` is neither a command nor what one printed");
        }
    }
    played
}

struct Stage {
    registry: Registry,
    view: View,
    now: Now,
    lease_ids: u64,
    draws: u64,
    streaks: HashMap<(Key, String), Streak>,
    /// The log, oldest first.
    log: Vec<Change>,
}

impl Stage {
    fn new(text: &str) -> Self {
        let header: Vec<&str> = text.lines().take_while(|line| !line.starts_with("> ")).collect();
        let apexes: Vec<Apex> = header
            .iter()
            .filter_map(|line| line.strip_prefix("apex "))
            .flat_map(|names| names.split_whitespace())
            .map(|name| Apex::parse(name).unwrap())
            .collect();
        assert!(!apexes.is_empty(), "a scenario begins with `apex NAME`");
        let mut zones = Zones::default();
        for (at, name) in
            header.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix("zone ")?)))
        {
            let lines: Vec<&str> =
                header[at + 1..].iter().copied().take_while(|line| *line != "end").collect();
            let name = Name::parse(name).unwrap();
            let records = callsign::zone_file::read(lines.join("\n").as_bytes(), &name).unwrap();
            let tree = apexes.iter().any(|apex| *apex.name() == name);
            let kind = if tree { Kind::Tree } else { Kind::Primary };
            let (zone, _) = Zone::new(name, kind, records).unwrap();
            if tree { &mut zones.trees } else { &mut zones.primary }.push(Arc::new(zone));
        }
        let consul = header.iter().find_map(|line| line.strip_prefix("consul ")?.split_once(' '));
        let consul = consul.map(|(apex, datacenter)| ConsulZone {
            apex: Apex::parse(apex).unwrap(),
            datacenter: Datacenter::parse(datacenter).unwrap(),
        });
        let reverse = header.iter().filter_map(|line| line.strip_prefix("reverse "));
        let reverse =
            reverse.flat_map(str::split_whitespace).map(|network| network.parse().unwrap()).collect();
        let regions = header.iter().filter_map(|line| line.strip_prefix("regions "));
        let regions = regions
            .flat_map(str::split_whitespace)
            .map(|region| {
                let (name, network) = region.split_once('=').unwrap();
                Region { name: name.into(), network: network.parse().unwrap() }
            })
            .collect();
        let settings = Settings { consul, reverse, regions, ..Settings::new(apexes) };
        let view = View::new(settings, zones);
        view.set_ready();
        let mut registry = Registry::new(100, FORGET_AFTER);
        registry.set_taken(
            view.zones()
                .trees
                .iter()
                .flat_map(|tree| tree.taken(|line| format!("{}zone:{line}", tree.apex)))
                .collect(),
        );
        Self {
            registry,
            view,
            now: Now::default(),
            lease_ids: 0,
            draws: 0,
            streaks: HashMap::new(),
            log: Vec::new(),
        }
    }

    fn run(&mut self, command: &str) -> Result<String, Problem> {
        if command.starts_with('{') {
            return self.request(command, 1);
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["register", rest @ ..] => {
                let (json, connection) = register_request(rest);
                self.request(&json, connection)
            }
            [verb @ ("heartbeat" | "deregister" | "drain"), service, id, rest @ ..] => {
                let mut form = serde_json::json!({"service": service, "id": id});
                for pair in rest.chunks(2) {
                    form[pair[0].replace('-', "_")] = pair[1].into();
                }
                self.request(&serde_json::json!({ *verb: form }).to_string(), 1)
            }
            ["report", service, id, status, rest @ ..] => {
                let mut form = serde_json::json!({"service": service, "id": id, "status": status});
                report_options(&mut form, rest);
                self.request(&serde_json::json!({ "report": form }).to_string(), 1)
            }
            ["host", name, rest @ ..] => {
                let meta = rest.iter().skip_while(|word| **word != "meta").filter(|word| **word != "meta");
                let pairs = meta.map(|pair| pair.split_once('=').unwrap());
                self.command(Command::RegisterHost(Box::new(HostRegistration {
                    name: HostName::parse(name).unwrap(),
                    addresses: rest.iter().map_while(|word| word.parse().ok()).collect(),
                    meta: pairs.map(|(key, value)| (key.into(), value.into())).collect(),
                    id: None,
                })))
            }
            ["probe", service, id, check, outcomes] => self.probe(service, id, check, outcomes),
            ["report-host", host, status, rest @ ..] => {
                let mut form = serde_json::json!({"host": host, "status": status});
                report_options(&mut form, rest);
                self.request(&serde_json::json!({ "report": form }).to_string(), 1)
            }
            ["close", connection] => {
                let connection = connection.parse().unwrap();
                let services: Vec<_> = self.registry.services().map(|(_, service)| service).collect();
                let members = services.iter().flat_map(|service| &service.members);
                let instances = members.map(|member| &member.instance);
                let bound = instances.filter(|instance| matches!(instance.lease, Lease::Connection(_)));
                let keys = bound.map(|instance| instance.key.clone()).collect();
                self.command(Command::Closed { connection, keys })
            }
            ["wait", duration] => Ok(self.wait(parse_duration(duration).unwrap())),
            ["clock", way, duration] => {
                let by = i64::try_from(parse_duration(duration).unwrap().as_millis()).unwrap();
                self.now.wall.unix_ms += match *way {
                    "on" => by,
                    "back" => -by,
                    other => panic!("a clock is not set `{other}`"),
                };
                Ok(String::new())
            }
            ["dig", name, qtype, options @ ..] => Ok(self.dig(name, qtype, options)),
            ["explain", name] => {
                let explained = callsign::explain::explain(&self.view, name)?;
                let mut out = format!("{} {}\n", explained.name, explained.verdict);
                for instance in explained.instances {
                    writeln!(out, "{} {}", instance.id, instance.rule).unwrap();
                }
                if let Some(nearest) = explained.nearest {
                    writeln!(out, "did you mean {nearest}?").unwrap();
                }
                Ok(out)
            }
            ["availability", "log", length] => Ok(self.availability(None, Some(length))),
            ["availability"] => Ok(self.availability(None, None)),
            ["availability", service] => Ok(self.availability(Some(service), None)),
            ["availability", service, "log", length] => Ok(self.availability(Some(service), Some(length))),
            ["list", pairs @ ..] => {
                let mut form = serde_json::Map::new();
                for pair in pairs.chunks(2) {
                    let value = pair[1].parse::<i64>().map_or_else(|_| pair[1].into(), Into::into);
                    form.insert(pair[0].to_owned(), value);
                }
                let form: FilterForm = serde_json::from_value(form.into()).unwrap();
                let (members, _) = self.view.list(&form.filter()?, None, 1000);
                Ok(members
                    .iter()
                    .map(|member| {
                        let held = if member.held { ", held" } else { "" };
                        format!("{} {}{held}\n", member.instance.key, member.rule())
                    })
                    .collect())
            }
            ["restart"] => {
                self.restart();
                Ok(String::new())
            }
            ["not-ready"] => {
                self.view = View::new(self.view.settings.clone(), Zones::default());
                Ok(String::new())
            }
            _ => panic!("`{command}` is no command"),
        }
    }

    /// The outcomes of probes, one after the other: `+` went well, `~` is a warning, `-` failed.
    fn probe(&mut self, service: &str, id: &str, check: &str, outcomes: &str) -> Result<String, Problem> {
        let key = Key::new(
            ServiceName::parse(service).unwrap(),
            InstanceId::parse(id).unwrap(),
            HostName::parse("here").unwrap(),
        );
        let mut out = String::new();
        for outcome in outcomes.chars() {
            let Some(instance) = self.registry.instance(&key) else { panic!("{key} is not registered") };
            let known = instance.checks.iter().find(|known| &*known.id == check).unwrap().clone();
            let outcome = match outcome {
                '+' => Health::Passing,
                '~' => Health::Warning,
                _ => Health::Critical,
            };
            let streak = self.streaks.entry((key.clone(), check.to_owned())).or_default();
            let status = streak.outcome(outcome, known.status, &known.definition);
            let on = Subject::Instance(Holder { key: key.clone(), lease_id: None });
            // A probe that fails says why.
            let output = if outcome == Health::Critical { "refused" } else { "" }.into();
            let report = Report { on, check: known.id, status, output, of: ReportOf::Known };
            out.push_str(&self.command(Command::Report(report))?);
        }
        Ok(out)
    }

    fn request(&mut self, line: &str, connection: u64) -> Result<String, Problem> {
        let host = HostName::parse("here").unwrap();
        let peer = Peer {
            host: host.clone(),
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            loopback_allowed: true,
            connection,
        };
        let command = match protocol::decode(line.as_bytes())? {
            Request::Register(form) => {
                self.lease_ids += 1;
                Command::Register(Box::new(form.registration(&peer, self.lease_ids)?))
            }
            Request::Deregister(form) => Command::Deregister(form.holder(&host)?),
            Request::Drain(form) => Command::Drain(form.holder(&host)?),
            Request::Report(form) => Command::Report(form.report(&host)?),
            Request::Settings(form) => match form.configuration(&self.view.settings.apexes)? {
                (_, Some(configuration)) => Command::Configure(configuration),
                (service, None) => return Ok(format!("{}\n", set(&self.view.settings_of(&service)))),
            },
            Request::Heartbeat(form) => {
                let holder = form.holder(&host)?;
                self.view.renew(&holder.key, holder.lease_id, self.now)?;
                return Ok(format!("renewed {}\n", holder.key.id));
            }
            other => panic!("a scenario cannot {other:?}"),
        };
        self.command(command)
    }

    /// As the writer does: check, apply, publish, and then say what came of it.
    fn command(&mut self, command: Command) -> Result<String, Problem> {
        let found = self.registry.check(&command, self.now)?;
        if found.is_empty() {
            return Ok("nothing to change\n".to_owned());
        }
        Ok(self.apply(found, &Author::User(0)))
    }

    fn apply(&mut self, found: Vec<(Reason, What)>, author: &Author) -> String {
        let (mut out, mut changes) = (String::new(), Vec::new());
        self.happen(found, author, &mut changes, &mut out);
        let settled = self.registry.settle(&changes, self.now);
        self.happen(settled, &Author::Server, &mut changes, &mut out);
        self.view.publish(&self.registry, &changes);
        self.log.append(&mut changes);
        out
    }

    fn happen(
        &mut self,
        found: Vec<(Reason, What)>,
        author: &Author,
        changes: &mut Vec<Change>,
        out: &mut String,
    ) {
        for (reason, what) in found {
            let change =
                Registry::change(self.registry.revision() + 1, reason, what, author.clone(), self.now);
            self.registry.apply(&change, self.now);
            match &change.what {
                What::Instance { before, after } => {
                    let instance = after.as_ref().or(before.as_ref()).unwrap();
                    let label = instance.label.as_str();
                    let shown = if label == instance.key.id.as_str() {
                        String::new()
                    } else {
                        format!(" as {label}")
                    };
                    let health = if reason == Reason::Reported {
                        format!(", {}", instance.health())
                    } else {
                        String::new()
                    };
                    writeln!(out, "{} {}{shown}{health}", reason.as_str(), instance.key.id).unwrap();
                }
                What::Host { before, after } => {
                    let host = after.as_ref().or(before.as_ref()).unwrap();
                    writeln!(out, "{} host {}, {}", reason.as_str(), host.name, worst(&host.checks)).unwrap()
                }
                What::Forgotten { key } => writeln!(out, "{} {}", reason.as_str(), key.id).unwrap(),
                What::Guard { service, .. } => writeln!(out, "{} {service}", reason.as_str()).unwrap(),
                What::Settings { service, after, .. } => {
                    writeln!(out, "configured {service}: {}", set(after)).unwrap()
                }
                What::Token { .. } | What::Plain { .. } => unreachable!("no scenario makes one"),
            }
            changes.push(change);
        }
    }

    /// A registry made of what a store keeps.
    fn restart(&mut self) {
        let (old, now) = (&self.registry, self.now);
        let mut near = record::Near::default();
        let mut kept = Kept { revision: old.revision(), ..Kept::default() };
        for (_, service) in old.services() {
            for member in &service.members {
                let octets = record::write_instance(&member.instance);
                kept.instances.push(Arc::new(record::read_instance(&octets, now, &mut near).unwrap()));
            }
            for gone in service.gone() {
                kept.gone.push(((*gone.instance).clone(), gone.reason, gone.at, kept.gone.len() as u64));
            }
        }
        let read_host = |host: &Arc<Host>| record::read_host(&record::write_host(host), now).unwrap();
        kept.hosts = old.hosts().map(read_host).collect();
        let read_settings = |settings| record::read_settings(&record::write_settings(settings)).unwrap();
        kept.settings =
            old.all_settings().map(|(name, settings)| (name.clone(), read_settings(settings))).collect();
        let read_guard = |guard| record::read_guard(&record::write_guard(guard)).unwrap();
        kept.guards = old.guards().map(|(name, guard)| (name.clone(), read_guard(guard))).collect();
        self.registry = Registry::new(100, FORGET_AFTER);
        self.registry.restore(kept, now);
        self.view = View::new(self.view.settings.clone(), Zones::default());
        self.view.publish_all(&self.registry);
        self.view.set_ready();
    }

    fn wait(&mut self, duration: Duration) -> String {
        let end = self.now.after(duration);
        let mut out = String::new();
        loop {
            let due = self.registry.next_due_ns().filter(|due| *due <= end.mono_ns);
            let step = due.map_or(end.mono_ns, |due| due.max(self.now.mono_ns)) - self.now.mono_ns;
            self.now = self.now.after(Duration::from_nanos(step));
            let found = self.registry.due(self.now, 1000);
            out.push_str(&self.apply(found, &Author::Server));
            if due.is_none() {
                return out;
            }
        }
    }

    /// What there is now; and of each service, or of one and its instances, how long it was live of how long it was
    /// registered, span by span. The log may be known for some time only.
    fn availability(&self, service: Option<&str>, length: Option<&str>) -> String {
        let mut past =
            Past::new(self.now.wall, service.map(|name| ServiceName::parse(name).unwrap()), FORGET_AFTER);
        let start = length.map(|length| parse_time(length, self.now.wall).unwrap());
        let kept = self.log.iter().rev().take_while(|change| start.is_none_or(|start| change.at >= start));
        kept.for_each(|change| past.undo(change));
        let known = start.map_or(Known::WHOLE, |start| Known::since(start, FORGET_AFTER));
        let line = |name: &dyn std::fmt::Display, times: &Times| {
            let spans = SPANS.iter().enumerate().map(|(span, (length, _))| {
                let [live, registered] =
                    [times.live_ms, times.registered_ms].map(|ms| Duration::from_millis(ms[span] as u64));
                format!(" {length} {}/{}", format_duration(live), format_duration(registered))
            });
            format!("{name}{}\n", spans.collect::<String>())
        };
        let census = self.view.census();
        let mut out = format!(
            "available {:.3}: {} of {} instances, {} of {} services\n",
            census.ratio(),
            census.live,
            census.instances(),
            census.services_live,
            census.services
        );
        for of in past.services(&self.view, known) {
            out.push_str(&line(&of.name, &of.times));
            for (key, times) in of.instances.iter().filter(|_| service.is_some()) {
                out.push_str(&line(&format!("  {}", key.id), times));
            }
        }
        out
    }

    fn dig(&mut self, name: &str, qtype: &str, options: &[&str]) -> String {
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        let qname = hickory_proto::rr::Name::from_labels(Name::parse(name).unwrap().labels()).unwrap();
        let numbered =
            qtype.strip_prefix("TYPE").map(|number| RecordType::from(number.parse::<u16>().unwrap()));
        let qtype = numbered.unwrap_or_else(|| qtype.parse().unwrap());
        query.add_query(Query::query(qname, qtype));
        let size = options
            .iter()
            .find_map(|option| option.strip_prefix("+bufsize="))
            .map_or(1232, |size| size.parse().unwrap());
        if !options.contains(&"+noedns") {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            query.edns = Some(edns);
        }
        let from = options.iter().skip_while(|option| **option != "from").nth(1).unwrap_or(&"127.0.0.1");
        let over = if options.contains(&"+tcp") { Over::Tcp } else { Over::Udp };
        self.draws += 1;
        let arrival =
            Arrival { client: SocketAddr::new(from.parse().unwrap(), 40_000), over, draw: self.draws };
        let reply = accept(&self.view, &Policy::default(), &arrival, &query.to_vec().unwrap()).unwrap();
        shown(&Message::from_vec(&reply).unwrap(), options.contains(&"+order"))
    }
}

/// What is set for a service, in words.
fn set(settings: &ServiceSettings) -> String {
    let words = SettingsShown::of(settings).words();
    let words: Vec<String> = words.iter().map(|(what, how)| format!("{what} {how}")).collect();
    if words.is_empty() { "nothing is set".to_owned() } else { words.join(", ") }
}

/// The words after `register` as a request, and the connection that makes it.
fn register_request(words: &[&str]) -> (String, u64) {
    let [service, id, at, options @ ..] = words else { panic!("register SERVICE ID ADDR:PORT") };
    let mut form = serde_json::json!({"service": service, "id": id});
    let (address, port) = at.rsplit_once(':').map_or((None, *at), |(address, port)| (Some(address), port));
    let mut addresses: Vec<&str> =
        address.map(|address| address.trim_matches(['[', ']'])).into_iter().collect();
    form["port"] = port.parse::<i64>().unwrap().into();
    let (mut tags, mut checks, mut connection) = (Vec::new(), Vec::new(), 1);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let value = *options.next().unwrap_or_else(|| panic!("`{option}` has no value"));
        match *option {
            "lease" if value.starts_with("connection") => {
                form["lease"] = "connection".into();
                connection =
                    value.trim_start_matches("connection").trim_start_matches('#').parse().unwrap_or(1);
            }
            "also" => addresses.push(value),
            "tag" => tags.push(value),
            "weight" | "priority" => form[*option] = value.parse::<i64>().unwrap().into(),
            "meta" => {
                let (key, value) = value.split_once('=').unwrap();
                form["meta"][key] = value.into();
            }
            "port-name" => {
                let (name, port) = value.split_once('=').unwrap();
                let (port, transport) = port.split_once('/').unwrap_or((port, "tcp"));
                form["ports"][name] =
                    serde_json::json!({"port": port.parse::<i64>().unwrap(), "transport": transport});
            }
            "check" => {
                let (id, status) =
                    value.split_once('=').map_or((value, None), |(id, status)| (id, Some(status)));
                checks.push(status.map_or(
                    serde_json::json!({"id": id}),
                    |status| serde_json::json!({"id": id, "status": status}),
                ));
            }
            _ => form[*option] = value.into(),
        }
    }
    if !addresses.is_empty() {
        form["address"] = addresses.into();
    }
    if !tags.is_empty() {
        form["tags"] = tags.into();
    }
    if !checks.is_empty() {
        form["checks"] = checks.into();
    }
    (serde_json::json!({ "register": form }).to_string(), connection)
}

fn report_options(form: &mut serde_json::Value, rest: &[&str]) {
    match rest {
        ["check", check, rest @ ..] => {
            form["check"] = (*check).into();
            report_options(form, rest);
        }
        ["host", host, rest @ ..] => {
            form["host"] = (*host).into();
            report_options(form, rest);
        }
        ["output", words @ ..] => form["output"] = words.join(" ").into(),
        _ => assert!(rest.is_empty(), "{rest:?}"),
    }
}

/// A reply as a person reads it; sorted, for the order is drawn.
fn shown(reply: &Message, in_order: bool) -> String {
    let mut out = String::new();
    let rcode = match u16::from(reply.metadata.response_code) {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        code => format!("RCODE{code}"),
    };
    out.push_str(&rcode);
    for (flag, set) in [("aa", reply.metadata.authoritative), ("tc", reply.metadata.truncation)] {
        if set {
            write!(out, " {flag}").unwrap();
        }
    }
    if let Some(edns) = &reply.edns
        && let Some(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(15, octets)) = edns.option(15.into())
    {
        let (code, text) =
            (u16::from_be_bytes([octets[0], octets[1]]), String::from_utf8_lossy(&octets[2..]));
        if code == 0 { write!(out, " ede {text:?}") } else { write!(out, " ede {code} {text:?}") }.unwrap();
    }
    out.push('\n');
    for (heading, records) in
        [("", &reply.answers), ("; authority\n", &reply.authorities), ("; additional\n", &reply.additionals)]
    {
        if records.is_empty() {
            continue;
        }
        out.push_str(heading);
        let mut lines: Vec<String> = records.iter().map(record_line).collect();
        if !in_order {
            lines.sort();
        }
        out.push_str(&lines.concat());
    }
    out
}

fn record_line(record: &Record) -> String {
    let data = match &record.data {
        RData::TXT(txt) => {
            let strings: Vec<String> =
                txt.txt_data.iter().map(|string| format!("{:?}", String::from_utf8_lossy(string))).collect();
            strings.join(" ")
        }
        RData::PTR(name) => zone_text(&name.0),
        data => data.to_string(),
    };
    format!("{} {} IN {} {data}\n", zone_text(&record.name), record.ttl, record.record_type())
}

/// A name as a zone file has it: hickory writes the numbers of octets in base eight, and reads them so.
fn zone_text(name: &hickory_proto::rr::Name) -> String {
    let labels: Vec<&[u8]> = name.iter().collect();
    Name::root().prepend_all(&labels).unwrap().to_string()
}
