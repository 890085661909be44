//! What is meant by an option that a verb does not have.

use clap::error::{ContextKind, ContextValue};

/// A complaint of clap's with our tip instead of its own, and without the one that takes a flag for a value: nobody means that.
pub fn with_ours(text: &str, error: &clap::Error) -> String {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.as_str(),
        _ => "",
    };
    let tip = meant(&std::env::args().nth(1).unwrap_or_default(), flag);
    let (mut lines, mut placed) = (Vec::new(), false);
    let mut all = text.split('\n');
    while let Some(line) = all.next() {
        match (line.strip_prefix("  tip: "), tip) {
            (Some(_), Some(_)) if placed => {}
            (Some(_), Some(tip)) => {
                lines.push(format!("  tip: {tip}"));
                placed = true;
            }
            (Some(its), None) if its.starts_with("to pass ") => {
                lines.pop(); // the empty line before it
            }
            // Its usage has the option that it took ours for.
            _ if placed && line.starts_with("Usage: ") => drop(all.next()),
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// What says what is meant by an option that the verb does not have, where the letters of others are far from it.
fn meant(verb: &str, flag: &str) -> Option<&'static str> {
    match (verb, flag) {
        ("serve", "--port") => Some("ports stand behind addresses: '--dns ADDR:PORT', '--http ADDR:PORT'"),
        ("register", "--port") => {
            Some("the port stands behind the address: 'callsign register NAME ADDR:PORT', or ':PORT' alone")
        }
        _ => None,
    }
}
