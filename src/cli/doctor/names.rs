//! The files that decide where a program's question goes: nsswitch.conf, mdns.allow, resolv.conf, hosts, and
//! systemd-resolved's own. Pure: texts in, findings out; the format of each is its manual page's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use callsign::name::{Apex, Name};

use super::{Finding, bare};

/// What glibc and musl read of resolv.conf; the rest is ignored without a word.
const NAMESERVERS_MAX: usize = 3;
/// glibc takes no more (resolv.conf(5)).
const NDOTS_MAX: usize = 15;
/// Dots of `web` in front of a domain: what `ndots` is held against.
const DOTS_BEFORE: usize = 1;
/// Where systemd-resolved listens for programs that read resolv.conf.
pub const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

// -- nsswitch.conf ------------------------------------------------------------------------------------------------

/// One word of the `hosts` line, and the actions behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    /// `NOTFOUND=return`, upper case on the left and lower case on the right.
    pub actions: Vec<String>,
}

/// The `hosts` line; where there is none, what glibc does then.
pub fn sources(nsswitch: Option<&str>) -> Vec<Source> {
    let lines = nsswitch.unwrap_or_default().lines().map(|line| line.split('#').next().unwrap_or_default());
    let hosts = lines.filter_map(|line| line.trim_start().strip_prefix("hosts:")).next();
    // `[!UNAVAIL=return]` may hold blanks, and may touch the word before it.
    let line = hosts.unwrap_or("files dns").replace('[', " [ ").replace(']', " ] ");
    let mut sources: Vec<Source> = Vec::new();
    let mut inside = false;
    for word in line.split_whitespace() {
        match (word, sources.last_mut()) {
            ("[", _) => inside = true,
            ("]", _) => inside = false,
            (action, Some(source)) if inside => {
                let (status, what) = action.split_once('=').unwrap_or((action, ""));
                source.actions.push(format!("{}={}", status.to_uppercase(), what.to_lowercase()));
            }
            (_, None) if inside => {}
            (name, _) => sources.push(Source { name: name.to_owned(), actions: Vec::new() }),
        }
    }
    sources
}

/// Whether programs come to DNS at all with a name in `domain`, and what mDNS does on the way.
///
/// nss-mdns takes a name in `.local` of exactly two labels; its larger modules take what mdns.allow lists instead,
/// where that file is there (nss-mdns, README, "mdns.allow").
pub fn nsswitch(nsswitch: Option<&str>, allow: Option<&str>, domain: &Apex) -> Finding {
    let sources = sources(nsswitch);
    let shown: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let line = shown.join(" ");
    let Some(dns) = sources.iter().position(|source| source.name == "dns" || source.name == "resolve") else {
        return Finding::wrong(
            "nsswitch",
            format!("the line `hosts: {line}` in /etc/nsswitch.conf does not name dns"),
            "programs that use getaddrinfo never ask a nameserver".to_owned(),
            "put `dns` at the end of that line".to_owned(),
        );
    };
    let taken = sources[..dns].iter().find(|source| takes(source, allow, domain));
    match taken {
        None => Finding::fine("nsswitch", format!("`hosts: {line}` comes to DNS with {}", example(domain))),
        Some(source) => {
            let name = &source.name;
            let (what, mend) = match allow {
                Some(_) if !name.ends_with("_minimal") => (
                    format!(
                        "/etc/mdns.allow lets {name} take every name that it lists, {} too",
                        example(domain)
                    ),
                    "remove /etc/mdns.allow, or take .local and * out of it".to_owned(),
                ),
                _ => (
                    format!("{name} takes {}, which has two labels and ends in .local", example(domain)),
                    "serve a domain of two labels or more, such as service.local or svc.internal".to_owned(),
                ),
            };
            if source.actions.iter().any(|action| action == "NOTFOUND=return") {
                let why = format!("`{name} [NOTFOUND=return]` ends the search there: DNS is never asked");
                Finding::wrong("nsswitch", what, why, mend)
            } else {
                let why = "every lookup waits for multicast to time out before DNS is asked".to_owned();
                Finding::advice("nsswitch", what, why, mend)
            }
        }
    }
}

/// Does this source answer for `web.<domain>` by multicast?
fn takes(source: &Source, allow: Option<&str>, domain: &Apex) -> bool {
    let two_labels = bare(domain) == "local";
    match (source.name.as_str(), allow) {
        ("mdns_minimal" | "mdns4_minimal" | "mdns6_minimal", _) => two_labels,
        ("mdns" | "mdns4" | "mdns6", None) => two_labels,
        ("mdns" | "mdns4" | "mdns6", Some(list)) => {
            let words = list.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
            words.filter(|word| !word.is_empty()).any(|word| {
                let suffix = word.trim_matches('.');
                word == "*" || Name::parse(suffix).is_ok_and(|above| domain.name().is_within(&above))
            })
        }
        _ => false,
    }
}

