//! What each resolver, and Envoy, has to be told, as the exact text of its file. Pure: names and addresses in, text out.
//!
//! Every file says in its first lines who wrote it, where it goes and what comes then; the first line is how
//! a later run knows it for its own. Names are letters, digits, hyphens, underscores and dots (`Apex`), addresses are
//! parsed, so nothing here has to be quoted or escaped.

use std::net::SocketAddr;

use callsign::name::Apex;
use callsign::xds::resources::GRPC_CLUSTER;

/// The one port that resolv.conf, and Docker with it, can mean.
pub const PORT: u16 = 53;
/// What glibc and musl read of resolv.conf; further lines are ignored without a word.
const NAMESERVERS_MAX: usize = 3;
/// Records of one type that BIND shall take, where its default is 100: no answer of 64 KiB holds more addresses.
const BIND_RECORDS: u16 = 4096;
/// How the first line of a file of ours begins.
pub const OURS: &str = "# Written by `callsign setup ";

/// Who can be told to ask us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Resolver {
    /// systemd-resolved: a drop-in that routes the domain
    Resolved,
    /// dnsmasq: a file for /etc/dnsmasq.d
    Dnsmasq,
    /// Unbound: a stub zone
    Unbound,
    /// BIND: a forward zone, and what its options need
    Bind,
    /// NetworkManager with its own dnsmasq
    Networkmanager,
    /// CoreDNS: a server block, for Kubernetes too
    Coredns,
    /// macOS: a file in /etc/resolver for each domain
    Macos,
    /// Docker: daemon.json, for every container
    Docker,
    /// /etc/resolv.conf itself: callsign is the machine's nameserver
    Resolvconf,
    /// Envoy: a bootstrap with which it takes everything else from here
    Envoy,
}

/// What is asked where.
#[derive(Clone, Debug)]
pub struct Asked {
    /// At least one, for a resolver.
    pub domains: Vec<Apex>,
    /// The same; none is a wildcard.
    pub dns: Vec<SocketAddr>,
    /// For Envoy: our HTTP port, which is no wildcard.
    pub http: Option<SocketAddr>,
    /// Where Envoy shall listen.
    pub listen: SocketAddr,
}

/// The files of one resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub files: Vec<File>,
    /// What to do once they are there, one step each.
    pub steps: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Absolute.
    pub path: String,
    pub text: String,
}

impl Resolver {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Dnsmasq => "dnsmasq",
            Self::Unbound => "unbound",
            Self::Bind => "bind",
            Self::Networkmanager => "networkmanager",
            Self::Coredns => "coredns",
            Self::Macos => "macos",
            Self::Docker => "docker",
            Self::Resolvconf => "resolvconf",
            Self::Envoy => "envoy",
        }
    }

    /// The files, or what has to be otherwise before there can be any.
    pub fn recipe(self, asked: &Asked) -> Result<Recipe, String> {
        Ok(match self {
            Self::Resolved => resolved(asked),
            Self::Dnsmasq => {
                self.one("/etc/dnsmasq.d/callsign.conf", &["systemctl restart dnsmasq"], &[], &dnsmasq(asked))
            }
            Self::Unbound => unbound(asked),
            Self::Bind => bind(asked),
            Self::Networkmanager => networkmanager(asked),
            Self::Coredns => coredns(asked),
            Self::Macos => macos(asked),
            Self::Docker => docker(asked)?,
            Self::Resolvconf => resolvconf(asked)?,
            Self::Envoy => envoy(asked)?,
        })
    }

    /// A recipe of one file, with the lines in front that every file has.
    fn one(self, path: &str, steps: &[&str], notes: &[&str], body: &str) -> Recipe {
        let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
        let file = self.file(path, &steps, notes, body);
        Recipe { files: vec![file], steps }
    }

    fn file(self, path: &str, steps: &[String], notes: &[&str], body: &str) -> File {
        let mut text = format!("{OURS}{}`. It goes to {path}\n", self.word());
        for (number, step) in steps.iter().enumerate() {
            text.push_str(&format!("# {}: {step}\n", if number == 0 { "then" } else { "and" }));
        }
        for note in notes {
            text.push_str(&format!("# {note}\n"));
        }
        text.push_str(body);
        File { path: path.to_owned(), text }
    }
}

