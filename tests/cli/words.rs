//! What is said before any server is asked: help, refusals, what is wrong with a configuration.

use std::net::TcpListener;

use insta::assert_snapshot;

use super::*;

#[test]
fn the_first_help_fits_a_screen() {
    let directory = tempfile::tempdir().unwrap();
    assert_snapshot!(transcript(callsign(directory.path()).arg("--help")), @"
    A DNS server that knows which services are running

    Usage: callsign <COMMAND>

    Commands:
      serve            Run the server: DNS, and the socket that services register on
      register         Register an instance of a service
      heartbeat        Renew the lease of an instance once
      deregister       Take an instance out of the registry
      drain            Take an instance out of new answers, but not out of the registry
      run              Run a command that is registered while it lives
      ls               List the services, or the instances of one
      show             Show the instances of a service in full, or one URL
      watch            Follow changes: first what is registered, then one line per change
      service          Show or change the settings of a service
      explain          Say why a name is, or is not, in DNS, instance by instance
      log              Show what changed, newest first: when, why and by whom
      at               Show who was registered at a time, as far back as the log reaches
      availability     Show how much of the time services and instances were live
      feed             Print every change as a line of JSON: those since a revision, then those to come
      feed-containers  Register containers by their labels, for as long as they run
      apply            Read requests or changes, a line of JSON each, and acknowledge each
      export           Print everything that the registry holds, as lines of JSON
      import           Take in what `export` printed, or what a running Consul has
      store            Check, back up or restore the embedded store
      dig              Ask over real DNS; show TTLs, reasons and glue
      setup            Print the file that lets a resolver or an Envoy ask this server, or write it
      doctor           Say what keeps the registry's names from resolving on this machine
      status           Show the server as it is now (exit code 5 while it is not ready)
      nodes            Show the nodes that share the registry, and how far each has followed
      ring             Show what each node has of the ring, or whose a name is by it
      token            Make, list and revoke tokens
      dnssec           Make, change and show the keys that zones are signed with
      zone             Check zone files before a server reads them
      demo             Show how it works: a server, three services, five commands; Ctrl-C ends it
      completion       Print what a shell needs to complete verbs and options
      man              Write the manual pages

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Example:
      callsign serve
      callsign run web --port 8080 -- python3 -m http.server 8080
      callsign dig web.service.local SRV
    ");
    assert_snapshot!(transcript(callsign(directory.path()).arg("--version")), @"callsign 0.1.0");
}

#[test]
fn the_help_of_a_verb_shows_an_example() {
    let directory = tempfile::tempdir().unwrap();
    assert_snapshot!(transcript(callsign(directory.path()).args(["drain", "--help"])), @"
    Take an instance out of new answers, but not out of the registry

    Usage: callsign drain [OPTIONS] <SERVICE> <ID>

    Arguments:
      <SERVICE>  The service's name
      <ID>       The instance's id

    Options:
          --host <HOST>     The host it runs on, where that is another one than this
          --lease-id <HEX>  What the registration returned: refuse if another one has taken its place
                            since
      -h, --help            Print help

    Server and output:
          --server <SERVER>            Where the server is: unix:PATH, ADDR:PORT or tls:HOST:PORT;
                                       several are tried in turn, with commas between them or the flag
                                       again [env: CALLSIGN_SERVER] [default:
                                       unix:$XDG_RUNTIME_DIR/callsign.sock; for root
                                       unix:/run/callsign/callsign.sock]
          --token-file <FILE>          A file that holds the token to say who we are with [env:
                                       CALLSIGN_TOKEN holds the token itself]
          --server-authority <FILE>    Who signs the certificate of a server at tls:HOST:PORT [default:
                                       whom this machine trusts]
          --client-certificate <FILE>  A certificate to say who we are with over TLS, in PEM form
          --client-key <FILE>          Its private key
      -o, --output <FORM>              A table for people, one JSON value, or one JSON value a line
                                       [default: table] [possible values: table, json, jsonl]
          --timeout <TIME>             How long to wait for an answer [default: 5s]

    Example:
      callsign drain web web-1 && sleep 5 && systemctl stop web
    ");
}

#[test]
fn bad_input_gets_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let mut says = String::new();
    for line in [
        "regster",
        "ls --helth critical",
        "register web 2001:db8::7:80",
        "register web db.example.com:80",
        "register web 10.0.0.300:80",
        "register web myhost:8080",
        "ls --server /run/x",
        "ls --timeout soon",
        "run web --port 0 -- true",
        "run a_b --port 80 -- true",
        "dig a..b",
        "dig web FOO",
        "dig web A SRV",
        "dig web --dns 127.0.0.1",
        "serve --ttl 900",
        "serve --listen 0.0.0.0:5301",
        "serve --port 5300",
        "register web --port 8080",
        "register 10.0.0.7:8080",
        "register web.service.local 10.0.0.7:8080",
        "run web.service.local --port 8080 -- true",
        "ls --server localhost:5301",
        "register web --server",
        "zone check db.zone --server 127.0.0.1:5301",
    ] {
        let told = transcript(callsign(directory.path()).args(line.split_whitespace()));
        let first = told.lines().next().unwrap_or_default();
        let hint =
            told.lines().find(|line| line.contains("hint:") || line.contains("tip:")).unwrap_or_default();
        says.push_str(&format!("> {line}\n{first}\n"));
        says.push_str(if hint.is_empty() { "" } else { hint });
        says.push_str(if hint.is_empty() { "" } else { "\n" });
        assert!(told.ends_with("exit Some(2)\n"), "{line}: {told}");
    }
    assert_snapshot!(says, @"
    > regster
    ! callsign: unrecognized subcommand 'regster'
    !   tip: some similar subcommands exist: 'deregister', 'register'
    > ls --helth critical
    ! callsign: unexpected argument '--helth' found
    !   tip: a similar argument exists: '--health'
    > register web 2001:db8::7:80
    ! callsign: invalid value '2001:db8::7:80' for '[ADDR:PORT]': put an IPv6 address into brackets, such as [2001:db8::7]:8080
    > register web db.example.com:80
    ! callsign: invalid value 'db.example.com:80' for '[ADDR:PORT]': `db.example.com` is no IP address; for a host name write PORT --target db.example.com
    > register web 10.0.0.300:80
    ! callsign: invalid value '10.0.0.300:80' for '[ADDR:PORT]': `10.0.0.300` is neither an address nor a host name: its last label is all digits
    > register web myhost:8080
    ! callsign: invalid value 'myhost:8080' for '[ADDR:PORT]': `myhost` is no IP address, and a host name must be a full name with a dot, such as myhost.example.com; write PORT --target myhost.example.com
    > ls --server /run/x
    ! callsign: invalid value '/run/x' for '--server <SERVER>': must be unix:PATH or ADDR:PORT; try `unix:/run/x`
    > ls --timeout soon
    ! callsign: invalid value 'soon' for '--timeout <TIME>': write a time such as 500ms, 15s or 2m
    > run web --port 0 -- true
    ! callsign: port must be 1 to 65535, not 0
    > run a_b --port 80 -- true
    ! callsign: service must be letters, digits and hyphens, with no hyphen at either end; try `a-b`
    > dig a..b
    ! callsign: `a..b` is no domain name: a label is empty (two dots in a row, or a dot in front)
    > dig web FOO
    ! callsign: `FOO` is no record type
    ! hint: types are A, AAAA, SRV, TXT, … or TYPE65; the server is named with --dns ADDR:PORT
    > dig web A SRV
    ! callsign: one type is enough; `SRV` is the second
    > dig web --dns 127.0.0.1
    ! callsign: invalid value '127.0.0.1' for '--dns <ADDR:PORT>': write an address with a port, such as 127.0.0.1:5300 or [::1]:5300
    > serve --ttl 900
    ! callsign: --ttl must be whole seconds from 0s to 300s, not `900`
    > serve --listen 0.0.0.0:5301
    ! callsign: --listen 0.0.0.0:5301 can be reached from other machines, and there is no authentication: whoever reaches it may register and deregister anything; say who may do what with `access` (--access 'allow anyone read', and tokens for the rest), listen on 127.0.0.1, or set `allow-unauthenticated = true` (--allow-unauthenticated) if that is meant
    > serve --port 5300
    ! callsign: unexpected argument '--port' found
    !   tip: ports stand behind addresses: '--dns ADDR:PORT', '--http ADDR:PORT'
    > register web --port 8080
    ! callsign: unexpected argument '--port' found
    !   tip: the port stands behind the address: 'callsign register NAME ADDR:PORT', or ':PORT' alone
    > register 10.0.0.7:8080
    ! callsign: the service's name is missing in front of 10.0.0.7:8080
    ! hint: callsign register NAME 10.0.0.7:8080
    > register web.service.local 10.0.0.7:8080
    ! callsign: service must be one label; try `web`, for the server adds its domain, or `web-service-local`
    > run web.service.local --port 8080 -- true
    ! callsign: service must be one label; try `web`, for the server adds its domain, or `web-service-local`
    > ls --server localhost:5301
    ! callsign: invalid value 'localhost:5301' for '--server <SERVER>': must be an address, and localhost is none: 127.0.0.1:5301
    > register web --server
    ! callsign: a value is required for '--server <SERVER>' but none was supplied
    > zone check db.zone --server 127.0.0.1:5301
    ! callsign: unexpected argument '--server' found
    ");
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_command_that_starts_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let mut told = Vec::new();
    for line in [
        "ls",
        "status",
        "register web :80 --lease 15s",
        "register web :80",
        "watch",
        "show web --url",
        "explain web",
    ] {
        told.push(transcript(callsign(directory.path()).args(line.split_whitespace())).replace(&path, "DIR"));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_snapshot!(told[0], @"
    ! callsign: no callsign server at unix:DIR/s: no such file or directory
    ! hint: start one with `callsign serve`, or say where it is with --server
    exit Some(5)
    ");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let told = transcript(callsign(directory.path()).args(["dig", "web", "--dns", &free.to_string()]));
    assert_snapshot!(blot(&told), @"
    ! callsign: no DNS server at 127.0.0.1:PORT over udp: connection refused
    ! hint: start one with `callsign serve`, or say where it is with --dns ADDR:PORT
    exit Some(5)
    ");
    let told = transcript(callsign(directory.path()).args(["ls", "--server", &free.to_string()]));
    assert!(told.contains("connection refused") && told.ends_with("exit Some(5)\n"), "{told}");
}

#[test]
fn check_config_says_ok_or_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |text: &str| {
        std::fs::write(directory.path().join("c.toml"), text).unwrap();
        transcript(callsign(directory.path()).args([
            "serve",
            "--check-config",
            "--socket",
            "/run/x",
            "--config",
            "c.toml",
        ]))
    };
    assert_eq!(serve("ttl = 5\n"), "ok\n");
    assert_eq!(
        serve("ttl = 900\n"),
        "! callsign: c.toml:1:7: ttl must be whole seconds from 0s to 300s, not `900`\nexit Some(2)\n"
    );
    assert!(
        serve("\nknwon-for = 1\n")
            .starts_with("! callsign: c.toml:2:1: unknown key `knwon-for` (did you mean `known-for`?)")
    );
}