fn example(domain: &Apex) -> String {
    format!("web.{}", bare(domain))
}

// -- resolv.conf --------------------------------------------------------------------------------------------------

/// What the libc takes from resolv.conf.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<IpAddr>,
    /// Nameservers beyond the third, and words that are no address.
    pub unread: Vec<String>,
    pub search: Vec<String>,
    pub ndots: usize,
}

impl ResolvConf {
    /// Without a nameserver there is one: the machine itself (resolv.conf(5)).
    pub fn parse(text: Option<&str>) -> Self {
        let mut conf = Self { ndots: 1, ..Self::default() };
        for line in text.unwrap_or_default().lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameserver(words.next().unwrap_or_default()),
                // The last of them holds.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse::<usize>().ok());
                    for ndots in ndots {
                        conf.ndots = ndots.min(NDOTS_MAX);
                    }
                }
                _ => {}
            }
        }
        if conf.nameservers.is_empty() {
            conf.nameservers.push(Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    fn nameserver(&mut self, word: &str) {
        match word.parse() {
            Ok(address) if self.nameservers.len() < NAMESERVERS_MAX => self.nameservers.push(address),
            _ => self.unread.push(word.to_owned()),
        }
    }

    /// What resolv.conf says beside its nameservers.
    pub fn findings(&self, domain: &Apex) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.unread.is_empty() {
            findings.push(Finding::advice(
                "resolv.conf",
                format!("{} in /etc/resolv.conf is not read", self.unread.join(", ")),
                format!("the C library reads {NAMESERVERS_MAX} nameservers, and addresses alone"),
                "take the line out, so that nobody counts on it".to_owned(),
            ));
        }
        let dots = DOTS_BEFORE + domain.name().labels().count() - 1;
        if self.ndots > dots && !self.search.is_empty() {
            findings.push(Finding::advice(
                "resolv.conf",
                format!("`options ndots:{}`, and {} has {dots} dots", self.ndots, example(domain)),
                format!(
                    "every lookup first asks for {} names that are not there, such as {}.{}",
                    self.search.len(),
                    example(domain),
                    self.search[0]
                ),
                format!(
                    "write `options ndots:{dots}`, or ask for `{}.` with a dot at the end",
                    example(domain)
                ),
            ));
        }
        let searched = self.search.iter().any(|name| name.trim_end_matches('.') == bare(domain));
        if findings.is_empty() {
            let short = match searched {
                true => "`web` alone is found too".to_owned(),
                false => format!("`web` alone is found once it says `search {}`", bare(domain)),
            };
            findings.push(Finding::fine("resolv.conf", format!("ndots:{}; {short}", self.ndots)));
        }
        findings
    }
}

// -- /etc/hosts ---------------------------------------------------------------------------------------------------

/// Names of the domain that a file answers before DNS is asked.
pub fn hosts(text: Option<&str>, domain: &Apex) -> Option<Finding> {
    let lines = text.unwrap_or_default().lines().map(|line| line.split('#').next().unwrap_or_default());
    let names = lines.flat_map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>());
    let ours = |name: &String| Name::parse(name).is_ok_and(|name| name.is_within(domain.name()));
    let found: Vec<String> = names.filter(ours).collect();
    (!found.is_empty()).then(|| {
        Finding::advice(
            "hosts",
            format!("/etc/hosts has {}", found.join(", ")),
            "programs on this machine get what the file says, whatever is registered".to_owned(),
            "take the names out of /etc/hosts".to_owned(),
        )
    })
}

// -- systemd-resolved ---------------------------------------------------------------------------------------------

/// The global part of systemd-resolved's configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResolvedConf {
    /// Server and the file that names it.
    pub servers: Vec<(String, String)>,
    pub domains: Vec<String>,
}

impl ResolvedConf {
    /// Files in the order in which they are read; lists grow, and an empty value empties them (resolved.conf(5)).
    pub fn parse(files: &[(String, String)]) -> Self {
        let mut conf = Self::default();
        for (path, text) in files {
            let mut section = "";
            for line in text.lines().map(str::trim) {
                if line.starts_with('[') {
                    section = line;
                }
                let Some((key, value)) = line.split_once('=').filter(|_| section == "[Resolve]") else {
                    continue;
                };
                let words: Vec<String> = value.split_whitespace().map(str::to_owned).collect();
                match (key.trim(), words.is_empty()) {
                    ("DNS", true) => conf.servers.clear(),
                    ("DNS", false) => conf.servers.extend(words.into_iter().map(|word| (word, path.clone()))),
                    ("Domains", true) => conf.domains.clear(),
                    ("Domains", false) => conf.domains.extend(words),
                    _ => {}
                }
            }
        }
        conf
    }

