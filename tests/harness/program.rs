//! Programs that a test starts beside the server.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

/// A program that is started here, and ended by its pid when this is dropped.
pub struct Program {
    child: Child,
    pub directory: TempDir,
}

impl Program {
    /// In a directory of its own, which is made before its words are known.
    pub fn start(program: &Path, directory: TempDir, words: &[String]) -> Self {
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file for what it says");
        let child = Command::new(program)
            .args(words)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
        Self { child, directory }
    }

    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stdout")).unwrap_or_default()
    }

    pub fn said(&self) -> String {
        let text = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        text("stdout") + &text("stderr")
    }

    /// How it ended; none while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for our own child")
    }

    /// Panics where it has ended by itself.
    pub fn must_run(&mut self) {
        if let Some(status) = self.ended() {
            panic!("it ended with {status}:\n{}", self.said());
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let said = self.said();
            let tail: Vec<&str> = said.lines().rev().take(20).collect();
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// Ports for programs that cannot be told to take any: free now, over UDP and TCP, and below those that the kernel
/// gives to who asks for any, so that nobody else in this run is given one before the program has it.
pub fn free_ports<const N: usize>() -> [u16; N] {
    /// Below Linux's own choice (`ip_local_port_range`), above what services of a machine use.
    const FROM: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: u16| {
        let everywhere = (Ipv4Addr::UNSPECIFIED, port);
        TcpListener::bind(everywhere).is_ok() && UdpSocket::bind(everywhere).is_ok()
    };
    [(); N].map(|()| {
        // Another place for each process; each port once.
        let mut candidates = (0..COUNT).map(|_| {
            let next = TAKEN.fetch_add(1, Ordering::Relaxed);
            (FROM + (std::process::id().wrapping_mul(97).wrapping_add(next)) % COUNT) as u16
        });
        candidates.find(|port| is_free(*port)).expect("a free port")
    })
}

/// The library that shows a process another wall clock.
pub fn faketime() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib").expect("a directory").flatten();
    let found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|path| path.exists()).expect("libfaketime, of Debian's package faketime")
}

/// A command that is on `PATH`; a missing one is a failure that names its package.
pub fn needs(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("`{program}` is not here: install Debian's package {package}; ./check installs all that the tests need")
    })
}
