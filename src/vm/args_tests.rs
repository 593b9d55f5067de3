//! Command lines as they are written, and that no text of a machine's description becomes more than the value it stands for.

use super::*;
use proptest::prelude::*;

fn machine() -> Machine<'static> {
    Machine {
        qemu: Path::new("/usr/bin/qemu-system-x86_64"),
        version: QemuVersion(10, 0, 2),
        accel: Accel::Tcg,
        name: "vm-0a1b2c",
        memory_mb: 2048,
        cpus: 2,
        cd: Some(11),
        run_dir: Path::new("/srv/runs/vm-0a1b2c"),
        vnc: Vnc::Unix,
        network: Network::Restricted,
        video: Video::Std,
        disks: &[],
        order: BootOrder::Cd,
        viewers: 68,
    }
}

fn text(machine: &Machine<'_>) -> Vec<String> {
    qemu(machine).unwrap().into_iter().map(|arg| arg.into_string().unwrap()).collect()
}

/// The value behind a flag that is given once.
fn value(machine: &Machine<'_>, flag: &str) -> String {
    let all = text(machine);
    let mut at = all.iter().enumerate().filter(|(_, arg)| *arg == flag).map(|(i, _)| i);
    let value = all[at.next().unwrap() + 1].clone();
    assert_eq!(at.next(), None, "{flag} is given twice");
    value
}

#[test]
fn the_whole_line_is_as_written() {
    let golden = "/usr/bin/qemu-system-x86_64 -nodefaults -no-user-config -name vm-0a1b2c \
        -machine pc,dump-guest-core=off,hpet=off,vmport=off -accel tcg,tb-size=64 -cpu max -m 2048M -smp 2 \
        -rtc base=utc -boot order=d \
        -add-fd fd=11,set=11 -drive if=ide,index=2,id=cd0,media=cdrom,format=raw,read-only=on,file=/dev/fdset/11 \
        -vga std -display none -vnc unix:vnc.sock,share=force-shared,lossy=on,connections=100 \
        -chardev socket,id=qmp,path=qmp.sock,server=on,wait=off -mon chardev=qmp,mode=control \
        -chardev socket,id=serial,path=serial.sock,server=on,wait=off -serial chardev:serial \
        -device qemu-xhci,id=usb -device usb-tablet,bus=usb.0 -device virtio-rng-pci -device pvpanic-pci \
        -chardev qemu-vdagent,id=agent,name=vdagent,clipboard=on,mouse=off -device virtio-serial-pci,id=ports \
        -device virtserialport,bus=ports.0,nr=1,chardev=agent,name=com.redhat.spice.0,id=agentport \
        -netdev user,id=n1,restrict=on -device virtio-net-pci,netdev=n1 -action panic=pause -msg timestamp=off \
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    assert_eq!(text(&machine()).join(" "), golden);
}

#[test]
fn kvm_shows_the_guest_the_hosts_processor() {
    let machine = Machine { accel: Accel::Kvm, ..machine() };
    assert_eq!((value(&machine, "-accel"), value(&machine, "-cpu")), ("kvm".into(), "host".into()));
}

#[test]
fn vnc_on_tcp_is_given_as_a_display_number() {
    let at = |host: &str, port| Machine { vnc: Vnc::Tcp { host: host.parse().unwrap(), port }, ..machine() };
    let given = |machine: &Machine<'_>, value: &str| text(machine).windows(2).any(|w| w[0] == "-vnc" && w[1] == value);
    assert!(given(&at("127.0.0.1", 5901), "127.0.0.1:1,share=force-shared,lossy=on,connections=100"));
    assert!(given(&at("::1", 6000), "[::1]:100,share=force-shared,lossy=on,connections=100"));
    assert!(given(&at("::1", 6000), "unix:vnc.sock,share=force-shared,lossy=on,connections=100"), "the relay's way in");
    assert_eq!(qemu(&at("127.0.0.1", 5899)), Err(ArgError::PortTooLow(5899)));
}

