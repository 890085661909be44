//! nginx as the peers build it: one that asks for SRV records again and again (1.27.3 and later).

use std::path::{Path, PathBuf};

/// The program that tests/peers/build made.
pub fn program() -> PathBuf {
    let peers = std::env::var_os("CALLSIGN_PEERS").expect("CALLSIGN_PEERS: ./check --peers sets it");
    PathBuf::from(peers).join("nginx")
}

/// A configuration whose files are all in `directory`: `front` is what it listens on, `resolver` the words of that
/// directive, `server` those of the one server that the upstream has. No request is tried twice, and no server is set
/// aside because of one that failed. A reply says in `Upstream` who was asked.
pub fn configuration(directory: &Path, front: &str, resolver: &str, server: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {}/nginx-{name};\n", directory.display()))
        .concat();
    format!(
        "daemon off;\npid {}/nginx.pid;\nerror_log stderr warn;\nuser root root;\nworker_processes 2;\n\
         events {{ worker_connections 256; }}\nhttp {{\n    access_log off;\n{temporary}    \
         upstream web {{\n        zone web 256k;\n        resolver {resolver};\n        resolver_timeout 1s;\n        \
         server {server} max_fails=0;\n    }}\n    \
         server {{\n        listen {front};\n        location / {{\n            proxy_pass http://web;\n            \
         proxy_next_upstream off;\n            add_header Upstream $upstream_addr always;\n        }}\n    }}\n}}\n",
        directory.display()
    )
}

/// The words that start it.
pub fn words(configuration: &Path, directory: &Path) -> Vec<String> {
    let words =
        ["-c", &configuration.display().to_string(), "-p", &directory.display().to_string(), "-e", "stderr"];
    words.map(str::to_owned).into()
}
