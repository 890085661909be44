//! Foreign text on its way to a terminal.

/// `text` with everything escaped that a terminal would act on.
///
/// Control characters (C0, DEL, C1) move the cursor, rename the window or worse; the marks that turn the
/// direction of text and the line separators make one name look like another.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if acts(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// A JSON text with the same characters escaped as JSON does it. They stand only inside of its texts, and
/// serde_json has escaped C0 already; line ends between the members are ours.
pub fn escaped_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => safe.push(c),
            c if acts(c) => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        assert_eq!(escaped("\x1b[2Jweb\n\r\t\u{7f}\u{9b}31m"), "\\u{1b}[2Jweb\\n\\r\\t\\u{7f}\\u{9b}31m");
        assert_eq!(escaped("a\u{202e}b\u{2028}"), "a\\u{202e}b\\u{2028}");
        assert_eq!(escaped("plain, größer, 日本"), "plain, größer, 日本");
        for c in (0..=0xff).map(char::from) {
            assert!(!escaped(&c.to_string()).chars().any(char::is_control), "{:#x}", u32::from(c));
        }
    }

    #[test]
    fn json_stays_the_same_text() {
        let text: String = (0..=0xff).map(char::from).chain(['\u{202e}', '日']).collect();
        let json = escaped_json(&serde_json::to_string(&text).unwrap());
        assert!(!json.chars().any(char::is_control));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
