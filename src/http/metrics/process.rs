//! What the kernel says of this process, under the names that every exporter has for it.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::page::Page;
use crate::time::Wall;

/// Adds the families `process_…`; what cannot be read is left out.
pub fn process(page: &mut Page, started: Wall) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let seconds = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
        page.head("process_cpu_seconds", "counter", "Time on the processors, of user and kernel.");
        page.line("process_cpu_seconds_total", &[], seconds.iter().sum());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    for (name, of, help) in [
        ("process_resident_memory_bytes", "VmRSS", "Memory that is in use."),
        ("process_virtual_memory_bytes", "VmSize", "Memory that is mapped."),
    ] {
        if let Some(kib) = field(of) {
            page.gauge(name, help, kib * 1024.0);
        }
    }
    if let Some(threads) = field("Threads") {
        page.gauge("process_threads", "Threads.", threads);
    }
    // As many as there are connections at most, and only their names are read.
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        let open = descriptors.count().saturating_sub(1); // the one that this is read through
        page.gauge("process_open_fds", "Open file descriptors.", open as f64);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        page.gauge("process_max_fds", "File descriptors that may be open.", soft as f64);
    }
    let started = started.unix_ms as f64 / 1000.0;
    page.gauge("process_start_time_seconds", "When it was started, in seconds since 1970.", started);
}