#[test]
fn no_network_means_no_card() {
    let line = text(&Machine { network: Network::None, ..machine() }).join(" ");
    assert!(!line.contains("net"), "{line}");
}

#[test]
fn the_internet_is_a_card_without_restriction() {
    assert_eq!(value(&Machine { network: Network::Internet, ..machine() }, "-netdev"), "user,id=n1");
}

#[test]
fn disks_are_inherited_and_what_is_below_them_is_given_not_read_from_their_headers() {
    let base = Medium { fd: 21, format: "raw" };
    let disks = [Disk { fd: 20, base: Some(base) }, Disk { fd: 22, base: None }];
    let line = text(&Machine { disks: &disks, ..machine() }).join(" ");
    let expected = "-add-fd fd=21,set=21 -blockdev driver=file,node-name=below0,read-only=on,filename=/dev/fdset/21 \
        -blockdev driver=raw,node-name=base0,read-only=on,file=below0 -add-fd fd=20,set=20 \
        -blockdev driver=qcow2,node-name=disk0,discard=unmap,file.driver=file,file.filename=/dev/fdset/20,backing=base0 \
        -device virtio-blk-pci,drive=disk0,id=hd0,werror=stop -add-fd fd=22,set=22 \
        -blockdev driver=qcow2,node-name=disk1,discard=unmap,file.driver=file,file.filename=/dev/fdset/22 \
        -device virtio-blk-pci,drive=disk1,id=hd1,werror=stop";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn the_cd_comes_first_when_it_was_asked_for_and_a_disk_needs_none() {
    let disks = [Disk { fd: 20, base: None }];
    let order = |cd, disks, order| value(&Machine { cd, disks, order, ..machine() }, "-boot");
    let cd = machine().cd;
    assert_eq!(order(cd, &[], BootOrder::Disk), "order=d");
    assert_eq!(order(cd, &disks, BootOrder::Cd), "order=dc");
    assert_eq!(order(cd, &disks, BootOrder::Disk), "order=cd");
    assert_eq!(order(None, &disks, BootOrder::Disk), "order=c");
    assert_eq!(qemu(&Machine { cd: None, ..machine() }), Err(ArgError::Empty("an image or a disk")));
}

#[test]
fn a_virtio_screen_is_asked_for_by_name() {
    assert_eq!(value(&Machine { video: Video::Virtio, ..machine() }, "-vga"), "virtio");
}

#[test]
fn a_run_folder_too_deep_for_a_socket_is_refused_with_the_mend() {
    let exact = PathBuf::from(format!("/{}", "d".repeat(LONGEST_SOCKET_PATH - "//serial.sock".len())));
    qemu(&Machine { run_dir: &exact, ..machine() }).unwrap();
    let longer = PathBuf::from(format!("{}d", exact.display()));
    let error = qemu(&Machine { run_dir: &longer, ..machine() }).unwrap_err();
    assert!(matches!(error, ArgError::SocketPathTooLong(_)));
    assert!(error.to_string().contains("VM_BASE_DIR"), "{error}");
}

#[test]
fn paths_that_could_be_read_otherwise_are_refused() {
    for bad in ["/srv/a\nb.iso", "/srv/a\0b.iso", "/srv/a\x1bb.iso"] {
        assert_eq!(escaped(Path::new(bad)), Err(ArgError::ControlCharacter(bad.into())));
    }
    for bad in ["nbd:host:1", "a.iso", "", "json:{}"] {
        assert_eq!(escaped(Path::new(bad)), Err(ArgError::NotAbsolute(bad.into())));
    }
}

#[test]
fn names_that_could_be_options_are_refused() {
    for bad in ["", "-vm", "a,b", "a=b", "a b", "ä", &"a".repeat(65)] {
        assert_eq!(qemu(&Machine { name: bad, ..machine() }), Err(ArgError::BadName(bad.to_owned())));
    }
}

#[test]
fn nothing_of_everything_is_refused() {
    assert!(qemu(&Machine { memory_mb: 0, ..machine() }).is_err());
    assert!(qemu(&Machine { cpus: 0, ..machine() }).is_err());
    let old = QemuVersion(6, 2, 0);
    assert_eq!(qemu(&Machine { version: old, ..machine() }), Err(ArgError::TooOld(old)));
}

#[test]
fn versions_are_read_from_what_the_program_says() {
    let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003-2025\n";
    assert_eq!(QemuVersion::parse(debian), Some(QemuVersion(10, 0, 2)));
    assert_eq!(QemuVersion::parse("qemu-img version 7.2.22 (x)"), Some(QemuVersion(7, 2, 22)));
    assert_eq!(QemuVersion::parse("QEMU emulator version 9.1-rc0"), Some(QemuVersion(9, 1, 0)));
    assert_eq!(QemuVersion::parse("bash: not found"), None);
    assert_eq!(QemuVersion::parse("version x.y"), None);
    assert!(QemuVersion(10, 0, 0) > QemuVersion::OLDEST);
}

/// What QEMU reads of a line: which words are flags, and into how many parts its values fall apart.
pub(crate) fn shape(line: &[OsString]) -> Vec<(bool, usize, usize)> {
    let count = |bytes: &[u8], of: u8| bytes.iter().filter(|byte| **byte == of).count();
    let word = |word: &OsString| {
        let bytes = word.as_bytes();
        (bytes.starts_with(b"-"), count(bytes, b','), count(bytes, b'='))
    };
    // Behind the program, which is no argument.
    line.iter().skip(1).map(word).collect()
}

/// Texts that could be read as more than a text, and some that could not.
pub(crate) fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9][a-zA-Z0-9_-]{0,70}",
        "[-,=:./ \\n\\x00a%]{0,12}",
        ".{0,80}",
        "(id|file|if|nbd|json)[,=:]{1,2}.{0,9}"
    ]
}

