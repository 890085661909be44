//! Plain questions, from octets to octets: no decoder, no record, no allocation.
//!
//! What [`wire`](super::wire) says to the same message is the measure: the same octets, or nothing at all, and then `wire`
//! is asked. A test compares the two over thousands of views and questions. Plain is what makes up nearly all
//! traffic: A, AAAA and SRV of services and instances, with EDNS or without, and names and types that are not
//! there; and cookies, which most resolvers send. Other options, other classes, aliases and answers that have to be cut are `wire`'s. Static zones are in `plain/files`.

mod files;
mod query;

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::slice;

use arrayvec::ArrayVec;

pub use query::Query;

use super::encode::{AA, DO, EDE_OCTETS, HEADER_OCTETS, OPT_OCTETS, QR, UDP_OCTETS_ADVERTISED};
use super::wire::RA;
use crate::answer::{Ede, Rcode};
use crate::balance::{Draws, Policy, region_of, rotate_by_priority, shuffle_by_priority};
use crate::dns::cookie::COOKIE_OCTETS;
use crate::dns::edns::{COOKIE, EXTENDED_ERROR, OPTION_OCTETS};
use crate::grammar::{self, Owner};
use crate::instance::{Instance, Location, Port, Transport};
use crate::live::{Why, first_port, has_tag, named_port};
use crate::name::Apex;
use crate::record::Type;
use crate::view::prepared::{
    BEFORE_TARGET_OCTETS, Candidate, Candidates, Place, QNAME, RECORDS_MAX, Room, Set, addresses, ports,
    put_address, put_fixed, put_glue, put_srv,
};
use crate::view::{EDE_OCTETS_MAX, Member, NEGATIVE_TTL, Overlap, ServiceView, View, ttl_within};

/// What the reply to a plain question depends on besides the question.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    pub view: &'a View,
    /// Octets of the whole reply at most.
    pub limit: usize,
    /// The client may have other names looked up: RA.
    pub recursion: bool,
    /// The cookie that the client gets, where it sent one.
    pub cookie: Option<[u8; COOKIE_OCTETS]>,
    pub client: IpAddr,
    /// One random number for the order of the records.
    pub draw: u64,
}

