//! What the kernel says of a process: memory, time on the processor, descriptors.

use std::fs;
use std::time::Duration;

/// Resident memory in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of our own child");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process with memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

/// Time on the processor so far, user and kernel.
pub fn processor_time(pid: u32) -> Duration {
    /// `USER_HZ`, which Linux has fixed at 100 for what it shows in /proc.
    const TICKS_A_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the figures of our own child");
    // The second field is a name in brackets that may hold anything; fields 14 and 15 are the times.
    let (_, fields) = stat.rsplit_once(") ").expect("the form of /proc/PID/stat");
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

/// True where every thread of the process stands still (`T` in the third field of its `stat`, `t` under strace): a signal
/// that stops it is sent before it is.
pub fn stands_still(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of our own child");
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['T', 't']))
    })
}

/// Open descriptors.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors of our own child").count()
}
