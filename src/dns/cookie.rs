//! DNS cookies (RFC 7873), as servers of every make form them (RFC 9018): who gives back what we once gave to
//! its address can be at that address.
//!
//! Nothing is kept for a client. Its cookie is a time and a hash under a secret, which all servers behind one
//! address share and which may be changed without a cookie being lost: two are believed, the first one makes.

use std::fmt;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::edns::Cookie;
use crate::time::Wall;

/// Octets of a client's own part.
pub const CLIENT_OCTETS: usize = 8;
/// Octets of a whole cookie of ours: the client's, version, three reserved, time, hash (RFC 9018 section 4).
pub const COOKIE_OCTETS: usize = 24;
/// Where the hash begins; all before it is hashed.
const HASH_AT: usize = 16;
/// Octets of a secret (RFC 9018 section 4.4).
pub const SECRET_OCTETS: usize = 16;
/// Secrets at once: the one that makes, and the one before it or after it.
pub const SECRETS_MAX: usize = 2;

const VERSION: u8 = 1;
/// RFC 9018 section 4.3: how old a cookie may be, how far ahead of our clock, and from what age on a client
/// gets a new one. In seconds.
const AGE_MAX: u32 = 3600;
const AHEAD_MAX: u32 = 300;
const RENEWED_FROM: u32 = 1800;
/// How long a drawn secret makes cookies: no longer than a day and two hours, says RFC 7873 section 7.1.
const DAY: u32 = 86_400;

/// What makes a cookie ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_OCTETS]);

/// A secret is shown to nobody, in no log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// What a drawn secret is on one day; nobody who knows that knows it on another.
    fn of_day(self, day: u32) -> Self {
        let hasher = SipHasher24::new_with_key(&self.0);
        let [a, b, c, d] = day.to_be_bytes();
        let [first, second] = [0, 1].map(|half| hasher.hash(&[a, b, c, d, half]));
        Self((u128::from(first) << 64 | u128::from(second)).to_be_bytes())
    }
}

/// Makes cookies and tells its own.
#[derive(Clone, Debug)]
pub enum Cookies {
    /// The secret that makes, and another one that is believed as well: the one before, or the next.
    Given(Secret, Option<Secret>),
    /// A secret of this process alone, which is another one every day (RFC 7873 section 7.1).
    Drawn(Secret),
}