impl Asked {
    /// Names as configuration files write them: without the final dot.
    fn names(&self) -> Vec<String> {
        self.domains.iter().map(bare).collect()
    }

    /// One line for each domain.
    fn lines(&self, line: impl Fn(&str) -> String) -> String {
        self.names().iter().map(|name| line(name)).collect()
    }

    fn addresses(&self, written: impl Fn(&SocketAddr) -> String) -> Vec<String> {
        self.dns.iter().map(written).collect()
    }
}

/// A name without its final dot.
pub fn bare(domain: &Apex) -> String {
    domain.to_string().trim_end_matches('.').to_owned()
}

/// The address alone where the port is DNS's own.
fn short(address: &SocketAddr) -> String {
    if address.port() == PORT { address.ip().to_string() } else { address.to_string() }
}

fn resolved(asked: &Asked) -> Recipe {
    let domains: Vec<String> = asked.names().iter().map(|name| format!("~{name}")).collect();
    let body =
        format!("[Resolve]\nDNS={}\nDomains={}\n", asked.addresses(short).join(" "), domains.join(" "));
    Resolver::Resolved.one(
        "/etc/systemd/resolved.conf.d/callsign.conf",
        &["systemctl restart systemd-resolved"],
        &[
            "`~` routes these names here and nothing else; without it, names in .local go to no DNS server",
            "at all. No other file may set a global DNS=, for all global servers are taken for the same.",
        ],
        &body,
    )
}

/// The lines for dnsmasq, whoever started it.
fn dnsmasq(asked: &Asked) -> String {
    let server = |name: &str| -> String {
        let line = |address: &SocketAddr| format!("server=/{name}/{}#{}\n", address.ip(), address.port());
        asked.addresses(line).concat()
    };
    // Without the second line, stop-dns-rebind takes private addresses out of the answers.
    asked.lines(|name| format!("{}rebind-domain-ok=/{name}/\n", server(name)))
}

fn unbound(asked: &Asked) -> Recipe {
    let mut body = String::from("server:\n");
    if asked.dns.iter().any(|address| address.ip().is_loopback()) {
        body.push_str("    do-not-query-localhost: no\n");
    }
    body.push_str(&asked.lines(|name| {
        let mut lines = format!("    domain-insecure: \"{name}\"\n    private-domain: \"{name}\"\n");
        // Unbound answers for these by itself, with NXDOMAIN, unless it is told otherwise.
        for built_in in ["home.arpa", "test"] {
            if name == built_in || name.ends_with(&format!(".{built_in}")) {
                lines.push_str(&format!("    local-zone: \"{built_in}.\" nodefault\n"));
            }
        }
        lines
    }));
    let stub = |address: &SocketAddr| format!("    stub-addr: {}@{}\n", address.ip(), address.port());
    let stubs = asked.addresses(stub).concat();
    body.push_str(&asked.lines(|name| format!("stub-zone:\n    name: \"{name}\"\n{stubs}")));
    Resolver::Unbound.one(
        "/etc/unbound/unbound.conf.d/callsign.conf",
        &["systemctl reload unbound"],
        &[
            "do-not-query-localhost: else 127.0.0.1 is never asked, and nothing says so. domain-insecure: no",
            "DNSSEC chain leads here. private-domain: private addresses stay in the answers.",
        ],
        &body,
    )
}

