//! The nodes as they are shown: who is a member, what each has seen of the registry, and what belongs to whom.
//!
//! A node's revision is asked of the node itself, as any secondary does: it is the serial of its SOA, over DNS. So nobody
//! writes it to etcd, and it is true of a node as well that etcd has lost. Where several nodes say one address, nobody can tell
//! which of them would answer (each on its own loopback, it would be whoever asks), and none is asked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RData;
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Desk;
use crate::balance::circle::Circle;
use crate::balance::ring::SLOTS;
use crate::name::InstanceId;
use crate::protocol::{
    LIST_MAX, NodeForm, NodeShown, NodesReply, PlacedForm, Problem, RingForm, RingReply, ShareForm,
};
use crate::time::Now;
use crate::view::Node;

/// How long the nodes' answers are told again: who asks in a loop has them asked once a second.
const TOLD_FOR: Duration = Duration::from_secs(1);
/// How long a node has to answer; halfway it is asked once more, for a datagram may be lost.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Addresses of one node that are asked, all at once.
const ADDRESSES_MAX: usize = 4;
/// Octets of an answer: a SOA has some hundred.
const ANSWER_OCTETS_MAX: usize = 1232;
/// Datagrams that are no answer to what was asked and that one question waits through.
const WRONG_MAX: usize = 32;
/// Octets of a name to place: the longest whole name of an instance has fewer.
const ID_OCTETS_MAX: usize = 1024;
/// SOA, of the class IN.
const SOA_IN: [u8; 4] = [0, 6, 0, 1];

/// What the nodes said last, and when.
pub type Told = Mutex<Option<(Now, NodesReply)>>;

impl Desk {
    /// The nodes as they are now; this server where it is alone. It asks the others, which takes up to a second where one is
    /// silent; whoever asks within a second of that hears the same.
    pub async fn nodes(&self) -> NodesReply {
        let mut told = self.told.lock().await;
        if let Some((at, told)) = &*told
            && self.clock.now().since(*at) < TOLD_FOR
        {
            return told.clone();
        }
        let nodes = self.ask_nodes().await;
        *told = Some((self.clock.now(), nodes.clone()));
        nodes
    }

    async fn ask_nodes(&self) -> NodesReply {
        let (mut members, left) = (self.view.nodes(), self.view.left_nodes());
        if members.is_empty() {
            members = Arc::new(vec![self.node.clone()]);
        }
        let mut says: HashMap<SocketAddr, usize> = HashMap::new();
        for address in members.iter().flat_map(addresses) {
            *says.entry(address).or_default() += 1;
        }
        let members = members.iter().map(|node| (node, None, 1));
        let left = left.iter().map(|(node, at)| (node, Some(at), 0));
        let nodes: Vec<_> = members.chain(left).collect();
        let asked = join_all(nodes.iter().map(|(node, _, may_say)| {
            let told_apart =
                |address: &SocketAddr| says.get(address).copied().unwrap_or_default() <= *may_say;
            self.revision_of(node, addresses(node).filter(told_apart).take(ADDRESSES_MAX).collect())
        }));
        let asked = asked.await;
        let newest = asked.iter().filter_map(|asked| asked.as_ref().ok()).max().copied();
        let revision = newest.unwrap_or_default().max(self.view.revision());
        let shown = |((node, left, _), asked): ((&Node, Option<_>, _), Result<u64, String>)| NodeShown {
            alive: left.is_none(),
            left: left.map(ToString::to_string),
            share: share(node.slots),
            revision: asked.as_ref().ok().copied(),
            lag: asked.as_ref().ok().map(|seen| revision - seen),
            silent: asked.err(),
            node: NodeForm::of(node),
        };
        NodesReply { nodes: nodes.into_iter().zip(asked).map(shown).collect(), revision }
    }

    /// What a node says at any of these addresses; or in words, why it does not.
    async fn revision_of(&self, node: &Node, addresses: Vec<SocketAddr>) -> Result<u64, String> {
        if node.is_own {
            return Ok(self.view.revision());
        }
        if node.addresses.is_empty() {
            return Err("it says no address; name one with --advertise".to_owned());
        }
        let question = [self.view.settings.apexes[0].name().as_wire(), &SOA_IN].concat();
        let mut asking: FuturesUnordered<_> =
            addresses.into_iter().map(|address| serial_of(address, &question)).collect();
        let mut why = "another node says the same address; bind DNS where the others reach it, or name that with --advertise".to_owned();
        while let Some(serial) = asking.next().await {
            match serial {
                Ok(serial) => {
                    // Serials are revisions without their upper half (RFC 1982): near ours, they are the same.
                    let own = self.view.revision();
                    let ahead = serial.wrapping_sub(self.view.serial_of(own)).cast_signed();
                    return Ok(own.saturating_add_signed(ahead.into()));
                }
                Err(silent) => why = silent,
            }
        }
        Err(why)
    }

