//! How far a verb is that takes its time: one line on stderr that is drawn over, where a person may be looking.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// What is done within this time shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two drawings.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// Steps between two looks at the clock.
const STEPS: u64 = 64;
/// Letters of the bar.
const WIDTH: u64 = 30;
/// Back to the beginning of the line, and nothing on it.
pub const CLEAR: &str = "\r\x1b[K";

/// A line for steps that are alike; dropped, it takes itself away.
pub struct Progress {
    what: &'static str,
    done: u64,
    /// How many there will be, where that is known.
    whole: Option<u64>,
    /// `None` where nobody looks: stderr is no terminal.
    next: Option<Instant>,
    drawn: bool,
}

impl Progress {
    /// `what` the steps are, in a word: `records`.
    #[expect(clippy::disallowed_methods, reason = "a person's patience is by the clock on the wall")]
    pub fn new(what: &'static str, whole: Option<u64>) -> Self {
        let next = stderr().is_terminal().then(|| Instant::now() + PATIENCE);
        Self { what, done: 0, whole, next, drawn: false }
    }

    #[expect(clippy::disallowed_methods, reason = "how often it is drawn is the terminal's affair")]
    pub fn step(&mut self) {
        self.done += 1;
        let Some(next) = self.next.filter(|_| self.done.is_multiple_of(STEPS)) else { return };
        let now = Instant::now();
        if now >= next {
            self.next = Some(now + DRAWN_EVERY);
            self.drawn = true;
            // What cannot be shown is not missed.
            let _ = write!(stderr(), "{CLEAR}{}", self.line());
        }
    }

    fn line(&self) -> String {
        let Self { what, done, .. } = self;
        let Some(whole) = self.whole else { return format!("{done} {what}") };
        let filled = WIDTH.min(WIDTH * done / whole.max(1));
        let bar = "#".repeat(filled as usize) + &" ".repeat((WIDTH - filled) as usize);
        format!("[{bar}] {done} of {whole} {what}")
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(stderr(), "{CLEAR}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is() {
        let line = |done, whole| Progress { what: "records", done, whole, next: None, drawn: false }.line();
        assert_eq!(line(7, None), "7 records");
        assert_eq!(line(10, Some(20)), "[###############               ] 10 of 20 records");
        assert_eq!(line(20, Some(20)), format!("[{}] 20 of 20 records", "#".repeat(30)));
        // More came than was said.
        assert_eq!(line(21, Some(20)), format!("[{}] 21 of 20 records", "#".repeat(30)));
        assert_eq!(line(0, Some(0)), format!("[{}] 0 of 0 records", " ".repeat(30)));
    }
}
