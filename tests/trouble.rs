//! Our own trouble, as those see it who take their servers from us: whatever happens to callsign, nobody drops a server
//! that is registered.
//!
//! Needs: haproxy prometheus unbound curl bind9-dnsutils iproute2 util-linux strace python3
//!
//! HAProxy (SRV), Envoy (A), Prometheus (`dns_sd_configs`) and unbound, with a dig behind it, follow one service each in
//! its own way. They are watched through restarts, kills, a start that takes its time, a stopped process and a
//! store that fails; in the end an instance leaves, which shows that they still follow.

#[path = "harness/mod.rs"]
mod harness;
#[path = "trouble/mod.rs"]
mod trouble;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use harness::haproxy;
use harness::program::needs;
use harness::space::Space;
use harness::{Http, Server};
use trouble::{Follower, behind, goes_through_every_trouble, path, spawn};

fn balancer(space: &Space) -> Follower {
    let socket = path(space, "haproxy.sock");
    // As the documentation says: what is silent or not sure is no reason to drop a server.
    let text = format!(
        "global\n    nbthread 1\n    stats socket {socket} mode 600\n\
         defaults\n    timeout connect 1s\n    timeout client 10s\n    timeout server 10s\n\
         resolvers callsign\n    nameserver callsign 127.0.0.1:53\n    accepted_payload_size 8192\n    \
         timeout resolve 200ms\n    timeout retry 200ms\n    hold valid 200ms\n    hold obsolete 0s\n    \
         hold timeout 24h\n    hold refused 24h\n    hold other 24h\n    hold nx 0s\n\
         backend web\n    server-template web 5 _web._tcp.service.local resolvers callsign resolve-prefer ipv4 init-addr none\n"
    );
    fs::write(path(space, "haproxy.cfg"), text).expect("a file of ours");
    let child =
        spawn(space, "haproxy", &needs("haproxy", "haproxy"), &["-db", "-f", &path(space, "haproxy.cfg")]);
    let look = move || {
        let servers = haproxy::up(Path::new(&socket), "web")?;
        Some(servers.iter().filter_map(|server| server.split(':').next()).map(str::to_owned).collect())
    };
    Follower { name: "HAProxy", child, look: Box::new(look) }
}

fn envoy(space: &Space) -> Follower {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/envoy/bin/envoy");
    assert!(program.exists(), "{} is not there: tests/clients/python/install", program.display());
    let admin = path(space, "envoy.sock");
    let configuration = json!({
        "node": {"id": "here", "cluster": "here"},
        "admin": {"address": {"pipe": {"path": admin}}},
        "static_resources": {"clusters": [{
            "name": "web", "connect_timeout": "1s",
            "cluster_type": {"name": "envoy.cluster.dns", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
                "dns_lookup_family": "V4_ONLY", "dns_refresh_rate": "0.5s", "dns_failure_refresh_rate": {"base_interval": "0.5s", "max_interval": "0.5s"},
                "all_addresses_in_single_endpoint": false,
                "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                    "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": 53}}],
                    "dns_resolver_options": {"no_default_search_domain": true}}}}},
            "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"socket_address": {"address": "web.service.local", "port_value": 8080}}}}]}]}
        }]}
    });
    fs::write(path(space, "envoy.json"), configuration.to_string()).expect("a file of ours");
    let words = [
        "-c",
        &path(space, "envoy.json"),
        "--log-level",
        "warning",
        "--concurrency",
        "1",
        "--disable-hot-restart",
    ];
    let child = spawn(space, "envoy", &program, &words);
    let look = move || {
        let socket = PathBuf::from(&admin);
        std::os::unix::net::UnixStream::connect(&socket).ok()?;
        let response = Http::unix(&socket).get("/clusters");
        // web::10.3.0.1:8080::health_flags::healthy
        let member = |line: &str| {
            let (address, flags) = line.strip_prefix("web::")?.split_once(":8080::health_flags::")?;
            (flags == "healthy").then(|| address.to_owned())
        };
        Some(response.text().lines().filter_map(member).collect())
    };
    Follower { name: "Envoy", child, look: Box::new(look) }
}

