//! The tree, and Rust read as text.

use std::fs;
use std::path::{Path, PathBuf};

pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository, without what git keeps and cargo builds, in order.
pub fn tree() -> Vec<String> {
    let mut paths = Vec::new();
    walk(top(), &mut paths);
    let mut paths: Vec<String> = paths
        .iter()
        .filter_map(|path| path.strip_prefix(top()).ok())
        .map(|path| path.to_string_lossy().replace('\\', "/"))
        .collect();
    paths.sort();
    paths
}

pub fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("reading {}: {error}", folder.display()))
    {
        let entry = entry.expect("reading a directory entry");
        let kind = entry.file_type().expect("the type of a directory entry");
        let name = entry.file_name();
        if kind.is_dir() && name != "target" && name != ".git" {
            walk(&entry.path(), paths);
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
}

/// The Rust files below the folders, but these: they hold every text that they forbid.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    tree()
        .into_iter()
        .filter(|path| folders.iter().any(|folder| path.starts_with(&format!("{folder}/"))))
        .filter(|path| path.ends_with(".rs") && !path.starts_with("tests/tidy"))
        .map(|path| {
            let text = fs::read_to_string(top().join(&path))
                .unwrap_or_else(|error| panic!("reading {path}: {error}"));
            Source { path, text }
        })
        .collect()
}

/// One file, by its path from the top of the repository, with `/` between the parts.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// Without comments and the contents of strings; lines stay where they are.
    pub fn code(&self) -> String {
        code_of(&self.text)
    }

    /// The code that is not for tests.
    pub fn shipped(&self) -> String {
        split_tests(&self.code()).0
    }

    pub fn only_tests(&self) -> String {
        split_tests(&self.code()).1
    }
}

/// `text` with every comment and every string's and character's contents replaced by spaces.
pub fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let blank = |code: &mut String, from: usize, to: usize| {
        for &c in &chars[from..to] {
            code.push(if c == '\n' { '\n' } else { ' ' });
        }
    };
    let mut at = 0;
    while at < chars.len() {
        let next = chars.get(at + 1).copied();
        let follows_name = at > 0 && is_name(chars[at - 1]);
        match chars[at] {
            '/' if next == Some('/') => {
                let end = (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len());
                blank(&mut code, at, end);
                at = end;
            }
            '/' if next == Some('*') => {
                let end = end_of_block_comment(&chars, at);
                blank(&mut code, at, end);
                at = end;
            }
            '"' => {
                let end = end_of_string(&chars, at);
                code.push('"');
                blank(&mut code, at + 1, end.saturating_sub(1).max(at + 1));
                code.push('"');
                at = end;
            }
            'r' if !follows_name || matches!(chars[at - 1], 'b' | 'c') => {
                if let Some(end) = end_of_raw_string(&chars, at) {
                    blank(&mut code, at, end);
                    at = end;
                } else {
                    code.push('r');
                    at += 1;
                }
            }
            '\'' => {
                if let Some(end) = end_of_char(&chars, at) {
                    blank(&mut code, at, end);
                    at = end;
                } else {
                    code.push('\''); // a lifetime
                    at += 1;
                }
            }
            c => {
                code.push(c);
                at += 1;
            }
        }
    }
    code
}

/// Block comments nest.
pub fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

pub fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#`; `r#name` is an identifier.
pub fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let quote = start + 1 + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    (quote + 1..chars.len())
        .find(|&i| {
            chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
        })
        .map(|i| i + 1 + hashes)
}

/// `'a'`, `'\n'`, `'\u{1f}'`; in `'a` and `'static` nothing is closed.
pub fn end_of_char(chars: &[char], start: usize) -> Option<usize> {
    if chars.get(start + 1) == Some(&'\\') {
        return (start + 3..chars.len().min(start + 14)).find(|&i| chars[i] == '\'').map(|i| i + 1);
    }
    (chars.get(start + 2) == Some(&'\'')).then_some(start + 3)
}

/// `code` in two, each with the other's text blanked: what ships, and the bodies of `#[cfg(test)]` modules.
pub fn split_tests(code: &str) -> (String, String) {
    let (mut shipped, mut tests) = (String::new(), String::new());
    let blank = |text: &str| -> String { text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect() };
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let body = &rest[at..];
        let (open, semicolon) = (body.find('{'), body.find(';'));
        let end = match (open, semicolon) {
            // `#[cfg(test)] mod tests;` or a `use`: the statement alone.
            (None, Some(end)) => end + 1,
            (Some(open), Some(end)) if end < open => end + 1,
            (Some(open), _) => open + length_of_block(&body[open..]),
            (None, None) => body.len(),
        };
        shipped.push_str(&rest[..at]);
        shipped.push_str(&blank(&body[..end]));
        tests.push_str(&blank(&rest[..at]));
        tests.push_str(&body[..end]);
        rest = &body[end..];
    }
    shipped.push_str(rest);
    tests.push_str(&blank(rest));
    (shipped, tests)
}

/// From `{` to just behind the `}` that closes it.
pub fn length_of_block(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Where `text` stands in `code`, not as a part of a longer identifier.
pub fn occurrences(code: &str, text: &str) -> Vec<usize> {
    let begins_as_name = text.starts_with(is_name);
    let ends_as_name = text.ends_with(is_name);
    code.match_indices(text)
        .map(|(at, _)| at)
        .filter(|&at| {
            !(begins_as_name && code[..at].ends_with(is_name)
                || ends_as_name && code[at + text.len()..].starts_with(is_name))
        })
        .collect()
}

pub fn has(code: &str, text: &str) -> bool {
    !occurrences(code, text).is_empty()
}

pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}