    /// Where a name lies on the circle of the nodes, and what each of them has of it.
    ///
    /// # Errors
    ///
    /// It is no name.
    pub fn ring(&self, form: &RingForm) -> Result<RingReply, Problem> {
        let own = &self.node.name;
        let circle = self.writer.circle.borrow().clone();
        let circle = circle.unwrap_or_else(|| Circle::new(own, std::iter::once(own.clone())).into());
        let mut names = Vec::new();
        if let Some(id) = &form.id {
            if id.is_empty() || id.len() > ID_OCTETS_MAX {
                let rule = format!("must have 1 to {ID_OCTETS_MAX} octets, not {}", id.len());
                return Err(Problem::invalid("id", rule));
            }
            names.push(id.clone());
            let members = InstanceId::parse(id).map(|id| self.view.by_id(&id)).unwrap_or_default();
            names.extend(members.iter().take(LIST_MAX).map(|member| member.instance.key.to_string()));
        }
        let placed = names.into_iter().filter_map(|id| {
            let placed = circle.placed(&id)?;
            Some(PlacedForm {
                hash: format!("{:016x}", placed.hash),
                slot: placed.slot,
                place: placed.place(),
                owner: placed.owner.to_string(),
                next: placed.next.map(|next| next.to_string()),
                id,
            })
        });
        let of = |(name, slots): (Arc<str>, usize)| ShareForm {
            name: name.to_string(),
            slots,
            share: share(slots),
        };
        Ok(RingReply { placed: placed.collect(), nodes: circle.slots().into_iter().map(of).collect() })
    }
}

/// Of the whole circle.
fn share(slots: usize) -> f64 {
    slots as f64 / SLOTS as f64
}

/// Where a node answers DNS.
fn addresses(node: &Node) -> impl Iterator<Item = SocketAddr> {
    node.addresses.iter().map(|address| SocketAddr::new(*address, node.dns))
}

/// The serial of the zone at a server that has it; or in words, why there is none.
async fn serial_of(address: SocketAddr, question: &[u8]) -> Result<u32, String> {
    match timeout(ANSWER_TIME_MAX, asked(address, question)).await {
        Ok(Ok(message)) => {
            match (message.metadata.response_code, message.answers.first().map(|soa| &soa.data)) {
                (ResponseCode::NoError, Some(RData::SOA(soa))) if message.metadata.authoritative => {
                    Ok(soa.serial)
                }
                (ResponseCode::NoError, _) => Err(format!("{address} has another zone")),
                (code, _) => Err(format!("{address} answers {code}")),
            }
        }
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address} does not answer")),
    }
}

async fn asked(address: SocketAddr, question: &[u8]) -> io::Result<Message> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    // One question, and no recursion wanted.
    let query = [&id[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], question].concat();
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // What comes from elsewhere does not reach a connected socket.
    socket.connect(address).await?;
    socket.send(&query).await?;
    let mut buffer = [0; ANSWER_OCTETS_MAX];
    match timeout(ANSWER_TIME_MAX / 2, answer(&socket, &query, &mut buffer)).await {
        Ok(answer) => answer,
        Err(_) => {
            socket.send(&query).await?;
            answer(&socket, &query, &mut buffer).await
        }
    }
}

/// The answer to a query: with its id, and its question behind the header.
async fn answer(socket: &UdpSocket, query: &[u8], buffer: &mut [u8]) -> io::Result<Message> {
    for _ in 0..WRONG_MAX {
        let octets = socket.recv(buffer).await?;
        let message = &buffer[..octets];
        if message.get(..2) == query.get(..2)
            && message.get(12..query.len()) == query.get(12..)
            && let Ok(message) = Message::from_vec(message)
            && message.metadata.message_type == MessageType::Response
        {
            return Ok(message);
        }
    }
    Err(io::Error::other("it says what was not asked"))
}
