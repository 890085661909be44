//! Prometheus, on a port of its own.

use std::net::SocketAddr;
use std::path::Path;

use super::program::{Program, free_ports};

/// Starts `program` with this configuration; where it will answer, once it does.
pub fn start(program: &Path, configuration: &str) -> (Program, SocketAddr) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("prometheus.yml");
    std::fs::write(&file, configuration).expect("writing a file");
    let [port] = free_ports();
    let words = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", directory.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--log.level=warn".to_owned(),
    ];
    (Program::start(program, directory, &words), SocketAddr::from(([127, 0, 0, 1], port)))
}