impl Plain<'_> {
    /// Writes the reply into `out` and returns its length; none where it is not for us to give.
    pub fn reply(&self, query: &Query<'_>, out: &mut [u8]) -> Option<usize> {
        if !self.view.is_ready() {
            return None;
        }
        let apexes = self.view.settings.apexes.iter().zip(self.view.overlaps());
        let within =
            apexes.filter_map(|(apex, overlap)| Some((query.below(apex.name().as_wire())?, apex, overlap)));
        // The longest apex of several is the one that begins first.
        let (apex_at, apex, overlap) = match within.min_by_key(|(at, ..)| *at) {
            None => return self.reply_of_file(query, None, out),
            Some((live_at, _, Overlap::Zone)) => return self.reply_of_file(query, Some(live_at), out),
            Some(within) => within,
        };
        if query.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok) && self.view.is_signed(apex.name()) {
            return None; // what is prepared has no signatures
        }
        let limit = self.limit.min(out.len());
        let records_end = limit.checked_sub(self.opt_octets(query))?;
        let mut reply = Reply {
            query,
            apex,
            apex_at,
            client: self.client,
            draw: self.draw,
            out: Out { octets: &mut out[..records_end], at: HEADER_OCTETS },
            counts: [0; 3],
            rcode: Rcode::NoError,
            why: Words::default(),
            code: Ede::OTHER,
        };
        reply.out.put(query.question)?;
        match overlap {
            Overlap::None => reply.answer(self.view)?,
            // Files have the last word on what the registry does not have.
            Overlap::Tree => reply.answer(self.view).filter(|()| reply.counts[0] > 0)?,
            Overlap::Zone => return None,
        }
        if query.edns.is_some()
            && let Some(words) = self.view.stale_words()
        {
            reply.code = Ede::stale(reply.rcode);
            if reply.counts[0] > 0 || reply.why.text().is_empty() {
                reply.say(format_args!("{words}"))?;
            }
        }
        let Reply { out: Out { at, .. }, counts, rcode, why, code, .. } = reply;
        let mut out = Out { octets: &mut out[..limit], at };
        self.finish(&mut out, query, true, counts, rcode, (code, &why))
    }

    /// Octets of the OPT record but for the reason, which gives way to records.
    fn opt_octets(&self, query: &Query<'_>) -> usize {
        let opt = if query.edns.is_some() { OPT_OCTETS } else { 0 };
        opt + self.cookie.map_or(0, |cookie| OPTION_OCTETS + cookie.len())
    }

    /// The OPT record and the header.
    fn finish(
        &self,
        out: &mut Out<'_>,
        query: &Query<'_>,
        authoritative: bool,
        [answers, authorities, additionals]: [u16; 3],
        rcode: Rcode,
        (code, why): (u16, &Words),
    ) -> Option<usize> {
        if let Some((_, dnssec_ok)) = query.edns {
            let ttl = if dnssec_ok { DO } else { 0 };
            out.put(&[0])?;
            out.u16s(&[Type::OPT.0, UDP_OCTETS_ADVERTISED, (ttl >> 16) as u16, ttl as u16])?;
            let cookie_octets = self.opt_octets(query) - OPT_OCTETS;
            let why_octets = if why.text().is_empty() { 0 } else { EDE_OCTETS + why.text().len() };
            out.u16s(&[(cookie_octets + why_octets) as u16])?;
            if let Some(cookie) = self.cookie {
                out.u16s(&[COOKIE, cookie.len() as u16])?;
                out.put(&cookie)?;
            }
            if why_octets > 0 {
                out.u16s(&[EXTENDED_ERROR, (why_octets - OPTION_OCTETS) as u16, code])?;
                out.put(why.text())?;
            }
        }
        let recursion = if self.recursion { RA } else { 0 };
        let aa = if authoritative { AA } else { 0 };
        let flags = QR | aa | recursion | query.flags | rcode as u16;
        let end = std::mem::replace(&mut out.at, 0);
        out.put(&query.id)?;
        out.u16s(&[flags, 1, answers, authorities, additionals + u16::from(query.edns.is_some())])?;
        Some(end)
    }
}

/// A reply as it grows: the question, then records.
struct Reply<'a, 'o> {
    query: &'a Query<'a>,
    apex: &'a Apex,
    /// Where the apex begins in the question's name.
    apex_at: usize,
    client: IpAddr,
    draw: u64,
    out: Out<'o>,
    /// Records of the answer, the authority and the additional section.
    counts: [u16; 3],
    rcode: Rcode,
    /// Why there is nothing or not everything, or that it is held; and the code of such an Extended DNS Error.
    why: Words,
    code: u16,
}

impl Reply<'_, '_> {
    /// `None` where the question turns out not to be plain.
    fn answer(&mut self, view: &View) -> Option<()> {
        let query = self.query;
        let labels = query.labels_before(self.apex_at);
        if labels.last().is_some_and(|top| matches!(*top, b"ns" | b"hostmaster")) {
            return None; // the SOA's own names would be compressed in another way
        }
        let Some(owner) = grammar::parse(&labels) else { return self.no_name(view, None) };
        let name = match owner {
            Owner::Service(name) | Owner::ByTransport(name, _) => name,
            Owner::ByPort { service, .. } | Owner::ByTag { service, .. } | Owner::Below { service, .. } => {
                service
            }
            _ => return None,
        };
        view.with_service(name, |service| match service {
            Some(service) => self.in_service(view, service, owner),
            None => self.no_name(view, Some(Why::NoService(name))),
        })
    }

