//! Sockets that the test holds, as systemd would, and the servers that it hands them to.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, DEADLINE, binary, eventually};

/// The descriptors are stdin, stdout and stderr of a shell, which moves them to 3, 4 and 5 and becomes the
/// server: so nothing else that this test starts ever has them.
const HAND_OVER: &str = "exec 3<&0 4<&1 5<&2 </dev/null >\"$OUT/stdout\" 2>\"$OUT/stderr\"; \
                         exec env LISTEN_PID=$$ LISTEN_FDS=3 \"$0\" \"$@\"";

/// What outlives the servers.
pub struct Held {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    pub registration: Registration,
    pub dns: SocketAddr,
    pub directory: TempDir,
}

/// Where registrations come in.
pub enum Registration {
    Unix(UnixListener),
    Tcp(TcpListener),
    /// Over HTTP: the third socket is called so.
    Http(TcpListener),
}

impl Held {
    /// One port of 127.0.0.1 for DNS, and a Unix socket.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let unix = UnixListener::bind(directory.path().join("s")).expect("a Unix socket");
        Self::with(directory, Registration::Unix(unix))
    }

    pub fn with(directory: TempDir, registration: Registration) -> Self {
        let (udp, tcp) = eventually("a port that is free for both", DEADLINE, || {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
            let tcp = TcpListener::bind(udp.local_addr().expect("its address")).ok()?;
            Some((udp, tcp))
        });
        // As `ReceiveBuffer=` of a socket unit does; the kernel may give less.
        drop(socket2::SockRef::from(&udp).set_recv_buffer_size(4 << 20));
        let dns = udp.local_addr().expect("its address");
        Self { udp, tcp, registration, dns, directory }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn client(&self) -> Client {
        match &self.registration {
            Registration::Unix(_) => Client::unix(&self.socket()),
            Registration::Tcp(listener) => Client::tcp(listener.local_addr().expect("its address")),
            Registration::Http(_) => Client::unix(&self.directory.path().join("not-this-one")),
        }
    }

    /// Starts a server on the sockets; it is not waited for.
    pub fn spawn(&self, variables: &[(&str, &str)]) -> Activated {
        let third: OwnedFd = match &self.registration {
            Registration::Unix(listener) => listener.try_clone().expect("another descriptor").into(),
            Registration::Tcp(listener) | Registration::Http(listener) => {
                listener.try_clone().expect("another descriptor").into()
            }
        };
        let names = match &self.registration {
            Registration::Http(_) => "dns:dns:http",
            _ => "dns:dns:register",
        };
        let out = self.directory.path().to_owned();
        drop(fs::remove_file(out.join("stdout"))); // of the server before
        let data = out.join("data");
        let child = Command::new("sh")
            .args(["-c", HAND_OVER])
            .arg(binary())
            .args(["serve", "--known-for", "24h", "--http", "none", "--data"])
            .arg(data)
            .arg("--socket")
            .arg(out.join("not-this-one"))
            .current_dir(&out)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("OUT", &out)
            .env("LISTEN_FDNAMES", names)
            .envs(variables.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(self.udp.try_clone().expect("another descriptor"))))
            .stdout(Stdio::from(OwnedFd::from(self.tcp.try_clone().expect("another descriptor"))))
            .stderr(Stdio::from(third))
            .spawn()
            .expect("starting a shell");
        Activated { child, out }
    }

    pub fn start(&self) -> Activated {
        let mut server = self.spawn(&[]);
        server.wait_ready();
        server
    }
}

/// A server on sockets that are not its own.
pub struct Activated {
    child: Child,
    out: PathBuf,
}

impl Activated {
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.out.join("stdout")).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.out.join("stderr")).unwrap_or_default()
    }

    pub fn wait_ready(&mut self) {
        eventually("the server's `ready` line", DEADLINE, || {
            let ended = self.child.try_wait().expect("our own child");
            assert_eq!(ended, None, "it ended: {}", self.stderr());
            self.stdout().lines().any(|line| line.starts_with("ready")).then_some(())
        });
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("the server is ours to signal");
    }

    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of the server", DEADLINE, || self.child.try_wait().expect("our own child"))
    }

    /// Ends it by a signal, and waits for that.
    pub fn end(mut self, signal: Signal) {
        self.signal(signal);
        let status = self.wait();
        if signal == Signal::SIGTERM {
            assert!(status.success(), "{status}: {}", self.stderr());
        }
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("the server's words:\n{}{}", self.stdout(), self.stderr());
        }
    }
}

/// How a server ends that is handed these three descriptors.
pub fn refused(descriptors: [OwnedFd; 3]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let [first, second, third] = descriptors;
    let status = Command::new("sh")
        .args(["-c", HAND_OVER])
        .arg(binary())
        .args(["serve", "--store", "memory", "--dns", "127.0.0.1:0", "--http", "none", "--socket"])
        .arg(directory.path().join("s"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("OUT", directory.path())
        .stdin(first)
        .stdout(second)
        .stderr(third)
        .spawn()
        .expect("starting a shell");
    let mut server = Activated { child: status, out: directory.path().to_owned() };
    let status = server.wait();
    (status.code(), server.stderr())
}

/// Registers many instances at once: some requests, then their replies.
pub fn register_all(client: &mut Client, forms: impl Iterator<Item = Value>) {
    const AT_ONCE: usize = 200;
    let lines: Vec<String> = forms.map(|form| format!("{}\n", json!({ "register": form }))).collect();
    for lines in lines.chunks(AT_ONCE) {
        client.send_raw(lines.concat().as_bytes()).expect("sending requests");
        for _ in lines {
            let reply = client.receive();
            assert!(reply.get("registered").is_some(), "{reply}");
        }
    }
}

pub fn no_socket() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null").into()
}
