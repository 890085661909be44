//! What the server may still do to this machine once its sockets are bound: Landlock (landlock(7)), and no new privileges.
//!
//! It reads what it reads again while it runs, and what looking up other machines' names and certificates takes; it
//! writes below its data directory and nowhere else; it runs no program, binds no other TCP port and sends no other process a signal. A folder stands for what is in
//! it, because files are replaced by renaming. Where checks run programs nothing is confined, for they would be too.
//!
//! A thread hands both on to those that it starts, and to no other. So this comes before the first one is started.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::prctl::set_no_new_privs;

use super::signing;
use crate::config::{CertificateChoice, Config};
use crate::dns::forward::Source;
use crate::dns::forward::resolv_conf::{BEHIND_STUB, RESOLV_CONF};
use crate::store::embedded;

/// What looking up a name takes (resolver, hosts, the C library's own modules), certificates that this machine trusts, and how many processors
/// we may use; in Nix's store is all of that where there is one. None has to be there.
const SYSTEM: [&str; 9] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/run/systemd/resolve",
    "/proc/self",
    "/sys/fs/cgroup",
];
/// Where systemd's programs say what they do; nothing there is a secret.
const SYSTEMD: &str = "/run/systemd";
/// Where OpenSSL's variables say that certificates are.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Where distributions keep the authorities that they trust: links lead out of `/etc` on some.
const AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];
/// Links of one folder that are followed: service files may be so many, and each may be one.
const LINKS_MAX: usize = 10_000;
/// The newest Landlock whose rights on files we know; an older kernel takes those that it knows.
const KNOWN: ABI = ABI::V5;

/// Confines this thread, and those that it will start, and says how far: `files`, or `nothing` and why.
///
/// # Errors
///
/// The data directory cannot be made, what `confine-read` names is not there, or the kernel refuses.
pub fn now(config: &Config, socket: Option<&Path>) -> Result<String> {
    if config.probe_commands {
        // Programs that gain rights when they are run, as some checks do, still can.
        return Ok(spoken("nothing: `probe-commands` runs programs, which may need anything"));
    }
    set_no_new_privs().context("giving up new privileges")?;
    if !config.confine {
        return Ok(spoken("nothing: `confine` is `none`"));
    }
    if let Some(data) = &config.data {
        embedded::make_directory(data).context("opening the store")?; // there is no rule about what is not there
    }
    for path in &config.confine_read {
        path.metadata().with_context(|| format!("confine-read names {}", path.display()))?;
    }
    let reach = Reach::of(config, socket, |name| std::env::var_os(name).map(PathBuf::from));
    let status = reach.confine().context("confining the server; `confine = \"none\"` does without")?;
    Ok(spoken(match status.ruleset {
        RulesetStatus::FullyEnforced => "files",
        RulesetStatus::PartiallyEnforced => "files, as far as this kernel's Landlock goes",
        RulesetStatus::NotEnforced => "nothing: there is no Landlock here",
    }))
}

fn spoken(confined: &str) -> String {
    tracing::debug!(confined, "what the server may reach of this machine");
    confined.to_owned()
}

/// What is reached after the start.
#[derive(Debug, Default, PartialEq)]
struct Reach {
    read: BTreeSet<PathBuf>,
    write: BTreeSet<PathBuf>,
    /// Where a file of ours goes when the server ends.
    remove: BTreeSet<PathBuf>,
}

impl Reach {
    fn of(config: &Config, socket: Option<&Path>, variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let mut reach = Self::default();
        let read = &mut reach.read;
        read.extend(SYSTEM.map(PathBuf::from));
        read.extend(folders(Path::new(RESOLV_CONF)));
        if config.forward.contains(&Source::System) && !Path::new(BEHIND_STUB).exists() {
            read.insert(PathBuf::from(SYSTEMD)); // whose resolver may come later
        }
        let authorities = AUTHORITIES.iter().map(Path::new).filter(|path| path.exists());
        // What is within `/etc` is read anyway.
        read.extend(authorities.flat_map(folders).filter(|folder| !folder.starts_with("/etc")));
        for path in CERTIFICATES.into_iter().filter_map(variable) {
            read.extend(std::env::split_paths(&path).flat_map(|path| folders(&path)));
        }
        let mut files: Vec<&Path> = config.client_authority.as_deref().into_iter().collect();
        if let Some(CertificateChoice::Files { certificate, key }) = &config.certificate {
            files.extend([certificate.as_path(), key]);
        }
        if let Some(tls) = config.etcd.as_ref().and_then(|etcd| etcd.tls.as_ref()) {
            files.extend(tls.authority.as_deref());
            files.extend(tls.certificate.iter().flat_map(|(certificate, key)| [certificate.as_path(), key]));
        }
        read.extend(files.into_iter().flat_map(folders));
        let keys = signing::folder(config);
        for folder in [&config.zones, &config.services, &keys].into_iter().flatten() {
            read.extend(with_links(folder));
        }
        read.extend(config.confine_read.iter().cloned());
        reach.write.extend(config.data.iter().flat_map(|data| with_links(data)));
        reach.remove.extend(socket.and_then(folder_of).map(Path::to_owned));
        reach
    }

