//! System calls of a running server that fail or take their time, by strace.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use super::{DEADLINE, Server, eventually};

/// strace beside a running server, until it is dropped.
pub struct Attached(Child);

impl Attached {
    /// From here on each of these calls fails, in every thread.
    pub fn new(server: &Server, calls: &str, error: &str) -> Self {
        Self::with(server, calls, &format!("error={error}"))
    }

    /// From here on each of these calls takes so long.
    pub fn slowed(server: &Server, calls: &str, by: Duration) -> Self {
        Self::with(server, calls, &format!("delay_enter={}", by.as_micros()))
    }

    fn with(server: &Server, calls: &str, what: &str) -> Self {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{what}"));
        let pid = server.pid().to_string();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid]);
        let attached = Self(command.spawn().expect("starting strace"));
        eventually("strace at every thread", DEADLINE, || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of our own child");
            let mut traced = tasks.flatten().map(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            });
            traced.all(|traced| traced).then_some(())
        });
        attached
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
