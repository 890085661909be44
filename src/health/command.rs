//! Programs as checks: run directly, with nothing of ours, and ended with all that they started.
//!
//! No shell, no input, no variable but PATH, a group of its own. The exit code is the verdict, as Consul and Nagios have
//! it: 0 passing, 1 a warning, anything else critical. What is written to stdout and stderr is the output, of which
//! the beginning is kept and the rest read and thrown away: a program that cannot write would hang.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::probe::{Failure, Outcome, READ_OCTETS_MAX, printable};
use crate::instance::Health;

/// Where programs are found, whatever our own surroundings say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and all that it started; dropped before its end, they are killed.
struct Group {
    child: Child,
    /// Its process id, which is its group's; none once the program was waited for, when the number may be another's.
    leader: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // The one error is that nobody is left.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

/// Runs a program to its end; whoever does not wait for it any more kills it.
pub async fn run(words: &[Arc<str>]) -> Result<Outcome, Failure> {
    let mut group = start(words)?;
    let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
    // The pipes end with the last process that holds them: a child that was left behind with one is waited for, and
    // killed at the timeout like the program itself.
    let (stdout, stderr) = tokio::join!(beginning(stdout), beginning(stderr));
    let status = group.child.wait().await.map_err(|error| Failure::system("waiting for it: ", &error))?;
    group.leader = None;
    let mut output = stdout;
    output.extend_from_slice(&stderr);
    output.truncate(READ_OCTETS_MAX);
    Ok(verdict(status, &printable(&output)))
}

fn start(words: &[Arc<str>]) -> Result<Group, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("there is no program to run".to_owned().into());
    };
    let mut command = Command::new(&**program);
    command
        .args(arguments.iter().map(|argument| &**argument))
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| Failure::system("", &error))?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    Ok(Group { child, leader })
}

/// Reads to the end and keeps the beginning.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; READ_OCTETS_MAX]);
    let Some(mut pipe) = pipe else { return kept };
    // A pipe that cannot be read has ended as far as we can know.
    while let Ok(octets @ 1..) = pipe.read(&mut buffer).await {
        let room = READ_OCTETS_MAX - kept.len();
        kept.extend_from_slice(&buffer[..octets.min(room)]);
    }
    kept
}

fn verdict(status: ExitStatus, output: &str) -> Outcome {
    let health = match status.code() {
        Some(0) => Health::Passing,
        Some(1) => Health::Warning,
        _ => Health::Critical,
    };
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let output = match output {
        "" => ended,
        output if health == Health::Passing => output.to_owned(),
        output => format!("{ended}: {output}"),
    };
    Outcome { health, output }
}