/// Paths of any bytes, most of them absolute.
pub(crate) fn any_path() -> impl Strategy<Value = PathBuf> {
    let bytes = prop_oneof![
        any_text().prop_map(String::into_bytes),
        any_text().prop_map(|text| [b"/", text.as_bytes()].concat()),
        "/[a-z,=: -]{1,9}(/[a-z,=: -]{1,9}){0,9}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..120).prop_map(|bytes| [b"/", &bytes[..]].concat()),
    ];
    bytes.prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

proptest! {
    #[test]
    fn no_text_becomes_another_option(
        (name, qemu, run_dir) in (any_text(), any_path(), any_path()),
        (cd, vnc, disks) in (any::<bool>(), 5900..=u16::MAX, 0..3usize),
    ) {
        let disks = vec![Disk { fd: 20, base: Some(Medium { fd: 21, format: "raw" }) }; disks];
        let vnc = Vnc::Tcp { host: IpAddr::from([127, 0, 0, 1]), port: vnc };
        let plain = Machine { cd: cd.then_some(11), vnc, disks: &disks, ..machine() };
        let wild = Machine { name: &name, qemu: &qemu, run_dir: &run_dir, ..plain.clone() };
        let Ok(line) = super::qemu(&wild) else { return Ok(()) };
        let mut template = super::qemu(&plain).unwrap();
        prop_assert_eq!(shape(&line), shape(&template));
        // The name stands where a name stands, and nothing else has changed.
        let at = template.iter().position(|word| word == "-name").unwrap() + 1;
        (template[0], template[at]) = (qemu.into(), name.into());
        prop_assert_eq!(line, template);
    }

    #[test]
    fn a_path_among_other_values_is_one_value_for_qemu(path in any_path()) {
        let Ok(text) = escaped(&path) else { return Ok(()) };
        // QEMU's own way: two commas are one of the value, a single one ends it.
        let mut value = Vec::new();
        let mut bytes = text.as_bytes().iter().peekable();
        while let Some(byte) = bytes.next() {
            prop_assert!(*byte != b',' || bytes.next() == Some(&b','), "{text:?} ends early");
            value.push(*byte);
        }
        prop_assert_eq!(&value[..], path.as_os_str().as_bytes());
        prop_assert!(value.starts_with(b"/") && !value.iter().any(u8::is_ascii_control));
    }
}
