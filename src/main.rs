//! The `callsign` program. Everything is in the library, but for the command line.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    let parsed = cli::parse();
    cli::run(parsed)
}
