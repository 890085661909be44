use anyhow::anyhow;

use super::keys::KEYS;
use super::sources::variable_of;
use super::values::SOCKET_PATH_OCTETS_MAX;
use super::*;
use crate::balance::Draws;

/// An ordinary user in an empty directory with these variables.
fn around(variables: &[(&str, &str)]) -> Surroundings {
    let own = [("XDG_RUNTIME_DIR", "/run/user/1000"), ("XDG_STATE_HOME", "/var/me/state")];
    let environment = own.iter().chain(variables).map(|(name, text)| (name.into(), text.into())).collect();
    Surroundings { environment, root: false, directory: PathBuf::from("/nowhere") }
}

fn from_file(text: &str, variables: &[(&str, &str)], flags: Vec<Setting>) -> anyhow::Result<Config> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("callsign.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), flags, &around(variables)).map_err(|error| {
        let error = format!("{error:#}");
        anyhow!(error.replace(&format!("{}/", directory.path().display()), ""))
    })
}

fn file_error(text: &str) -> String {
    from_file(text, &[], Vec::new()).unwrap_err().to_string()
}

fn flag_error(key: &'static str, text: &str) -> String {
    let flags = vec![Setting::flag(key, vec![text.to_owned()])];
    Config::load(None, flags, &around(&[])).unwrap_err().to_string()
}

fn variable_error(name: &str, text: &str) -> String {
    Config::load(None, Vec::new(), &around(&[(name, text)])).unwrap_err().to_string()
}

#[test]
fn nothing_said_is_enough() {
    let config = Config::defaults(&around(&[])).unwrap();
    assert_eq!(config.domain, [Apex::parse("service.local").unwrap()]);
    assert_eq!(config.dns, ["127.0.0.1:5300".parse().unwrap(), "[::1]:5300".parse().unwrap()]);
    assert!(config.dns_is_default && config.listen.is_empty() && config.zones.is_none());
    assert_eq!(config.socket, PathBuf::from("/run/user/1000/callsign.sock"));
    assert_eq!((config.ttl, config.known_for, config.grace), (5, Duration::from_secs(60), Duration::ZERO));
    assert_eq!((config.instances_max, config.udp_octets_loopback), (1_000_000, 1232));
}

#[test]
fn the_socket_has_a_directory_of_our_own_or_none() {
    let root = Surroundings { root: true, ..around(&[]) };
    assert_eq!(root.socket(), Some("/run/callsign/callsign.sock".into()));
    let homeless = Surroundings { environment: Vec::new(), ..around(&[]) };
    assert_eq!(homeless.socket(), None);
    let error = Config::defaults(&homeless).unwrap_err().to_string();
    assert!(error.contains("XDG_RUNTIME_DIR") && error.contains("--socket"), "{error}");
    let relative =
        Surroundings { environment: vec![("XDG_RUNTIME_DIR".into(), "run".into())], ..around(&[]) };
    assert_eq!(relative.socket(), None);
}

#[test]
fn zones_are_taken_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let here = Surroundings { directory: directory.path().to_owned(), ..around(&[]) };
    assert_eq!(Config::defaults(&here).unwrap().zones, None);
    std::fs::create_dir(directory.path().join("zones")).unwrap();
    assert_eq!(Config::defaults(&here).unwrap().zones, Some(directory.path().join("zones")));
}

#[test]
fn every_source_gives_way_to_the_next() {
    let file = "ttl = 1\nknown-for = \"1m\"\ngrace = 1\ndomain = [\"a.test\", \"b.test\"]\n";
    let variables = [("CALLSIGN_KNOWN_FOR", "2m"), ("CALLSIGN_GRACE", "2s"), ("CALLSIGN_TTL", "")];
    let flags = vec![Setting::flag("grace", vec!["3s".to_owned()])];
    let config = from_file(file, &variables, flags).unwrap();
    assert_eq!(config.ttl, 1, "an empty variable is as good as none");
    assert_eq!(config.known_for, Duration::from_secs(120));
    assert_eq!(config.grace, Duration::from_secs(3));
    // A list is replaced, not joined.
    let flags = vec![Setting::flag("domain", vec!["c.test".to_owned()])];
    assert_eq!(from_file(file, &[], flags).unwrap().domain, [Apex::parse("c.test").unwrap()]);
}

