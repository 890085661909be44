//! What the kernel shows in /proc: who holds port 53, how many descriptors a process may have. Pure, but for
//! the look at each process.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Finding, PORT};

/// State of a TCP socket that listens (`TCP_LISTEN`).
const LISTEN: &str = "0A";
/// Descriptors looked at for an owner of port 53; a machine with more than this is not searched to its end.
const LOOKS_MAX: usize = 1_000_000;
/// A clock that is wrong by days is not the rounding of a file system.
const CLOCK_SLACK_S: i64 = 2 * 86_400;
/// 2100-01-01: a clock beyond it is not set.
const CLOCK_MAX_S: i64 = 4_102_444_800;

/// A socket on port 53, and the inode that its owner's descriptors name.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    pub address: IpAddr,
    pub inode: u64,
}

/// The sockets of /proc/net/udp, tcp and their IPv6 forms that hold port 53; of TCP those that listen.
pub fn holders(table: &str, tcp: bool) -> Vec<Holder> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (address, port) = local.split_once(':')?;
        let listens = !tcp || *state == LISTEN;
        let on_port = u16::from_str_radix(port, 16).ok()? == PORT;
        let address = hexadecimal_address(address)?;
        (listens && on_port).then_some(Holder { address, inode: inode.parse().ok()? })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Words of four octets, each in the machine's own order.
fn hexadecimal_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

/// Names of the processes that own these sockets, by address; what is not ours to see has no name.
pub fn names(holders: &[Holder]) -> BTreeMap<IpAddr, String> {
    let mut names: BTreeMap<IpAddr, String> = holders
        .iter()
        .map(|holder| (holder.address, "a process that only root may look into".to_owned()))
        .collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut looks = 0;
    for process in processes {
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            looks += 1;
            if looks > LOOKS_MAX {
                return names;
            }
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let target = target.to_string_lossy();
            let Some(inode) = target.strip_prefix("socket:[").and_then(|text| text.strip_suffix(']')) else {
                continue;
            };
            let held = holders.iter().find(|holder| holder.inode.to_string() == inode);
            if let (Some(holder), Ok(name)) = (held, fs::read_to_string(process.path().join("comm"))) {
                names.insert(holder.address, name.trim().to_owned());
            }
        }
    }
    names
}

/// The process at an address, be it bound there or to every address.
pub fn at(names: &BTreeMap<IpAddr, String>, address: IpAddr) -> Option<&str> {
    let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let found = names.get(&address).or_else(|| everywhere.iter().find_map(|any| names.get(any)));
    found.map(String::as_str)
}

/// Who holds port 53 here; a fact, for who reads the rest.
pub fn port(names: &BTreeMap<IpAddr, String>) -> Finding {
    let each: Vec<String> = names.iter().map(|(address, name)| format!("{address} ({name})")).collect();
    Finding::fine(
        "port 53",
        match each.is_empty() {
            true => "nobody holds port 53 here".to_owned(),
            false => format!("held at {}", each.join(", ")),
        },
    )
}

/// The soft limit in /proc/PID/limits.
pub fn descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// `wanted`: what all of the server's own limits on connections come to.
pub fn descriptors(limit: u64, wanted: u64) -> Finding {
    match limit < wanted {
        true => Finding::advice(
            "descriptors",
            format!("the server may open {limit} descriptors"),
            format!(
                "its own limits allow {wanted} connections; beyond {limit} the quietest are closed early"
            ),
            "LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536` before callsign serve".to_owned(),
        ),
        false => Finding::fine("descriptors", format!("the server may open {limit}")),
    }
}

/// `now` beside the time at which this program was put here, both in Unix seconds.
pub fn clock(now: i64, installed: i64) -> Finding {
    let wrong = |what: &str| {
        Finding::wrong(
            "clock",
            format!("the clock says {now} s since 1970, {what}"),
            "certificates are refused, and the log of changes has wrong times; leases run on".to_owned(),
            "timedatectl set-ntp true".to_owned(),
        )
    };
    if now + CLOCK_SLACK_S < installed {
        wrong("which is before callsign was installed")
    } else if now > CLOCK_MAX_S {
        wrong("which is after the year 2100")
    } else {
        Finding::fine("clock", "the clock is later than callsign's own file".to_owned())
    }
}

