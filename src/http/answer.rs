//! `GET /v1/answer?name=web&type=SRV`: what a client gets now, to the octet, from the function that answers clients.
//!
//! `over=tcp` and `over=udp`, the default; `size=` the octets that the client offers by EDNS, 1232 where nothing is said and 0 for a client
//! without EDNS; `do=1` wants signatures; `client=` the address that asks, for answers depend on it: without it, yours.
//! Nobody else is asked, whatever is forwarded, and nothing is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use serde::Serialize;

use super::query::Query;
use super::reply::{self, Failure};
use super::{Client, Office};
use crate::access::On;
use crate::access::Verb;
use crate::explain::{about, domain};
use crate::message::{Shown, record_type};
use crate::registry::Author;

/// Where it is; which service it is about, the name says.
pub const PATH: &str = "/v1/answer";
/// What a client offers where nothing is said: every path carries it without fragments (RFC 9715).
const SIZE_DEFAULT: u16 = 1232;
/// DO in the TTL of an OPT record (RFC 6891 section 6.1.4).
const DO: u16 = 0x8000;

/// Answers one message as clients are answered: from whom, whether it comes over a stream, a random number for the order of
/// the records, and the octets.
pub type Answering = Arc<dyn Fn(SocketAddr, bool, u64, &[u8]) -> Option<Vec<u8>> + Send + Sync>;

pub fn router() -> Router<Arc<Office>> {
    Router::new().route(PATH, get(answer))
}

/// The answer, and to whom.
#[derive(Serialize)]
struct Answered {
    client: IpAddr,
    over: &'static str,
    #[serde(flatten)]
    message: Shown,
}

async fn answer(
    State(office): State<Arc<Office>>,
    client: Client,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query.as_deref());
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty());
    let view = &office.desk.view;
    let name = text("name").ok_or_else(|| Failure::bad("name is missing; ask ?name=web&type=SRV"))?;
    let service = about(view, name);
    office.desk.may(&client.who, Verb::Read, service.as_deref().map_or(On::Everything, On::Service))?;
    let name = domain(view, name)?;
    let rtype = text("type").map_or(Some(RecordType::A), record_type);
    let rtype = rtype.ok_or_else(|| Failure::bad("type must be A, AAAA, SRV, TXT … or TYPE65"))?;
    let size = text("size").map_or(Ok(SIZE_DEFAULT), str::parse);
    let size =
        size.map_err(|_| Failure::bad("size must be 0 to 65535 octets; 0 is a client without EDNS"))?;
    let tcp = match text("over") {
        None | Some("udp") => false,
        Some("tcp") => true,
        Some(_) => return Err(Failure::bad("over must be udp or tcp")),
    };
    let from = match text("client") {
        Some(address) => {
            address.parse().map_err(|_| Failure::bad("client must be an address such as 10.0.0.7"))?
        }
        None => match client.who.author() {
            Author::Address(address) => address.ip().to_canonical(),
            _ => Ipv4Addr::LOCALHOST.into(),
        },
    };
    let [id, draw] = [drawn()?, drawn()?];
    let edns = (size > 0).then_some((size, query.flag("do")?));
    let message = question(id as u16, name.as_wire(), rtype.into(), edns);
    // A port that nobody asks from by mistake: 0 would be a trick.
    let octets = (office.answering)(SocketAddr::new(from, 1), tcp, draw, &message);
    let octets = octets.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "no reply"))?;
    let message = Message::from_vec(&octets).map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the reply cannot be read: {error}"))
    })?;
    let over = if tcp { "tcp" } else { "udp" };
    let answered = Answered { client: from, over, message: Shown::of(&message, octets.len()) };
    Ok(reply::json(StatusCode::OK, &answered, false))
}

fn drawn() -> Result<u64, Failure> {
    getrandom::u64().map_err(|error| {
        let text = format!("no random number from the kernel: {error}; try again");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })
}

/// A message with one question, and with an OPT record where the client has EDNS: its size, and DO.
fn question(id: u16, name: &[u8], rtype: u16, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut message = Vec::with_capacity(name.len() + 32);
    let recursion_desired = 0x0100_u16;
    for number in [id, recursion_desired, 1, 0, 0, u16::from(edns.is_some())] {
        message.extend(number.to_be_bytes());
    }
    message.extend(name);
    for number in [rtype, 1] {
        message.extend(number.to_be_bytes());
    }
    if let Some((size, dnssec_ok)) = edns {
        message.push(0);
        for number in [RecordType::OPT.into(), size, 0, if dnssec_ok { DO } else { 0 }, 0] {
            message.extend(number.to_be_bytes());
        }
    }
    message
}
