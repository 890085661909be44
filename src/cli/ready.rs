//! What `run` hears besides its registration: the command's own words (`NOTIFY_SOCKET`) and signals.

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{self, SignalKind};

/// Longest message of `sd_notify` that is read; what is longer is cut.
const MESSAGE_OCTETS_MAX: usize = 4096;

/// The datagram socket that a command speaks to as to systemd.
///
/// It stands in a directory that only our user can enter. Messages are read as long as the command
/// lives: the kernel keeps only a few, and a command that says `WATCHDOG=1` would block in the next one.
pub struct Notify {
    directory: PathBuf,
    socket: UnixDatagram,
    /// Where we were told to speak ourselves: under systemd, the command's words go on to it.
    outer: Option<PathBuf>,
}

/// What of a message concerns the registration.
#[derive(Debug, PartialEq)]
pub struct Notified {
    pub ready: bool,
    pub stopping: bool,
}

impl Notify {
    pub fn open() -> io::Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let template = runtime.unwrap_or_else(std::env::temp_dir).join("callsign-run-XXXXXX");
        let directory = nix::unistd::mkdtemp(&template)?;
        let socket = UnixDatagram::bind(directory.join("notify"))?;
        // An abstract address (`@…`) has no path; systemd has not used one for years.
        let outer = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(Self { directory, socket, outer })
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join("notify")
    }

    /// The next message. Cancel-safe: a datagram is taken whole or not.
    pub async fn next(&self) -> Notified {
        let mut message = [0; MESSAGE_OCTETS_MAX];
        let octets = match self.socket.recv(&mut message).await {
            Ok(octets) => octets,
            // The socket is ours and bound; there is nothing to hear from it any more.
            Err(_) => std::future::pending().await,
        };
        let message = &message[..octets];
        if let Some(outer) = &self.outer {
            // What systemd does not take in time it would not have taken from the command either.
            let _ = self.socket.try_send_to(message, outer);
        }
        read(message)
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
        let _ = std::fs::remove_dir(Path::new(&self.directory));
    }
}

fn read(message: &[u8]) -> Notified {
    let says = |words: &str| message.split(|octet| *octet == b'\n').any(|line| line == words.as_bytes());
    Notified { ready: says("READY=1"), stopping: says("STOPPING=1") }
}

/// Every signal that is passed on.
pub struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    pub fn all() -> io::Result<Self> {
        let signals = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGWINCH,
        ];
        signals
            .into_iter()
            .map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next one that came. Cancel-safe: one is taken or not.
    pub async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// True where the command has had the signal already.
///
/// A terminal sends Ctrl-C, Ctrl-\ and a change of its size to every process of its foreground group, and
/// the command is in ours, so that job control and reading from the terminal work as without us. Who
/// sends one of these with `kill` to us alone, while we are in the foreground, is not told apart.
pub fn came_from_terminal(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH)
        && std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| in_foreground(&stat))
}

/// Whether a line of `/proc/PID/stat` is that of a process in its terminal's foreground group.
fn in_foreground(stat: &str) -> bool {
    // The second field is the program's name in parentheses, and may hold any character, these too.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // state, parent, group, session, terminal, the terminal's foreground group: proc(5).
    matches!(fields.as_slice(), [_, _, group, _, terminal, foreground, ..] if *terminal != "0" && group == foreground)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines() {
        assert_eq!(read(b"STATUS=up\nREADY=1\n"), Notified { ready: true, stopping: false });
        assert_eq!(read(b"STOPPING=1"), Notified { ready: false, stopping: true });
        assert_eq!(read(b"READY=10\nXREADY=1\n\xff"), Notified { ready: false, stopping: false });
    }

    #[test]
    fn the_foreground_is_told_from_the_background() {
        assert!(in_foreground("7 (a) b) S 1 7 7 34816 7 4194304 0"));
        assert!(!in_foreground("7 (x) S 1 7 7 34816 9 4194304 0"), "another group is in front");
        assert!(!in_foreground("7 (x) S 1 7 7 0 -1 4194304 0"), "no terminal");
        assert!(!in_foreground(""));
    }

    #[tokio::test]
    async fn the_socket_hears_and_leaves_nothing_behind() {
        let notify = Notify::open().unwrap();
        let path = notify.path();
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", &path).await.unwrap();
        assert!(notify.next().await.ready);
        let directory = path.parent().unwrap().to_owned();
        drop(notify);
        assert!(!directory.exists());
    }
}
