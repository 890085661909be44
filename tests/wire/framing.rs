//! Streams that no client means to send: lengths that lie, messages in any pieces, ends anywhere. What is read of
//! them is what their lengths say, and each message is answered as it is alone.
//!
//! The reading is that of our connections; the stream is in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use callsign::answer::Over;
use callsign::balance::Draws;
use callsign::dns::tcp;
use tokio::io::{AsyncRead, BufReader, ReadBuf};

use super::fuzz::{Bench, Chance, Counts, Witness, run};

/// Frames of each of the two threads: messages, and the ends of streams.
const FRAMES: usize = 60_000;
/// Octets of a header: a length that says less ends the connection.
const HEADER: usize = 12;

#[test]
fn no_stream_does_harm() {
    let counts = run("tcp", FRAMES, streams);
    for end in ["ended", "too short", "within a length", "within a message"] {
        assert!(counts.get(end).is_some_and(|count| *count > 100), "{end}: {counts:?}");
    }
}

fn streams(bench: &Bench, seed: u64, frames: usize) -> Counts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut chance = Chance(Draws::new(seed));
    let mut counts = Counts::new();
    runtime.block_on(async {
        let mut case = 0;
        while case < frames {
            let octets = stream(&mut chance, &bench.real);
            let witness = Witness(seed, case, &octets);
            one(bench, &octets, &mut chance, &mut counts).await;
            drop(witness);
            case = counts["case"];
        }
    });
    counts
}

/// A connection's octets.
fn stream(chance: &mut Chance, real: &[Vec<u8>]) -> Vec<u8> {
    let mut octets = Vec::new();
    for _ in 0..=chance.below(6) {
        let message = chance.message(real);
        let length = message.len() as u16;
        // A wrong length makes everything behind it something else, so most are right.
        let length = match chance.below(80) {
            0 => length.wrapping_add(1),
            1 => length.wrapping_sub(1),
            2 => length.swap_bytes(),
            3 => chance.below(HEADER + 1) as u16,
            4 => chance.below(65_536) as u16,
            _ => length,
        };
        octets.extend(length.to_be_bytes());
        octets.extend(message);
    }
    if chance.below(4) == 0 {
        octets.truncate(chance.below(octets.len() + 1));
    }
    octets
}

/// Reads one stream to its end, and asks every message of it.
async fn one(bench: &Bench, octets: &[u8], chance: &mut Chance, counts: &mut Counts) {
    let pieces = [1, 2, 3, 14, 512, usize::MAX][chance.below(6)];
    let split = Split { rest: octets, pieces, draws: Draws::new(chance.0.next_u64()) };
    let mut reader = BufReader::with_capacity([16, 2048][chance.below(2)], split);
    let mut message = Vec::new();
    let mut rest = octets;
    loop {
        let read = tcp::read(&mut reader, &mut message).await;
        *counts.entry("case").or_default() += 1;
        let end = match split_off(&mut rest) {
            Ok(expected) => {
                assert!(matches!(read, Ok(true)), "{read:?} for a message of {} octets", expected.len());
                assert_eq!(message, expected);
                *counts.entry(bench.ask(&message, Over::Tcp, chance)).or_default() += 1;
                continue;
            }
            Err(end) => end,
        };
        let closes = match read {
            Ok(whole) => !whole,
            Err(error) => error.kind() == io::ErrorKind::UnexpectedEof && end == "within a length",
        };
        assert!(closes, "a message where the stream is {end}");
        // What was announced takes no memory: at most what came, and as much again.
        assert!(message.capacity() <= 2 * octets.len() + 64, "{} octets", message.capacity());
        *counts.entry(end).or_default() += 1;
        return;
    }
}

/// The next message of a stream by its length, or why there is none.
fn split_off<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let [a, b, behind @ ..] = *rest else {
        return Err(if rest.is_empty() { "ended" } else { "within a length" });
    };
    let octets = usize::from(u16::from_be_bytes([*a, *b]));
    if octets < HEADER {
        return Err("too short");
    }
    let (message, behind) = behind.split_at_checked(octets).ok_or("within a message")?;
    *rest = behind;
    Ok(message)
}

/// Octets that come in pieces of any size up to `pieces`, some of them late.
struct Split<'a> {
    rest: &'a [u8],
    pieces: usize,
    draws: Draws,
}

impl AsyncRead for Split<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let split = self.get_mut();
        let draw = split.draws.next_u64();
        if draw.is_multiple_of(16) {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = split.rest.len().min(out.remaining()).min(split.pieces);
        let octets = if most == 0 { 0 } else { 1 + (draw >> 8) as usize % most };
        let (piece, rest) = split.rest.split_at(octets);
        out.put_slice(piece);
        split.rest = rest;
        Poll::Ready(Ok(()))
    }
}