fn bind(asked: &Asked) -> Recipe {
    let (zones, options) = ("/etc/bind/callsign.conf", "/etc/bind/callsign-options.conf");
    let steps = [
        format!("put `include \"{zones}\";` at the end of /etc/bind/named.conf.local"),
        format!("put `include \"{options}\";` into the options {{ }} of /etc/bind/named.conf.options"),
        "rndc reconfig".to_owned(),
    ];
    let forwarder = |address: &SocketAddr| format!("{} port {};", address.ip(), address.port());
    let forwarders = asked.addresses(forwarder).join(" ");
    let zone = |name: &str| {
        format!(
            "zone \"{name}\" {{\n    type forward;\n    forward only;\n    forwarders {{ {forwarders} }};\n}};\n"
        )
    };
    let names: Vec<String> = asked.names().iter().map(|name| format!("\"{name}\";")).collect();
    let insecure =
        format!("validate-except {{ {} }};\nmax-records-per-type {BIND_RECORDS};\n", names.join(" "));
    let note = "No DNSSEC chain leads to these names, and BIND keeps no more than 100 records of a type: either\n\
                # would be SERVFAIL.";
    let files = vec![
        Resolver::Bind.file(zones, &steps, &[], &asked.lines(zone)),
        Resolver::Bind.file(options, &steps, &[note], &insecure),
    ];
    Recipe { files, steps: steps.to_vec() }
}

fn networkmanager(asked: &Asked) -> Recipe {
    let steps = ["systemctl restart NetworkManager".to_owned()];
    let note = "Where NetworkManager hands names to systemd-resolved, use `callsign setup resolved` instead.";
    let files = vec![
        Resolver::Networkmanager.file(
            "/etc/NetworkManager/conf.d/callsign.conf",
            &steps,
            &[note],
            "[main]\ndns=dnsmasq\n",
        ),
        Resolver::Networkmanager.file(
            "/etc/NetworkManager/dnsmasq.d/callsign.conf",
            &steps,
            &[],
            &dnsmasq(asked),
        ),
    ];
    Recipe { files, steps: steps.to_vec() }
}

fn coredns(asked: &Asked) -> Recipe {
    let upstreams = asked.addresses(ToString::to_string).join(" ");
    // The last number of each line is the least TTL, which is 5 s where nobody says otherwise: a service that comes
    // up would not be seen for so long.
    let block = |name: &str| {
        format!(
            "{name}:53 {{\n    errors\n    cache 5 {{\n        success 9984 5 0\n        denial 9984 2 0\n    }}\n    forward . {upstreams}\n}}\n"
        )
    };
    Resolver::Coredns.one(
        "/etc/coredns/callsign.conf",
        &["put `import /etc/coredns/callsign.conf` at the end of the Corefile, outside of every block"],
        &["In Kubernetes it goes into the Corefile of the ConfigMap `coredns` in kube-system."],
        &asked.lines(block),
    )
}

fn macos(asked: &Asked) -> Recipe {
    let steps = ["`scutil --dns` shows it at once; dig does not read this file".to_owned()];
    // A file has one port, for all of its nameservers.
    let port = asked.dns[0].port();
    let same = asked.dns.iter().filter(|address| address.port() == port);
    let nameservers: String = same.map(|address| format!("nameserver {}\n", address.ip())).collect();
    let file = |name: &String| {
        let body = format!("{nameservers}port {port}\n");
        Resolver::Macos.file(&format!("/etc/resolver/{name}"), &steps, &[], &body)
    };
    Recipe { files: asked.names().iter().map(file).collect(), steps: steps.to_vec() }
}

