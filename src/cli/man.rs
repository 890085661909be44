//! `callsign man`: the manual pages, from what the program knows of itself.
//!
//! `callsign(1)` and a page for each verb, `callsign(8)` for the server, `callsign.toml(5)` for its keys. They are made by
//! the program and not kept as files, so a page cannot tell of an option that is not there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callsign::config::keys::{KEYS, Key, Takes};
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, bold, italic, line_break, roman};

use super::{Cli, Done, FAILED, Failure, output};

/// Write the manual pages
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign man ~/.local/share/man      # then: man callsign\n  callsign man /usr/share/man"
)]
pub struct Man {
    /// The directory that holds `man1`, `man5` and `man8`; they are made where they are missing
    directory: PathBuf,
}

impl Man {
    pub fn run(self) -> Done {
        for (name, page) in pages()? {
            let section = name.rsplit('.').next().unwrap_or_default();
            let folder = self.directory.join(format!("man{section}"));
            let path = folder.join(&name);
            let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, page));
            written.map_err(|error| Failure::new(FAILED, format!("writing {}: {error}", path.display())))?;
            output::line(&shown(&path))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The name of each page's file, and what is in it.
fn pages() -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let failed = |error: std::io::Error| Failure::new(FAILED, format!("making the pages: {error}"));
    let mut pages = vec![("callsign.toml.5".to_owned(), configuration().map_err(failed)?)];
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    for verb in whole.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        if verb.get_name() == "serve" {
            // What administrators run has its page among the daemons.
            pages
                .push(("callsign.8".to_owned(), page(verb.clone().name("callsign serve"), "callsign", "8")?));
        } else {
            with_its_own(verb, &mut pages)?;
        }
    }
    pages.push(("callsign.1".to_owned(), page(whole, "callsign", "1")?));
    Ok(pages)
}

/// The page of a verb, and of what it has below it: `callsign-store(1)`, `callsign-store-backup(1)`.
fn with_its_own(verb: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
    let name = verb.get_display_name().unwrap_or(verb.get_name()).to_owned();
    pages.push((format!("{name}.1"), page(verb.clone(), &name, "1")?));
    verb.get_subcommands().try_for_each(|verb| with_its_own(verb, pages))
}

fn page(command: Command, title: &str, section: &str) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    Page::new(command)
        .title(title)
        .section(section)
        .render(&mut text)
        .map_err(|error| Failure::new(FAILED, format!("making {title}({section}): {error}")))?;
    Ok(text)
}

/// `callsign.toml(5)`: the keys as the configuration knows them.
fn configuration() -> std::io::Result<Vec<u8>> {
    let mut page = Roff::new();
    page.control("TH", ["callsign.toml", "5", "", concat!("callsign ", env!("CARGO_PKG_VERSION"))]);
    let mut section = |name: &str, texts: &[&str]| {
        page.control("SH", [name]);
        for (number, text) in texts.iter().enumerate() {
            if number > 0 {
                page.control("PP", []);
            }
            page.text([roman(*text)]);
        }
    };
    section("NAME", &["callsign.toml - the configuration of the server callsign"]);
    section("SYNOPSIS", &["callsign serve --config /etc/callsign/callsign.toml"]);
    section(
        "DESCRIPTION",
        &[
            "Nothing has to be set. The file is TOML; every key is also a variable of the environment (known-for is \
             CALLSIGN_KNOWN_FOR, the values of a list with commas between them) and a flag of callsign serve (--known-for, \
             given again for each value of a list). The environment wins over the file, a flag over both, each for the key \
             as a whole.",
            "A key that is not known is an error. callsign serve --check-config says whether all is sound.",
        ],
    );
    section("KEYS", &[]);
    for key in KEYS {
        page.control("TP", []);
        page.text([bold(key.name), roman(" = "), italic(form(key))]);
        page.text([roman(key.help)]);
    }
    page.control("SH", ["EXAMPLE"]);
    page.control("nf", []);
    for line in
        ["domain = [\"service.local\"]", "dns = [\"10.0.0.1:53\"]", "known-for = \"2m\"", "tell-stale = true"]
    {
        page.text([roman(line), line_break()]);
    }
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("callsign"), roman("(8), "), bold("callsign"), roman("(1)")]);
    let mut text = Vec::new();
    page.to_writer(&mut text)?;
    Ok(text)
}

/// How the value of a key is written.
fn form(key: &Key) -> String {
    match key.takes {
        Takes::Switch => "true | false".to_owned(),
        Takes::One => key.value.to_owned(),
        Takes::Several | Takes::Any => format!("[{}, ...]", key.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_verb_and_a_word_on_every_key() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = match verb.get_name() {
                "serve" => "callsign.8".to_owned(),
                name => format!("callsign-{name}.1"),
            };
            assert!(names.contains(&name.as_str()), "{name} of {names:?}");
        }
        let (_, keys) = &pages[0];
        let keys = String::from_utf8(keys.clone()).unwrap().replace("\\-", "-");
        for key in KEYS {
            assert!(keys.contains(&format!("\\fB{}\\fR", key.name)), "{}", key.name);
        }
    }
}
