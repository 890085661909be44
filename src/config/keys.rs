//! Every key of the configuration: in the file as it is written here, `CALLSIGN_KNOWN_FOR` in the environment,
//! `--known-for` as a flag. A new key is a line here, one in `Given::config`, and one in `docs/configuration.md`.

/// A key, and how its flag is explained.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub takes: Takes,
    /// What stands for a value in `--help`; empty for a switch.
    pub value: &'static str,
    /// The line of `--help`, with the default.
    pub help: &'static str,
}

/// How many values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    One,
    Several,
    /// A list that may be empty: there is none then.
    Any,
    /// True or false; the flag alone is true.
    Switch,
}

use Takes::{Any, One, Several, Switch};

const fn key(name: &'static str, takes: Takes, value: &'static str, help: &'static str) -> Key {
    Key { name, takes, value, help }
}

/// In the order in which `--help` tells them.
pub const KEYS: &[Key] = &[
    key("domain", Several, "NAME", "A domain to serve the registry under [default: service.local]"),
    key(
        "consul-domain",
        One,
        "NAME",
        "A domain to serve the same registry under as Consul spells names, such as consul [default: none]",
    ),
    key(
        "dns",
        Several,
        "ADDR:PORT",
        "Where to answer DNS, over UDP and TCP [default: 127.0.0.1:5300 and [::1]:5300]",
    ),
    key("dot", Any, "ADDR:PORT", "Answer DNS over TLS here as well, usually on port 853"),
    key("doh", Any, "ADDR:PORT", "Answer DNS over HTTPS here as well, usually on port 443, at /dns-query"),
    key("doq", Any, "ADDR:PORT", "Answer DNS over QUIC here as well, usually on port 853"),
    key(
        "tls-certificate",
        One,
        "FILE",
        "The certificate of all that is encrypted, with its chain, in PEM form",
    ),
    key("tls-key", One, "FILE", "Its private key, in PEM form"),
    key("tls-self-signed", Switch, "", "Make a certificate at the start instead, for a first try"),
    key(
        "socket",
        One,
        "PATH",
        "The registration socket [default: $XDG_RUNTIME_DIR/callsign.sock; /run/callsign/callsign.sock for root]",
    ),
    key("user", One, "NAME", "Become this user once the sockets are bound [default: nobody else]"),
    key("group", One, "NAME", "And this group, whose members may register [default: the user's own]"),
    key("listen", Any, "ADDR:PORT", "Take registrations over TCP as well"),
    key("listen-tls", Any, "ADDR:PORT", "Take registrations over TLS 1.3 as well"),
    key(
        "http",
        Any,
        "ADDR:PORT",
        "Serve Consul's HTTP API, watching and discovery here; `none` for nowhere [default: 127.0.0.1:5380]",
    ),
    key("https", Any, "ADDR:PORT", "Serve the same over TLS 1.3 here as well"),
    key(
        "client-authority",
        One,
        "FILE",
        "Who signs certificates that clients show on both, in PEM form; their names are identities in --access [default: nobody]",
    ),
    key("http-hosts", Any, "NAME", "A name that clients may call the HTTP port by, such as consul"),
    key(
        "datacenter",
        One,
        "NAME",
        "What Consul's clients are told where they are, in names too [default: dc1]",
    ),
    key(
        "underscore",
        One,
        "WORD",
        "What becomes of `_` in a service's name over Consul's API, refuse or hyphen [default: refuse]",
    ),
    key(
        "allow-unauthenticated",
        Switch,
        "",
        "Let --listen and --http be an address that other machines reach, where anybody may then register",
    ),
    key(
        "access",
        Several,
        "RULE",
        "Who may do what, such as `allow uid:1000 register:web*`; with one rule, nothing else is allowed but to root and the server's own user [default: this machine is trusted]",
    ),
    key(
        "zones",
        One,
        "DIR",
        "A directory of zone files to serve beside the registry [default: ./zones when it is there]",
    ),
    key(
        "services",
        One,
        "DIR",
        "A directory of files that say what is registered, in TOML or as Consul's JSON",
    ),
    key(
        "allow-empty",
        Switch,
        "",
        "Let files of it that go away together leave a service without a live instance",
    ),
    key(
        "store",
        One,
        "STORE",
        "Where the registry is kept: embedded, memory, or etcd://HOST:PORT,…[/PREFIX] for several nodes, etcds:// with TLS [default: embedded]",
    ),
    key("node", One, "NAME", "What this node is called among the others on etcd [default: the host's name]"),
    key(
        "etcd-authority",
        One,
        "FILE",
        "Whose certificates etcd may show, in PEM form [default: the machine's]",
    ),
    key("etcd-certificate", One, "FILE", "The certificate that this node shows to etcd, in PEM form"),
    key("etcd-key", One, "FILE", "Its private key, in PEM form"),
    key("etcd-user", One, "NAME", "The user that this node is to etcd"),
    key(
        "etcd-password",
        One,
        "WORD",
        "The user's password; better in the configuration's file than in a flag",
    ),
    key(
        "data",
        One,
        "DIR",
        "The directory of the embedded store [default: $XDG_STATE_HOME/callsign; /var/lib/callsign for root]",
    ),
    key("history-changes", One, "N", "How many changes the log keeps [default: 100000]"),
    key("history-age", One, "TIME", "How long the log keeps them [default: 7d]"),
    key(
        "advertise",
        One,
        "ADDR",
        "The address of this server in the zone's own records [default: the first one bound]",
    ),
    key(
        "advertise-listen",
        One,
        "ADDR:PORT",
        "Where other machines reach --listen, for _callsign._tcp [default: the first one bound]",
    ),
    key(
        "stale-for",
        One,
        "TIME",
        "How long answers go on while etcd cannot be followed; then SERVFAIL [default: for ever]",
    ),
    key("tell-stale", Switch, "", "Mark answers with the Extended DNS Error Stale Answer while that is so"),
    key(
        "reverse",
        Any,
        "NETWORK",
        "Answer PTR for addresses in this network, such as 10.0.0.0/8 [default: none]",
    ),
    key(
        "regions",
        Any,
        "NAME=NETWORK",
        "The region of a network, such as eu=10.1.0.0/16, for services whose balance is nearest",
    ),
    key("ttl", One, "TIME", "How long a resolver may keep an answer, up to 300s [default: 5s]"),
    key(
        "known-for",
        One,
        "TIME",
        "How long a service stays known after its last instance left [default: 60s]",
    ),
    key("instances-max", One, "N", "How many instances may be registered at once [default: 1000000]"),
    key(
        "identity-instances-max",
        One,
        "N",
        "How many of them one identity may have registered that is no administrator [default: 10000]",
    ),
    key("allow-loopback", Switch, "", "Register loopback addresses though DNS is answered to other machines"),
    key(
        "udp-octets-loopback",
        One,
        "OCTETS",
        "Cap of a UDP answer to a client on this machine, 512 to 65507 [default: 1232]",
    ),
    key(
        "rate-limit",
        One,
        "N",
        "How many replies a second of one answer go to one network over UDP, 1 to 100000; 0 for any number [default: 0]",
    ),
    key(
        "nsid",
        One,
        "NAME",
        "The name of this server, for who asks for it: NSID, and id.server of class CHAOS [default: none]",
    ),
    key(
        "cookie-secret",
        Several,
        "HEX",
        "32 hexadecimal digits that DNS cookies are made with, and before a change those of the other one too [default: drawn at start]",
    ),
    key("query-allow", Several, "NETWORK", "Who may ask over DNS [default: everybody]"),
    key(
        "tsig-keys",
        Any,
        "FILE",
        "A file of keys that DNS messages are signed with, as `tsig-keygen` writes it",
    ),
    key(
        "dnssec-keys",
        One,
        "DIR",
        "The folder of the keys that zones are signed with, made by `callsign dnssec init` [default: dnssec in the data directory]",
    ),
    key(
        "transfer-allow",
        Any,
        "WHO",
        "Who may have whole zones: a network, key:NAME, or both [default: this machine, 127.0.0.0/8 and ::1]",
    ),
    key(
        "update-allow",
        Any,
        "WHO",
        "Who may change the live zone by UPDATE: key:NAME, or a network and key:NAME [default: nobody]",
    ),
    key(
        "notify",
        Any,
        "ADDR[:PORT]",
        "A secondary that is told of changes, and perhaps the key to sign with: `192.0.2.1 key:NAME`",
    ),
    key(
        "forward",
        Any,
        "SERVER",
        "Ask this server for names that are not ours, an address or `system` for those of /etc/resolv.conf",
    ),
    key(
        "forward-allow",
        Several,
        "NETWORK",
        "Who may have names forwarded [default: this machine, 127.0.0.0/8 and ::1]",
    ),
    key(
        "forward-special",
        Any,
        "NAME",
        "Forward names of special use at or below this one, such as home.arpa or 10.in-addr.arpa",
    ),
    key("forward-trust-ad", Switch, "", "Believe what upstreams on other machines say of DNSSEC validation"),
    key("claim-local", Switch, "", "Answer `local. SOA`, which takes .local from multicast DNS on clients"),
    key("log", One, "FILTER", "What to log, such as info or callsign=debug [default: RUST_LOG, or info]"),
    key(
        "log-format",
        One,
        "FORM",
        "How to log: text, json, journald, or auto for journald where stderr leads there and else text [default: auto]",
    ),
    key("grace", One, "TIME", "How long DNS is still answered after SIGTERM, at most 60s [default: 0s]"),
    key(
        "probe-allow",
        Any,
        "NETWORK",
        "Let checks be probed there too, beside their instance's own addresses and loopback",
    ),
    key("probe-commands", Switch, "", "Let checks run programs of this machine"),
    key(
        "confine",
        One,
        "WHAT",
        "What to give up after the start, where the kernel has Landlock: `files` that are not needed, or `none` [default: files]",
    ),
    key("confine-read", Any, "PATH", "Read there too, though `confine` would not let us"),
];
