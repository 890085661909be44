//! EDNS as programs see it: dig and kdig check our cookies and read our name, and who is limited still gets his answer.

use super::{Net, id, needs, v4};

/// An address that is not loopback's, in the server's namespace: loopback is not limited.
const OTHERS: &str = "192.0.2.1";

/// One answer a second.
fn limited() -> Net {
    let address = format!("ip address add {OTHERS}/32 dev lo");
    let dns = format!("{OTHERS}:53");
    Net::with(&address, &["--dns", &dns, "--rate-limit", "1", "--nsid", "ns1.example.com"])
}

/// What stands behind `label` in the only line that has it.
fn after<'a>(text: &'a str, label: &str) -> &'a str {
    let mut found = text.lines().filter_map(|line| line.split_once(label));
    let (_, rest) = found.next().unwrap_or_else(|| panic!("no `{label}` in\n{text}"));
    assert!(found.next().is_none(), "`{label}` twice in\n{text}");
    rest.trim()
}

#[test]
fn dig_and_kdig_check_our_cookies_and_know_our_name() {
    let net = Net::with("true", &["--nsid", "ns1.example.com"]);
    let (dig, kdig) = (needs("dig", "bind9-dnsutils"), needs("kdig", "knot-dnsutils"));
    let name = "one.service.local";
    let text = net.run(&dig, &["+cookie", "+nsid", "+tries=1", name, "A"]);
    let cookie = after(&text, "COOKIE: ").strip_suffix(" (good)").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(cookie.len(), 48, "{text}");
    assert!(after(&text, "NSID: ").ends_with("(\"ns1.example.com\")"), "{text}");
    // It is given back as it is, to every program, over either transport.
    let given = format!("+cookie={cookie}");
    let text = net.run(&dig, &[&given, "+tcp", "+keepalive", "+tries=1", name, "A"]);
    assert_eq!(after(&text, "COOKIE: "), format!("{cookie} (good)"));
    assert_eq!(after(&text, "KEEPALIVE: "), "10.0 secs");
    let text = net.run(&kdig, &[&given, "+nsid", "+retry=0", name, "A"]);
    assert_eq!(after(&text, "COOKIE: "), cookie.to_uppercase());
    assert!(after(&text, "NSID: ").ends_with("\"ns1.example.com\""), "{text}");
    // What BIND's own tools ask besides.
    assert_eq!(net.run(&dig, &["CH", "TXT", "id.server", "+short"]).trim(), "\"ns1.example.com\"");
    let text = net.run(&dig, &["+subnet=0", "+tries=1", name, "A"]);
    assert!(after(&text, "status: ").starts_with("NOERROR"), "{text}");
    let text = net.run(&needs("delv", "bind9-dnsutils"), &["-i", "@127.0.0.1", name, "A"]);
    assert!(text.contains(&v4("one", 1)), "{text}");
    let srv =
        net.run(&needs("delv", "bind9-dnsutils"), &["-i", "@127.0.0.1", "_one._tcp.service.local", "SRV"]);
    assert!(srv.contains(&id("one", 1)), "{srv}");
}

#[test]
fn who_is_limited_still_gets_his_answer() {
    let net = limited();
    let dig = needs("dig", "bind9-dnsutils");
    let at = format!("@{OTHERS}");
    let asked = |words: &[&str], times: usize| {
        let name = ["one.service.local", "A"];
        let queries: Vec<&str> = (0..times).flat_map(|_| name).collect();
        net.run(&dig, &[&[&at, "+timeout=1", "+tries=4"], words, &queries].concat())
    };
    // Who takes what comes sees that it was cut; nobody is told anything else.
    let text = asked(&["+nocookie", "+ignore"], 10);
    let (cut, whole) = (text.matches(" tc ").count(), text.matches("ANSWER: 1,").count());
    assert!(cut > 0 && cut + whole == 10, "{cut} cut, {whole} whole\n{text}");
    // By a cookie, and over TCP.
    for words in [&["+short"][..], &["+short", "+nocookie"]] {
        let text = asked(words, 10);
        let answers = text.lines().filter(|line| *line == v4("one", 1)).count();
        assert_eq!(answers, 10, "{words:?}\n{text}");
    }
    let url = format!("http://{}/metrics", net.server.http[0]);
    let metrics = net.run(&needs("curl", "curl"), &["--silent", "--fail", &url]);
    let slipped: f64 = after(&metrics, "callsign_limited_replies_total{fate=\"slipped\"}").parse().unwrap();
    assert!(slipped >= cut as f64, "{slipped} slipped, {cut} seen");
    // This machine is never limited.
    let text = net.run(&dig, &[&["+short"][..], &["one.service.local", "A"].repeat(30)].concat());
    assert_eq!(text.lines().filter(|line| *line == v4("one", 1)).count(), 30, "{text}");
}
