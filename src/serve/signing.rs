//! The keys of signed zones: read at the start, and again when their files or the time make them others.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;

use super::Server;
use crate::clock::Clock;
use crate::config::Config;
use crate::key_folder::{self, BESIDE_STORE, Kept, Marks};
use crate::name::{Apex, Name};
use crate::sign::{Key, ZoneKeys};
use crate::view::View;

/// How long a changed file and a key whose time has come wait, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the keys are, if anywhere.
pub fn folder(config: &Config) -> Option<PathBuf> {
    config.dnssec_keys.clone().or_else(|| Some(config.data.as_ref()?.join(BESIDE_STORE)))
}

/// Says what is wrong with the keys that the configuration names.
///
/// # Errors
///
/// A file of theirs cannot be used.
pub fn check(config: &Config) -> Result<()> {
    folder(config).map_or(Ok(()), |folder| key_folder::read(&folder).map(|_| ()))
}

/// Keeps the view's keys those of the folder.
struct Keeper {
    folder: PathBuf,
    marks: Marks,
    keys: HashMap<Name, Vec<Arc<Key>>>,
    /// Which keys each zone had when it was last spoken of.
    told: HashMap<Name, Vec<u16>>,
    view: Arc<View>,
    clock: Clock,
}

impl Server {
    /// Signs the zones that have keys, from now on.
    ///
    /// # Errors
    ///
    /// The keys cannot be used.
    pub(super) fn sign_zones(&mut self, config: &Config) -> Result<()> {
        let Some(folder) = folder(config) else { return Ok(()) };
        let (view, clock) = (self.view.clone(), self.clock);
        let (marks, keys, told) = Default::default();
        let mut keeper = Keeper { folder, marks, keys, told, view, clock };
        keeper.look()?;
        keeper.publish();
        self.tasks.spawn("keys of zones", keeper.run(self.stop_dns.clone()));
        Ok(())
    }
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) -> std::io::Result<()> {
        let mut complained = String::new();
        // Both arms are cancel-safe.
        while tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(LOOK_EVERY) => true,
        } {
            match self.look() {
                Ok(()) => complained.clear(),
                // The keys stay what they were, so what is signed stays signed.
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != complained {
                        tracing::error!(%error, "the keys of zones cannot be read; those before stay");
                    }
                    complained = error;
                }
            }
            self.publish();
        }
        Ok(())
    }

    /// Reads the keys where a file is another one than before.
    fn look(&mut self) -> Result<()> {
        let marks = key_folder::marks(&self.folder)?;
        if marks == self.marks {
            return Ok(());
        }
        let mut keys: HashMap<Name, Vec<Arc<Key>>> = HashMap::new();
        for Kept { key, .. } in key_folder::read(&self.folder)? {
            keys.entry(key.apex.clone()).or_default().push(key);
        }
        // Looked at behind the keys, so that a folder that goes meanwhile does not take them along.
        if !self.marks.is_empty() && !self.folder.exists() {
            bail!(
                "{} is there no more; to end signing take out the keys, not the folder",
                self.folder.display()
            );
        }
        for apex in keys.keys() {
            if !self.view.settings.apexes.iter().map(Apex::name).any(|own| own == apex) {
                tracing::warn!(zone = %apex, "there are keys for what is no domain of the registry; nothing is signed with them");
            }
        }
        (self.marks, self.keys) = (marks, keys);
        Ok(())
    }

    /// Hands the view what the keys are at this moment.
    fn publish(&mut self) {
        let now_s = self.clock.now().wall.unix_s();
        let apexes = self.view.settings.apexes.iter().map(Apex::name);
        let zones = apexes.filter_map(|apex| ZoneKeys::at(self.keys.get(apex)?, now_s));
        let zones: Vec<ZoneKeys> = zones.collect();
        let told: HashMap<Name, Vec<u16>> =
            zones.iter().map(|zone| (zone.apex.clone(), zone.tags())).collect();
        if told != self.told {
            for (zone, tags) in told.iter().filter(|(zone, tags)| self.told.get(*zone) != Some(*tags)) {
                tracing::info!(%zone, signing = tags[0], others = ?&tags[1..], "the zone is signed");
            }
            for zone in self.told.keys().filter(|zone| !told.contains_key(*zone)) {
                tracing::warn!(%zone, "the zone is signed no more: no key of it is there that signs");
            }
            self.told = told;
        }
        self.view.set_keys(zones);
    }
}
