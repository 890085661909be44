//! What is found by browsing, bound to protocols and named by address: dnspython as a DNS-SD browser, dig and kdig.

use std::process::{Command, Stdio};

use serde_json::json;

use super::harness::Server;
use super::{needs, python, source};

/// Two services with something of each, in two domains.
fn server() -> Server {
    let server =
        Server::start(&["--domain", "service.local", "--domain", "svc.internal", "--reverse", "10.0.0.0/22"]);
    let mut client = server.client();
    for form in [
        json!({"service": "web", "id": "web-1", "address": ["10.0.0.7", "2001:db8::7"], "port": 8443, "protocol": "h2",
               "tags": ["canary"], "lease": "none"}),
        json!({"service": "web", "id": "Web, the 2nd.", "address": "10.0.0.8", "port": 8443, "protocol": "https",
               "meta": {"path": "/a b"}, "lease": "none"}),
        json!({"service": "dns", "id": "dns-1", "address": "10.0.0.7", "lease": "none",
               "ports": {"dns": {"port": 53, "transport": "udp"}, "dot": 853}}),
    ] {
        client.done("registered", &json!({"register": form}));
    }
    server
}

fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("running a program");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_browser_finds_everything() {
    let server = server();
    let label =
        server.client().list().iter().find(|it| it["id"] == "Web, the 2nd.").map(|it| it["label"].clone());
    let label = label.and_then(|label| label.as_str().map(str::to_owned)).expect("a label in the list");
    for domain in ["service.local", "svc.internal"] {
        let found = printed(
            Command::new(python())
                .arg(source("browse.py"))
                .args([
                    server.dns[0].ip().to_string(),
                    server.dns[0].port().to_string(),
                    format!("{domain}."),
                ])
                .args(["PTR:_canary._sub._web._tcp", "HTTPS:web", "SVCB:_dot._tcp.dns"])
                .args(["PTR:7.0.0.10.in-addr.arpa.", "PTR:0.0.10.in-addr.arpa."]),
        );
        // The names of addresses are in the first domain alone.
        let expected = format!(
            "b DOMAIN.\ndb DOMAIN.\nlb DOMAIN.\n\
             type _dns._tcp.DOMAIN.\n\
             instance 'dns-1' dns-1.dns.DOMAIN. 853 10.0.0.7 ['']\n\
             type _dns._udp.DOMAIN.\n\
             instance 'dns-1' dns-1.dns.DOMAIN. 53 10.0.0.7 ['']\n\
             type _web._tcp.DOMAIN.\n\
             instance 'Web, the 2nd.' {label}.web.DOMAIN. 8443 10.0.0.8 ['path=/a b']\n\
             instance 'web-1' web-1.web.DOMAIN. 8443 10.0.0.7,2001:db8::7 ['tags=canary']\n\
             records PTR:_canary._sub._web._tcp\n  web-1._web._tcp.DOMAIN.\n\
             records HTTPS:web\n\
             \x20 1 {label}.web.DOMAIN. alpn=\"http/1.1\" port=\"8443\" ipv4hint=\"10.0.0.8\"\n\
             \x20 1 web-1.web.DOMAIN. alpn=\"h2\" port=\"8443\" ipv4hint=\"10.0.0.7\" ipv6hint=\"2001:db8::7\"\n\
             records SVCB:_dot._tcp.dns\n  1 dns-1.dns.DOMAIN. port=\"853\" ipv4hint=\"10.0.0.7\"\n\
             records PTR:7.0.0.10.in-addr.arpa.\n  dns-1.dns.service.local.\n  web-1.web.service.local.\n\
             records PTR:0.0.10.in-addr.arpa.\n"
        );
        assert_eq!(found, expected.replace("DOMAIN", domain));
    }
}

#[test]
fn dig_and_kdig_read_bindings_and_reverse_names() {
    let server = server();
    let (address, port) = (format!("@{}", server.dns[0].ip()), server.dns[0].port().to_string());
    for program in [needs("dig", "bind9-dnsutils"), needs("kdig", "knot-dnsutils")] {
        let asked = |words: &[&str]| {
            let text = printed(Command::new(&program).args([&address, "-p", &port, "+short"]).args(words));
            let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(';')).collect();
            lines.sort_unstable();
            lines.join("\n").replace('"', "")
        };
        let binding = "1 web-1.web.service.local. alpn=h2 port=8443 ipv4hint=10.0.0.7 ipv6hint=2001:db8::7";
        let https = asked(&["web.service.local", "HTTPS"]);
        assert!(
            https.lines().count() == 2 && https.lines().any(|line| line == binding),
            "{program:?}: {https}"
        );
        let svcb = asked(&["_dot._tcp.dns.service.local", "SVCB"]);
        assert_eq!(svcb, "1 dns-1.dns.service.local. port=853 ipv4hint=10.0.0.7", "{program:?}");
        assert_eq!(
            asked(&["-x", "10.0.0.7"]),
            "dns-1.dns.service.local.\nweb-1.web.service.local.",
            "{program:?}"
        );
        assert_eq!(asked(&["-x", "10.0.0.9"]), "", "{program:?}");
    }
}