    fn in_service(&mut self, view: &View, service: &ServiceView, owner: Owner<'_>) -> Option<()> {
        if service.fails_over() || self.query.qtype == Type::CNAME {
            return None;
        }
        if let Owner::Service(_) = owner
            && std::ptr::eq(self.apex, &view.settings.apexes[0])
            && service.policy() != Policy::Nearest // the octets do not say whose they are
            && let Some(set) = view.prepared(service).set(self.query.qtype)
        {
            self.copy(service, set)?;
            return self.mark(service);
        }
        match (owner, self.query.qtype) {
            (Owner::Service(_), Type::A | Type::AAAA) => self.addresses(view, service, |_| true),
            (Owner::Service(_), Type::SRV) => self.srv(view, service, |instance| instance.ports.first()),
            (Owner::Service(_), Type::TXT | Type::HTTPS | Type::ANY) => None,
            (Owner::Service(_), _) => self.no_data(view, service),

            (Owner::ByTransport(_, transport), _) if !service.ports.any(transport) => {
                self.no_name(view, Some(Why::NoPort(&service.name, transport)))
            }
            (Owner::ByTransport(_, transport), Type::SRV) => {
                self.srv(view, service, |instance| first_port(instance, transport))
            }
            (Owner::ByTransport(..), Type::PTR | Type::ANY) => None,
            (Owner::ByTransport(..), _) => self.no_data(view, service),

            (Owner::ByPort { port, transport, .. }, _) if !service.ports.has(port, transport) => {
                self.no_name(view, Some(Why::NoPortNamed(&service.name, transport, port)))
            }
            (Owner::ByPort { port, transport, .. }, Type::SRV) => {
                self.srv(view, service, |instance| named_port(instance, port, transport))
            }
            (Owner::ByPort { .. }, Type::SVCB | Type::TXT | Type::ANY) => None,
            (Owner::ByPort { .. }, _) => self.no_data(view, service),

            (Owner::ByTag { tag, .. }, _) => self.by_tag(view, service, tag),
            (Owner::Below { label, .. }, _) => match service.by_label(label) {
                Some(member) => {
                    self.of_instance(view, &member.instance, service.scale.weight(member.weight()))?;
                    if member.held { self.mark(service) } else { Some(()) }
                }
                None if service.tags.contains(label) => self.by_tag(view, service, label),
                None if service.gone.iter().any(|gone| gone.instance.label.as_str() == label) => None,
                None => self.no_name(view, Some(Why::NothingBelow(&service.name, label))),
            },
            _ => None,
        }
    }

    /// Copies what is prepared, in an order of its own.
    fn copy(&mut self, service: &ServiceView, set: &Set) -> Option<()> {
        let mut order: Candidates<Place> = set.items.iter().copied().collect();
        self.choose(service, set.items.len(), &mut order)?;
        let mut targets: ArrayVec<u16, RECORDS_MAX> = ArrayVec::new();
        for item in &order {
            targets.push(self.next_target());
            self.out.put(set.octets(item).0)?;
        }
        self.counts[0] = order.len() as u16;
        for (item, target) in order.iter().zip(targets) {
            let mut glue = set.octets(item).1;
            while let Some((_, record)) = glue.split_first_chunk::<2>() {
                // Type, class, TTL and length, then as many octets of data.
                let octets = 10 + usize::from(record[9]);
                self.out.u16s(&[target])?;
                self.out.put(&record[..octets])?;
                self.counts[2] += 1;
                glue = &record[octets..];
            }
        }
        Some(())
    }

    fn by_tag(&mut self, view: &View, service: &ServiceView, tag: &str) -> Option<()> {
        let tagged = |instance: &Instance| has_tag(instance, tag);
        match self.query.qtype {
            _ if !service.tags.contains(tag) => self.no_name(view, Some(Why::NoneTagged(&service.name, tag))),
            Type::A | Type::AAAA => self.addresses(view, service, tagged),
            Type::SRV => {
                self.srv(view, service, |instance| instance.ports.first().filter(|_| tagged(instance)))
            }
            Type::TXT | Type::ANY => None,
            _ => self.no_data(view, service),
        }
    }

    /// The addresses of the lowest priority that has a live instance, each once, with the weight of all.
    fn addresses(
        &mut self,
        view: &View,
        service: &ServiceView,
        fits: impl Fn(&Instance) -> bool,
    ) -> Option<()> {
        let family = self.query.qtype;
        let (lowest, mut candidates) = addresses(service, family, fits)?;
        if candidates.is_empty() {
            return match lowest {
                None if service.why_none.is_empty() => {
                    self.nothing(view, Some(Why::NoneLiveTagged(&service.name)))
                }
                None => self.no_data(view, service),
                Some(_) => self.nothing(view, Some(Why::NoneOfFamily(&service.name, family))),
            };
        }
        let all = candidates.len();
        self.keep_nearest(view, service, &mut candidates, slice::from_ref)?;
        self.choose(service, all, &mut candidates)?;
        for candidate in &candidates {
            put_address(&mut self.out, QNAME, service.ttl, candidate.content)?;
        }
        self.counts[0] = candidates.len() as u16;
        self.mark(service)
    }

