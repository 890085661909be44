//! Real programs over TLS, HTTPS and QUIC: they see what they see over TCP.
//!
//! Needs: knot-dnsutils curl

mod harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::Server;
use harness::program::needs;
use serde_json::json;

/// Instances, so that an answer is small, and larger than a datagram.
const SERVICES: [(&str, usize); 2] = [("few", 3), ("big", 120)];
/// `service.local SOA` as a message, in base64url.
const SOA: &str = "AAABAAABAAAAAAAAB3NlcnZpY2UFbG9jYWwAAAYAAQ";

struct Ports {
    server: Server,
    dot: String,
    doh: String,
    doq: String,
    pin: String,
}

impl Ports {
    fn start() -> Self {
        let flags =
            ["--dot", "127.0.0.1:0", "--doh", "127.0.0.1:0", "--doq", "127.0.0.1:0", "--tls-self-signed"];
        let server = Server::start(&flags);
        let mut client = server.client();
        for (service, count) in SERVICES {
            for number in 0..count {
                let form = json!({"service": service, "id": format!("{service}-{number}"), "port": 80,
                                  "address": format!("10.0.{}.{number}", service.len()), "lease": "none"});
                client.done("registered", &json!({ "register": form }));
            }
        }
        let rest = |start: &str| {
            let found = server.lines.iter().find_map(|line| line.strip_prefix(start));
            found.unwrap_or_else(|| panic!("no `{start}` in {:?}", server.lines)).to_owned()
        };
        let port = |start: &str| rest(start).rsplit(':').next().expect("a port").to_owned();
        let (dot, doh, doq) = (port("dot 127"), port("doh 127"), port("doq 127"));
        let pin = rest("certificate pin-sha256 ");
        Self { server, dot, doh, doq, pin }
    }
}

/// What a program prints, and whether it succeeded.
fn run(program: &Path, words: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().expect("running a program");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn kdig_sees_the_same_over_every_transport() {
    let kdig = needs("kdig", "knot-dnsutils");
    let ports = Ports::start();
    let tcp = ports.server.dns[0].port().to_string();
    let transports: [(&str, &[&str]); 6] = [
        (&tcp, &["+tcp"]),
        (&ports.dot, &["+tls"]),
        (&ports.dot, &["+tls", "+tls-pin", &ports.pin]),
        (&ports.doh, &["+https"]),
        (&ports.doh, &["+https-get"]),
        (&ports.doq, &["+quic"]),
    ];
    let ask = |port: &str, how: &[&str], name: &str, rtype: &str| -> (String, BTreeSet<String>) {
        let how: Vec<String> = match how {
            [tls, "+tls-pin", pin] => vec![(*tls).to_owned(), format!("+tls-pin={pin}")],
            how => how.iter().map(|word| (*word).to_owned()).collect(),
        };
        let mut words = vec!["@127.0.0.1", "-p", port, "+norec", "+retry=0", "+timeout=20", name, rtype];
        words.extend(how.iter().map(String::as_str));
        let (done, text) = run(&kdig, &words);
        assert!(done, "{words:?}: {text}");
        let header = text.lines().find(|line| line.contains("->>HEADER<<-")).expect("a header");
        let status = header.split_once("status: ").expect("a status").1;
        let status = status.split(';').next().expect("a status").to_owned();
        let records = text.lines().filter(|line| !line.is_empty() && !line.starts_with(";;"));
        (status, records.map(str::to_owned).collect())
    };
    for (name, rtype, status, records) in [
        ("few.service.local", "A", "NOERROR", 3),
        ("big.service.local", "A", "NOERROR", 120),
        ("big.service.local", "SRV", "NOERROR", 240),
        ("few.service.local", "AAAA", "NOERROR", 1),
        ("nope.service.local", "A", "NXDOMAIN", 1),
        ("example.com", "A", "REFUSED", 0),
    ] {
        let expected = ask(&tcp, &["+tcp"], name, rtype);
        assert_eq!((expected.0.as_str(), expected.1.len()), (status, records), "{name} {rtype}");
        for (port, how) in transports {
            assert_eq!(ask(port, how, name, rtype), expected, "{name} {rtype} {how:?}");
        }
    }
    // Another pin is another server.
    let words = ["@127.0.0.1", "-p", &ports.dot, "+retry=0", "+tls", "service.local", "SOA"];
    let first = if ports.pin.starts_with('A') { 'B' } else { 'A' };
    let wrong = format!("+tls-pin={first}{}", &ports.pin[1..]);
    assert!(!run(&kdig, &[&words[..], &[&wrong]].concat()).0, "kdig takes a wrong pin");
}

#[test]
fn curl_asks_over_http_1_1_and_2() {
    let curl = needs("curl", "curl");
    let ports = Ports::start();
    let root = format!("https://127.0.0.1:{}", ports.doh);
    let soa = format!("{root}/dns-query?dns={SOA}");
    let says = "%{http_version} %{http_code} %{content_type} %{size_download} %header{cache-control}";
    let ask = |words: &[&str]| {
        let (done, text) = run(
            &curl,
            &[&["--insecure", "--silent", "--show-error", "-o", "/dev/null", "-w", says], words].concat(),
        );
        assert!(done, "{words:?}: {text}");
        text
    };
    let media = "application/dns-message";
    let header = format!("content-type: {media}");
    for (version, shown) in [("--http1.1", "1.1"), ("--http2", "2")] {
        assert_eq!(ask(&[version, &soa]), format!("{shown} 200 {media} 81 max-age=2"));
        let path = format!("{root}/dns-query");
        let refused = |text: String, status: &str| {
            assert!(text.starts_with(&format!("{shown} {status} text/plain")), "{version}: {text}");
        };
        refused(ask(&[version, &path]), "400");
        refused(ask(&[version, &format!("{path}?dns=!")]), "400");
        refused(ask(&[version, "-X", "PUT", &soa]), "405");
        refused(ask(&[version, &root]), "404");
        refused(ask(&[version, "--data-binary", "x", &path]), "415");
        refused(ask(&[version, "--data-binary", "x", "-H", &header, &path]), "400");
        let directory = tempfile::tempdir().expect("a directory");
        let large = directory.path().join("large");
        std::fs::write(&large, vec![0; 300_000]).expect("a file");
        let body = format!("@{}", large.display());
        refused(ask(&[version, "--data-binary", &body, "-H", &header, &path]), "413");
    }
    // Many on one connection: curl asks them one after the other, and keeps it open.
    let many: Vec<&str> = std::iter::repeat_n(soa.as_str(), 50).collect();
    let (done, text) = run(
        &curl,
        &[&["--insecure", "--silent", "--http1.1", "-w", "\n%{num_connects} %{http_code}\n"], &many[..]]
            .concat(),
    );
    assert!(done, "{text}");
    let connects = text.lines().filter_map(|line| line.strip_suffix(" 200")?.parse::<u32>().ok());
    assert_eq!(connects.collect::<Vec<_>>(), [&[1][..], &[0; 49]].concat());
}
