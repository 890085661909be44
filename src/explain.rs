//! Why a name is, or is not, in DNS: each instance with the rule that kept it in or out.

use crate::answer::{
    Asked, CLASS_IN, Dnssec, Over, Question, Rcode, Taken, answer, is_served, nearest_service,
};
use crate::grammar;
use crate::grammar::consul::{self, Owner as ConsulOwner};
use crate::instance::Key;
use crate::name::{Name, ServiceName};
use crate::protocol::{ExplainedForm, ExplainedInstance, Problem};
use crate::record::{Data, Type};
use crate::view::{Member, ServiceView, View};

/// Explains a service's name, or any domain name.
///
/// # Errors
///
/// `invalid` where the text is neither.
pub fn explain(view: &View, name: &str) -> Result<ExplainedForm, Problem> {
    let domain = domain(view, name)?;
    let service = service_of(view, &domain);
    let known = service.as_deref().and_then(|service| view.service(service));
    let nearest = match (&known, &service) {
        (None, Some(service)) => nearest_service(view, service).map(|name| name.to_string()),
        _ => None,
    };
    let (known_name, mut verdict) = verdict(view, &domain);
    if !is_served(view, &domain) {
        verdict.push_str(&elsewhere(view, &domain));
    }
    Ok(ExplainedForm {
        known: known_name,
        verdict,
        instances: known.map(|service| instances(&service)).unwrap_or_default(),
        name: domain.to_string(),
        nearest,
    })
}

/// The domain name that a service's name, or a domain name, asks for.
///
/// What is asked of a service that is known is completed as the service's name is: `v2.web`, `_web._tcp`.
///
/// # Errors
///
/// `invalid` where the text is neither.
pub fn domain(view: &View, name: &str) -> Result<Name, Problem> {
    if let Ok(service) = ServiceName::parse(name.trim_end_matches('.')) {
        return Ok(view.settings.apexes[0].owner(&[service.as_str()]));
    }
    let whole =
        Name::parse(name).map_err(|error| Problem::invalid("name", format!("is not a name: {error}")))?;
    let is_known =
        |name: &Name| service_of(view, name).is_some_and(|service| view.service(&service).is_some());
    Ok(below_domain(view, name, &whole).filter(is_known).unwrap_or(whole))
}

/// The name below our first domain that `text` may be short for: it does not end in a dot, no zone of ours has what it
/// spells, and there it spells something.
fn below_domain(view: &View, text: &str, whole: &Name) -> Option<Name> {
    if text.ends_with('.') || is_served(view, whole) {
        return None;
    }
    let lower = whole.to_lowercase();
    let labels: Vec<&[u8]> = lower.labels().collect();
    grammar::parse(&labels)?;
    view.settings.apexes[0].name().prepend_all(&labels).ok()
}

/// What to say of a name that no zone of ours holds: our domains, and the service below them that may be meant.
fn elsewhere(view: &View, name: &Name) -> String {
    let apexes = &view.settings.apexes;
    let domains: Vec<String> = apexes.iter().map(|apex| apex.name().to_string()).collect();
    let domains = format!("; this server's domains are {}", domains.join(" "));
    let lower = name.to_lowercase();
    let first = lower.labels().next().and_then(|label| std::str::from_utf8(label).ok()).unwrap_or_default();
    match view.service(first) {
        Some(_) => {
            let meant = apexes[0].owner(&[first]).to_string();
            format!("{domains}; did you mean `{}`?", meant.trim_end_matches('.'))
        }
        None => format!("{domains}; others' names are answered with `serve --forward`"),
    }
}

/// The service that a question of why is about, where it is about one.
pub fn about(view: &View, name: &str) -> Option<String> {
    match ServiceName::parse(name) {
        Ok(service) => Some(service.to_string()),
        // As it is explained: who may read the service may ask in short too.
        Err(_) => service_of(view, &domain(view, name).ok()?),
    }
}

/// The service that a domain name asks for, whether it is known or not.
fn service_of(view: &View, domain: &Name) -> Option<String> {
    let lower = domain.to_lowercase();
    if let Some(zone) = view.settings.consul.as_ref().filter(|zone| domain.is_within(zone.apex.name())) {
        let labels = lower.labels_below(zone.apex.name())?;
        return match consul::parse(&labels, zone.datacenter.as_str()).ok()? {
            ConsulOwner::Service { service, .. } | ConsulOwner::ByTransport { service, .. } => {
                Some(service.to_owned())
            }
            _ => None,
        };
    }
    let apex = view.apex_of(domain)?;
    let labels = lower.labels_below(apex.name())?;
    grammar::parse(&labels)?.service().map(str::to_owned)
}

