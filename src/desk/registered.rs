//! What is told to who has registered.

use crate::instance::{Instance, Location};
use crate::protocol::{RegisteredForm, lease_id_text, lease_text};
use crate::view::{View, target_of};

/// The reply to a registration that is carried out.
pub fn registered(
    view: &View,
    before: Option<&Instance>,
    instance: &Instance,
    revision: u64,
) -> RegisteredForm {
    let apex = &view.settings.apexes[0];
    let (service, label) = (instance.key.service.as_str(), instance.label.as_str());
    RegisteredForm {
        service: service.to_owned(),
        id: instance.key.id.to_string(),
        host: instance.key.host.to_string(),
        address: instance.addresses().iter().map(|address| address.to_string()).collect(),
        target: match &instance.location {
            Location::Target(_) => Some(target_of(instance, apex).to_string()),
            Location::Addresses(_) => None,
        },
        port: instance.ports.first().map(|port| port.number),
        lease: lease_text(instance.lease),
        lease_id: lease_id_text(instance.lease_id),
        dns: apex.owner(&[label, service]).to_string(),
        revision,
        warnings: warnings(view, before, instance),
    }
}

/// What is registered as it was meant and yet may surprise.
fn warnings(view: &View, before: Option<&Instance>, instance: &Instance) -> Vec<String> {
    let mut warnings = Vec::new();
    // The id that is made where none is given does not have the address in it.
    if let Some(before) = before.filter(|before| before.location != instance.location) {
        let place = match &before.location {
            Location::Target(target) => target.to_string(),
            Location::Addresses(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(|address| address.to_string()).collect();
                addresses.join(" and ")
            }
        };
        let id = &instance.key.id;
        warnings.push(format!("`{id}` was at {place} before; two instances need two ids"));
    }
    let name = &instance.key.service;
    let Some(service) = view.service(name.as_str()) else { return warnings };
    for tag in &instance.tags {
        let label = tag.as_str().to_ascii_lowercase();
        if service.by_label(&label).is_some() {
            warnings.push(format!("the tag `{tag}` is spelt like an instance's id: {label}.{name} answers that instance, not the tag"));
        }
    }
    let label = instance.label.as_str();
    // The set says first whether it is worth a look at every instance.
    if service.tags.contains(label)
        && service.known().any(|other| {
            other.key != instance.key && other.tags.iter().any(|tag| tag.as_str().eq_ignore_ascii_case(label))
        })
    {
        warnings.push(format!(
            "the id is spelt like a tag of {name}: {label}.{name} answers this instance, not the tag"
        ));
    }
    if !name.is_service_type() {
        warnings.push(format!(
            "`{name}` is no DNS-SD service type (15 octets, a letter, no `--`; RFC 6335), so _{name}._tcp cannot be browsed"
        ));
    }
    warnings
}
