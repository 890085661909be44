//! A secondary of the server: it asks for what changed since it asked last, takes that strictly, and holds what it then has
//! against the whole zone.
//!
//! It outlives the server, so the first thing that it asks of a new one is what changed since the old one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use callsign::answer::Over;
use callsign::dns::wire::{Accepted, Arrival, Responder};
use hickory_proto::op::{Message, ResponseCode};
use tokio::time::sleep; // tidy: may sleep: simulated time

use crate::harness::{Draws, dns};
use crate::transfers::{Came, Secondary, question};
use crate::world::Shared;

const APEX: &str = "service.local.";
/// The longest time between two questions, in milliseconds: some are asked behind every commit, some behind many.
const PAUSES_MS: [usize; 3] = [5, 100, 1500];

/// Asks until the server ends.
pub async fn keep(world: Shared, responder: Arc<Responder>, mut draws: Draws) {
    while world.lock().has_power() {
        let known = world.lock().secondary.clone();
        match round(known, &responder).await {
            Ok(now) => world.lock().transferred(now),
            Err(what) => return world.lock().found(format!("the secondary: {what}")),
        }
        let pause = PAUSES_MS[draws.below(PAUSES_MS.len())];
        let pause = Duration::from_millis(draws.below(pause) as u64);
        sleep(pause).await; // tidy: may sleep: simulated time, until it asks again
    }
}

/// What the secondary has after the next transfer, and whether that is known to be the zone.
async fn round(
    known: Option<Secondary>,
    responder: &Arc<Responder>,
) -> Result<Option<(Secondary, bool)>, String> {
    let Some(came) = transfer(responder, known.as_ref().map(|known| known.serial)).await? else {
        return Ok(None);
    };
    let now = match known {
        Some(mut known) if came.records.len() == 1 || came.is_difference() => {
            known.apply(&came)?;
            known
        }
        _ => Secondary::new(&came),
    };
    let Some(whole) = transfer(responder, None).await? else { return Ok(Some((now, false))) };
    let whole = Secondary::new(&whole);
    let is_same_serial = whole.serial == now.serial;
    if is_same_serial && whole.lines != now.lines {
        let (serial, more) = (now.serial, now.lines.symmetric_difference(&whole.lines));
        return Err(format!(
            "at serial {serial} only one of difference and zone has {:?}",
            more.collect::<Vec<_>>()
        ));
    }
    Ok(Some((now, is_same_serial)))
}

/// One transfer; none where the server cannot say.
async fn transfer(responder: &Arc<Responder>, since: Option<u32>) -> Result<Option<Came>, String> {
    let client = SocketAddr::from(([127, 0, 0, 1], 5354));
    let arrival = Arrival { client, over: Over::Tcp, draw: 0 };
    let asked = question(APEX, since).to_vec().expect("a query");
    let messages: Vec<Message> = match responder.accept(&arrival, &asked) {
        Accepted::Transfer(transfer) => transfer.begin().await.map(|message| dns::read(&message)).collect(),
        Accepted::Reply(reply) => vec![dns::read(&reply)],
        Accepted::Silence | Accepted::Pending(_) => return Err("no answer".to_owned()),
    };
    let mut came = Came::default();
    for message in messages {
        match message.metadata.response_code {
            ResponseCode::NoError => came.add(message),
            ResponseCode::ServFail => return Ok(None),
            other => return Err(format!("{other}")),
        }
    }
    Ok(Some(came))
}