/// Whether the name exists, and what a query gets now, asked as a client would: by the same function.
fn verdict(view: &View, domain: &Name) -> (bool, String) {
    let ask = |qtype| {
        let question = Question { name: domain.clone(), qtype, class: CLASS_IN };
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        answer(
            view,
            &Asked {
                question: &question,
                client,
                over: Over::Tcp,
                room: 65_000,
                edns: true,
                draw: 0,
                dnssec: Dnssec::Nothing,
                taken: Taken::Chosen,
            },
        )
    };
    let types = [
        ("A", Type::A),
        ("AAAA", Type::AAAA),
        ("SRV", Type::SRV),
        ("TXT", Type::TXT),
        ("PTR", Type::PTR),
        ("HTTPS", Type::HTTPS),
        ("SVCB", Type::SVCB),
    ];
    let (mut counts, mut left_out, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (name, qtype) in types {
        let reply = ask(qtype);
        let reason = reply.ede.as_ref().map(|ede| ede.text.to_string());
        match reply.rcode {
            Rcode::NoError => {}
            Rcode::NxDomain => {
                return (
                    false,
                    format!("NXDOMAIN{}", reason.map(|reason| format!(": {reason}")).unwrap_or_default()),
                );
            }
            Rcode::Refused => return (false, "REFUSED: no zone of this server holds the name".to_owned()),
            rcode => return (true, format!("{rcode:?}: {}", reason.unwrap_or_default())),
        }
        // Of an alias each type has the same one record.
        if let Some(Data::Cname(target)) = reply.answer.first().map(|record| &record.data) {
            let alias = format!("CNAME {target}");
            if !counts.contains(&alias) {
                counts.push(alias);
                left_out.extend(reason);
            }
            continue;
        }
        // The empty text that keeps a name known is no answer to anybody.
        let records = reply.answer.iter().filter(|record| record.data != Data::txt([])).count();
        if records > 0 {
            counts.push(format!("{records} {name}"));
            left_out.extend(reason);
        } else {
            missing.extend(reason);
        }
    }
    let (what, mut reasons) = match counts.is_empty() {
        true => ("NOERROR, no record".to_owned(), missing),
        false => (format!("answered: {}", counts.join(", ")), left_out),
    };
    reasons.dedup();
    (true, if reasons.is_empty() { what } else { format!("{what}; {}", reasons.join("; ")) })
}

fn instances(service: &ServiceView) -> Vec<ExplainedInstance> {
    let lowest = service.in_answers().map(|member| member.instance.priority).min();
    let registered = service.members.iter().map(|member| ExplainedInstance {
        id: member.instance.key.id.to_string(),
        host: member.instance.key.host.to_string(),
        in_answers: member.is_answered(),
        rule: rule(member, lowest),
    });
    let gone = service.gone.iter().rev().map(|gone| {
        let in_answers = service.answered.by_key(&gone.instance.key).is_some();
        let rule = format!("gone: {} at {}", gone.reason.as_str(), gone.at);
        ExplainedInstance {
            id: gone.instance.key.id.to_string(),
            host: gone.instance.key.host.to_string(),
            in_answers,
            rule: if in_answers { held(&rule) } else { rule },
        }
    });
    // Of more that left, the view knows only who is held.
    let listed = |key: &Key| service.gone.iter().any(|gone| gone.instance.key == *key);
    let left = service.answered.iter_held().filter(|member| service.by_key(&member.instance.key).is_none());
    let left = left.filter(|member| !listed(&member.instance.key)).map(|member| ExplainedInstance {
        id: member.instance.key.id.to_string(),
        host: member.instance.key.host.to_string(),
        in_answers: true,
        rule: held("gone"),
    });
    registered.chain(gone).chain(left).collect()
}

fn held(rule: &str) -> String {
    format!("held in the answers by the guard; {rule}")
}

fn rule(member: &Member, lowest: Option<u16>) -> String {
    let instance = &member.instance;
    match lowest {
        _ if member.held => held(&member.rule()),
        _ if !member.is_live() => format!("not in the answers: {}", member.rule()),
        Some(lowest) if instance.priority > lowest => {
            format!(
                "live; in SRV only, as priority {} is above {lowest}, the lowest with a live instance",
                instance.priority
            )
        }
        _ if instance.addresses().is_empty() => {
            "live; a host name: in SRV, and as CNAME while it is the only one of its priority".to_owned()
        }
        _ => "live".to_owned(),
    }
}
