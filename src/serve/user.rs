//! Another user than root: who binds a port below 1024 does not have to be root any longer.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use caps::CapSet;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{
    AccessFlags, Gid, Group, Uid, User, access, fchownat, getegid, geteuid, setgid, setgroups, setuid,
};

use crate::config::Config;
use crate::store::embedded::files_of;

/// Gives up what this process was allowed beyond its user (capabilities(7)), such as to bind ports below 1024; for itself, and so for what
/// it starts. Root keeps what makes it root: who does not want that names a `user`.
///
/// # Errors
///
/// The kernel refuses, or a filter of system calls does.
pub fn give_up_capabilities() -> Result<()> {
    if geteuid().is_root()
        || caps::read(None, CapSet::Permitted).context("reading our capabilities")?.is_empty()
    {
        return Ok(());
    }
    // In this order: what is permitted bounds what is in effect.
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set)
            .context("giving up capabilities; a filter of system calls has to allow `capset`")?;
    }
    Ok(())
}

/// Whom the server becomes once its sockets are bound.
pub struct Becoming {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Becoming {
    /// Whom the configuration names; none where it names nobody.
    ///
    /// # Errors
    ///
    /// There is no such user or group, or we are not root and cannot become anybody.
    pub fn new(config: &Config) -> Result<Option<Self>> {
        let Some(name) = &config.user else { return Ok(None) };
        let user = User::from_name(name).with_context(|| format!("looking for the user `{name}`"))?;
        let user = user.with_context(|| format!("there is no user `{name}`; `user` must name one"))?;
        let gid = match &config.group {
            None => user.gid,
            Some(name) => {
                let group =
                    Group::from_name(name).with_context(|| format!("looking for the group `{name}`"))?;
                group.with_context(|| format!("there is no group `{name}`; `group` must name one"))?.gid
            }
        };
        if !geteuid().is_root() {
            bail!(
                "only root can become the user `{name}`; start the server as that user, and leave `user` out"
            );
        }
        Ok(Some(Self { name: name.clone(), uid: user.uid, gid }))
    }

    /// Gives the user what is its own, and becomes it, for good.
    ///
    /// # Errors
    ///
    /// The kernel refuses, and then nothing goes on as root.
    pub fn now(self, socket: Option<&Path>, data: Option<&Path>) -> Result<()> {
        let Self { name, uid, gid } = self;
        let give = |path: &Path| {
            // Not what a link leads to: somebody may have put one there meanwhile.
            fchownat(AT_FDCWD, path, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .with_context(|| format!("giving {} to its user", path.display()))
        };
        socket.map(give).transpose()?;
        // One that is there is the operator's to give.
        if let Some(data) = data {
            match DirBuilder::new().mode(0o700).create(data) {
                Ok(()) => give(data)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("making {}", data.display())),
            }
        }
        // In this order: who is no longer root may not change its groups. The C library does it for every thread.
        setgroups(&[gid]).context("leaving root's groups")?;
        setgid(gid).context("becoming the group")?;
        setuid(uid).context("becoming the user")?;
        if (geteuid(), getegid()) != (uid, gid) || (!uid.is_root() && setuid(Uid::from_raw(0)).is_ok()) {
            bail!("the kernel says that this process is still root");
        }
        data.map_or(Ok(()), |data| may_use(data, &name))
    }
}

/// What root has used before is root's still, and whatever reads it first would complain of something else.
fn may_use(data: &Path, name: &str) -> Result<()> {
    for path in std::iter::once(data.to_owned()).chain(files_of(data)) {
        match access(&path, AccessFlags::R_OK | AccessFlags::W_OK) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => {
                let error = std::io::Error::from(error);
                let text = format!("{}: {error}, for the server is `{name}` from here on", path.display());
                match path.metadata().is_ok_and(|about| about.uid() != geteuid().as_raw()) {
                    true => bail!("{text}; `chown -R {name} {}`", data.display()),
                    false => bail!(text),
                }
            }
        }
    }
    Ok(())
}
