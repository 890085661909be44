//! Whether the time that a wrong token takes tells how much of it is right: `cargo bench --bench secrets`, alone on the machine.
//!
//! Two kinds of wrong tokens, drawn in turn by chance: with all octets of the right secret but the last, and with the same octets in another order. Each sample
//! has a secret of its own, so that what a text costs to read is no difference between the kinds. Their times are compared by Welch's t-test, as dudect does
//! (Reparaz, Balasch, Verbauwhede 2017): |t| below 4.5 over a million samples is no difference that can be seen. A comparison that ends at the first wrong
//! octet is measured in the same way, to show that the test sees one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use callsign::access::{SECRET_OCTETS, Token, Tokens};
use callsign::balance::Draws;
use callsign::time::Wall;

/// Comparisons that are timed.
const SAMPLES: usize = 1_000_000;
/// What is slower than this share of all was interrupted.
const KEPT_PERCENT: usize = 90;
/// The bound of dudect.
const T_MAX: f64 = 4.5;
/// The number of the token, which is no secret.
const NUMBER: u64 = 7;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn main() {
    let mut draws = Draws::new(Instant::now().elapsed().subsec_nanos().into());
    let found = t(&mut draws, |tokens, _, text| tokens.find(text, Wall::default()).is_ok());
    let early =
        t(&mut draws, |_, right, text| text.bytes().zip(right.bytes()).all(|(a, b)| black_box(a) == b));
    println!(
        "a token:            |t| = {:.2} over {SAMPLES} samples (below {T_MAX}: no difference)",
        found.abs()
    );
    println!("the first octet:    |t| = {:.2} (above: the test sees one)", early.abs());
    assert!(early.abs() > T_MAX, "the test sees nothing");
    assert!(found.abs() < T_MAX, "the time tells something");
}

fn token(secret: &[u8; SECRET_OCTETS]) -> Arc<Token> {
    Arc::new(Token {
        name: "ci".into(),
        number: NUMBER,
        hash: Token::hash_of(secret),
        grants: Vec::new(),
        created: Wall::default(),
        expires: None,
    })
}

/// Welch's t of the times that `compare` takes for both kinds, of the tokens, the right text and the wrong one.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn t(draws: &mut Draws, compare: impl Fn(&Tokens, &str, &str) -> bool) -> f64 {
    let mut tokens = Tokens::default();
    let mut samples: Vec<(usize, f64)> = Vec::with_capacity(SAMPLES);
    while samples.len() < SAMPLES {
        let right: [u8; SECRET_OCTETS] = std::array::from_fn(|_| draws.next_u64() as u8);
        tokens.put(token(&right));
        let (mut wrong, kind) = (right, (draws.next_u64() & 1) as usize);
        wrong[SECRET_OCTETS - 1] ^= 1;
        let (whole, mut turned) = (Token::text(NUMBER, &right), wrong);
        turned[..SECRET_OCTETS - 1].reverse();
        // Only the one that is shown is made, and in the same place: what a cache holds is no difference between the kinds.
        let text = Token::text(NUMBER, &[wrong, turned][kind]);
        let begun = Instant::now();
        black_box(compare(black_box(&tokens), black_box(&whole), black_box(&text)));
        samples.push((kind, begun.elapsed().as_nanos() as f64));
    }
    let mut sorted: Vec<f64> = samples.iter().map(|(_, time)| *time).collect();
    sorted.sort_by(f64::total_cmp);
    let longest = sorted[SAMPLES * KEPT_PERCENT / 100];
    let [a, b] = [0, 1].map(|kind| {
        let times = samples.iter().filter(|(of, time)| *of == kind && *time <= longest);
        let times: Vec<f64> = times.map(|(_, time)| *time).collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (a.0 - b.0) / (a.1 + b.1).sqrt()
}
