//! The reverse zones: PTR from an address to the own names of the instances that are registered there.
//!
//! An instance's own name answers whatever its health, and so does this way back to it. Each name is there
//! once, in the first domain: an address with a name in every domain would say the same thing several times.

use std::net::IpAddr;

use super::{EDE_ROOM, Live, POINTER_OCTETS};
use crate::answer::{Asked, FIXED_OCTETS, Found, Selection};
use crate::balance::{Draws, prefer, shuffle};
use crate::grammar::reverse::{Prefix, read};
use crate::name::{Name, fnv};
use crate::record::{Data, Type};
use crate::view::{Member, View, target_of, ttl_within};

/// What the zone at `apex` has for a name within it.
pub(crate) fn find(view: &View, apex: &Prefix, asked: &Asked<'_>, qname: &Name) -> Found {
    let domain = &view.settings.apexes[0];
    let live = Live { view, apex: domain, consul: None, asked, qname, qtype: asked.question.qtype };
    match read(qname) {
        Some((prefix, true)) => live.of_type_asked(|live| live.find_reverse(apex, &prefix)),
        _ => Found::NoName(None),
    }
}

impl Live<'_> {
    fn find_reverse(&self, apex: &Prefix, prefix: &Prefix) -> Found {
        let is_apex = apex == prefix;
        if is_apex && matches!(self.qtype, Type::SOA | Type::NS) {
            return self.apex_records();
        }
        let Some(address) = prefix.whole() else {
            return match is_apex || self.view.has_address_below(prefix) {
                true => Found::NoData(None),
                false => Found::NoName(None),
            };
        };
        let mut members = self.view.by_address(&address);
        // The index and a service's view are two things, and one of them is published first.
        members.retain(|member| member.instance.addresses().contains(&address));
        match self.qtype {
            _ if members.is_empty() && !is_apex => {
                Found::NoName(self.ede(|| format!("no instance at {address}")))
            }
            Type::PTR => self.pointers(address, members),
            _ => Found::NoData(None),
        }
    }

    /// As many as fit, the same for the same client.
    fn pointers(&self, address: IpAddr, mut members: Vec<Member>) -> Found {
        let all = members.len();
        let own = |member: &Member| {
            let instance = &member.instance;
            instance.label.as_str().len() + instance.key.service.as_str().len() + 2
        };
        let apex = self.apex.name().as_wire().len();
        // Written out. What compression saves depends on which names meet in one reply.
        let octets = |member: &Member| POINTER_OCTETS + FIXED_OCTETS + own(member) + apex;
        let mut selection = Selection::default();
        if members.iter().map(octets).sum::<usize>() > self.asked.room {
            let identity = |member: &Member| {
                let key = &member.instance.key;
                fnv(&[member.instance.label.as_str().as_bytes(), key.service.as_str().as_bytes()])
            };
            prefer(&mut members, self.asked.client, identity, |_| 0, |member| member.weight().into());
            // Of a datagram the encoder knows to the octet what fits. A stream has no TC, and the words instead of it have
            // their place reserved; behind the first name the domain is a pointer.
            if !self.asked.over.is_datagram() {
                let mut room = self.asked.room.saturating_sub(EDE_ROOM + apex);
                let fitting = members.iter().take_while(|member| {
                    let octets = octets(member) - apex + POINTER_OCTETS;
                    let fits = octets <= room;
                    room = room.saturating_sub(octets);
                    fits
                });
                let fitting = fitting.count();
                members.truncate(fitting);
                selection.cut = fitting < all;
                if selection.cut {
                    selection.ede = self.ede(|| format!("{address}: {fitting} of {all} records fit"));
                }
            }
        } else {
            shuffle(&mut members, |member| member.weight().into(), &mut Draws::new(self.asked.draw));
        }
        let leases = members
            .iter()
            .map(|member| ttl_within(self.view.ttl(&member.instance.key.service), member.instance.lease));
        let ttl = leases.min().unwrap_or(self.view.settings.ttl);
        let name = |member: &Member| self.record(ttl, Data::Ptr(target_of(&member.instance, self.apex)));
        selection.records = members.iter().map(name).collect();
        self.records_or_none(selection, None)
    }
}
