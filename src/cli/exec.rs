//! `callsign exec`: the step between `run` and its command; nobody types it.
//!
//! When `run` is killed with SIGKILL it can pass nothing on, and its instance leaves the registry with its
//! connection. The command must not go on serving unregistered, nor keep the port from its successor: the
//! kernel sends it SIGTERM. That has to be asked for by the child itself, before it becomes the command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use super::{Done, Failure, message};

/// What a shell returns for a command that is not there, and for one that cannot be executed.
const COMMAND_NOT_FOUND: u8 = 127;
const COMMAND_NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, Args)]
pub struct Exec {
    /// The process to outlive by nothing
    parent: i32,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

impl Exec {
    pub fn run(self) -> Done {
        #[cfg(target_os = "linux")]
        {
            use nix::sys::{prctl, signal::Signal};
            if let Err(error) = prctl::set_pdeathsig(Signal::SIGTERM) {
                message::say(&format!("the command will not be told when `callsign run` dies: {error}"));
            }
            // It may have died before we asked.
            if nix::unistd::getppid().as_raw() != self.parent {
                return Err(Failure::new(super::FAILED, "`callsign run` has died"));
            }
        }
        let [program, arguments @ ..] = self.command.as_slice() else {
            unreachable!("clap asks for one at least")
        };
        let error = Command::new(program).args(arguments).exec();
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => COMMAND_NOT_FOUND,
            _ => COMMAND_NOT_EXECUTABLE,
        };
        let reason = error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
        Err(Failure::new(code, format!("running {}: {reason}", program.display())))
    }
}
