//! What guests reach, tried from inside real ones, in each network mode: a "host" with services on its loopback and its own address, a
//! private neighbour, who is the host's resolver, and a piece of "internet" behind it. These are a network namespace and a pair of cables,
//! made for the test and taken away after it. Where the tests may not make them, `internet` must be refused, and that is tested instead.

mod common;

use common::{Serial, Server, folder, image, until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::NamedTempFile;
use vmshare::sys::rights::{self, Right};

/// The port of all services but the resolvers', by TCP and UDP.
const PORT: u16 = 8077;

/// Resolvers that usual hosts have, one of the network and one of their own, and what each answers every question of a name with.
const RESOLVERS: [(&str, [u8; 4]); 2] = [("192.168.77.2", [198, 51, 100, 2]), ("127.0.77.53", [198, 51, 100, 53])];

/// What a guest tries: where, and what answers there.
const PLACES: [(&str, &str); 9] = [
    ("10.0.2.2", "host"),
    ("10.0.2.3", "host"),
    ("198.51.100.1", "host"),
    ("fec0::2", "host"),
    ("2001:db8:77::1", "host"),
    ("192.168.77.2", "neighbour"),
    ("fd77::2", "neighbour"),
    ("198.51.100.2", "internet"),
    ("2001:db8:77::2", "internet"),
];

/// Started again inside the namespace: answers on all its addresses, and as the neighbour's resolver.
#[test]
fn services_of_the_internet() {
    let Some(notes) = std::env::var_os("VMSHARE_TEST_SERVICES") else { return };
    std::thread::spawn(|| resolve(RESOLVERS[0]));
    std::thread::spawn(|| note_datagrams(notes.into()));
    let end = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    std::thread::spawn(|| answer(PORT, "internet"));
    let _ = end.join();
}

fn resolve((at, address): (&str, [u8; 4])) {
    let socket = UdpSocket::bind((at, 53)).expect("dns");
    let mut question = [0; 512];
    while let Ok((count, from)) = socket.recv_from(&mut question) {
        // RFC 1035: the same id and question, one answer that points back at its name.
        let mut answer = question[..count].to_vec();
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        let wants_v4 = question[count - 3] == 1;
        answer.extend([0xc0, 12, 0, if wants_v4 { 1 } else { 16 }, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
        let _ = socket.send_to(&answer, from);
    }
}

/// Writes the names down that datagrams ask for, a line each. They are read requests of TFTP (RFC 1350): a guest has a client for that.
fn note_datagrams(notes: PathBuf) {
    let socket = UdpSocket::bind(("::", PORT)).expect("udp");
    let mut notes = File::options().append(true).open(notes).expect("notes");
    let mut datagram = [0; 512];
    while let Ok((count, _)) = socket.recv_from(&mut datagram) {
        let name = datagram[..count].split(|byte| *byte == 0).nth(1).unwrap_or_default();
        let line = format!("{}\n", String::from_utf8_lossy(name).trim_start_matches('\u{1}'));
        // In one piece: the other one writes there too.
        notes.write_all(line.as_bytes()).expect("note");
    }
}

fn answer(port: u16, word: &'static str) {
    let listener = TcpListener::bind(("::", port)).expect("listens");
    for mut client in listener.incoming().flatten() {
        let from_private = client.local_addr().is_ok_and(|at| {
            let at = at.ip().to_canonical().to_string();
            at.starts_with("192.168.") || at.starts_with("fd77")
        });
        let _ = writeln!(client, "it-is-{}", if from_private { "neighbour" } else { word });
    }
}

fn run(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let done = Command::new(words[0]).args(&words[1..]).output().expect(line);
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The outside world.
struct World {
    name: String,
    services: Child,
    /// Names of datagrams that arrived somewhere.
    notes: NamedTempFile,
    table: Option<String>,
}

impl World {
    fn make() -> Self {
        let name = format!("vmst{}", std::process::id());
        let cable = format!("vmsc{}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip link add {cable} type veth peer name far netns {name}"));
        for address in ["198.51.100.1/24", "2001:db8:77::1/64 nodad"] {
            run(&format!("ip addr add {address} dev {cable}"));
        }
        run(&format!("ip link set {cable} up"));
        for address in ["198.51.100.2/24", "2001:db8:77::2/64 nodad", "192.168.77.2/32", "fd77::2/128 nodad"] {
            run(&format!("ip -n {name} addr add {address} dev far"));
        }
        run(&format!("ip -n {name} link set far up"));
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip route add 192.168.77.2/32 via 198.51.100.2 dev {cable}"));
        run(&format!("ip -6 route add fd77::2/128 via 2001:db8:77::2 dev {cable}"));
        let notes = NamedTempFile::new().expect("notes");
        let services = Command::new("ip")
            .args(["netns", "exec", &name])
            .arg(std::env::current_exe().expect("own path"))
            .args(["--exact", "services_of_the_internet", "--nocapture"])
            .env("VMSHARE_TEST_SERVICES", notes.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("services");
        let world = Self { name, services, notes, table: None };
        std::thread::spawn(|| answer(PORT, "host"));
        std::thread::spawn(|| resolve(RESOLVERS[1]));
        let notes = world.notes.path().to_owned();
        std::thread::spawn(|| note_datagrams(notes));
        // Seen from the host itself everything answers: what a guest does not reach is kept from it.
        for (place, word) in PLACES {
            let place = if place.starts_with("10.0.2") || place == "fec0::2" { "::1" } else { place };
            until(&format!("{place} answers the host"), || {
                let mut said = String::new();
                TcpStream::connect((place, PORT)).ok()?.read_to_string(&mut said).ok()?;
                said.contains(word).then_some(())
            });
            world.send(place, &format!("host-to-{place}"));
        }
        world
    }

    /// Sends a datagram from the host and waits until it is noted: then all are that arrived there before.
    fn send(&self, place: &str, name: &str) {
        let socket = UdpSocket::bind("[::]:0").expect("udp");
        until(&format!("{place} hears of {name}"), || {
            let datagram = format!("\0\u{1}{name}\0octet\0");
            let place: IpAddr = place.parse().expect("an address");
            let to = match place {
                IpAddr::V4(place) => place.to_ipv6_mapped(),
                IpAddr::V6(place) => place,
            };
            // Nobody may listen yet.
            let _ = socket.send_to(datagram.as_bytes(), (to, PORT));
            self.noted().iter().any(|noted| noted == name).then_some(())
        });
    }

    fn noted(&self) -> Vec<String> {
        fs::read_to_string(self.notes.path()).expect("notes").lines().map(str::to_owned).collect()
    }

    /// The places where datagrams of a guest have arrived.
    fn heard(&self, guest: &str) -> Vec<&'static str> {
        self.send("::1", &format!("host-after-{guest}"));
        self.send("198.51.100.2", &format!("internet-after-{guest}"));
        let noted = self.noted();
        let places = PLACES.iter().map(|(place, _)| *place);
        places.filter(|place| noted.contains(&format!("{guest}-to-{place}"))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.services.stdin.take());
        let _ = self.services.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        if let Some(table) = &self.table {
            let _ = Command::new("nft").args(["delete", "table", "inet", table]).status();
        }
    }
}

/// A server whose host's resolver is the first one, with a profile for each mode.
fn server() -> Server {
    let folder = folder();
    let top = "tls = \"off\"\nstop_vms_on_exit = true";
    let mut text = common::settings(&folder.path().join("b"), top, "load_per_cpu = 1000", "");
    for (mode, first) in [("none", 6201), ("restricted", 6301), ("internet", 6401)] {
        let (vnc, last) = (first - 1000, first + 10);
        text.push_str(&format!(
            "[profiles.{mode}]\nbase_image = {:?}\nnetwork = \"{mode}\"\ndefault_memory_mb = 128\ndefault_cpus = 1\nvideo = \"std\"\n\
             vnc_port_range = [{vnc}, {}]\nhttp_port_range = [{first}, {last}]\n",
            image(),
            vnc + 10
        ));
    }
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let resolv = folder.path().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\n", RESOLVERS[0].0)).expect("resolv.conf");
    // A mount of its own, so that the machine's own resolver is left alone.
    let script = format!("mount --bind '{}' /etc/resolv.conf && exec \"$@\"", resolv.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", common::BINARY]);
    Server::run_by(&mut command, folder).ready()
}

fn start(server: &Server, mode: &str) -> (String, Value, Serial) {
    let token = server.sign_up(mode);
    let answer = server.call("POST", "/run-iso", &token, &json!({"profile": mode}));
    assert_eq!(answer.status, 200, "{mode}: {answer:?}\n{}", server.said());
    let vm = answer.json["vm"].clone();
    let serial = server.serial(&vm);
    (token, vm, serial)
}

/// The places that answered the guest, in order, and whether its resolver did. A datagram to each place names the guest.
fn try_all(serial: &mut Serial, guest: &str) -> (Vec<&'static str>, bool) {
    serial.wait_for("tiny: up");
    // QEMU's router tells its network of version 6 some moments after the card is up; without a card nobody does.
    serial.send("until test ! -e /sys/class/net/eth0 || ip -6 route | grep -q default; do sleep 0.2; done; echo is-$((1 + 1))-up\n");
    serial.wait_for("is-2-up");
    serial.text.clear();
    // All at once: what is dropped, not refused, takes its time.
    for (n, (place, _)) in PLACES.iter().enumerate() {
        serial.send(&format!("(timeout 8 nc {place} {PORT} </dev/null >/tmp/t{n} 2>&1) &\n"));
    }
    let all = PLACES.map(|(place, _)| place).join(" ");
    let ask = format!("timeout 4 tftp -g -r {guest}-to-$a -l /dev/null $a {PORT}");
    serial.send(&format!("for a in {all}; do ({ask} >/dev/null 2>&1) & done\n"));
    serial.send("(timeout 8 nslookup www.example.org 10.0.2.3 >/tmp/dns 2>&1) &\n");
    serial.send("wait; for n in 0 1 2 3 4 5 6 7 8; do echo \"tried-$n $(head -n 1 /tmp/t$n)\"; done\n");
    serial.send("cat /tmp/dns; echo all-$((1 + 1))-done\n");
    serial.wait_for("all-2-done");
    let answered = PLACES.iter().enumerate().filter(|(n, _)| serial.text.contains(&format!("tried-{n} it-is-")));
    let words = answered
        .map(|(_, (place, word))| {
            assert!(serial.text.contains(&format!("it-is-{word}")), "{place}: {}", serial.text);
            *place
        })
        .collect();
    (words, has_resolved(serial, 0))
}

/// Whether the guest has told of what this resolver answers.
fn has_resolved(serial: &Serial, resolver: usize) -> bool {
    let address = Ipv4Addr::from(RESOLVERS[resolver].1).to_string();
    serial.text.lines().any(|line| line.starts_with("Address") && line.trim_end().ends_with(&format!(" {address}")))
}

/// What is in a table of the packet filter, if it is there.
fn rules_of(table: &str) -> Option<String> {
    let listed = Command::new("nft").args(["list", "table", "inet", table]).output().expect("nft");
    listed.status.success().then(|| String::from_utf8_lossy(&listed.stdout).into_owned())
}

fn may_make_networks() -> bool {
    matches!(rights::missing(&[Right::NetAdmin, Right::SetUid]).as_deref(), Ok([]))
}

#[test]
fn a_guest_reaches_the_internet_where_it_may_and_never_the_host_or_a_neighbour() {
    if !may_make_networks() {
        return internet_is_refused_with_the_mend(Server::with(
            "tls = \"off\"",
            "",
            &format!("base_image = {:?}\nnetwork = \"internet\"", image()),
        ));
    }
    let mut world = World::make();
    let server = server();
    let mut started: Vec<_> = ["internet", "restricted", "none"].map(|mode| start(&server, mode)).into();
    let said = server.said();
    let (_, name) = said.split_once("filtered by the nftables table inet ").expect("the table is named");
    let table = name.split_whitespace().next().expect("a name").to_owned();
    world.table = Some(table.clone());
    // A service in one guest: neither the host's addresses nor the gateway lead another guest to it.
    let [(_, _, surfer), (_, _, server_guest), _] = &mut started[..] else { unreachable!("three guests") };
    server_guest.wait_for("tiny: up");
    // Not a job of this shell, which waits for its jobs later.
    server_guest.send("( (while true; do echo it-is-a-guest | nc -l -p 8078; done) >/dev/null 2>&1 & )\n");
    server_guest.send("until nc 127.0.0.1 8078 </dev/null | grep guest; do sleep 0.2; done; echo serves-$((1 + 1))\n");
    server_guest.wait_for("serves-2");
    surfer.wait_for("tiny: up");
    surfer.send("for a in 10.0.2.2 10.0.2.3 10.0.2.15 198.51.100.1 fec0::2 2001:db8:77::1; do timeout 4 nc $a 8078 </dev/null & done; wait; echo asked-$((1 + 1))\n");
    surfer.wait_for("asked-2");
    assert!(!surfer.text.contains("it-is-a-guest"), "a guest reached another: {}", surfer.text);

    let check = |(_, _, serial): &mut (String, Value, Serial), mode: &str, open: &[&str], resolves: bool| {
        assert_eq!(try_all(serial, mode), (open.to_vec(), resolves), "{mode}: {}", serial.text);
        assert_eq!(world.heard(mode), open, "{mode}: datagrams");
    };
    check(&mut started[0], "internet", &["198.51.100.2", "2001:db8:77::2"], true);
    // The table and QEMU read it again in their time, which the others take.
    let resolv = server.folder.as_ref().expect("it runs").path().join("resolv.conf");
    fs::write(resolv, format!("nameserver {}\n", RESOLVERS[1].0)).expect("resolv.conf");
    check(&mut started[1], "restricted", &[], false);
    check(&mut started[2], "none", &[], false);

    // The host asks itself by now, as with systemd-resolved: the guest reaches that resolver, and no other port there.
    until("the other resolver may be asked", || rules_of(&table)?.contains(RESOLVERS[1].0).then_some(()));
    let (_, _, surfer) = &mut started[0];
    surfer.text.clear();
    surfer.send("nslookup www.example.org 10.0.2.3; nc 10.0.2.3 8077 </dev/null; echo asked-$((2 + 1))\n");
    surfer.wait_for("asked-3");
    assert!(has_resolved(surfer, 1) && !surfer.text.contains("it-is"), "{}", surfer.text);

    // A firewall that is loaded anew throws the table away: it is soon there again.
    run(&format!("nft delete table inet {table}"));
    until("the table is there again", || rules_of(&table));
    for (token, vm, _) in &started {
        server.stop(token, vm);
    }
    server.assert_nothing_left();
    server.end();
}

fn without_the_right() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", common::BINARY]);
    command
}

fn internet_is_refused_with_the_mend(server: Server) {
    let token = server.sign_up("surfer");
    let refused = server.call("POST", "/run-iso", &token, &Value::Null);
    assert_eq!((refused.status, refused.code()), (503, "network_unavailable"), "{refused:?}");
    let checked = without_the_right().args(["check", "--config"]).arg(server.config_file()).output().expect("check");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("MISSING internet for guests"), "{said}");
    server.assert_nothing_left();
}

#[test]
fn without_a_packet_filter_a_profile_with_internet_starts_nothing() {
    let folder = folder();
    let profile = format!("base_image = {:?}\nnetwork = \"internet\"", image());
    let text = common::settings(&folder.path().join("b"), "tls = \"off\"", "", &profile);
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    // Root, but for the right to change the packet filter; and who is not root has it even less.
    internet_is_refused_with_the_mend(Server::run_by(&mut without_the_right(), folder).ready());
}