fn docker(asked: &Asked) -> Result<Recipe, String> {
    let reached = |address: &&SocketAddr| address.port() == PORT && !address.ip().is_loopback();
    let addresses: Vec<String> = asked.dns.iter().filter(reached).map(|at| at.ip().to_string()).collect();
    if addresses.is_empty() {
        return Err(format!(
            "containers cannot ask {}: Docker takes an address without a port, and loopback is each container's own; serve on the bridge (`callsign serve --dns 172.17.0.1:53`) and name that with --dns",
            asked.addresses(ToString::to_string).join(", ")
        ));
    }
    let text = serde_json::to_string_pretty(&serde_json::json!({"dns": addresses})).unwrap_or_default();
    // JSON has no comments: what the other files say in theirs is said with the steps.
    let file = File { path: "/etc/docker/daemon.json".to_owned(), text: format!("{text}\n") };
    let steps = [
        "systemctl restart docker",
        "serve with --forward and --forward-allow 172.17.0.0/16: every name that containers ask for comes here",
    ];
    Ok(Recipe { files: vec![file], steps: steps.map(str::to_owned).to_vec() })
}

fn resolvconf(asked: &Asked) -> Result<Recipe, String> {
    let on_port = asked.dns.iter().filter(|address| address.port() == PORT).take(NAMESERVERS_MAX);
    let nameservers: String = on_port.map(|address| format!("nameserver {}\n", address.ip())).collect();
    if nameservers.is_empty() {
        return Err(format!(
            "resolv.conf cannot say a port, and callsign answers on {}; serve on port 53 (`callsign serve --dns 127.0.0.1:53`), or put a resolver in front (`callsign setup unbound`)",
            asked.addresses(ToString::to_string).join(", ")
        ));
    }
    let body = format!("{nameservers}search {}\n", asked.names().join(" "));
    Ok(Resolver::Resolvconf.one(
        "/etc/resolv.conf",
        &["programs read it when they start, and most of them whenever it changes"],
        &[
            "callsign has to forward the names that it does not know (`--forward`). No other nameserver",
            "belongs beside it: musl believes whoever answers first, glibc the first one's NXDOMAIN.",
            "openresolv writes this file anew: there it is name_servers=127.0.0.1 in /etc/resolvconf.conf; with",
            "Debian's resolvconf these lines go to /etc/resolvconf/resolv.conf.d/head, then resolvconf -u.",
        ],
        &body,
    ))
}