/// What a client's cookie is worth, and the one that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub server_part: ServerPart,
    pub cookie: [u8; COOKIE_OCTETS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPart {
    /// The client has none yet.
    Missing,
    /// Too old, for another address, another server's, or invented.
    Bad,
    /// The client is where it says it is.
    Good,
}

impl Cookies {
    /// The secret that makes at this time.
    fn making(&self, seconds: u32) -> Secret {
        match *self {
            Self::Given(makes, _) => makes,
            Self::Drawn(secret) => secret.of_day(seconds / DAY),
        }
    }

    /// The other one that is believed.
    fn other(&self, seconds: u32) -> Option<Secret> {
        match *self {
            Self::Given(_, other) => other,
            Self::Drawn(secret) => Some(secret.of_day((seconds / DAY).wrapping_sub(1))),
        }
    }

    /// What `asked` is worth from `client` at `now`. The cookie to give back is its own while that is good,
    /// young, and of the first secret; else a new one.
    pub fn judge(&self, asked: &Cookie<'_>, client: IpAddr, now: Wall) -> Judged {
        let seconds = now.unix_ms.div_euclid(1000) as u32; // RFC 9018 section 4.3: serial numbers
        let makes = self.making(seconds);
        let fresh = || {
            let [a, b, c, d] = seconds.to_be_bytes();
            whole(makes, asked.client, [VERSION, 0, 0, 0, a, b, c, d], client)
        };
        let Some((head, hash)) = asked.server.split_first_chunk::<8>() else {
            return Judged { server_part: ServerPart::Missing, cookie: fresh() };
        };
        let [version, _, _, _, made_at @ ..] = *head;
        let made = u32::from_be_bytes(made_at);
        let (age, ahead) = (seconds.wrapping_sub(made), made.wrapping_sub(seconds));
        let in_time = age <= AGE_MAX || ahead <= AHEAD_MAX;
        // As numbers: how long that takes tells nobody how much of a guess was right.
        let hash = <[u8; 8]>::try_from(hash).ok().map(u64::from_ne_bytes);
        let under = |secret: Secret| {
            let cookie = whole(secret, asked.client, *head, client);
            let own = cookie.last_chunk().copied().map(u64::from_ne_bytes);
            (own == hash).then_some(cookie)
        };
        if version != VERSION || !in_time {
            return Judged { server_part: ServerPart::Bad, cookie: fresh() };
        }
        match under(makes) {
            Some(cookie) if age < RENEWED_FROM || ahead <= AHEAD_MAX => {
                Judged { server_part: ServerPart::Good, cookie }
            }
            Some(_) => Judged { server_part: ServerPart::Good, cookie: fresh() },
            None => {
                let believed = self.other(seconds).and_then(under).is_some();
                let server_part = if believed { ServerPart::Good } else { ServerPart::Bad };
                Judged { server_part, cookie: fresh() }
            }
        }
    }
}

/// The client's part, `head` (version, reserved, time), and the hash of both with the address under `secret`
/// (RFC 9018 section 4.4).
fn whole(secret: Secret, client: [u8; CLIENT_OCTETS], head: [u8; 8], address: IpAddr) -> [u8; COOKIE_OCTETS] {
    let mut cookie = [0; COOKIE_OCTETS];
    cookie[..CLIENT_OCTETS].copy_from_slice(&client);
    cookie[CLIENT_OCTETS..HASH_AT].copy_from_slice(&head);
    let mut hashed = [0; HASH_AT + 16];
    hashed[..HASH_AT].copy_from_slice(&cookie[..HASH_AT]);
    let address_octets = match address.to_canonical() {
        IpAddr::V4(v4) => {
            hashed[HASH_AT..HASH_AT + 4].copy_from_slice(&v4.octets());
            4
        }
        IpAddr::V6(v6) => {
            hashed[HASH_AT..].copy_from_slice(&v6.octets());
            16
        }
    };
    let hash = SipHasher24::new_with_key(&secret.0).hash(&hashed[..HASH_AT + address_octets]);
    cookie[HASH_AT..].copy_from_slice(&hash.to_le_bytes());
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        assert_eq!(hex.len(), 2 * N, "{hex}");
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }

    fn secret(hex: &str) -> Secret {
        Secret(octets(hex))
    }

    fn at(unix_s: i64) -> Wall {
        Wall { unix_ms: unix_s * 1000 }
    }

    const ONE: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";
    const FIRST: &str = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";

    /// RFC 9018, Appendix A: client, cookie, time, and the cookie that comes back.
    #[test]
    fn cookies_are_those_of_every_make() {
        let one = Cookies::Given(secret(ONE), None);
        let rolled = Cookies::Given(
            secret("445536bcd2513298075a5d379663c962"),
            Some(secret("dd3bdf9344b678b185a6f5cb60fca715")),
        );
        use ServerPart::{Bad, Good, Missing};
        for (cookies, client, server, address, now, part, expected) in [
            (&one, "2464c4abcf10c957", "", "198.51.100.100", 1_559_731_985, Missing, FIRST),
            (
                &one,
                "2464c4abcf10c957",
                "010000005cf79f111f8130c3eee29480",
                "198.51.100.100",
                1_559_734_385,
                Good,
                "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
            ),
            // The reserved octets are whatever another server put there; here the cookie is too old as well.
            (
                &one,
                "fc93fc62807ddb86",
                "01abcdef5cf78f71a314227b6679ebf5",
                "203.0.113.203",
                1_559_734_700,
                Bad,
                "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
            ),
            (
                &rolled,
                "22681ab97d52c298",
                "010000005cf7c57926556bd0934c72f8",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_961,
                Good,
                "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
            ),
        ] {
            let server: Vec<u8> = server
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            let asked = Cookie { client: octets(client), server: &server };
            let judged = cookies.judge(&asked, address.parse().unwrap(), at(now));
            assert_eq!(judged, Judged { server_part: part, cookie: octets(expected) }, "{expected}");
        }
        // The same one in its time: what is reserved is hashed as it came.
        let asked = Cookie {
            client: octets("fc93fc62807ddb86"),
            server: &octets::<16>("01abcdef5cf78f71a314227b6679ebf5"),
        };
        let judged = one.judge(&asked, "203.0.113.203".parse().unwrap(), at(0x5cf7_8f71));
        assert_eq!(judged.server_part, ServerPart::Good);
    }

    /// What a cookie of `made` is worth at `now`, and whether it comes back as it is.
    fn at_age(made: i64, now: i64) -> (ServerPart, bool) {
        let cookies = Cookies::Given(secret(ONE), None);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let first = cookies.judge(&Cookie { client: [7; 8], server: &[] }, client, at(made)).cookie;
        let judged = cookies.judge(&Cookie { client: [7; 8], server: &first[8..] }, client, at(now));
        (judged.server_part, judged.cookie == first)
    }

    #[test]
    fn a_cookie_has_its_time() {
        use ServerPart::{Bad, Good};
        let day = 1_795_000_000;
        // The clock's 32 bits run over in 2106.
        for made in [day, i64::from(u32::MAX) - 60] {
            for (after, expected) in [
                (0, (Good, true)),
                (1799, (Good, true)),
                (1800, (Good, false)),
                (3600, (Good, false)),
                (3601, (Bad, false)),
                (-300, (Good, true)),
                (-301, (Bad, false)),
                (1 << 31, (Bad, false)),
            ] {
                assert_eq!(at_age(made, made + after), expected, "{made} after {after}");
            }
        }
    }

    #[test]
    fn a_cookie_is_of_its_client_and_whole() {
        let cookies = Cookies::Given(secret(ONE), None);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let made = cookies.judge(&Cookie { client: [7; 8], server: &[] }, client, at(1000)).cookie;
        let judge = |own: [u8; 8], server: &[u8], client: IpAddr| {
            cookies.judge(&Cookie { client: own, server }, client, at(1000)).server_part
        };
        assert_eq!(judge([7; 8], &made[8..], client), ServerPart::Good);
        assert_eq!(judge([7; 8], &made[8..], "::ffff:192.0.2.1".parse().unwrap()), ServerPart::Good);
        assert_eq!(judge([7; 8], &made[8..], "192.0.2.2".parse().unwrap()), ServerPart::Bad);
        assert_eq!(judge([8; 8], &made[8..], client), ServerPart::Bad);
        // Another server's form: any length that a cookie may have.
        assert_eq!(judge([7; 8], &made[8..16], client), ServerPart::Bad);
        assert_eq!(judge([7; 8], &[made[8..].to_vec(), vec![0]].concat(), client), ServerPart::Bad);
        for at in 8..24 {
            let mut forged = made;
            forged[at] ^= 1;
            assert_eq!(judge([7; 8], &forged[8..], client), ServerPart::Bad, "octet {at}");
        }
    }

    #[test]
    fn a_drawn_secret_is_of_its_day() {
        let cookies = Cookies::Drawn(secret(ONE));
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let judge =
            |server: &[u8], now: i64| cookies.judge(&Cookie { client: [7; 8], server }, client, at(now));
        let midnight = 20_000 * i64::from(DAY);
        let before = judge(&[], midnight - 60).cookie;
        let after = judge(&before[8..], midnight + 60);
        // Believed, and replaced by one of the new day, though it is young.
        assert_eq!(after.server_part, ServerPart::Good);
        assert_ne!(after.cookie[16..], before[16..]);
        assert_eq!(judge(&after.cookie[8..], midnight + 61), after);
        // The secret of another day does not make the same of the same time.
        let days: std::collections::BTreeSet<_> =
            (0..40).map(|day| secret(ONE).of_day(day).0).chain([secret(ONE).0]).collect();
        assert_eq!(days.len(), 41);
    }

    #[test]
    fn secrets_change_without_a_loss() {
        let [old, new] = [secret(ONE), secret("445536bcd2513298075a5d379663c962")];
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let mut held: Option<[u8; COOKIE_OCTETS]> = None;
        for (step, cookies) in
            [(old, None), (old, Some(new)), (new, Some(old)), (new, None)].into_iter().enumerate()
        {
            let cookies = Cookies::Given(cookies.0, cookies.1);
            let server = held.map(|cookie| cookie[8..].to_vec()).unwrap_or_default();
            let judged = cookies.judge(&Cookie { client: [7; 8], server: &server }, client, at(1000));
            let expected = if step == 0 { ServerPart::Missing } else { ServerPart::Good };
            assert_eq!(judged.server_part, expected, "step {step}");
            held = Some(judged.cookie);
        }
        let gone = Cookies::Given(old, None);
        let server = held.unwrap();
        let judged = gone.judge(&Cookie { client: [7; 8], server: &server[8..] }, client, at(1000));
        assert_eq!(judged.server_part, ServerPart::Bad);
        assert_eq!(format!("{:?}", secret(ONE)), "Secret");
    }
}