/// `off`: what /proc/sys/net/ipv6/conf/all/disable_ipv6 says, or that there is none.
pub fn ipv6(off: bool, nameservers: &[IpAddr]) -> Finding {
    let asked: Vec<String> =
        nameservers.iter().filter(|address| address.is_ipv6()).map(ToString::to_string).collect();
    match (off, asked.is_empty()) {
        (true, false) => Finding::wrong(
            "ipv6",
            format!("IPv6 is off, and /etc/resolv.conf names {}", asked.join(", ")),
            "each lookup waits for a nameserver that cannot be reached".to_owned(),
            "take the address out of /etc/resolv.conf, or sysctl net.ipv6.conf.all.disable_ipv6=0".to_owned(),
        ),
        (true, true) => Finding::fine("ipv6", "IPv6 is off: AAAA records lead nowhere from here".to_owned()),
        (false, _) => Finding::fine("ipv6", "IPv6 is on".to_owned()),
    }
}

/// Where a nameserver of resolv.conf is asked.
pub fn nameserver(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, PORT)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        3211: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 17023 2 0000000000000000 0\n\
        3221: 0100007F:14B4 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 17024 2 0000000000000000 0\n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31 1 0000000000000000 100 0 0 10 0\n\
        1: 00000000000000000000000001000000:0035 00000000000000000000000001000000:A2B4 01 00000000:00000000 00:00000000 00000000     0        0 32 1 0000000000000000 100 0 0 10 0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_tables_are_read() {
        let stub = Holder { address: IpAddr::from([127, 0, 0, 53]), inode: 17023 };
        assert_eq!(holders(UDP, false), [stub]);
        assert_eq!(holders(TCP6, true), [Holder { address: IpAddr::V6(Ipv6Addr::LOCALHOST), inode: 31 }]);
        assert_eq!(holders("", true), []);
        assert_eq!(holders("header\nshort line\n", true), []);
    }

    #[test]
    fn who_holds_every_address_holds_each() {
        let names = [(IpAddr::from([0, 0, 0, 0]), "dnsmasq".to_owned())].into();
        assert_eq!(at(&names, IpAddr::from([127, 0, 0, 1])), Some("dnsmasq"));
        assert_eq!(at(&BTreeMap::new(), IpAddr::from([127, 0, 0, 1])), None);
        assert_eq!(port(&names).what, "held at 0.0.0.0 (dnsmasq)");
    }

    #[test]
    fn limits_are_read_and_judged() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95822                95822                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(descriptor_limit(limits), Some(1024));
        assert_eq!(descriptor_limit("Max open files  unlimited unlimited files\n"), Some(u64::MAX));
        assert_eq!(descriptor_limit(""), None);
        assert_eq!(descriptors(1024, 26_096).verdict, Verdict::Advice);
        assert_eq!(descriptors(65_536, 26_096).verdict, Verdict::Fine);
    }

    #[test]
    fn a_clock_that_was_never_set_is_wrong() {
        let installed = 1_790_000_000;
        assert_eq!(clock(86_400, installed).verdict, Verdict::Wrong);
        assert_eq!(clock(installed + 1, installed).verdict, Verdict::Fine);
        assert_eq!(clock(CLOCK_MAX_S + 1, installed).verdict, Verdict::Wrong);
    }

    #[test]
    fn ipv6_that_is_off_matters_where_it_is_asked() {
        let servers = ["::1".parse().unwrap(), IpAddr::from([127, 0, 0, 1])];
        assert_eq!(ipv6(true, &servers).verdict, Verdict::Wrong);
        assert_eq!(ipv6(true, &servers[1..]).verdict, Verdict::Fine);
        assert_eq!(ipv6(false, &servers).verdict, Verdict::Fine);
    }
}