#[test]
fn what_rust_programs_log_is_the_last_word_on_it() {
    let around = [("RUST_LOG", "debug")];
    assert_eq!(from_file("", &around, vec![]).unwrap().log, "debug");
    assert_eq!(from_file("log = \"warn\"", &around, vec![]).unwrap().log, "warn");
    assert_eq!(from_file("", &[("RUST_LOG", "")], vec![]).unwrap().log, "info");
    let unfit = from_file("", &[("RUST_LOG", "callsign=loud")], vec![]).unwrap_err().to_string();
    assert!(unfit.starts_with("RUST_LOG must be a filter"), "{unfit}");
}

/// Every key that may stand beside the others.
fn every_key(directory: &str) -> [(&'static str, &str); 58] {
    [
        ("advertise", "10.0.0.1"),
        ("advertise-listen", "10.0.0.1:5301"),
        ("allow-empty", "true"),
        ("allow-loopback", "true"),
        ("allow-unauthenticated", "true"),
        ("claim-local", "true"),
        ("client-authority", "/etc/callsign/clients.pem"),
        ("confine", "none"),
        ("consul-domain", "consul"),
        ("cookie-secret", "e5e973e5a6b2a43f48e7dc849e37bfcf"),
        ("data", "/var/tmp/callsign"),
        ("datacenter", "dc2"),
        ("dns", "10.0.0.1:53"),
        ("doh", "10.0.0.1:443"),
        ("domain", "example.com"),
        ("doq", "10.0.0.1:853"),
        ("dot", "10.0.0.1:853"),
        ("forward", "192.0.2.1"),
        ("forward-allow", "10.0.0.0/8"),
        ("forward-special", "home.arpa"),
        ("forward-trust-ad", "true"),
        ("grace", "1s"),
        ("group", "65534"),
        ("history-age", "1d"),
        ("history-changes", "7"),
        ("http", "10.0.0.1:5380"),
        ("http-hosts", "consul"),
        ("https", "10.0.0.1:5443"),
        ("identity-instances-max", "7"),
        ("instances-max", "7"),
        ("known-for", "1s"),
        ("listen", "10.0.0.1:5301"),
        ("listen-tls", "10.0.0.1:5302"),
        ("dnssec-keys", "/etc/callsign/dnssec"),
        ("log", "debug"),
        ("log-format", "json"),
        ("notify", "10.0.0.2 key:secondaries"),
        ("nsid", "ns1.example.com"),
        ("probe-allow", "10.0.0.0/8"),
        ("probe-commands", "true"),
        ("query-allow", "10.0.0.0/8"),
        ("rate-limit", "20"),
        ("regions", "eu=10.1.0.0/16"),
        ("reverse", "10.0.0.0/8"),
        ("services", directory),
        ("socket", "/run/x.sock"),
        ("store", "embedded"),
        ("tls-certificate", "/etc/callsign/tls.pem"),
        ("tls-key", "/etc/callsign/tls.key"),
        ("tls-self-signed", "false"),
        ("transfer-allow", "10.0.0.0/8 key:secondaries"),
        ("tsig-keys", "/etc/callsign/secondaries.key"),
        ("ttl", "7"),
        ("udp-octets-loopback", "4096"),
        ("underscore", "hyphen"),
        ("update-allow", "10.0.0.0/8 key:dhcp"),
        ("user", "65534"),
        ("zones", directory),
    ]
}

#[test]
fn every_key_can_be_said_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let said = every_key(directory.path().to_str().unwrap());
    // What is said of etcd is a mistake beside another store, rules are one beside `allow-unauthenticated`, and what may be
    // read nonetheless is one where everything may.
    let of_etcd = [
        ("access", "allow anyone read"),
        ("confine-read", "/srv/callsign"),
        ("etcd-authority", "/etc/callsign/etcd.pem"),
        ("etcd-certificate", "/etc/callsign/node.pem"),
        ("etcd-key", "/etc/callsign/node.key"),
        ("etcd-password", "secret"),
        ("etcd-user", "callsign"),
        ("node", "a"),
        ("stale-for", "5m"),
        ("store", "etcds://10.0.0.1:2379/x"),
        ("tell-stale", "true"),
    ];
    let mut keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    keys.sort();
    let mut known: Vec<&str> = said.iter().chain(&of_etcd).map(|(key, _)| *key).collect();
    known.sort();
    known.dedup();
    assert_eq!(known, keys);
    let by_flags = said_everywhere(&said);
    assert_ne!(by_flags, Config::defaults(&around(&[])).unwrap());
    assert!(!by_flags.dns_is_default);
    let etcd = said_everywhere(&of_etcd).etcd.unwrap();
    assert_eq!((etcd.endpoints.len(), etcd.prefix.as_str()), (1, "/x/"));
    assert!(!format!("{etcd:?}").contains("secret"));
}

