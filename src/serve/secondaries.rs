//! What secondaries need of the start: the keys that messages are signed with, and NOTIFY.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use super::Server;
use crate::config::Config;
use crate::dns::key_file::{self, FILE_OCTETS_MAX};
use crate::dns::notify::{self, Notifier, Secondary};
use crate::dns::tsig::{KEYS_MAX, Key, Keys};
use crate::journal::Journal;
use crate::live::walk::fingerprint;
use crate::name::Name;
use crate::view::View;

/// The keys of every file that the configuration names.
///
/// # Errors
///
/// A file cannot be read, others may read it too, or what is in it is no key; or a key is named that is in none.
pub fn keys(config: &Config) -> Result<Keys> {
    let mut keys = Keys::default();
    for path in &config.tsig_keys {
        for key in read(path)? {
            if keys.get(&key.name).is_some() {
                bail!("{}: the key {} is in another file of `tsig-keys` too", path.display(), key.name);
            }
            keys.0.push(Arc::new(key));
        }
    }
    if keys.0.len() > KEYS_MAX {
        bail!("`tsig-keys` has {} keys, and there may be {KEYS_MAX}", keys.0.len());
    }
    let allowed =
        config.transfer_allow.iter().filter_map(|allowed| Some(("transfer-allow", allowed.key.as_ref()?)));
    let changing =
        config.update_allow.iter().filter_map(|allowed| Some(("update-allow", allowed.key.as_ref()?)));
    let told = config.notify.iter().filter_map(|(_, key)| Some(("notify", key.as_ref()?)));
    for (option, name) in allowed.chain(changing).chain(told) {
        find(&keys, option, name)?;
    }
    Ok(keys)
}

fn find<'k>(keys: &'k Keys, option: &str, name: &Name) -> Result<&'k Arc<Key>> {
    keys.get(name)
        .with_context(|| format!("{option} names the key {name}, which is in no file of `tsig-keys`"))
}

fn read(path: &Path) -> Result<Vec<Key>> {
    let file = path.display();
    let about = std::fs::metadata(path).with_context(|| format!("reading the keys in {file}"))?;
    if about.permissions().mode() & 0o007 != 0 {
        bail!("{file}: everybody on this machine may read or change these keys; `chmod o= {file}`");
    }
    if about.len() > FILE_OCTETS_MAX {
        bail!("{file}: {} octets, and a file of keys may have {FILE_OCTETS_MAX}", about.len());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the keys in {file}"))?;
    key_file::read(&text).map_err(|error| anyhow::anyhow!("{file}:{}: {}", error.line, error.reason))
}

/// Beside the store: the revision since which all but the registry has been served as now, and a number for that.
const SERVED: &str = "served";

/// Tells the view since when settings and record tree are what they are, and returns the revision to go on from: one
/// more than `revision` where they are others than before, so that secondaries come for the whole zone.
///
/// It is no reason not to start that this cannot be remembered: the next start then takes them for others.
pub fn settle(directory: &Path, view: &View, revision: u64) -> u64 {
    let (path, now) = (directory.join(SERVED), fingerprint(view));
    let known = std::fs::read_to_string(&path).ok().and_then(|text| {
        let (since, then) = text.trim_end().split_once(' ')?;
        (then == format!("{now:016x}")).then(|| since.parse::<u64>().ok())?
    });
    if let Some(since) = known {
        view.set_settled(since);
        return revision;
    }
    // Nobody has seen anything of a store that is new.
    let revision = if revision == 0 { 0 } else { revision + 1 };
    view.set_settled(revision);
    remember(directory, view, revision);
    revision
}

/// Remembers that settings and record tree have been what they are since a revision.
pub fn remember(directory: &Path, view: &View, revision: u64) {
    let path = directory.join(SERVED);
    let new = path.with_extension("new");
    let written = std::fs::write(&new, format!("{revision} {:016x}\n", fingerprint(view)))
        .and_then(|()| std::fs::rename(&new, &path));
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "secondaries will transfer the whole zone after the next start");
    }
}

impl Server {
    /// NOTIFY to every secondary that the configuration names.
    pub(super) fn tell_secondaries(
        &mut self,
        config: &Config,
        journal: Arc<Journal>,
        files: watch::Receiver<()>,
    ) -> Result<()> {
        if config.notify.is_empty() {
            return Ok(());
        }
        let secondary = |(address, key): &(_, Option<Name>)| -> Result<Secondary> {
            let key = key.as_ref().map(|name| find(&self.keys, "notify", name).cloned()).transpose()?;
            Ok(Secondary { address: *address, key })
        };
        let secondaries = config.notify.iter().map(secondary).collect::<Result<Vec<_>>>()?;
        let notifier = Notifier {
            view: self.view.clone(),
            journal,
            files,
            clock: self.clock,
            counters: self.transferred.clone(),
        };
        let (seed, stop) = (self.seeds.next_u64(), self.stop_registrations.clone());
        self.tasks.spawn("notify", notify::run(notifier, secondaries, seed, stop));
        Ok(())
    }
}
