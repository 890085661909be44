//! The acceptance function as a hickory `RequestHandler`: mount the live registry in a hickory server.
//!
//! `Handler` answers from the same view and by the same rules as our own loops; what the server around
//! it does differently on the wire (sizes, order, truncation) is listed in `tests/stock.txt`.
//! Listeners are best given `tcp::IDLE_MAX`, which is what replies say of idle connections (RFC 7828).
//! See `examples/hickory.rs`.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Message, MessageType, Metadata, ResponseCode};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::answer::Over;
use crate::balance::Draws;
use crate::dns::wire::{Arrival, Responder};

/// Answers from a view, as a hickory `RequestHandler`.
pub struct Handler {
    responder: Arc<Responder>,
    draws: Mutex<Draws>,
}

impl Handler {
    /// `seed` is any random number: the order of records follows from it.
    pub fn new(responder: Arc<Responder>, seed: u64) -> Self {
        Self { responder, draws: Mutex::new(Draws::new(seed)) }
    }

    async fn reply(&self, request: &Request) -> Option<Message> {
        let draw = self.draws.lock().unwrap_or_else(PoisonError::into_inner).next_u64();
        let over = if request.protocol() == Protocol::Udp { Over::Udp } else { Over::Tcp };
        let arrival = Arrival { client: request.src(), over, draw };
        let reply = self.responder.reply(&arrival, request.as_slice()).await?;
        Message::from_vec(&reply).ok()
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata =
            Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
        metadata.response_code = ResponseCode::ServFail;
        let unsent = |metadata| ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Some(reply) = self.reply(request).await else { return unsent(metadata) };
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &reply.edns {
            builder.edns(edns);
        }
        let message =
            builder.build(reply.metadata, &reply.answers, &reply.authorities, [], &reply.additionals);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "reply not sent");
                unsent(metadata)
            }
        }
    }
}