    fn srv<'s>(
        &mut self,
        view: &View,
        service: &'s ServiceView,
        port: impl Fn(&'s Instance) -> Option<&'s Port>,
    ) -> Option<()> {
        let mut candidates = ports(service, port)?;
        if candidates.is_empty() {
            return match service.why_none.is_empty() {
                true => self.nothing(view, Some(Why::NoneLiveWithPort(&service.name))),
                false => self.no_data(view, service),
            };
        }
        let all = candidates.len();
        self.keep_nearest(view, service, &mut candidates, |(member, _)| member.instance.addresses())?;
        self.choose(service, all, &mut candidates)?;
        let mut targets: ArrayVec<(u16, &Member), RECORDS_MAX> = ArrayVec::new();
        for Candidate { content: (member, port), .. } in &candidates {
            targets.push((self.next_target(), *member));
            let weight = service.scale.weight(member.weight());
            put_srv(&mut self.out, service.ttl, &member.instance, weight, port, self.apex)?;
        }
        self.counts[0] = candidates.len() as u16;
        let ttl = view.ttl(&service.name);
        for (target, member) in targets {
            self.counts[2] += put_glue(&mut self.out, target, ttl, &member.instance)?;
        }
        self.mark(service)
    }

    /// Under `nearest`, of each priority those in the client's region, where there are any.
    fn keep_nearest<T>(
        &mut self,
        view: &View,
        service: &ServiceView,
        candidates: &mut Candidates<T>,
        addresses: impl Fn(&T) -> &[IpAddr],
    ) -> Option<()> {
        if service.policy() != Policy::Nearest {
            return Some(());
        }
        let regions = &view.settings.regions;
        let Some(home) = region_of(regions, self.client) else { return Some(()) };
        let is_near = |of: &Candidate<T>| {
            addresses(&of.content).iter().any(|address| region_of(regions, *address) == Some(home))
        };
        let all = candidates.len();
        let near = candidates.iter().filter(|of| is_near(of)).map(|of| of.priority);
        let near: ArrayVec<u16, RECORDS_MAX> = near.collect();
        candidates.retain(|of| !near.contains(&of.priority) || is_near(of));
        let kept = candidates.len();
        if kept == all {
            return Some(());
        }
        self.say(format_args!("{}: {kept} of {all} records, near {home}", service.name))
    }

    /// The order of the service's policy, as the general path draws it, and no more of `all` than are wanted.
    fn choose<T>(&mut self, service: &ServiceView, all: usize, candidates: &mut Candidates<T>) -> Option<()> {
        let (priority, weight) = (|of: &Candidate<T>| of.priority, |of: &Candidate<T>| of.weight);
        let draws = &mut Draws::new(self.draw);
        if service.policy() == Policy::First {
            let lowest = candidates.iter().map(priority).min();
            candidates.retain(|of| Some(of.priority) == lowest);
        }
        match service.policy() {
            Policy::Rotate => rotate_by_priority(candidates, priority, draws),
            Policy::Affinity => {
                let places = service.ring.as_ref()?.places_of_few(self.client)?;
                candidates.sort_by_key(|of| (of.priority, places[of.number as usize]));
            }
            Policy::Weighted | Policy::First | Policy::Nearest => {
                shuffle_by_priority(candidates, priority, weight, draws)
            }
        }
        if let Some(most) = service.most_answers().filter(|most| candidates.len() > *most) {
            candidates.truncate(most);
            self.say(format_args!("{}: {most} of {all} records; no more are wanted", service.name))?;
        }
        Some(())
    }

    /// Says of records that the guard holds some of them.
    fn mark(&mut self, service: &ServiceView) -> Option<()> {
        if self.counts[0] > 0 && !service.stale().is_empty() {
            self.code = Ede::STALE_ANSWER;
            self.say(format_args!("{}", service.stale()))?;
        }
        Some(())
    }

