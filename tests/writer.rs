//! The writer by itself: commands that meet in one batch, and names that are made to collide; and the writer of a node, where
//! the test is etcd.

#[path = "writer/node.rs"]
mod node;

use std::sync::Arc;

use callsign::access::Identity;
use callsign::clock::Clock;
use callsign::instance::{Key, Lease, Location, Port, Transport};
use callsign::name::{Apex, HostName, InstanceId, ServiceName};
use callsign::registry::{Command, FORGET_AFTER, Holder, Registration, Registry, What};
use callsign::store::etcd;
use callsign::store::{Store, record};
use callsign::view::{Settings, View, Zones};
use callsign::writer::{Done, Writer};

fn key(id: &str, host: &str) -> Key {
    Key::new(
        ServiceName::parse("web").unwrap(),
        InstanceId::parse(id).unwrap(),
        HostName::parse(host).unwrap(),
    )
}

fn register(id: &str, host: &str) -> Command {
    Command::Register(Box::new(Registration {
        meta: Default::default(),
        ..Registration::new(
            key(id, host),
            Location::Addresses(vec![[10, 0, 0, 1].into()].into()),
            vec![Port { name: None, number: 80, transport: Transport::Tcp }],
            Lease::None,
            1,
        )
    }))
}

fn deregister(id: &str, host: &str) -> Command {
    Command::Deregister(Holder { key: key(id, host), lease_id: None })
}

/// Puts all commands into the queue before the writer starts, so that they meet in one batch; the answers,
/// and the instances that are left.
fn together(commands: Vec<Command>) -> (Vec<Done>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let apexes = vec![Apex::parse("service.local").unwrap()];
        let settings = Settings::new(apexes);
        let view = Arc::new(View::new(settings, Zones::default()));
        let registry = Registry::new(100, FORGET_AFTER);
        let (writer, handle) =
            Writer::new(registry, Store::memory(), view.clone(), Clock::start(), Arc::default());
        let mut verdicts = Vec::new();
        for command in commands {
            verdicts.push(handle.command(command, Identity::server()).await.unwrap());
        }
        drop(handle);
        writer.run().await;
        let mut done = Vec::new();
        for verdict in verdicts {
            done.push(verdict.await.unwrap().unwrap());
        }
        let service = view.service("web").unwrap();
        (done, service.members.iter().map(|member| member.instance.key.to_string()).collect())
    })
}

#[test]
fn a_command_does_not_overtake_one_that_waits_about_the_same_instance() {
    // The second has the label of the first, and so waits for the next batch; the third is about it.
    let (done, left) =
        together(vec![register("web", "one"), register("web", "two"), deregister("web", "two")]);
    assert_eq!(done[2].changes.len(), 1, "the deregistration has something to take out");
    assert_eq!(left, ["web/web@one"]);
}

#[test]
fn commands_about_one_instance_are_carried_out_in_their_order() {
    let (done, left) = together(vec![
        register("a", "one"),
        deregister("a", "one"),
        register("a", "one"),
        register("b", "one"),
        deregister("b", "one"),
    ]);
    assert!(done.iter().all(|done| done.changes.len() == 1), "{done:?}");
    assert_eq!(left, ["web/a@one"]);
}

#[test]
fn a_label_that_gets_free_in_the_batch_is_free() {
    // The first batch is the registration alone; the other two meet in the second.
    let (done, left) =
        together(vec![register("web", "one"), deregister("web", "one"), register("web", "two")]);
    assert_eq!(left, ["web/web@two"]);
    let What::Instance { after: Some(after), .. } = &done[2].changes[0].what else { panic!("{done:?}") };
    assert_eq!(after.label, after.key.id.label());
}

#[test]
fn a_host_with_the_longest_name_gets_its_label() {
    let host = "h".repeat(253);
    let taken = InstanceId::parse("web").unwrap().label_on(&HostName::parse(&host).unwrap(), 0);
    let (_, left) =
        together(vec![register("web", "a"), register(taken.as_str(), "a"), register("web", &host)]);
    assert_eq!(left.len(), 3);
}
