//! What HAProxy says of itself, by its stats socket.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::DEADLINE;

/// `address:port` of each server of a backend that is up; `None` where nobody listens.
pub fn up(socket: &Path, backend: &str) -> Option<BTreeSet<String>> {
    Some(weights(socket, backend)?.into_keys().collect())
}

/// The weight of each server of a backend that is up, by `address:port`; `None` where nobody listens.
pub fn weights(socket: &Path, backend: &str) -> Option<BTreeMap<String, u32>> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).expect("an option of a socket of ours");
    stream.write_all(format!("show servers state {backend}\n").as_bytes()).expect("asking HAProxy");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("HAProxy's answer");
    // be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight … srv_port is the 19th; 2 is up.
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<&str>>());
    let up = fields.filter(|fields| fields.len() > 18 && fields[1] == backend && fields[5] == "2");
    let place = |fields: &[&str]| format!("{}:{}", fields[4], fields[18]);
    Some(up.map(|fields| (place(&fields), fields[7].parse().expect("a weight"))).collect())
}
