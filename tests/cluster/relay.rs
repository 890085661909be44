//! The way of one node to etcd, which can be cut while everything else goes on.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module's own words. Its thread ends with the test.
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Relay {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if state.is_cut {
                    continue; // and it is closed
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (mut from, mut to) in [(another(&near), another(&far)), (another(&far), another(&near))] {
                    // One that is cut ends both ways.
                    std::thread::spawn(move || drop(io::copy(&mut from, &mut to)));
                }
                state.streams.extend([near, far]);
            }
        });
        Self { address, state }
    }

    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both); // the other side may have been first
        }
    }

    pub fn mend(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_cut = false;
    }

    /// The value of `--store`.
    pub fn store(&self) -> String {
        format!("etcd://{}", self.address)
    }
}

fn another(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("another descriptor")
}
