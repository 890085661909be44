//! Lines that are refused, and in which words.

use serde_json::{Value, json};

/// A line, and the code, the field (`-` for none) and a phrase of the message that it gets.
pub const REFUSED: &[(&str, &str, &str, &str)] = &[
    // -- no request ------------------------------------------------------------------------------------------------
    ("{", "malformed", "-", "not JSON"),
    ("nonsense", "malformed", "-", "not JSON"),
    ("\u{feff}{\"status\":{}}", "malformed", "-", "not JSON"),
    (r#"{"status":{}} x"#, "malformed", "-", "trailing characters"),
    ("[]", "malformed", "-", "one member, its verb"),
    ("null", "malformed", "-", "one member, its verb"),
    ("{}", "malformed", "-", "one member, its verb"),
    ("\"register\"", "malformed", "-", "one member, its verb"),
    (r#"{"register":null}"#, "malformed", "-", "one member, its verb"),
    (r#"{"register":{"service":"a","port":1},"list":{}}"#, "malformed", "-", "one member, its verb"),
    (r#"{"list":{},"list":{}}"#, "malformed", "-", "one member, its verb"),
    (r#"{"regster":{"service":"web"}}"#, "unknown_verb", "-", "did you mean `register`?"),
    (r#"{"frobnicate":{}}"#, "unknown_verb", "-", "verbs are register, heartbeat,"),
    (r#"{"\u001b[31m":{}}"#, "unknown_verb", "-", r"`\u{1b}[31m` is no verb"),
    // -- fields ------------------------------------------------------------------------------------------------------
    (r#"{"register":{}}"#, "invalid", "service", "missing"),
    (r#"{"register":{"service":"web","tag":["a"],"port":1}}"#, "invalid", "tag", "did you mean `tags`?"),
    (r#"{"heartbeat":{"service":"web","id":"a","lease":"1s"}}"#, "invalid", "lease", "unknown field `lease`"),
    (r#"{"list":{"colour":"red"}}"#, "invalid", "colour", "fields here are service, address"),
    (r#"{"status":{"x":1}}"#, "invalid", "x", "unknown field `x`"),
    (r#"{"register":{"service":"web","service":"db","port":1}}"#, "invalid", "service", "duplicate"),
    (
        r#"{"register":{"service":"web","port":1,"meta":{"a":"1","a":"2"}}}"#,
        "invalid",
        "meta",
        "`a` is given twice",
    ),
    (r#"{"register":{"service":"web","ports":{"a":1,"a":2}}}"#, "invalid", "ports", "`a` is given twice"),
    (r#"{"register":{"service":"web","ports":{"a":1,"A":2}}}"#, "invalid", "ports.A", "is given twice"),
    (r#"{"register":{"service":5,"port":1}}"#, "invalid", "service", "expected a string"),
    (r#"{"register":{"service":{"service":{}},"port":1}}"#, "invalid", "service", "expected a string"),
    (r#"{"lookup":{}}"#, "invalid", "id", "missing"),
    (r#"{"explain":{}}"#, "invalid", "name", "missing"),
    // -- ports -------------------------------------------------------------------------------------------------------
    (r#"{"register":{"service":"web"}}"#, "invalid", "port", "1 to 65535"),
    (r#"{"register":{"service":"web","port":0}}"#, "invalid", "port", "must be 1 to 65535, not 0"),
    (r#"{"register":{"service":"web","port":65536}}"#, "invalid", "port", "must be 1 to 65535, not 65536"),
    (r#"{"register":{"service":"web","port":-1}}"#, "invalid", "port", "not -1"),
    (r#"{"register":{"service":"web","port":99999999999999999999}}"#, "invalid", "port", "port"),
    (r#"{"register":{"service":"web","port":80.5}}"#, "invalid", "port", "80.5"),
    (r#"{"register":{"service":"web","port":"80"}}"#, "invalid", "port", "string \"80\""),
    (r#"{"register":{"service":"web","ports":{"http":0}}}"#, "invalid", "ports.http", "not 0"),
    (r#"{"register":{"service":"web","ports":{"http":65536}}}"#, "invalid", "ports.http", "not 65536"),
    (
        r#"{"register":{"service":"web","ports":{"h_t":1}}}"#,
        "invalid",
        "ports.h_t",
        "letters, digits and hyphens",
    ),
    (
        r#"{"register":{"service":"web","ports":{"d":{"port":53,"transport":"sctp"}}}}"#,
        "invalid",
        "ports.d",
        "use tcp or udp",
    ),
    (r#"{"list":{"port":65536}}"#, "invalid", "port", "must be 1 to 65535, not 65536"),
    // -- leases ------------------------------------------------------------------------------------------------------
    (r#"{"register":{"service":"web","port":1,"lease":"0"}}"#, "invalid", "lease", "must be 1s to 7d"),
    (r#"{"register":{"service":"web","port":1,"lease":"0s"}}"#, "invalid", "lease", "must be 1s to 7d"),
    (r#"{"register":{"service":"web","port":1,"lease":"999ms"}}"#, "invalid", "lease", "must be 1s to 7d"),
    (r#"{"register":{"service":"web","port":1,"lease":"87600h"}}"#, "invalid", "lease", "not 87600h"),
    (r#"{"register":{"service":"web","port":1,"lease":"3650d"}}"#, "invalid", "lease", "not 3650d"),
    (
        r#"{"register":{"service":"web","port":1,"lease":"99999999999999999999s"}}"#,
        "invalid",
        "lease",
        "such as 15s",
    ),
    (r#"{"register":{"service":"web","port":1,"lease":"-1s"}}"#, "invalid", "lease", "such as 15s"),
    (
        r#"{"register":{"service":"web","port":1,"lease":"forever"}}"#,
        "invalid",
        "lease",
        "`connection` or `none`",
    ),
    (r#"{"register":{"service":"web","port":1,"lease":15}}"#, "invalid", "lease", "expected a string"),
    (
        r#"{"heartbeat":{"service":"web","id":"a","lease_id":"12"}}"#,
        "invalid",
        "lease_id",
        "16 hexadecimal digits",
    ),
    // -- names -------------------------------------------------------------------------------------------------------
    (r#"{"register":{"service":"","port":1}}"#, "invalid", "service", "must not be empty"),
    (r#"{"register":{"service":"..","port":1}}"#, "invalid", "service", "letters, digits and hyphens"),
    (r#"{"register":{"service":"a.b","port":1}}"#, "invalid", "service", "try `a-b`"),
    (r#"{"register":{"service":"my_service","port":1}}"#, "invalid", "service", "try `my-service`"),
    (r#"{"register":{"service":"-web","port":1}}"#, "invalid", "service", "try `web`"),
    (r#"{"register":{"service":"web ","port":1}}"#, "invalid", "service", "try `web`"),
    (r#"{"register":{"service":"8080","port":1}}"#, "invalid", "service", "try `svc-8080`"),
    (
        r#"{"register":{"service":"0x1f","port":1}}"#,
        "invalid",
        "service",
        "resolvers read such a name as an address",
    ),
    (r#"{"register":{"service":"bücher","port":1}}"#, "invalid", "service", "letters, digits and hyphens"),
    (r#"{"register":{"service":"пример","port":1}}"#, "invalid", "service", "letters, digits and hyphens"),
    (r#"{"register":{"service":"xn--999999999","port":1}}"#, "invalid", "service", "as IDNA encodes it"),
    (r#"{"register":{"service":"we\u0007b","port":1}}"#, "invalid", "service", "try `we-b`"),
    (r#"{"register":{"service":"we\u0000b","port":1}}"#, "invalid", "service", "letters, digits and hyphens"),
    (r#"{"register":{"service":"localhost","port":1}}"#, "invalid", "service", "try `my-localhost`"),
    (r#"{"register":{"service":"callsign","port":1}}"#, "invalid", "service", "reserved"),
    (r#"{"register":{"service":"web","id":"","port":1}}"#, "invalid", "id", "must not be empty"),
    (r#"{"register":{"service":"web","id":"a\u001bb","port":1}}"#, "invalid", "id", "control character"),
    (r#"{"register":{"service":"web","host":"a\nb","port":1}}"#, "invalid", "host", "control character"),
    (r#"{"register":{"service":"web","tags":["a\u0000"],"port":1}}"#, "invalid", "tags", "control character"),
    (
        r#"{"register":{"service":"web","protocol":"a\tb","port":1}}"#,
        "invalid",
        "protocol",
        "without controls",
    ),
    (
        r#"{"register":{"service":"web","meta":{"k":"a\u0000b"},"port":1}}"#,
        "invalid",
        "meta.k",
        "without controls",
    ),
    (r#"{"register":{"service":"web","meta":{"a=b":"v"},"port":1}}"#, "invalid", "meta.a=b", "without `=`"),
    (r#"{"register":{"service":"web","meta":{"":"v"},"port":1}}"#, "invalid", "meta.", "1 to 128 octets"),
    (r#"{"heartbeat":{"service":"..","id":"a"}}"#, "invalid", "service", "letters, digits and hyphens"),
    (r#"{"list":{"service":".."}}"#, "invalid", "service", "letters, digits and hyphens"),
    (r#"{"explain":{"name":".."}}"#, "invalid", "name", "a label is empty"),
    // -- addresses ---------------------------------------------------------------------------------------------------
    (
        r#"{"register":{"service":"web","port":1,"address":"host.example"}}"#,
        "invalid",
        "address",
        "for a host name use `target`",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":"10.0.0.7:80"}}"#,
        "invalid",
        "address",
        "without a port",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":"10.0.0.256"}}"#,
        "invalid",
        "address",
        "must be an IPv4 or IPv6 address",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":"010.0.0.1"}}"#,
        "invalid",
        "address",
        "must be an IPv4 or IPv6 address",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":""}}"#,
        "invalid",
        "address",
        "must be an IPv4 or IPv6 address",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":[]}}"#,
        "invalid",
        "address",
        "must not be an empty list",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":["10.0.0.1",5]}}"#,
        "invalid",
        "address[1]",
        "expected a string",
    ),
    (r#"{"register":{"service":"web","port":1,"address":"0.0.0.0"}}"#, "invalid", "address", "unspecified"),
    (r#"{"register":{"service":"web","port":1,"address":"::"}}"#, "invalid", "address", "unspecified"),
    (
        r#"{"register":{"service":"web","port":1,"address":"::ffff:0.0.0.0"}}"#,
        "invalid",
        "address",
        "unspecified",
    ),
    (r#"{"register":{"service":"web","port":1,"address":"224.0.0.1"}}"#, "invalid", "address", "multicast"),
    (r#"{"register":{"service":"web","port":1,"address":"ff02::1"}}"#, "invalid", "address", "multicast"),
    (r#"{"register":{"service":"web","port":1,"address":"fe80::1"}}"#, "invalid", "address", "link-local"),
    (
        r#"{"register":{"service":"web","port":1,"address":"fe80::1%eth0"}}"#,
        "invalid",
        "address",
        "must be an IPv4 or IPv6 address",
    ),
    (
        r#"{"register":{"service":"web","port":1,"address":"255.255.255.255"}}"#,
        "invalid",
        "address",
        "broadcast",
    ),
    (r#"{"register":{"service":"web","port":1,"target":"10.0.0.1"}}"#, "invalid", "target", "`address`"),
    (r#"{"register":{"service":"web","port":1,"target":"fd00::1"}}"#, "invalid", "target", "`address`"),
    (r#"{"register":{"service":"web","port":1,"target":".."}}"#, "invalid", "target", "a label is empty"),
    (
        r#"{"register":{"service":"web","port":1,"target":"web"}}"#,
        "invalid",
        "target",
        "a full name with a dot, such as `web.example.com`",
    ),
    (r#"{"register":{"service":"web","port":1,"target":"10.0.0.300"}}"#, "invalid", "target", "all digits"),
    (r#"{"register":{"service":"web","port":1,"target":"a.example.7."}}"#, "invalid", "target", "all digits"),
    (
        r#"{"register":{"service":"web","port":1,"target":"a.example","address":"10.0.0.1"}}"#,
        "invalid",
        "target",
        "exclude each other",
    ),
    (r#"{"list":{"address":"10.0.0"}}"#, "invalid", "address", "must be an IPv4 or IPv6 address"),
    // -- other numbers and words --------------------------------------------------------------------------------------
    (r#"{"register":{"service":"web","port":1,"weight":65536}}"#, "invalid", "weight", "0 to 65535"),
    (r#"{"register":{"service":"web","port":1,"priority":-1}}"#, "invalid", "priority", "0 to 65535"),
    (
        r#"{"register":{"service":"web","port":1,"checks":[{"id":"c"},{"id":"c"}]}}"#,
        "invalid",
        "checks",
        "`c` twice",
    ),
    (
        r#"{"register":{"service":"web","port":1,"checks":[{"id":"c","status":"fine"}]}}"#,
        "invalid",
        "checks.status",
        "passing, warning",
    ),
    (
        r#"{"report":{"service":"web","id":"a","status":"fine"}}"#,
        "invalid",
        "status",
        "passing, warning, critical or maintenance",
    ),
    (r#"{"report":{"service":"web","status":"passing"}}"#, "invalid", "id", "is missing"),
    (r#"{"report":{"id":"web","status":"passing"}}"#, "invalid", "service", "is missing"),
    (r#"{"list":{"health":"ill"}}"#, "invalid", "health", "passing, warning"),
    (r#"{"list":{"after":"x"}}"#, "invalid", "after", "`next`"),
    // -- nobody there ------------------------------------------------------------------------------------------------
    (r#"{"heartbeat":{"service":"web","id":"nobody"}}"#, "not_found", "id", "register it again"),
    (r#"{"drain":{"service":"web","id":"nobody"}}"#, "not_found", "id", "not registered"),
    (r#"{"report":{"service":"web","id":"nobody","status":"passing"}}"#, "not_found", "id", "not registered"),
    (r#"{"lookup":{"id":"nobody"}}"#, "not_found", "id", "`nobody`"),
    (
        r#"{"deregister":{"service":"kept-1","id":"kept-1","lease_id":"0000000000000000"}}"#,
        "superseded",
        "lease_id",
        "another holder",
    ),
];

/// A registration with one field as given.
fn with(field: &str, value: Value) -> String {
    let mut form = json!({"service": "web", "address": "10.0.0.7", "port": 80});
    form[field] = value;
    json!({"register": form}).to_string()
}

/// The lines that are too long to write down.
pub fn over_a_limit() -> Vec<(String, &'static str, &'static str)> {
    let many = |count: usize| -> Vec<String> { (0..count).map(|number| format!("n{number}")).collect() };
    let pairs = |count: usize, value: Value| -> Value {
        many(count).into_iter().map(|name| (name, value.clone())).collect::<serde_json::Map<_, _>>().into()
    };
    let check = |id: String| json!({ "id": id });
    vec![
        (with("service", "a".repeat(63).into()), "service", "at most 62 octets, not 63"),
        (with("service", "a".repeat(64).into()), "service", "at most 62 octets, not 64"),
        (with("service", "a".repeat(60_000).into()), "service", "at most 62 octets, not 60000"),
        (with("id", "a".repeat(256).into()), "id", "at most 255 octets, not 256"),
        (with("host", "a".repeat(254).into()), "host", "at most 253 octets, not 254"),
        (with("protocol", "a".repeat(64).into()), "protocol", "1 to 63 octets"),
        (with("tags", json!(many(65))), "tags", "at most 64 tags, not 65"),
        (with("tags", json!(["a".repeat(256)])), "tags", "at most 255 octets"),
        (with("meta", pairs(65, "v".into())), "meta", "more than 64"),
        (with("meta", json!({"k": "v".repeat(513)})), "meta.k", "at most 512 octets"),
        (with("ports", pairs(32, 1.into())), "ports", "at most 32 ports, not 33"),
        (with("checks", many(65).into_iter().map(check).collect()), "checks", "at most 64 checks, not 65"),
        (
            with("address", (1..=17).map(|number| format!("10.0.0.{number}")).collect()),
            "address",
            "at most 16 addresses, not 17",
        ),
        (
            format!(r#"{{"register":{{"service":"web","port":1,"target":"{}.example"}}}}"#, "a".repeat(64)),
            "target",
            "longer than 63 octets",
        ),
    ]
}
