//! Heartbeats: they change nothing that is stored, and most are done where they are read.

use super::Desk;
use crate::access::{Identity, Verb};
use crate::instance::{Key, Lease};
use crate::name::HostName;
use crate::protocol::{HolderForm, Problem, RenewedForm, Reply, lease_text};
use crate::registry::Holder;

impl Desk {
    /// What a renewal is answered with.
    pub fn renewed(&self, key: &Key, lease: Lease) -> Reply {
        let (service, id) = (key.service.to_string(), key.id.to_string());
        let cut_off = self.view.stale_for(self.clock.now()).is_some();
        Reply::Renewed(RenewedForm { service, id, lease: lease_text(lease), cut_off })
    }

    /// Renews a lease, where this server holds it.
    ///
    /// # Errors
    ///
    /// There is no such instance or lease, or `who` may not.
    pub fn renew(&self, form: &HolderForm<'_>, host: &HostName, who: &Identity) -> Result<Renewed, Problem> {
        let holder = form.holder(host)?;
        let key = &holder.key;
        let service = self.view.service(key.service.as_str());
        match service.as_ref().and_then(|service| service.by_key(key)) {
            Some(member) => self.may_change(who, Verb::Register, &member.instance)?,
            None => self.may(who, Verb::Register, (&key.service).into())?,
        }
        Ok(match self.view.renew(&holder.key, holder.lease_id, self.clock.now())? {
            Some(lease) => Renewed::Here(self.renewed(&holder.key, lease)),
            None => Renewed::Elsewhere(holder),
        })
    }
}

/// What became of a heartbeat.
pub enum Renewed {
    Here(Reply),
    /// The writer has to take the lease over from another node first.
    Elsewhere(Holder),
}
