//! The alias zone, asked by programs: dig and kdig, and HAProxy, whose servers come from SRV records.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use super::harness::haproxy::up;
use super::harness::{DEADLINE, eventually};
use super::{
    DRAINED, Net, SERVICES, UNKNOWN, all_v4, all_v6, canonical, id, needs, registration, text_line, v4,
};

/// The SRV records of a service: each instance's first address is its target's name.
fn all_srv(service: &str, count: usize) -> BTreeSet<String> {
    let record = |number: usize| {
        let address: Ipv4Addr = v4(service, number).parse().expect("an address");
        format!("0 {} {} {:08x}.addr.dc1.consul", 1 + number % 3, 8000 + number, u32::from(address))
    };
    (1..=count).map(record).collect()
}

#[test]
fn dig_and_kdig_resolve_consuls_names() {
    let net = Net::new();
    for (program, words) in [
        (needs("dig", "bind9-dnsutils"), ["+short", "+tries=1", "+timeout=10"]),
        (needs("kdig", "knot-dnsutils"), ["+short", "+retry=0", "+timeout=10"]),
    ] {
        let answers = |name: &str, qtype: &str| -> BTreeSet<String> {
            let text = net.run(&program, &[&words[..], &[name, qtype]].concat());
            text.lines().filter_map(text_line).map(|line| canonical("", &line)).collect()
        };
        for (service, count) in SERVICES {
            for name in [
                format!("_{service}._tcp.service.consul"),
                format!("_{service}._tcp.consul"),
                format!("{service}.service.dc1.consul"),
            ] {
                assert_eq!(answers(&name, "SRV"), all_srv(service, count), "{program:?} {name}");
            }
            let name = format!("{service}.service.consul");
            assert_eq!(answers(&name, "A"), all_v4(service, count));
            assert_eq!(answers(&name, "AAAA"), all_v6(service, count));
        }
        for name in [format!("{DRAINED}.service.consul"), format!("{UNKNOWN}.service.consul")] {
            assert_eq!(answers(&name, "A"), BTreeSet::new());
            assert_eq!(answers(&name, "SRV"), BTreeSet::new());
        }
        // Where SRV points is a name that answers by itself.
        assert_eq!(answers("0a030001.addr.dc1.consul", "A"), BTreeSet::from(["10.3.0.1".to_owned()]));
        let status = |name: &str| {
            let text = net.run(&program, &[words[1], words[2], name, "A"]);
            let line = text.lines().find(|line| line.contains("status: ")).unwrap_or_default().to_owned();
            line.split("status: ").nth(1).and_then(|rest| rest.split([',', ';']).next()).map(str::to_owned)
        };
        for (name, rcode) in [
            (format!("{DRAINED}.service.consul"), "NOERROR"),
            (format!("{UNKNOWN}.service.consul"), "NXDOMAIN"),
            ("one.service.dc2.consul".to_owned(), "NXDOMAIN"),
            ("service.consul".to_owned(), "NOERROR"),
        ] {
            assert_eq!(status(&name).as_deref(), Some(rcode), "{program:?} {name}");
        }
    }
}

// -- HAProxy ------------------------------------------------------------------------------------------------------

/// HAProxy in the server's namespaces, with a socket that tells its state; it ends with this.
struct HaProxy {
    child: Child,
    socket: PathBuf,
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl HaProxy {
    fn start(net: &Net, backends: &str) -> Self {
        let path = |name: &str| net.server.directory().join(name);
        let socket = path("haproxy.sock");
        // Asked again every 100 ms, and an answer is never older than that. `hold obsolete` is how long
        // HAProxy keeps a server that is not in the answer any more.
        let text = format!(
            "global\n    nbthread 1\n    stats socket {} mode 600\n\
             defaults\n    timeout connect 1s\n    timeout client 10s\n    timeout server 10s\n\
             resolvers udp\n    nameserver callsign 127.0.0.1:53\n    accepted_payload_size 8192\n    {TIMES}\
             resolvers tcp\n    nameserver callsign tcp@127.0.0.1:53\n    accepted_payload_size 65535\n    {TIMES}\
             {backends}",
            socket.display()
        );
        fs::write(path("haproxy.cfg"), text).expect("writing HAProxy's configuration");
        let log = fs::File::create(path("haproxy.log")).expect("a file for HAProxy's log");
        let mut command = net.inside(&needs("haproxy", "haproxy"));
        let other = log.try_clone().expect("another descriptor");
        command.args(["-db", "-f"]).arg(path("haproxy.cfg")).stdout(Stdio::from(log)).stderr(other);
        let mut haproxy = Self { child: command.spawn().expect("running nsenter"), socket };
        eventually("HAProxy's socket", DEADLINE, || {
            let ended = haproxy.child.try_wait().expect("waiting for our own child");
            let log = || fs::read_to_string(path("haproxy.log")).unwrap_or_default();
            assert!(ended.is_none(), "HAProxy ended: {ended:?}\n{}", log());
            UnixStream::connect(&haproxy.socket).ok()
        });
        haproxy
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "between two looks at another process, which sends no event"
    )]
    fn becomes(&self, backend: &str, expected: &BTreeSet<String>) {
        let mut last = BTreeSet::new();
        let start = super::harness::now();
        while start.elapsed() < DEADLINE {
            last = up(&self.socket, backend).expect("HAProxy's socket");
            if last == *expected {
                return;
            }
            // tidy: may sleep: between two looks at HAProxy, which sends no event and opens a session for each
            std::thread::sleep(LOOK_AGAIN);
        }
        panic!("the servers of {backend} are {last:?}, not {expected:?}");
    }
}

/// Between two looks at HAProxy's state: a fifth of what it waits between two questions.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const TIMES: &str =
    "timeout resolve 100ms\n    timeout retry 1s\n    hold valid 100ms\n    hold obsolete 100ms\n";

fn servers(service: &str, numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("{}:{}", v4(service, number), 8000 + number)).collect()
}

#[test]
fn haproxy_follows_consuls_names() {
    let net = Net::new();
    let haproxy = HaProxy::start(
        &net,
        "backend few\n    server-template few 5 _few._tcp.service.consul resolvers udp resolve-prefer ipv4 init-addr none\n\
         backend big\n    server-template big 130 _big._tcp.service.dc1.consul resolvers tcp resolve-prefer ipv4 init-addr none\n\
         backend plain\n    server-template plain 5 few.service.consul:8080 resolvers udp resolve-prefer ipv4 init-addr none\n",
    );
    haproxy.becomes("few", &servers("few", 1..=3));
    haproxy.becomes("big", &servers("big", 1..=120));
    haproxy.becomes("plain", &all_v4("few", 3).iter().map(|address| format!("{address}:8080")).collect());
    // One more; one that leaves; one whose health is critical, and well again.
    let mut client = net.server.client();
    client.done("registered", &json!({"register": registration("few", 4)}));
    haproxy.becomes("few", &servers("few", 1..=4));
    client.done("deregistered", &json!({"deregister": {"service": "few", "id": id("few", 2)}}));
    haproxy.becomes("few", &servers("few", [1, 3, 4]));
    let report = |status: &str| json!({"report": {"service": "few", "id": id("few", 1), "status": status}});
    client.done("reported", &report("critical"));
    haproxy.becomes("few", &servers("few", [3, 4]));
    client.done("reported", &report("warning"));
    haproxy.becomes("few", &servers("few", [1, 3, 4]));
    client.done("draining", &json!({"drain": {"service": "big", "id": id("big", 7)}}));
    haproxy.becomes("big", &servers("big", (1..=120).filter(|number| *number != 7)));
}
