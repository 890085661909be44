//! `callsign completion`: what a shell needs to complete our verbs and options.

use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell as Known;

use super::{Cli, Done, FAILED, Failure, output};

/// Print what a shell needs to complete verbs and options
#[derive(Debug, Args)]
#[command(after_help = "Example:
  callsign completion bash > ~/.local/share/bash-completion/completions/callsign
  callsign completion zsh > ~/.zfunc/_callsign        # with `fpath+=~/.zfunc` before `compinit`
  callsign completion fish > ~/.config/fish/completions/callsign.fish")]
pub struct Completion {
    /// The shell
    shell: Shell,
}

/// The shells that a test completes with.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub fn run(self) -> Done {
        let shell = match self.shell {
            Shell::Bash => Known::Bash,
            Shell::Zsh => Known::Zsh,
            Shell::Fish => Known::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut typed(), "callsign", &mut script);
        let script = String::from_utf8(script)
            .map_err(|_| Failure::new(FAILED, "the script is not UTF-8, which is a defect of ours"))?;
        output::print(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The command line without the verbs that nobody types.
fn typed() -> Command {
    let whole = Cli::command();
    let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("callsign")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(verbs)
}