    fn confine(&self) -> Result<RestrictionStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = read
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::Signal)?
            .create()?;
        let granted: [(&BTreeSet<PathBuf>, BitFlags<AccessFs>); 3] =
            [(&self.read, read), (&self.write, write), (&self.remove, AccessFs::RemoveFile.into())];
        for (paths, access) in granted {
            for path in paths {
                // What is not there now needs no rule.
                let Ok(opened) = PathFd::new(path) else { continue };
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
                ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
            }
        }
        ruleset.restrict_self()
    }
}

/// The folder that a file is in; the working directory where its path is only a name.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// The folder of a file, and where the file is a link that of what it leads to.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let target = path.canonicalize().ok();
    [Some(path), target.as_deref()].into_iter().flatten().filter_map(folder_of).map(Path::to_owned).collect()
}

/// A folder, and those of what links in it lead to. One that is not there yet stands for the one above.
fn with_links(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return folder_of(folder).map(Path::to_owned).into_iter().collect();
    };
    let links = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_symlink());
    let mut found: BTreeSet<PathBuf> = links.take(LINKS_MAX).flat_map(|link| folders(&link)).collect();
    found.insert(folder.to_owned());
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::{Setting, Surroundings};

    #[test]
    fn what_is_reached_is_what_the_configuration_names() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        for folder in ["data", "services", "zones", "live", "archive", "elsewhere", "bundle", "more"] {
            fs::create_dir(place.join(folder)).unwrap();
        }
        fs::write(place.join("archive/tls1.pem"), "").unwrap();
        symlink("../archive/tls1.pem", place.join("live/tls.pem")).unwrap();
        fs::write(place.join("elsewhere/web.toml"), "").unwrap();
        symlink(place.join("elsewhere/web.toml"), place.join("services/web.toml")).unwrap();
        let text = |name: &str| place.join(name).display().to_string();
        let said = [
            ("data", "data"),
            ("services", "services"),
            ("zones", "zones"),
            ("tls-certificate", "live/tls.pem"),
            ("tls-key", "live/tls.key"),
            ("dnssec-keys", "keys"),
            ("confine-read", "more"),
        ];
        let flags = said.map(|(key, path)| Setting::flag(key, vec![text(path)]));
        let around = Surroundings { environment: Vec::new(), root: true, directory: place.clone() };
        let config = Config::load(None, flags.into(), &around).unwrap();
        let socket = place.join("run/callsign.sock");
        let variable = |name: &str| (name == "SSL_CERT_FILE").then(|| place.join("bundle/all.pem"));
        let reach = Reach::of(&config, Some(&socket), variable);
        let named = |paths: &BTreeSet<PathBuf>| -> Vec<String> {
            let below = paths.iter().filter_map(|path| path.strip_prefix(&place).ok());
            below.map(|path| path.display().to_string()).collect()
        };
        // The keys' folder is not there yet, so it is the one above it.
        let read = ["", "archive", "bundle", "elsewhere", "live", "more", "services", "zones"];
        assert_eq!(named(&reach.read), read);
        assert_eq!(named(&reach.write), ["data"]);
        assert_eq!(named(&reach.remove), ["run"]);
        let others = reach.read.iter().filter(|path| !path.starts_with(&place));
        let others: Vec<&str> = others.map(|path| path.to_str().unwrap()).collect();
        assert!(others.iter().all(|path| SYSTEM.contains(path) || path.starts_with("/run/")), "{others:?}");
        assert_eq!(reach.write.len() + reach.remove.len(), 2, "and nothing else is written");
    }

    /// What a thread can do before it is confined, and what afterwards; one letter each.
    fn done(place: &Path) -> String {
        let other = nix::unistd::getppid(); // of another process, and nothing is sent
        let done = [
            ('r', fs::read(place.join("read/file")).is_ok()),
            ('w', fs::write(place.join("write/new"), "").is_ok()),
            ('v', fs::rename(place.join("write/new"), place.join("write/file")).is_ok()),
            ('d', fs::remove_file(place.join("remove/file")).is_ok()),
            ('R', fs::read(place.join("other/file")).is_ok()),
            ('L', fs::read_dir(place.join("other")).is_ok()),
            ('W', fs::write(place.join("other/new"), "").is_ok()),
            ('F', fs::write(place.join("read/file"), "").is_ok()),
            ('D', fs::remove_file(place.join("read/other")).is_ok()),
            ('X', std::process::Command::new("/bin/true").status().is_ok()),
            ('B', std::net::TcpListener::bind("127.0.0.1:0").is_ok()),
            ('K', nix::sys::signal::kill(other, None).is_ok()),
        ];
        done.iter().filter(|(_, done)| *done).map(|(letter, _)| letter).collect()
    }

    #[test]
    fn who_is_confined_can_do_what_is_granted_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        for folder in ["read", "write", "remove", "other"] {
            fs::create_dir(place.join(folder)).unwrap();
            fs::write(place.join(folder).join("file"), "").unwrap();
            fs::write(place.join(folder).join("other"), "").unwrap();
        }
        let paths = |name: &str| BTreeSet::from([place.join(name)]);
        let reach = Reach { read: paths("read"), write: paths("write"), remove: paths("remove") };
        // The thread is confined, and this one is not.
        let (status, confined) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| (reach.confine().unwrap().ruleset, done(place)));
            thread.join().unwrap()
        });
        assert_eq!(status, RulesetStatus::FullyEnforced, "this test needs Linux 6.12 with Landlock");
        assert_eq!(confined, "rwvd");
        fs::write(place.join("remove/file"), "").unwrap();
        assert_eq!(done(place), "rwvdRLWFDXBK", "all of it can be done");
    }
}