    /// Does it send names in `domain` to the global servers?
    fn routes(&self, domain: &Apex) -> bool {
        let above = |word: &String| {
            let name = word.trim_start_matches('~').trim_end_matches('.');
            name.is_empty() || Name::parse(name).is_ok_and(|above| domain.name().is_within(&above))
        };
        self.domains.iter().any(above)
    }

    /// Global servers that are not ours.
    fn others(&self, ours: &[SocketAddr]) -> Vec<&(String, String)> {
        let is_ours = |word: &str| {
            // `ADDR:PORT%IFACE#NAME`: what is behind belongs to links and TLS.
            let word = word.split(['#', '%']).next().unwrap_or_default();
            let port = |address: &SocketAddr| address.port() == super::PORT;
            ours.iter().any(|address| {
                word.parse() == Ok(*address) || (port(address) && word.parse() == Ok(address.ip()))
            })
        };
        self.servers.iter().filter(|(word, _)| !is_ours(word)).collect()
    }

    /// `knows`: its stub answered for the domain just now.
    pub fn finding(&self, domain: &Apex, ours: &[SocketAddr], knows: bool) -> Finding {
        let mend = "callsign setup resolved --write && systemctl restart systemd-resolved";
        let name = bare(domain);
        let others = self.others(ours);
        if !knows && !self.routes(domain) {
            return Finding::wrong(
                "resolved",
                format!("systemd-resolved has no routing domain ~{name}"),
                "it sends names in .local to no DNS server, and others to the network's".to_owned(),
                mend.to_owned(),
            );
        }
        if self.routes(domain) && !others.is_empty() {
            let named: Vec<String> = others.iter().map(|(word, path)| format!("{word} ({path})")).collect();
            return Finding::wrong(
                "resolved",
                format!("systemd-resolved has other global servers beside callsign: {}", named.join(", ")),
                format!("it takes all of them for the same, and asks for {name} whichever answered last"),
                "give those servers to a link (`DNS=` in its .network file), and leave callsign alone"
                    .to_owned(),
            );
        }
        if !knows {
            return Finding::wrong(
                "resolved",
                format!("systemd-resolved routes {name}, and has no answer"),
                "it was not restarted since, or no link of this machine is up: it asks nobody then"
                    .to_owned(),
                "systemctl restart systemd-resolved; resolvectl status".to_owned(),
            );
        }
        Finding::fine("resolved", format!("systemd-resolved routes {name} to callsign"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn apex(name: &str) -> Apex {
        Apex::parse(name).unwrap()
    }

    /// As Debian 12 with a desktop has it.
    const DEBIAN: &str = "# /etc/nsswitch.conf\npasswd:         files systemd\n\
        hosts:          files mdns4_minimal [NOTFOUND=return] dns\nnetworks:       files\n";
    /// As Fedora has it.
    const FEDORA: &str =
        "hosts:      files myhostname mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns\n";

    #[test]
    fn the_hosts_line_is_read() {
        let names = |text| sources(text).into_iter().map(|source| source.name).collect::<Vec<_>>();
        assert_eq!(names(Some(DEBIAN)), ["files", "mdns4_minimal", "dns"]);
        assert_eq!(names(Some(FEDORA)), ["files", "myhostname", "mdns4_minimal", "resolve", "dns"]);
        assert_eq!(names(None), ["files", "dns"]);
        assert_eq!(sources(Some(FEDORA))[3].actions, ["!UNAVAIL=return"]);
        let tight = "hosts: mdns4[ notfound=RETURN success=continue ]dns # hosts: x\n";
        assert_eq!(sources(Some(tight))[0].actions, ["NOTFOUND=return", "SUCCESS=continue"]);
        assert_eq!(sources(Some(tight))[1].name, "dns");
    }

    #[test]
    fn mdns_takes_names_of_two_labels_and_those_that_its_list_allows() {
        let verdict = |text: &str, allow: Option<&str>, domain: &str| {
            nsswitch(Some(text), allow, &apex(domain)).verdict
        };
        let full = "hosts: files mdns4 [NOTFOUND=return] dns\n";
        for (text, allow, domain, expected) in [
            (DEBIAN, None, "service.local", Verdict::Fine),
            (DEBIAN, None, "local", Verdict::Wrong),
            (DEBIAN, None, "internal", Verdict::Fine),
            (FEDORA, None, "service.local", Verdict::Fine),
            // The minimal modules do not read the list.
            (DEBIAN, Some(".local.\n.local\n"), "service.local", Verdict::Fine),
            (full, None, "service.local", Verdict::Fine),
            (full, Some("# none\n"), "service.local", Verdict::Fine),
            (full, Some(".local.\n"), "service.local", Verdict::Wrong),
            (full, Some("*\n"), "svc.example.com", Verdict::Wrong),
            (full, Some(".local\n"), "svc.example.com", Verdict::Fine),
            ("hosts: files mdns4 dns\n", Some(".local\n"), "service.local", Verdict::Advice),
            ("hosts: dns mdns4\n", Some(".local\n"), "service.local", Verdict::Fine),
            ("hosts: files\n", None, "service.local", Verdict::Wrong),
            ("hosts: files resolve\n", None, "service.local", Verdict::Fine),
        ] {
            assert_eq!(verdict(text, allow, domain), expected, "{text} {allow:?} {domain}");
        }
    }

    #[test]
    fn resolv_conf_is_read_as_the_c_library_reads_it() {
        // A pod of Kubernetes.
        let pod = "search default.svc.cluster.local svc.cluster.local cluster.local\n\
                   nameserver 10.96.0.10\noptions ndots:5\n";
        let conf = ResolvConf::parse(Some(pod));
        assert_eq!((conf.nameservers.len(), conf.search.len(), conf.ndots), (1, 3, 5));
        let [ndots] = conf.findings(&apex("service.local")).try_into().unwrap();
        assert_eq!(ndots.verdict, Verdict::Advice);
        assert!(ndots.why.contains("3 names that are not there, such as web.service.local.default.svc"));
        // As systemd-resolved writes it.
        let stub = "# This file is managed by man:systemd-resolved(8). Do not edit.\n#\nnameserver 127.0.0.53\n\
                    options edns0 trust-ad\nsearch .\n";
        let conf = ResolvConf::parse(Some(stub));
        assert_eq!(conf.nameservers, [STUBS[0]]);
        assert_eq!(conf.findings(&apex("service.local"))[0].verdict, Verdict::Fine);
        // Nothing there: the machine itself.
        assert_eq!(ResolvConf::parse(None).nameservers, [IpAddr::from([127, 0, 0, 1])]);
        // The last search, ndots at most 15, a fourth nameserver, a scope, comments.
        let odd = "domain example.com\nsearch service.local ; old\noptions rotate ndots:99\n\
                   nameserver 10.0.0.1 # one\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver 10.0.0.2\n\
                   nameserver 10.0.0.3\n";
        let conf = ResolvConf::parse(Some(odd));
        assert_eq!((conf.search.as_slice(), conf.ndots), ([String::from("service.local")].as_slice(), 15));
        assert_eq!(conf.unread, ["fe80::1%eth0", "10.0.0.3"]);
        assert_eq!(conf.findings(&apex("service.local")).len(), 2);
    }

    #[test]
    fn names_in_the_hosts_file_are_told() {
        let text = "127.0.0.1 localhost\n10.0.0.7 db web.service.local # old\n# 10.0.0.8 x.service.local\n";
        assert!(hosts(Some(text), &apex("service.local")).unwrap().what.ends_with("has web.service.local"));
        assert!(hosts(Some(text), &apex("svc.internal")).is_none());
        assert!(hosts(None, &apex("service.local")).is_none());
    }

    #[test]
    fn resolved_needs_the_route_and_no_other_server() {
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let ours = ["127.0.0.1:5300".parse().unwrap()];
        let main = file("resolved.conf", "[Resolve]\n#DNS=\nDNS=9.9.9.9#dns.quad9.net\nDNSSEC=no\n");
        let empty = file("empty.conf", "[Resolve]\nDNS=\n");
        let drop_in = file("callsign.conf", "[Resolve]\nDNS=127.0.0.1:5300\nDomains=~service.local\n");
        let verdict = |files: &[(String, String)], domain: &str, knows: bool| {
            let finding = ResolvedConf::parse(files).finding(&apex(domain), &ours, knows);
            (finding.verdict, finding.what)
        };
        assert!(verdict(&[], "service.local", false).1.contains("no routing domain ~service.local"));
        // Somebody has given the domain to a link: no business of the global part.
        assert_eq!(verdict(&[], "service.local", true).0, Verdict::Fine);
        assert_eq!(verdict(std::slice::from_ref(&drop_in), "service.local", true).0, Verdict::Fine);
        assert_eq!(verdict(std::slice::from_ref(&drop_in), "service.local", false).0, Verdict::Wrong);
        assert_eq!(verdict(std::slice::from_ref(&drop_in), "svc.internal", false).0, Verdict::Wrong);
        let (wrong, what) = verdict(&[main.clone(), drop_in.clone()], "service.local", true);
        assert_eq!(wrong, Verdict::Wrong);
        assert!(what.contains("9.9.9.9#dns.quad9.net (resolved.conf)"), "{what}");
        assert_eq!(verdict(&[main, empty, drop_in], "service.local", true).0, Verdict::Fine);
        let everything =
            file("all.conf", "[Resolve]\nDNS=127.0.0.1:5300\nDomains=~.\n[Other]\nDNS=1.1.1.1\n");
        assert_eq!(verdict(&[everything], "service.local", true).0, Verdict::Fine);
    }
}
