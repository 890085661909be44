//! Each balance by the shares of its first answers, from the registry to the record: what the draws of
//! `tests/balance.rs` show of the orders alone.

use callsign::answer::{Asked, CLASS_IN, Dnssec, Over, Question, Taken, answer};
use callsign::balance::{Balance, Draws};
use callsign::instance::ServiceSettings;
use callsign::name::Name;
use callsign::record::{Data, Type};
use callsign::view::Zones;

use super::fixture::{Live, Wanted};

const DRAWS: u32 = 50_000;

/// Pearson's statistic of how often each of the first four addresses came first, against shares in hundredths.
fn statistic(live: &Live, client: &str, qtype: Type, shares: [u32; 4]) -> f64 {
    let question = Question { name: Name::parse("web.service.local").unwrap(), qtype, class: CLASS_IN };
    let mut draws = Draws::new(11);
    let mut counts = [0_u32; 4];
    for _ in 0..DRAWS {
        let asked = Asked {
            question: &question,
            client: client.parse().unwrap(),
            over: Over::Udp,
            room: 1000,
            edns: false,
            draw: draws.next_u64(),
            dnssec: Dnssec::Nothing,
            taken: Taken::Chosen,
        };
        let first = answer(&live.view, &asked).answer.swap_remove(0).data;
        counts[match first {
            Data::A(address) => usize::from(address.octets()[3]),
            Data::Srv { port, .. } => usize::from(port),
            other => panic!("{other:?}"),
        } - 1] += 1;
    }
    let terms = counts.iter().zip(shares).map(|(count, share)| match share {
        0 => {
            if *count == 0 {
                0.0
            } else {
                f64::INFINITY
            }
        }
        share => {
            let expected = f64::from(DRAWS) * f64::from(share) / 100.0;
            (f64::from(*count) - expected).powi(2) / expected
        }
    });
    terms.sum()
}

#[test]
fn each_balance_answers_first_with_its_shares() {
    let mut live = Live::new(Zones::default());
    live.view.set_ready();
    // 10.1.0.3 and .4 are in the region of the client at 10.1.9.9; two of a higher priority are nowhere the first.
    for (number, weight, network) in [(1, 10, 2), (2, 20, 2), (3, 30, 1), (4, 40, 1)] {
        let address = format!("10.{network}.0.{number}");
        live.register(&Wanted { weight, ..Wanted::new("web", &format!("i{number}"), &[&address], number) });
    }
    live.register(&Wanted { priority: 9, weight: 900, ..Wanted::new("web", "spare", &["10.1.0.5"], 5) });
    let (weighted, alike, near) = ([10, 20, 30, 40], [25; 4], [0, 0, 43, 57]);
    for (balance, client, shares) in [
        ("weighted", "10.1.9.9", weighted),
        ("one", "10.1.9.9", weighted),
        ("first", "10.1.9.9", weighted),
        ("one:first", "10.1.9.9", weighted),
        ("nearest", "10.9.9.9", weighted),
        ("rotate", "10.1.9.9", alike),
        ("one:rotate", "10.1.9.9", alike),
        ("nearest", "10.1.9.9", near),
    ] {
        let settings = ServiceSettings { balance: Balance::parse(balance), ..ServiceSettings::default() };
        live.configure("web", settings);
        for qtype in [Type::A, Type::SRV] {
            let statistic = statistic(&live, client, qtype, shares);
            println!("{balance} for {client}, {qtype:?}: {statistic:.1}");
            // 3 degrees of freedom: one seed in a thousand is above 16.3.
            assert!(statistic < 16.3, "{balance} for {client}, {qtype:?}: {statistic}");
        }
    }
}
