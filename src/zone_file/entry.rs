//! Text cut into entries, and these into tokens (RFC 1035 section 5.1): lines, parentheses, quotes, comments, escapes.
//!
//! What a token means is not known here. Its text stays as it was written, quotes and escapes included.

use crate::zone::ZoneError;

/// The text not yet cut into entries.
pub(super) struct Cutter<'a> {
    rest: &'a [u8],
    /// Of its first octet, from 1.
    line: usize,
    /// Added to every line that is told: lines of the files before this one.
    base: usize,
}

/// A record or a directive: its tokens are in the list that it was cut with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// That it begins on.
    pub line: usize,
    /// It begins with a space: the owner is the one before.
    pub is_indented: bool,
}

/// A word, or a text in quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    /// As it is written, with its quotes.
    pub text: &'a [u8],
    pub line: usize,
    /// Nothing stands between the token before and this one.
    pub is_glued: bool,
}

impl Token<'_> {
    pub fn is_quoted(&self) -> bool {
        self.text.starts_with(b"\"")
    }

    pub fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word.as_bytes())
    }

    /// As a complaint shows it, cut where it is long.
    pub fn shown(&self) -> String {
        const SHOWN_MAX: usize = 30;
        let end = self.text.len().min(SHOWN_MAX);
        let dots = if end < self.text.len() { "…" } else { "" };
        // Escapes were written by somebody, and are shown as they were.
        format!("`{}{dots}`", self.text[..end].escape_ascii().to_string().replace("\\\\", "\\"))
    }

    pub fn error(&self, reason: impl Into<String>) -> ZoneError {
        ZoneError { line: self.line, reason: reason.into() }
    }
}

impl<'a> Cutter<'a> {
    pub fn new(text: &'a [u8], base: usize) -> Self {
        Self { rest: text, line: 1, base }
    }

    /// Cuts off the next entry that is not empty, into `tokens`: a line end closes it unless it is within parentheses.
    ///
    /// RFC 1035 lets quotes run over it too, but nobody means that: BIND and Knot refuse it, and so one forgotten quote is
    /// found on its own line. Behind an error it goes on with the next line.
    pub fn next_entry(&mut self, tokens: &mut Vec<Token<'a>>) -> Option<Result<Entry, ZoneError>> {
        loop {
            tokens.clear();
            if self.rest.is_empty() {
                return None;
            }
            let is_indented = matches!(self.rest[0], b' ' | b'\t' | b'\r');
            let line = self.base + self.line;
            if self.rest[0] == b'(' {
                let reason = "a record begins with its owner or a space, not with `(`".to_owned();
                self.skip_line(0);
                return Some(Err(ZoneError { line, reason }));
            }
            if let Err(error) = self.cut(tokens) {
                return Some(Err(error));
            }
            if !tokens.is_empty() {
                return Some(Ok(Entry { line, is_indented }));
            }
        }
    }

    fn cut(&mut self, tokens: &mut Vec<Token<'a>>) -> Result<(), ZoneError> {
        let text = self.rest;
        let mut open = Vec::new(); // the lines of the open parentheses
        let (mut at, mut end_of_last) = (0, None);
        while let Some(&octet) = text.get(at) {
            let line = self.base + self.line;
            match octet {
                b'\n' => {
                    at += 1;
                    self.line += 1;
                    if open.is_empty() {
                        self.rest = &text[at..];
                        return Ok(());
                    }
                }
                b' ' | b'\t' | b'\r' => at += 1,
                b';' => at += text[at..].iter().position(|octet| *octet == b'\n').unwrap_or(text.len() - at),
                b'(' => {
                    open.push(line);
                    at += 1;
                }
                b')' => {
                    if open.pop().is_none() {
                        self.skip_line(at);
                        return Err(ZoneError { line, reason: "a `)` without its `(`".to_owned() });
                    }
                    at += 1;
                }
                _ => {
                    let Some(length) = length_of_token(&text[at..]) else {
                        self.skip_line(at);
                        let reason = "the quotes are not closed on this line".to_owned();
                        return Err(ZoneError { line, reason });
                    };
                    let is_glued = end_of_last == Some(at);
                    tokens.push(Token { text: &text[at..at + length], line, is_glued });
                    at += length;
                    end_of_last = Some(at);
                }
            }
        }
        self.rest = &[];
        match open.first() {
            Some(&line) => Err(ZoneError { line, reason: "the `(` is not closed".to_owned() }),
            None => Ok(()),
        }
    }

    /// Goes on behind the line that `at` is on.
    fn skip_line(&mut self, at: usize) {
        let end = self.rest[at..].iter().position(|octet| *octet == b'\n');
        self.rest = end.map_or(&[], |end| &self.rest[at + end + 1..]);
        self.line += 1;
    }
}

/// Octets of the token that `text` begins with; none where its quotes are not closed on the line.
fn length_of_token(text: &[u8]) -> Option<usize> {
    let is_quoted = text[0] == b'"';
    let mut at = usize::from(is_quoted);
    while let Some(&octet) = text.get(at) {
        match octet {
            b'"' if is_quoted => return Some(at + 1),
            b'\n' if is_quoted => return None,
            // An escaped line end is none of RFC 1035: it ends the line, and the `\` is found wanting.
            b'\\' if text.get(at + 1).is_some_and(|next| *next != b'\n') => at += 1,
            b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b';' | b'"' if !is_quoted => return Some(at),
            _ => {}
        }
        at += 1;
    }
    (!is_quoted).then_some(text.len())
}
