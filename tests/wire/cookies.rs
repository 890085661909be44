//! Cookies (RFC 7873) over more than one query: a client gives back what it got.

use callsign::answer::Over;
use callsign::dns::cookie::{Cookies, Secret};
use callsign::dns::wire::Policy;

use super::fixture::{Servers, fixture, policy};
use super::judge::{Read, read};
use super::query::octets_of;
use super::{Outcome, ask, ask_in_process};

const CLIENT_PART: [u8; 8] = *b"\x01\x02\x03\x04\x05\x06\x07\x08";

/// `v6.service.local AAAA`, or no question at all, with this cookie.
fn query(questions: u16, cookie: &[u8]) -> Vec<u8> {
    let mut query = octets_of(0, "4242 0000");
    query.extend(questions.to_be_bytes());
    query.extend(octets_of(0, "0000 0000 0001"));
    if questions == 1 {
        query.extend(octets_of(0, "02\"v6\"07\"service\"05\"local\"00 001c 0001"));
    }
    query.extend(octets_of(0, "00 0029 04d0 00000000"));
    query.extend((4 + cookie.len() as u16).to_be_bytes());
    query.extend(octets_of(0, "000a"));
    query.extend((cookie.len() as u16).to_be_bytes());
    query.extend(cookie);
    query
}

fn reply(outcome: Outcome) -> Read {
    let Outcome::Reply(reply) = outcome else { panic!("no reply") };
    read(&reply).unwrap()
}

pub fn cookie_of(read: &Read) -> Option<Vec<u8>> {
    let options = &read.opt.as_ref()?.options;
    options.iter().find(|(code, _)| *code == 10).map(|(_, cookie)| cookie.clone())
}

#[tokio::test]
async fn a_cookie_comes_back_good() {
    let servers = Servers::ours(&fixture(), policy(false)).await;
    for over in [Over::Udp, Over::Tcp] {
        let first = cookie_of(&reply(ask(&servers, &query(1, &CLIENT_PART), over).await)).unwrap();
        assert_eq!((first.len(), &first[..12]), (24, &[&CLIENT_PART[..], &[1, 0, 0, 0]].concat()[..]));
        // What is good and young is given back as it is, over either transport.
        for over in [Over::Udp, Over::Tcp] {
            let again = reply(ask(&servers, &query(1, &first), over).await);
            assert_eq!((again.rcode(), cookie_of(&again)), (0, Some(first.clone())), "{over:?}");
            assert_eq!(again.sections[0].len(), 1);
            let alone = reply(ask(&servers, &query(0, &first), over).await);
            assert_eq!((alone.rcode(), cookie_of(&alone)), (0, Some(first.clone())), "{over:?}");
        }
        // What is not is no reason to withhold an answer; who asks about the cookie alone hears of it.
        let mut forged = first.clone();
        forged[23] ^= 1;
        let other = reply(ask(&servers, &query(1, &forged), over).await);
        assert_eq!((other.rcode(), other.sections[0].len()), (0, 1));
        assert_ne!(cookie_of(&other), Some(forged.clone()));
        let alone = reply(ask(&servers, &query(0, &forged), over).await);
        assert_eq!(alone.rcode(), 23);
        let fresh = cookie_of(&alone).unwrap();
        assert_eq!(reply(ask(&servers, &query(0, &fresh), over).await).rcode(), 0);
    }
}

/// A server behind the same address that has the same secret believes it, one that has not does not.
#[tokio::test]
async fn a_cookie_is_good_with_every_server_that_has_the_secret() {
    let view = fixture();
    let cookie_from = async |servers: &Servers| {
        cookie_of(&reply(ask(servers, &query(1, &CLIENT_PART), Over::Udp).await)).unwrap()
    };
    let (one, two) = (Servers::ours(&view, policy(false)).await, Servers::ours(&view, policy(true)).await);
    let cookie = cookie_from(&one).await;
    assert_eq!(reply(ask(&two, &query(0, &cookie), Over::Udp).await).rcode(), 0);
    let cookies = Cookies::Given(Secret([8; 16]), None);
    let stranger = Servers::ours(&view, Policy { cookies: Some(cookies), ..Policy::default() }).await;
    assert_eq!(reply(ask(&stranger, &query(0, &cookie), Over::Udp).await).rcode(), 23);
}

#[test]
fn cookies_may_be_off() {
    let view = fixture();
    for over in [Over::Udp, Over::Tcp] {
        let ask = |query: &[u8]| reply(ask_in_process(&view, &Policy::default(), query, over));
        let answer = ask(&query(1, &CLIENT_PART));
        assert_eq!((answer.rcode(), answer.sections[0].len(), cookie_of(&answer)), (0, 1, None));
        let alone = ask(&query(0, &CLIENT_PART));
        assert_eq!((alone.rcode(), alone.questions, cookie_of(&alone)), (1, 0, None));
        assert!(alone.opt.is_some());
        // A broken one is broken whether or not we would use it.
        assert_eq!(ask(&query(1, &[0; 9])).rcode(), 1);
    }
}