/// The configuration that flags, variables and a file say alike.
fn said_everywhere(said: &[(&'static str, &str)]) -> Config {
    let flags = said.iter().map(|(key, text)| Setting::flag(key, vec![(*text).to_owned()])).collect();
    let by_flags = Config::load(None, flags, &around(&[])).unwrap();
    let variables: Vec<(String, &str)> = said.iter().map(|(key, text)| (variable_of(key), *text)).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let by_variables = Config::load(None, Vec::new(), &around(&variables)).unwrap();
    let file: String = said.iter().map(|(key, text)| format!("{key} = \"{text}\"\n")).collect();
    let by_file = from_file(&file, &[], Vec::new()).unwrap();
    assert_eq!(by_flags, by_variables);
    assert_eq!(by_flags, by_file);
    by_flags
}

#[test]
fn every_key_is_in_the_documentation() {
    let page = include_str!("../../docs/configuration.md");
    let missing: Vec<&str> =
        KEYS.iter().map(|key| key.name).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn lists_of_variables_are_split_at_commas() {
    let config = Config::load(
        None,
        Vec::new(),
        &around(&[("CALLSIGN_DNS", "127.0.0.1:0, [::1]:0"), ("CALLSIGN_SERVER", "x")]),
    )
    .unwrap();
    assert_eq!(config.dns, ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]);
}

#[test]
fn complaints_name_the_place_and_the_key() {
    assert_eq!(file_error("ttl = 5\n\n  ttl = 6"), "callsign.toml:3:3: duplicate key in `ttl = 6`");
    assert_eq!(
        file_error("ttl = 301"),
        "callsign.toml:1:7: ttl must be whole seconds from 0s to 300s, not `301`"
    );
    assert_eq!(
        file_error("# größer\nlisten = [\"127.0.0.1:1\",\n  \"::1\"]"),
        "callsign.toml:3:3: listen must be an address with a port, such as [::1]:5300, not `::1`"
    );
    assert_eq!(file_error("ttl = [1, 2]"), "callsign.toml:1:11: ttl takes one value, not a list");
    assert_eq!(
        file_error("ttl = 1.5").split(", not").next(),
        Some("callsign.toml:1:7: ttl must be a text, a number, true or false, or a list of texts")
    );
    assert_eq!(
        file_error("dns = []"),
        "dns must not be an empty list; leave the key out to take the default"
    );
    assert!(file_error("ttl = ").starts_with("callsign.toml:1:"), "{}", file_error("ttl = "));
    assert!(
        file_error("[dns]\naddress = 1").contains("callsign.toml:1:"),
        "{}",
        file_error("[dns]\naddress = 1")
    );
    assert_eq!(
        variable_error("CALLSIGN_TTL", "x"),
        "CALLSIGN_TTL must be whole seconds from 0s to 300s, not `x`"
    );
    assert_eq!(flag_error("ttl", "-1"), "--ttl must be whole seconds from 0s to 300s, not `-1`");
    let missing = Config::load(Some(Path::new("/nowhere/x.toml")), Vec::new(), &around(&[])).unwrap_err();
    assert!(format!("{missing:#}").starts_with("reading /nowhere/x.toml: "), "{missing:#}");
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let error = file_error("ttl = 1\nknown_for = \"1s\"");
    assert!(
        error
            .starts_with("callsign.toml:2:1: unknown key `known_for` (did you mean `known-for`?); keys are "),
        "{error}"
    );
    assert!(!file_error("colour = 1").contains("did you mean"));
    assert_eq!(
        variable_error("CALLSIGN_DOMIAN", "x"),
        "CALLSIGN_DOMIAN: unknown variable (did you mean `CALLSIGN_DOMAIN`?)"
    );
    assert_eq!(
        variable_error("CALLSIGN_ttl", "1"),
        "CALLSIGN_ttl: unknown variable (did you mean `CALLSIGN_TTL`?)"
    );
    assert!(!variable_error("CALLSIGN_\x1b[2J", "1").contains('\x1b'));
}

#[test]
fn rules_say_what_to_write() {
    for (key, text, rule) in [
        ("domain", "a..b", "empty"),
        ("domain", ".", "must not be empty"),
        ("consul-domain", "a..b", "empty"),
        ("consul-domain", "service.local", "must be neither the domain service.local."),
        ("consul-domain", "local", "nor above or below it"),
        ("consul-domain", "x.service.local", "nor above or below it"),
        ("datacenter", "a.b", "letters, digits"),
        ("dns", "localhost", "such as 127.0.0.1:5300"),
        ("http", "nono", "such as 127.0.0.1:5380 or [::1]:5380, not `nono`; `none` is nowhere"),
        ("dns", "10.0.0.1", "such as 10.0.0.1:5300"),
        ("socket", "", "not empty"),
        ("zones", "/nowhere", "must be a directory"),
        ("data", "", "must be a path"),
        ("history-age", "9999d", "at most 3650d"),
        ("history-changes", "-1", "from 0"),
        ("store", "etcd://127.0.0.1:x", "each member of etcd as HOST:PORT"),
        ("store", "etcd://", "each member of etcd as HOST:PORT"),
        ("store", "etcd://a b", "each member of etcd as HOST:PORT"),
        ("store", "etcd://a/ü", "printable ASCII"),
        ("store", "redis", "must be `embedded`, `memory` or `etcd://"),
        ("node", "a", "is for a store on etcd"),
        ("node", "a/b", "must be letters"),
        ("advertise", "0.0.0.0", "that other machines ask"),
        ("advertise-listen", "0.0.0.0:5301", "that other machines connect to"),
        ("advertise-listen", "10.0.0.1:0", "that other machines connect to"),
        ("advertise-listen", "10.0.0.1:5301", "needs `listen`"),
        ("stale-for", "5m", "is for a store on etcd"),
        ("advertise", "ns.example.com", "without a port"),
        ("known-for", "1w", "such as 500ms"),
        ("known-for", "25h", "at most 24h"),
        ("grace", "61s", "at most 60s"),
        ("instances-max", "0", "from 1 on"),
        ("udp-octets-loopback", "511", "from 512 to 65507"),
        ("allow-loopback", "yes", "true or false"),
        ("log", "callsign=loud", "must be a filter"),
        ("log", "warning", "`warning` is none of error, warn, info, debug, trace, off"),
        ("log", "info, callsign", "`callsign` is none of"),
        ("log-format", "xml", "must be auto, text, json or journald"),
        ("rate-limit", "100001", "from 0 to 100000"),
        ("nsid", "", "1 to 128 octets"),
        ("nsid", "a\u{1b}[2J", "without control characters"),
        ("tsig-keys", "", "must be a path"),
        ("dnssec-keys", "", "must be a path"),
        ("transfer-allow", "", "a network such as 10.0.0.0/8, a key such as key:secondaries, or both"),
        ("transfer-allow", "secondaries", "must be a network such as 10.0.0.0/8"),
        ("transfer-allow", "10.0.0.0/8 10.1.0.0/16", "one network, one key, or one of each"),
        ("transfer-allow", "key:", "must name a key as key:NAME"),
        ("update-allow", "10.0.0.0/8", "must name a key, such as key:dhcp"),
        ("notify", "ns2.example.com", "must be the address of a secondary"),
        ("notify", "10.0.0.2 secondaries", "must name a key as key:NAME"),
        ("cookie-secret", "e5e973e5a6b2a43f48e7dc849e37bfc", "must be 32 hexadecimal digits"),
        ("cookie-secret", "+5e973e5a6b2a43f48e7dc849e37bfcf", "must be 32 hexadecimal digits"),
        ("probe-allow", "10.0.0.0/33", "such as 10.0.0.0/8"),
        ("probe-allow", "10.0.0.7/8", "such as 10.0.0.0/8"),
        ("probe-commands", "yes", "true or false"),
        ("confine", "all", "must be `files` or `none`"),
        ("confine-read", "", "must be a path"),
        ("regions", "10.1.0.0/16", "such as eu=10.1.0.0/16"),
        ("regions", "e u=10.1.0.0/16", "such as eu=10.1.0.0/16"),
        ("regions", "eu=10.1.0.1/16", "such as 10.1.0.0/16"),
        ("reverse", "10.0.0.7/8", "such as 10.0.0.0/8"),
        ("reverse", "0.0.10.in-addr.arpa", "such as 10.0.0.0/8"),
        ("forward", "ns.example.com", "must be `system` or the address of a name server"),
        ("forward", "0.0.0.0", "the address of one server"),
        ("forward", "192.0.2.1:0", "the address of one server"),
        ("forward-allow", "10.0.0.7/8", "such as 10.0.0.0/8"),
        ("forward-special", "x.localhost", "answered here"),
        ("forward-special", "a..b", "must be a name"),
        ("claim-local", "yes", "true or false"),
    ] {
        let error = flag_error(key, text);
        assert!(error.starts_with(&format!("--{key} ")) && error.contains(rule), "{error}");
    }
    let long = flag_error("socket", &format!("/{}", "x".repeat(SOCKET_PATH_OCTETS_MAX)));
    assert!(long.contains("at most 107 octets, not 108"), "{long}");
}

#[test]
fn a_secret_is_in_no_complaint() {
    let secrets = ["e5e973e5a6b2a43f48e7dc849e37bfcf"; 3].map(str::to_owned);
    let load = |count: usize| {
        let flag = Setting::flag("cookie-secret", secrets[..count].to_vec());
        Config::load(None, vec![flag], &around(&[]))
    };
    let config = load(2).unwrap();
    assert_eq!(config.cookie_secret.len(), 2);
    assert!(!format!("{config:?}").contains("e5"), "{config:?}");
    let too_many = load(3).unwrap_err().to_string();
    assert!(too_many.starts_with("--cookie-secret is one too many"), "{too_many}");
    for complaint in [too_many, flag_error("cookie-secret", &secrets[0][1..])] {
        assert!(!complaint.contains("973e"), "{complaint}");
    }
}

#[test]
fn encrypted_listeners_have_a_certificate() {
    let read = |texts: &[(&'static str, &str)]| {
        let flags = texts.iter().map(|(key, text)| Setting::flag(key, vec![(*text).to_owned()]));
        Config::load(None, flags.collect(), &around(&[]))
    };
    for key in ["dot", "doh", "doq"] {
        let error = read(&[(key, "127.0.0.1:8853")]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("--{key} 127.0.0.1:8853 needs a certificate")), "{error}");
        assert!(error.contains("--tls-self-signed"), "{error}");
        let made = read(&[(key, "127.0.0.1:8853"), ("tls-self-signed", "true")]).unwrap();
        assert_eq!(made.certificate, Some(CertificateChoice::SelfSigned));
    }
    let files = [("dot", "127.0.0.1:8853"), ("tls-certificate", "/c"), ("tls-key", "/k")];
    let named = CertificateChoice::Files { certificate: "/c".into(), key: "/k".into() };
    assert_eq!(read(&files).unwrap().certificate, Some(named));
    for (texts, rule) in [
        (&files[..2], "--tls-certificate needs its key"),
        (&[files[0], files[2]], "--tls-key needs its certificate"),
        (&[&files[..], &[("tls-self-signed", "true")]].concat(), "leave one of them out"),
    ] {
        let error = read(texts).unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
    }
}

#[test]
fn upstreams_are_addresses_with_or_without_a_port() {
    let texts =
        ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:5353", "system"];
    let flags = vec![Setting::flag("forward", texts.map(str::to_owned).to_vec())];
    let config = Config::load(None, flags.clone(), &around(&[]));
    assert!(config.unwrap_err().to_string().contains("twice"), "with and without brackets it is one address");
    let flags =
        vec![Setting::flag("forward", [0, 1, 3, 4, 5].map(|at: usize| texts[at].to_owned()).to_vec())];
    let config = Config::load(None, flags, &around(&[])).unwrap();
    let server = |text: &str| Source::Server(text.parse().unwrap());
    assert_eq!(
        config.forward,
        [
            server("192.0.2.1:53"),
            server("192.0.2.1:5353"),
            server("[2001:db8::1]:53"),
            server("[2001:db8::1]:5353"),
            Source::System
        ]
    );
    let default: Vec<String> = config.forward_allow.iter().map(IpNet::to_string).collect();
    assert_eq!(default, ["127.0.0.0/8", "::1/128"]);
    let many = (1..=9).map(|number| format!("192.0.2.{number}")).collect();
    let error = Config::load(None, vec![Setting::flag("forward", many)], &around(&[])).unwrap_err();
    assert!(error.to_string().starts_with("--forward is one more server than 8"), "{error}");
}

#[test]
fn a_list_holds_nothing_twice_but_free_ports() {
    let flags = |texts: [&str; 2]| vec![Setting::flag("dns", texts.map(str::to_owned).to_vec())];
    let error = Config::load(None, flags(["127.0.0.1:53", "127.0.0.1:53"]), &around(&[])).unwrap_err();
    assert_eq!(error.to_string(), "--dns names `127.0.0.1:53` twice");
    assert_eq!(Config::load(None, flags(["127.0.0.1:0", "127.0.0.1:0"]), &around(&[])).unwrap().dns.len(), 2);
}

#[test]
fn networks_with_names_are_counted() {
    let flags = |count: u8| {
        let networks = (0..count).map(|network| format!("10.{network}.0.0/16")).collect();
        vec![Setting::flag("reverse", networks)]
    };
    assert_eq!(Config::load(None, flags(64), &around(&[])).unwrap().reverse.len(), 64);
    let error = Config::load(None, flags(65), &around(&[])).unwrap_err().to_string();
    assert_eq!(error, "--reverse 10.64.0.0/16 is one network too many; there may be 64");
    let regions = (0..65).map(|network| format!("eu=10.{network}.0.0/16")).collect();
    let error = Config::load(None, vec![Setting::flag("regions", regions)], &around(&[])).unwrap_err();
    assert_eq!(error.to_string(), "--regions eu=10.64.0.0/16 is one network too many; there may be 64");
}

#[test]
fn an_open_listener_has_to_be_asked_for_by_name() {
    for open in ["0.0.0.0:5301", "[::]:5301", "10.0.0.1:5301", "[::ffff:10.0.0.1]:5301"] {
        let error = flag_error("listen", open);
        assert!(error.contains("no authentication") && error.contains("allow-unauthenticated"), "{error}");
        let flags = vec![
            Setting::flag("listen", vec![open.to_owned()]),
            Setting::flag("allow-unauthenticated", vec!["true".to_owned()]),
        ];
        assert!(Config::load(None, flags, &around(&[])).is_ok());
    }
    for closed in ["127.0.0.1:5301", "127.9.9.9:5301", "[::1]:5301", "[::ffff:127.0.0.1]:5301"] {
        let flags = vec![Setting::flag("listen", vec![closed.to_owned()])];
        assert!(Config::load(None, flags, &around(&[])).is_ok(), "{closed}");
    }
}

#[test]
fn no_file_that_was_spoilt_does_harm() {
    const FILES: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let said = every_key(directory.path().to_str().unwrap());
    let whole: String = said.iter().map(|(key, text)| format!("{key} = \"{text}\"\n")).collect();
    let mut draws = Draws::new(700_000);
    let mut taken = 0;
    for _ in 0..FILES {
        let mut text = whole.clone();
        for _ in 0..=draws.below(3) {
            text = spoilt(&text, &mut draws);
        }
        let Err(error) = from_file(&text, &[], Vec::new()) else {
            taken += 1;
            continue;
        };
        // The place in the file, or by their names the keys that do not go together.
        let error = error.to_string();
        let place =
            error.strip_prefix("callsign.toml:").and_then(|rest| rest.split(':').next()?.parse().ok());
        let named = KEYS.iter().any(|key| error.contains(key.name));
        assert!(place.map_or(named, |line: usize| (1..=text.lines().count() + 1).contains(&line)), "{error}");
    }
    assert!((FILES / 50..FILES).contains(&taken), "{taken} of {FILES} were taken");
}

/// A configuration with one edit that its author did not mean.
fn spoilt(text: &str, draws: &mut Draws) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = draws.below(lines.len());
    let mut letters: Vec<char> = lines[at].chars().collect();
    let place = draws.below(letters.len() + 1);
    match draws.below(6) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[draws.below(lines.len())].clone()),
        2 => {
            // Another key's value.
            let other = lines[draws.below(lines.len())].clone();
            let value = other.split_once('=').map_or("", |(_, value)| value);
            lines[at] = format!("{}={value}", lines[at].split('=').next().unwrap_or_default());
        }
        3 => lines[at] = letters.drain(..place).collect(),
        4 => {
            letters.insert(
                place,
                ['"', '=', '[', ']', '\n', '#', '-', '0', '\u{1b}', 'é', '\0'][draws.below(11)],
            );
            lines[at] = letters.into_iter().collect();
        }
        _ => {
            if !letters.is_empty() {
                let place = draws.below(letters.len());
                letters[place] = char::from(draws.below(128) as u8);
            }
            lines[at] = letters.into_iter().collect();
        }
    }
    lines.push(String::new()); // which ends the last line
    lines.join("\n")
}