fn prometheus(space: &Space) -> Follower {
    let text = "global: { scrape_interval: 1h }\n\
                scrape_configs:\n  - job_name: web\n    dns_sd_configs:\n      \
                - { names: [_web._tcp.service.local], type: SRV, refresh_interval: 500ms }\n";
    fs::write(path(space, "prometheus.yml"), text).expect("a file of ours");
    let configuration = format!("--config.file={}", path(space, "prometheus.yml"));
    let storage = format!("--storage.tsdb.path={}", path(space, "prometheus"));
    let words = [configuration.as_str(), &storage, "--web.listen-address=127.0.0.1:9090", "--log.level=warn"];
    let child = spawn(space, "prometheus", &needs("prometheus", "prometheus"), &words);
    let mut curl = space.before();
    curl.extend([needs("curl", "curl").display().to_string(), "-fsS".to_owned()]);
    curl.push("http://127.0.0.1:9090/api/v1/targets?state=active".to_owned());
    let look = move || {
        let output = Command::new(&curl[0]).args(&curl[1..]).output().expect("running nsenter");
        let reply: Value = serde_json::from_slice(&output.stdout).ok()?;
        let target = |target: &Value| {
            let address = target["discoveredLabels"]["__address__"].as_str().expect("an address").to_owned();
            // web-1.web.service.local.:8001 is the instance with that address.
            let number = address.strip_prefix("web-").and_then(|rest| rest.split('.').next());
            format!("10.3.0.{}", number.expect("a target of the service"))
        };
        Some(reply["data"]["activeTargets"].as_array()?.iter().map(target).collect())
    };
    Follower { name: "Prometheus", child, look: Box::new(look) }
}

fn unbound(space: &Space) -> Follower {
    let directory = space.directory().display();
    let text = format!(
        "server:\n    interface: 127.0.0.1@5353\n    port: 5353\n    do-daemonize: no\n    username: \"\"\n    \
         chroot: \"\"\n    directory: \"{directory}\"\n    pidfile: \"\"\n    use-syslog: no\n    \
         access-control: 127.0.0.0/8 allow\n    do-not-query-localhost: no\n    \
         domain-insecure: \"service.local.\"\n    module-config: \"iterator\"\n\
         stub-zone:\n    name: \"service.local.\"\n    stub-addr: 127.0.0.1@53\n\
         remote-control:\n    control-enable: no\n"
    );
    fs::write(path(space, "unbound.conf"), text).expect("a file of ours");
    let words = ["-d", "-c", &path(space, "unbound.conf")];
    let child = spawn(space, "unbound", &needs("unbound", "unbound"), &words);
    Follower { name: "unbound", child, look: behind(space, 5353) }
}

#[test]
fn nobody_drops_a_server_because_of_our_trouble() {
    goes_through_every_trouble(|space| {
        vec![balancer(space), envoy(space), prometheus(space), unbound(space)]
    });
}

/// Questions in the name of neighbours who are not there: the kernel keeps what is sent to them for seconds, until it believes
/// that, of each as much as a socket has room for by default.
const IN_THE_NAME_OF: &str = r#"
import socket, sys
query = bytes.fromhex("000000000001000000000000" "03776562" "0773657276696365" "056c6f63616c" "00" "00010001")
for name in sys.argv[1:]:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: an address of somebody else's
    client.bind((name, 0))
    for _ in range(2000):
        client.sendto(query, ("10.9.0.1", 53))
"#;

/// A processor that we may run on; a server that has one has one socket.
fn a_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("proc(5)");
    list.trim().chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn who_is_not_there_keeps_nobody_waiting() {
    let space = Space::new();
    let ip = needs("ip", "iproute2");
    // A wire with nobody on it: who is looked for there does not answer.
    for words in [
        &["link", "add", "wire", "type", "veth", "peer", "name", "end"][..],
        &["link", "set", "end", "up"],
        &["link", "set", "wire", "up"],
        &["address", "add", "10.9.0.1/24", "dev", "wire"],
    ] {
        assert!(space.inside(&ip).args(words).status().expect("running nsenter").success(), "{words:?}");
    }
    let inside = space.before();
    let (taskset, processor) = (needs("taskset", "util-linux").display().to_string(), a_processor());
    let words = inside.iter().map(String::as_str).chain([&taskset[..], "-c", &processor]);
    let words: Vec<&str> = words.collect();
    let socket = path(&space, "callsign.sock");
    let flags = ["--dns", "10.9.0.1:53", "--store", "memory", "--socket", &socket, "--http", "none"];
    let mut server = Server::begin(&words, &flags);
    assert!(server.until_ready(), "{:?}", server.end());
    server.client().done(
        "registered",
        &json!({"register": {"service": "web", "address": "10.3.0.1", "port": 80, "lease": "none"}}),
    );
    let python = needs("python3", "python3");
    let words = ["-c", IN_THE_NAME_OF, "10.9.0.8", "10.9.0.9"];
    assert!(space.inside(&python).args(words).status().expect("running nsenter").success());
    // Less than the three seconds after which the kernel gives up.
    let words = ["@10.9.0.1", "+tries=1", "+time=2", "+short", "web.service.local", "A"];
    let output = space.inside(&needs("dig", "bind9-dnsutils")).args(words).output().expect("running nsenter");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "10.3.0.1");
}
