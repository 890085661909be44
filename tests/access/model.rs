//! Random tokens and rules, against what a few lines say.

use callsign::access::{Access, Grant, Identity, On, Rule, Token, Tokens, Verb};
use callsign::time::Wall;
use proptest::collection::vec;
use proptest::prelude::*;

const NAMES: [&str; 7] = ["web", "web-1", "webs", "we", "db", "db-1", "d"];
const PATTERNS: [&str; 8] = ["*", "web", "web*", "web-1", "w*", "db", "d*", "web-*"];

/// Whether it allows, a verb by its place (the one after the last is all of them), and a pattern.
type Row = (bool, usize, &'static str);

fn row() -> impl Strategy<Value = Row> {
    (any::<bool>(), 0..=Verb::ALL.len(), prop::sample::select(&PATTERNS[..]))
}

fn words((_, verb, pattern): &Row) -> String {
    format!("{}:{pattern}", Verb::ALL.get(*verb).map_or("*", |verb| verb.as_str()))
}

fn model(rows: &[Row], verb: usize, service: Option<&str>) -> bool {
    let admin = Verb::ALL.len() - 1;
    let about = |(allows, of, pattern): &&Row| {
        let verbs = *of == verb || *of > admin || (*allows && *of == admin);
        let names = match (service, pattern.strip_suffix('*')) {
            (None, start) => !*allows || start == Some(""),
            (Some(name), Some(start)) => name.starts_with(start),
            (Some(name), None) => name == *pattern,
        };
        verbs && names
    };
    rows.iter().filter(about).any(|row| row.0) && !rows.iter().filter(about).any(|row| !row.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_token_may_what_the_model_says(
        rows in vec(row(), 0..5),
        verb in 0..Verb::ALL.len(),
        service in prop::option::of(prop::sample::select(&NAMES[..])),
    ) {
        let grants = rows.iter().map(|row| Grant::parse(&words(row), row.0).unwrap()).collect();
        let secret = [7; 32];
        let token = Token {
            name: "ci".into(), number: 9, hash: Token::hash_of(&secret), grants, created: Wall::default(), expires: None,
        };
        let mut tokens = Tokens::default();
        tokens.put(token.into());
        let found = tokens.find(&Token::text(9, &secret), Wall::default()).unwrap();
        let on = service.map_or(On::Everything, On::Service);
        let want = model(&rows, verb, service);
        let got = Access::default().permits(&Identity::token(found), Verb::ALL[verb], on, &tokens, Wall::default());
        prop_assert_eq!(got.is_ok(), want, "{:?}", got);
    }

    #[test]
    fn rules_say_the_same_of_whoever_they_are_about(
        rows in vec(row(), 1..5),
        verb in 0..Verb::ALL.len(),
        service in prop::option::of(prop::sample::select(&NAMES[..])),
    ) {
        let on = service.map_or(On::Everything, On::Service);
        for (whom, who, another) in [
            ("uid:1000", Identity::user(1000, 100), Identity::user(1001, 100)),
            ("gid:100", Identity::user(1000, 100), Identity::user(1000, 1000)),
            ("certificate:web.example", Identity::certificate("web.example".into()), Identity::certificate("web.examplex".into())),
            ("10.0.0.0/8", Identity::address(([10, 1, 2, 3], 5).into()), Identity::address(([11, 1, 2, 3], 5).into())),
        ] {
            let rule = |row: &Row| Rule::parse(&format!("{} {whom} {}", if row.0 { "allow" } else { "deny" }, words(row)));
            let access = Access {
                rules: Some(rows.iter().map(|row| rule(row).unwrap()).collect()),
                own_user: 7,
                ..Access::default()
            };
            let may = |who| access.permits(who, Verb::ALL[verb], on, &Tokens::default(), Wall::default()).is_ok();
            prop_assert_eq!(may(&who), model(&rows, verb, service), "{}", whom);
            prop_assert!(!may(&another), "{} is about nobody else", whom);
        }
    }
}

#[test]
fn without_rules_this_machine_is_trusted_and_no_other() {
    let access = Access { own_user: 7, ..Access::default() };
    let may = |who: &Identity, verb| {
        access.permits(who, verb, On::Service("web"), &Tokens::default(), Wall::default()).is_ok()
    };
    for (who, registers, administers) in [
        (Identity::user(0, 0), true, true),
        (Identity::user(7, 7), true, true),
        (Identity::user(1000, 7), true, false),
        (Identity::certificate("web.example".into()), true, false),
        (Identity::address("127.0.0.1:9".parse().unwrap()), true, true),
        (Identity::address("[::1]:9".parse().unwrap()), true, true),
        (Identity::address("[::ffff:127.0.0.1]:9".parse().unwrap()), true, true),
        (Identity::address("10.0.0.7:9".parse().unwrap()), false, false),
        (Identity::address("[::ffff:10.0.0.7]:9".parse().unwrap()), false, false),
    ] {
        assert_eq!((may(&who, Verb::Register), may(&who, Verb::Admin)), (registers, administers), "{who}");
    }
    let asked = Access { others_trusted: true, ..access };
    let far = Identity::address("10.0.0.7:9".parse().unwrap());
    assert!(asked.permits(&far, Verb::Admin, On::Everything, &Tokens::default(), Wall::default()).is_ok());
}

#[test]
fn what_is_no_rule_is_refused_in_words() {
    for (text, phrase) in [
        ("", "allow uid:1000"),
        ("allow anyone", "and what"),
        ("permit anyone read", "`allow` or `deny`"),
        ("allow somebody read", "must say who"),
        ("allow uid:web read", "by number"),
        ("allow certificate: read", "must say who"),
        ("allow anyone reads", "`reads` is no verb"),
        ("allow anyone read+", "`` is no verb"),
        ("allow anyone read:we*b", "no service's name"),
        ("allow anyone read:", "no service's name"),
        ("allow 10.0.0.0/40 read", "must say who"),
    ] {
        let refused = Rule::parse(text).expect_err(text);
        assert!(refused.contains(phrase), "{text}: {refused}");
    }
}
