//! `callsign dig`.

use insta::assert_snapshot;

use super::*;

#[test]
fn dig_shows_ttls_reasons_and_glue() {
    let server = Server::start();
    server.says("register web 10.0.0.7:8080 --id web-1 --host h1 --meta a=\"b --lease none");
    assert_snapshot!(server.says("dig web.service.local SRV"), @"
    NOERROR qr aa
    question: web.service.local. IN SRV
    ; answer
    web.service.local. 5 IN SRV 0 1 8080 web-1.web.service.local.
    ; additional
    web-1.web.service.local. 5 IN A 10.0.0.7
    ; 105 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    ");
    assert_snapshot!(server.says("dig WEB.service.local. +tcp"), @"
    NOERROR qr aa
    question: WEB.service.local. IN A
    ; answer
    WEB.service.local. 5 IN A 10.0.0.7
    ; 62 octets from 127.0.0.1:PORT over tcp in TOOK, EDNS 1232
    ");
    assert_snapshot!(server.says("dig web.service.local TXT --noedns"), @r#"
    NOERROR qr aa
    question: web.service.local. IN TXT
    ; answer
    web.service.local. 5 IN TXT "a=\"b"
    ; 52 octets from 127.0.0.1:PORT over udp in TOOK
    "#);
    assert_snapshot!(server.says("dig web.service.local AAAA"), @"
    NOERROR qr aa
    reason 0 (Other): web: no live instance has an IPv6 address
    question: web.service.local. IN AAAA
    ; authority
    service.local. 2 IN SOA ns.service.local. hostmaster.service.local. SERIAL 300 60 86400 2
    ; 143 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    ");
    assert_snapshot!(server.says("dig wbe.service.local type1"), @"
    NXDOMAIN qr aa
    reason 0 (Other): wbe: no such service
    question: wbe.service.local. IN A
    ; authority
    service.local. 2 IN SOA ns.service.local. hostmaster.service.local. SERIAL 300 60 86400 2
    ; 122 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    exit Some(3)
    ");
    assert_snapshot!(server.says("dig example.com"), @"
    REFUSED qr
    reason 20 (Not Authoritative): not a name of this server
    question: example.com. IN A
    ; 71 octets from 127.0.0.1:PORT over udp in TOOK, EDNS 1232
    ! hint: this server's domains are service.local.; others' names are answered with `serve --forward`
    exit Some(1)
    ");
    let hint_of = |name: &str| {
        let told = server.says(&format!("dig {name}"));
        let hint = told.lines().find_map(|line| line.strip_prefix("! hint: this server's domains are "));
        hint.unwrap_or_default().to_owned()
    };
    // Only what is registered is meant.
    for (short, meant) in [
        ("web", "web"),
        ("a.web", "a.web"),
        ("_web._tcp", "_web._tcp"),
        ("web.local", "web"),
        ("web.", "web"),
    ] {
        assert_eq!(
            hint_of(short),
            format!("service.local.; did you mean `{meant}.service.local`?"),
            "{short}"
        );
    }
    assert_eq!(hint_of("wbe"), "service.local.; `callsign ls` lists the services");
    for other in ["google.com", "www.example.com", "a.example."] {
        let expected = "service.local.; others' names are answered with `serve --forward`";
        assert_eq!(hint_of(other), expected, "{other}");
    }
    // One that is there or could be.
    for whole in ["web.service.local", "none.service.local"] {
        assert!(!server.says(&format!("dig {whole}")).contains("hint"), "{whole}");
    }
    // Of a server that no socket tells of, only the question is known.
    let told = blot(&transcript(server.verb("dig web").env("CALLSIGN_SERVER", "unix:/nowhere/s")));
    assert!(
        told.contains("! hint: names end in the server's domain, which `callsign status` shows\n"),
        "{told}"
    );
}

#[test]
fn dig_asks_again_over_tcp_when_the_answer_was_cut() {
    let server = Server::start();
    for number in 1..=60 {
        server.says(&format!("register many 10.0.0.{number}:80 --id i{number} --host h --lease none"));
    }
    let whole = server.says("dig many.service.local SRV");
    assert!(whole.contains("were cut; asking over tcp") && whole.contains("over tcp in"), "{whole}");
    assert_eq!(whole.matches(" IN SRV ").count(), 60, "{whole}");
    let cut = server.says("dig many.service.local SRV --ignore --bufsize 512");
    assert!(cut.starts_with("NOERROR qr aa tc\n") && cut.contains("over udp in"), "{cut}");
}

#[test]
fn dig_takes_no_reply_to_another_question() {
    let liar = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    liar.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = liar.local_addr().unwrap();
    let lying = std::thread::spawn(move || {
        let mut query = [0; 512];
        let (octets, from) = liar.recv_from(&mut query).unwrap();
        let mut reply = query[..octets].to_vec();
        reply[2] |= 0x80;
        let mut other_id = reply.clone();
        other_id[0] ^= 1;
        let mut other_name = reply.clone();
        other_name[13] ^= 1;
        for message in [&other_id, &other_name, &reply] {
            liar.send_to(message, from).unwrap();
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let told =
        transcript(callsign(directory.path()).args(["dig", "web.test", "--dns", &address.to_string()]));
    assert!(told.starts_with("NOERROR qr\n") && told.contains("web.test. IN A"), "{told}");
    lying.join().unwrap();
}
