//! Sentences on stderr while a verb goes on.

use std::io::{IsTerminal, stderr};

use super::{progress, terminal};

/// Says something that is no failure: what happened meanwhile, or what is waited for.
pub fn say(sentence: &str) {
    let over = if stderr().is_terminal() { progress::CLEAR } else { "" };
    eprintln!("{over}callsign: {}", terminal::escaped(sentence));
}

/// Says what to do next, where what was done may not be what was meant.
pub fn hint(sentence: &str) {
    eprintln!("hint: {}", terminal::escaped(sentence));
}
