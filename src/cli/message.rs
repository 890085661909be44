//! Sentences on stderr while a verb goes on.

use super::terminal;

/// Says something that is no failure: what happened meanwhile, or what is waited for.
pub fn say(sentence: &str) {
    eprintln!("callsign: {}", terminal::escaped(sentence));
}