/// One stream of deltas for everything: a change costs what it is itself.
fn envoy(asked: &Asked) -> Result<Recipe, String> {
    let at = asked.http.ok_or("Envoy asks the HTTP port; name it with --http ADDR:PORT")?;
    let (ip, port, listen) = (at.ip(), at.port(), asked.listen);
    let body = format!(
        r#"node:
  id: envoy
  cluster: envoy
  metadata: {{ listen: "{listen}" }}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{ envoy_grpc: {{ cluster_name: {GRPC_CLUSTER} }} }}]
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
    - name: {GRPC_CLUSTER}
      type: STATIC
      connect_timeout: 1s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options:
              connection_keepalive: {{ interval: 10s, timeout: 5s }}
      load_assignment:
        cluster_name: {GRPC_CLUSTER}
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: "{ip}", port_value: {port} }} }} }}
"#
    );
    Ok(Resolver::Envoy.one(
        "/etc/envoy/callsign.yaml",
        &["envoy -c /etc/envoy/callsign.yaml"],
        &["Requests go by their Host: `web`, or `web` in a domain of the registry, with any port or none."],
        &body,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use callsign::xds::resources::LISTEN_DEFAULT;
    use clap::ValueEnum;

    fn asked(domains: &[&str], dns: &[&str]) -> Asked {
        Asked {
            domains: domains.iter().map(|name| Apex::parse(name).unwrap()).collect(),
            dns: dns.iter().map(|address| address.parse().unwrap()).collect(),
            http: "127.0.0.1:5380".parse().ok(),
            listen: LISTEN_DEFAULT,
        }
    }

    fn texts(resolver: Resolver, asked: &Asked) -> Vec<String> {
        let files = resolver.recipe(asked).unwrap().files;
        let body = |file: File| {
            let lines = file.text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| format!("{line}\n")).collect()
        };
        files.into_iter().map(body).collect()
    }

    #[test]
    fn every_file_is_known_for_ours_and_says_where_it_goes() {
        let asked = asked(&["service.local"], &["10.0.0.5:53"]);
        for resolver in Resolver::value_variants() {
            assert_eq!(resolver.to_possible_value().unwrap().get_name(), resolver.word());
            let recipe = resolver.recipe(&asked).unwrap();
            assert!(!recipe.steps.is_empty());
            for file in recipe.files.iter().filter(|file| !file.path.ends_with(".json")) {
                let first = file.text.lines().next().unwrap();
                assert!(first.starts_with(OURS) && first.ends_with(&file.path), "{first}");
                for step in &recipe.steps {
                    assert!(file.text.contains(&format!(": {step}\n")), "{step}");
                }
                let widest = file.text.lines().map(str::len).max().unwrap();
                assert!(widest <= 110, "{widest}: {}", file.text);
            }
        }
    }

    #[test]
    fn several_domains_and_addresses_are_all_there() {
        let both = asked(&["service.local", "svc.example.com"], &["127.0.0.1:5300", "[::1]:5300"]);
        assert_eq!(
            texts(Resolver::Resolved, &both),
            ["[Resolve]\nDNS=127.0.0.1:5300 [::1]:5300\nDomains=~service.local ~svc.example.com\n"]
        );
        assert_eq!(
            texts(Resolver::Dnsmasq, &both),
            ["server=/service.local/127.0.0.1#5300\nserver=/service.local/::1#5300\n\
              rebind-domain-ok=/service.local/\n\
              server=/svc.example.com/127.0.0.1#5300\nserver=/svc.example.com/::1#5300\n\
              rebind-domain-ok=/svc.example.com/\n"]
        );
        let unbound = &texts(Resolver::Unbound, &both)[0];
        assert_eq!(unbound.matches("stub-zone:").count(), 2);
        assert_eq!(unbound.matches("stub-addr: ::1@5300").count(), 2);
        let bind = texts(Resolver::Bind, &both);
        assert!(bind[0].contains("forwarders { 127.0.0.1 port 5300; ::1 port 5300; };"), "{}", bind[0]);
        assert!(
            bind[1].starts_with("validate-except { \"service.local\"; \"svc.example.com\"; };\n"),
            "{}",
            bind[1]
        );
        assert_eq!(texts(Resolver::Macos, &both), ["nameserver 127.0.0.1\nnameserver ::1\nport 5300\n"; 2]);
    }

    #[test]
    fn unbound_is_told_of_loopback_and_of_its_own_zones_only_where_it_has_to_be() {
        let told = |domain: &str, dns: &str| texts(Resolver::Unbound, &asked(&[domain], &[dns])).concat();
        assert!(told("service.local", "127.0.0.1:5300").contains("do-not-query-localhost: no"));
        assert!(!told("service.local", "10.0.0.5:53").contains("do-not-query-localhost"));
        assert!(told("svc.home.arpa", "10.0.0.5:53").contains("local-zone: \"home.arpa.\" nodefault"));
        assert!(!told("svc.contest", "10.0.0.5:53").contains("local-zone"));
    }

    #[test]
    fn what_takes_no_port_says_so() {
        let loopback = asked(&["service.local"], &["127.0.0.1:5300"]);
        assert!(Resolver::Resolvconf.recipe(&loopback).unwrap_err().contains("--dns 127.0.0.1:53"));
        assert!(Resolver::Docker.recipe(&loopback).unwrap_err().contains("--dns 172.17.0.1:53"));
        let root = asked(&["service.local"], &["127.0.0.1:53"]);
        assert!(Resolver::Docker.recipe(&root).is_err());
        assert_eq!(texts(Resolver::Resolvconf, &root), ["nameserver 127.0.0.1\nsearch service.local\n"]);
        assert_eq!(texts(Resolver::Resolved, &root), ["[Resolve]\nDNS=127.0.0.1\nDomains=~service.local\n"]);
    }
}