    /// Words for a client that reads them, in place of those before (RFC 8914).
    fn say(&mut self, words: fmt::Arguments<'_>) -> Option<()> {
        self.why = Words::default();
        if self.query.edns.is_some() { self.why.write_fmt(words).ok() } else { Some(()) }
    }

    /// One instance under its own name, which is what its records point at.
    fn of_instance(&mut self, view: &View, instance: &Instance, weight: u16) -> Option<()> {
        let Location::Addresses(addresses) = &instance.location else { return None };
        let service_ttl = view.ttl(&instance.key.service);
        let ttl = ttl_within(service_ttl, instance.lease);
        match self.query.qtype {
            qtype @ (Type::A | Type::AAAA) => {
                for address in addresses.iter().filter(|address| address.is_ipv4() == (qtype == Type::A)) {
                    put_address(&mut self.out, QNAME, ttl, *address)?;
                    self.counts[0] += 1;
                }
            }
            Type::SRV => {
                let port = first_port(instance, Transport::Tcp).or(instance.ports.first());
                if let Some(port) = port {
                    put_srv(&mut self.out, ttl, instance, weight, port, self.apex)?;
                    self.counts[0] = 1;
                    self.counts[2] = put_glue(&mut self.out, QNAME, service_ttl, instance)?;
                }
            }
            Type::TXT | Type::ANY => return None,
            _ => {}
        }
        if self.counts[0] == 0 { self.nothing(view, None) } else { Some(()) }
    }

    fn no_data(&mut self, view: &View, service: &ServiceView) -> Option<()> {
        self.say(format_args!("{}", service.why_none))?;
        self.nothing(view, None)
    }

    fn no_name(&mut self, view: &View, why: Option<Why<'_>>) -> Option<()> {
        self.rcode = Rcode::NxDomain;
        self.nothing(view, why)
    }

    /// The SOA, and why (RFC 2308 section 3).
    fn nothing(&mut self, view: &View, why: Option<Why<'_>>) -> Option<()> {
        if let Some(why) = why {
            self.say(format_args!("{why}"))?;
        }
        let apex = 0xc000 | (HEADER_OCTETS + self.apex_at) as u16;
        let numbers = view.soa_numbers();
        let octets = (b"\x02ns".len() + b"\x0ahostmaster".len() + 4 + 4 * numbers.len()) as u16;
        put_fixed(&mut self.out, apex, Type::SOA, NEGATIVE_TTL, octets)?;
        self.out.put(b"\x02ns")?;
        self.out.u16s(&[apex])?;
        self.out.put(b"\x0ahostmaster")?;
        self.out.u16s(&[apex])?;
        for number in numbers {
            self.out.put(&number.to_be_bytes())?;
        }
        self.counts[1] = 1;
        Some(())
    }

    /// A pointer to the target of the SRV record that is written next.
    fn next_target(&self) -> u16 {
        0xc000 | (self.out.at + BEFORE_TARGET_OCTETS) as u16
    }
}

/// Octets that have to stay within a limit.
struct Out<'o> {
    octets: &'o mut [u8],
    at: usize,
}

impl Room for Out<'_> {
    fn put(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.at + octets.len();
        self.octets.get_mut(self.at..end)?.copy_from_slice(octets);
        self.at = end;
        Some(())
    }
}

impl Out<'_> {
    fn u16s<const N: usize>(&mut self, numbers: &[u16; N]) -> Option<()> {
        let end = self.at + 2 * N;
        let place = self.octets.get_mut(self.at..end)?;
        for (place, number) in place.chunks_exact_mut(2).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        self.at = end;
        Some(())
    }
}

/// The text of an Extended DNS Error, as [`Ede::new`] makes it of ASCII.
#[derive(Default)]
struct Words(ArrayVec<u8, EDE_OCTETS_MAX>);

impl Words {
    fn text(&self) -> &[u8] {
        &self.0
    }
}

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.is_ascii() {
            return Err(fmt::Error);
        }
        let readable = text.bytes().map(|octet| if octet.is_ascii_control() { b'?' } else { octet });
        let room = self.0.remaining_capacity();
        self.0.extend(readable.take(room));
        Ok(())
    }
}
