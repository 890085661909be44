//! The units of systemd: sound, as narrow as they say, and about the server that is here.
//!
//! Needs: systemd-analyze
//!
//! What the package does in a Debian with a systemd of its own is shown by packaging/deb/test, and the image by packaging/docker/test.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::program::needs;
use harness::{binary, without_our_variables};
use tempfile::TempDir;

const SERVICE: &str = "callsign.service";
const SOCKETS: [&str; 3] = ["callsign-dns.socket", "callsign-http.socket", "callsign-register.socket"];

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd")
}

fn text(name: &str) -> String {
    fs::read_to_string(shipped().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The units as they are shipped, but for the path of the program, which is that of the one under test.
fn units(changed: impl Fn(&str) -> String, drop_in: Option<&str>) -> TempDir {
    let place = tempfile::tempdir().expect("a directory");
    let put = |name: &str, text: &str| fs::write(place.path().join(name), text).expect("a unit");
    let program = "ExecStart=/usr/bin/callsign ";
    assert!(text(SERVICE).contains(program));
    put(SERVICE, &changed(&text(SERVICE)).replace(program, &format!("ExecStart={} ", binary().display())));
    SOCKETS.iter().for_each(|socket| put(socket, &text(socket)));
    if let Some(drop_in) = drop_in {
        let folder = place.path().join("callsign.service.d");
        fs::create_dir(&folder).expect("a folder");
        fs::copy(shipped().join(drop_in), folder.join(drop_in)).expect("a drop-in");
    }
    place
}

/// What systemd-analyze says of the units in a folder, and whether it is content.
fn analyze(place: &Path, words: &[&str]) -> (bool, String) {
    let ran = Command::new(needs("systemd-analyze", "systemd"))
        .args(words)
        .current_dir(place)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", place.display()))
        .output()
        .expect("systemd-analyze");
    let said = [ran.stdout, ran.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned());
    (ran.status.success(), said.concat())
}

fn verified(place: &Path) -> (bool, String) {
    let unit = |name: &&str| format!("./{name}");
    let names: Vec<String> = [SERVICE].iter().chain(&SOCKETS).map(unit).collect();
    let mut words = vec!["verify", "--man=no"];
    words.extend(names.iter().map(String::as_str));
    analyze(place, &words)
}

/// Tenths of systemd's measure of what a service could still do: 0 is nothing, 100 everything.
fn exposure(place: &Path) -> u32 {
    let (_, said) = analyze(place, &["security", "--offline=true", "--no-pager", "./callsign.service"]);
    let line = said.lines().find_map(|line| line.split_once("exposure level for callsign.service: "));
    let (_, rest) = line.unwrap_or_else(|| panic!("no exposure level: {said}"));
    let number = rest.split(' ').next().unwrap_or_default().replace('.', "");
    number.parse().unwrap_or_else(|_| panic!("no number: {rest}"))
}

#[test]
fn the_units_are_sound() {
    let place = units(str::to_owned, None);
    let (is_sound, said) = verified(place.path());
    assert!(is_sound && said.is_empty(), "{said}");
    // And the judge can say no.
    let place = units(|text| text.replace("Restart=always", "Restart=allways"), None);
    let (_, said) = verified(place.path());
    assert!(said.contains("allways"), "{said}");
}

#[test]
fn the_service_may_do_little() {
    for (drop_in, tenths) in [
        (None, 12),
        // Everything but this machine is dropped by the kernel.
        (Some("networks.conf"), 11),
        // It binds ports below 1024 itself, and gives that up.
        (Some("own-sockets.conf"), 15),
    ] {
        let found = exposure(units(str::to_owned, drop_in).path());
        println!("exposure with {drop_in:?}: {}.{}", found / 10, found % 10);
        assert!(found <= tenths, "{drop_in:?}: {found} tenths, and not {tenths}");
    }
    // And the measure measures.
    let open =
        units(|text| text.replace("ProtectSystem=strict\n", "").replace("PrivateMounts=yes\n", ""), None);
    assert!(exposure(open.path()) > 12);
}

#[test]
fn the_filter_of_system_calls_lets_the_server_confine_itself() {
    let text = text(SERVICE);
    let allowed = text.lines().find(|line| line.starts_with("SystemCallFilter=@system-service"));
    for call in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert!(allowed.is_some_and(|line| line.split(' ').any(|word| word == call)), "{call}");
    }
}

#[test]
fn every_socket_is_the_services_and_installed_with_it() {
    let service = text(SERVICE);
    let (postinst, prerm, postrm) = (text("../deb/postinst"), text("../deb/prerm"), text("../deb/postrm"));
    for socket in SOCKETS {
        let unit = text(socket);
        assert!(unit.contains(&format!("Service={SERVICE}\n")), "{socket}");
        for key in ["Sockets=", "Also="] {
            let line = service.lines().find(|line| line.starts_with(key)).expect("a line of sockets");
            assert!(line.contains(socket), "{key} has no {socket}");
        }
        for script in [&postinst, &prerm, &postrm] {
            assert!(script.contains(socket), "{socket} is not in {script}");
        }
    }
    let shipped = fs::read_dir(shipped()).expect("the units").flatten();
    let sockets = shipped.filter(|entry| entry.path().extension().is_some_and(|end| end == "socket"));
    assert_eq!(sockets.count(), SOCKETS.len());
}

/// What the example says of the image is what the Dockerfile and its configuration say.
#[test]
fn the_compose_example_is_about_the_image() {
    let [image, compose, configuration] =
        ["Dockerfile", "compose.yaml", "callsign.toml"].map(|name| text(&format!("../docker/{name}")));
    // What stands behind `key` in a line.
    let said = |of: &str, key: &str| -> String {
        let found = of.lines().find_map(|line| line.trim_start().strip_prefix(key));
        found.unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
    };
    let (volume, sockets) = (said(&image, "VOLUME "), said(&image, "ENV XDG_RUNTIME_DIR="));
    assert_eq!(said(&compose, "- registry:"), volume);
    assert_eq!(said(&compose, "- /run/").split(':').next(), sockets.strip_prefix("/run/"));
    let tag = said(&image, "#   packaging/static && docker build --file packaging/docker/Dockerfile --tag ");
    assert_eq!(tag.strip_suffix(" ."), Some(&*said(&compose, "image: ")));
    // The other container finds the server where it is, at ports that it has.
    let address = said(&compose, "ipv4_address: ");
    let subnet: ipnet::IpNet = said(&compose, "- subnet: ").parse().expect("a network");
    assert!(subnet.contains(&address.parse::<std::net::IpAddr>().expect("an address")));
    assert_eq!(said(&compose, "dns: "), address);
    let port = said(&configuration, "listen = [\"0.0.0.0:").replace("\"]", "");
    assert!(compose.contains(&format!("| nc {address} {port} &")), "{address} {port}");
    assert!(configuration.contains("dns = [\"0.0.0.0:53\"]") && image.contains("EXPOSE 53/udp 53/tcp"));
}

/// A key that is written in a comment of the configuration that is shipped is a key of the server.
#[test]
fn the_configurations_that_are_shipped_are_sound() {
    for (path, uncomment) in [("deb/callsign.toml", true), ("docker/callsign.toml", false)] {
        let place = tempfile::tempdir().expect("a directory");
        let mut text = text(&format!("../{path}"));
        if uncomment {
            let folder = place.path().display().to_string();
            text = text.replace("\n#", "\n").replace("/etc/callsign/zones", &folder);
            text = text.replace("/etc/callsign/services", &folder);
            // What is prose stays a comment.
            let prose = |line: &str| !line.contains(" = ");
            let lines =
                text.lines().map(|line| if prose(line) { format!("#{line}\n") } else { format!("{line}\n") });
            text = lines.collect();
        }
        let file = place.path().join("callsign.toml");
        fs::write(&file, &text).expect("a configuration");
        let mut check = Command::new(binary());
        check.args(["serve", "--check-config", "--config"]).arg(&file);
        check.current_dir(place.path());
        let checked = without_our_variables(&mut check).env("XDG_RUNTIME_DIR", place.path()).output();
        let checked = checked.expect("the program under test");
        assert!(checked.status.success(), "{path}: {}\n{text}", String::from_utf8_lossy(&checked.stderr));
    }
}
