//! A machine's description becomes QEMU's command line. Pure: no files are looked at, no processes started.
//!
//! What it must never do: let a value turn into an option. Every value that comes from outside is either a number or a name of a
//! strict alphabet; there is no shell. Images are opened by the server and inherited (`-add-fd`), so QEMU's user need not be able to
//! read or even to reach them, and no name in a header or on the command line makes QEMU open anything else. An image's format is
//! always given, because QEMU would otherwise look into it, and a qcow2 file named `.iso` could then name any file of the host
//! as its backing file. The sockets are names in QEMU's working folder, which is its own.
//!
//! `-nodefaults` and `-no-user-config` mean that a machine has what is written here and nothing else. The order is fixed, so that
//! two logs can be compared. The flags are those that QEMU 7.2 (Debian 12) to 10 (Debian 13) all take: `-runas` is gone in 10
//! and `-run-with user=` missing in 7.2, so the user is changed before QEMU starts (`sys::child`).
//!
//! Source: qemu-system-x86_64(1), there `-add-fd` and "Block device options"; `sockaddr_un` in unix(7).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Screens an owner may have open beside all that others have.
pub const OWNERS_ROOM: u32 = 32;

/// Which of QEMU's engines runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor's own virtualization.
    Kvm,
    /// Translation in software: slower by an order, works everywhere, and is no security border.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// A version of QEMU: major, minor, micro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion(pub u16, pub u16, pub u16);

impl QemuVersion {
    /// The oldest that takes these arguments.
    pub const OLDEST: Self = Self(7, 2, 0);

    /// Reads what `qemu --version` writes: `QEMU emulator version 10.0.2 (Debian …)`; `qemu-img version …` too.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.lines().next()?.split_once("version ")?;
        let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = number.split('.').map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next().and_then(Result::ok).unwrap_or(0)))
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Where the screen is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vnc {
    /// On `vnc.sock` in the run folder.
    Unix,
    /// On a TCP port, 5900 or above. Without a password: the address must be the host's own.
    Tcp {
        /// The address to listen on.
        host: IpAddr,
        /// The port, not the display number.
        port: u16,
    },
}

/// What the guest can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// No network card.
    None,
    /// A card and an address, and behind it nothing: neither the host, nor other guests, nor the internet.
    Restricted,
    /// A card with a way out through QEMU's own sockets. What they may reach is decided by the host, see `vm::net_filter`.
    Internet,
}

/// The graphics card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Video {
    /// Standard VGA: every guest has a driver.
    Std,
    /// virtio-vga: follows the size of the browser's window in guests that know it.
    Virtio,
}

/// What the firmware tries first. A disk nobody installed on is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootOrder {
    /// The CD, then the disk.
    Cd,
    /// The disk, then the CD.
    Disk,
}

/// An image that QEMU inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its number, here and in QEMU.
    pub fd: RawFd,
    /// `raw` or `qcow2`.
    pub format: &'static str,
}

/// A qcow2 disk that QEMU inherits, open for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its number.
    pub fd: RawFd,
    /// What it is an overlay of. Given here, so that the name in its header is not used.
    pub base: Option<Medium>,
}

/// Everything that decides a machine's command line.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The program.
    pub qemu: &'a Path,
    /// Its version.
    pub version: QemuVersion,
    /// The engine.
    pub accel: Accel,
    /// The machine's id, as in the database.
    pub name: &'a str,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// A CD, open for reading.
    pub cd: Option<RawFd>,
    /// Its own folder, 0700, and its working folder: sockets.
    pub run_dir: &'a Path,
    /// The screen.
    pub vnc: Vnc,
    /// The network.
    pub network: Network,
    /// The graphics card.
    pub video: Video,
    /// Disks; the first one is booted from.
    pub disks: &'a [Disk],
    /// What the firmware tries first.
    pub order: BootOrder,
    /// Screens that others than the owner may have open.
    pub viewers: u32,
}

impl Machine<'_> {
    /// The screen's socket, whether or not [`Vnc::Unix`] is used. QEMU leaves the file behind.
    #[must_use]
    pub fn vnc_socket(&self) -> PathBuf {
        self.run_dir.join("vnc.sock")
    }

    /// The monitor's socket. One client at a time: a second one hangs.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.run_dir.join("qmp.sock")
    }

    /// The serial console's socket.
    #[must_use]
    pub fn serial_socket(&self) -> PathBuf {
        self.run_dir.join("serial.sock")
    }
}

/// Why no command line can be made of a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgError {
    /// This QEMU does not know all of the options.
    TooOld(QemuVersion),
    /// The id has other characters than letters, digits, `-` and `_`, or none, or more than 64.
    BadName(String),
    /// The path does not start at the root.
    NotAbsolute(PathBuf),
    /// The path has a NUL, a newline or another control character in it.
    ControlCharacter(PathBuf),
    /// The socket's path does not fit into the kernel's structure.
    SocketPathTooLong(PathBuf),
    /// VNC ports start at 5900.
    PortTooLow(u16),
    /// No memory, no processor, nothing to boot from.
    Empty(&'static str),
}

impl fmt::Display for ArgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld(version) => write!(f, "QEMU {version} is too old: install {} or newer", QemuVersion::OLDEST),
            Self::BadName(name) => {
                write!(
                    f,
                    "{name:?} is no machine id: 1 to 64 letters, digits, \"-\" and \"_\", a letter or digit first"
                )
            }
            Self::NotAbsolute(path) => write!(f, "{path:?} must be an absolute path, starting with \"/\""),
            Self::ControlCharacter(path) => write!(f, "{path:?} has a control character in it: rename the file"),
            Self::SocketPathTooLong(path) => write!(
                f,
                "{path:?} is too long for a socket ({} bytes, at most {LONGEST_SOCKET_PATH}): choose a shorter VM_BASE_DIR",
                path.as_os_str().len()
            ),
            Self::PortTooLow(port) => {
                write!(f, "VNC port {port} is below {FIRST_VNC_PORT}: choose a higher vnc_port_range")
            }
            Self::Empty(what) => write!(f, "a machine needs {what}: give at least 1"),
        }
    }
}

impl std::error::Error for ArgError {}

/// The network of a guest with a way to the internet.
pub(super) const INTERNET: &str = "user,id=n1";
/// Names the disks in QMP: `disk0` is the one booted from.
pub const DISK_NODE: &str = "disk";
/// The guest's agent in QMP: what it speaks to, its port, the bus of that, and the name the guest knows it by.
pub(super) const AGENT: &str = "agent";
pub(super) const AGENT_PORT: &str = "agentport";
pub(super) const PORTS: &str = "ports.0";
pub(super) const AGENT_NAME: &str = "com.redhat.spice.0";

/// `sun_path` has 108 bytes, the last one for the NUL.
const LONGEST_SOCKET_PATH: usize = 107;
const FIRST_VNC_PORT: u16 = 5900;

/// What QEMU may no longer do once it runs: odd old calls, other users, other programs, its own priority.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The whole command line, the program first.
///
/// # Errors
/// [`ArgError`] says which value to change.
pub fn qemu(machine: &Machine<'_>) -> Result<Vec<OsString>, ArgError> {
    check_values(machine)?;
    let mut line = Line(vec![machine.qemu.into()]);
    line.flag("-nodefaults").flag("-no-user-config").option("-name", machine.name);
    // hpet=off: that timer costs an idle guest without KVM half of its processor time, and guests have better ones.
    line.option("-machine", "pc,dump-guest-core=off,hpet=off,vmport=off");
    match machine.accel {
        Accel::Kvm => line.option("-accel", "kvm").option("-cpu", "host"),
        // The cache of translated code is limited: the default is a share of the memory for every machine.
        Accel::Tcg => line.option("-accel", "tcg,tb-size=64").option("-cpu", "max"),
    };
    line.option("-m", format!("{}M", machine.memory_mb)).option("-smp", machine.cpus.to_string());
    let order = match (machine.order, machine.cd, machine.disks) {
        (_, Some(_), []) => "order=d",
        (_, None, _) => "order=c",
        (BootOrder::Cd, ..) => "order=dc",
        (BootOrder::Disk, ..) => "order=cd",
    };
    line.option("-rtc", "base=utc").option("-boot", order);
    drives(&mut line, machine);
    screen(&mut line, machine)?;
    consoles(&mut line, machine)?;
    devices(&mut line, machine);
    line.option("-action", "panic=pause").option("-msg", "timestamp=off").option("-sandbox", SANDBOX);
    Ok(line.0)
}

fn check_values(machine: &Machine<'_>) -> Result<(), ArgError> {
    if machine.version < QemuVersion::OLDEST {
        return Err(ArgError::TooOld(machine.version));
    }
    if !is_name(machine.name) {
        return Err(ArgError::BadName(machine.name.to_owned()));
    }
    match (machine.memory_mb, machine.cpus) {
        (0, _) => Err(ArgError::Empty("memory")),
        (_, 0) => Err(ArgError::Empty("a processor")),
        _ if machine.cd.is_none() && machine.disks.is_empty() => Err(ArgError::Empty("an image or a disk")),
        _ => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn drives(line: &mut Line, machine: &Machine<'_>) {
    if let Some(cd) = machine.cd {
        let file = line.inherited(cd);
        line.option("-drive", format!("if=ide,index=2,id=cd0,media=cdrom,format=raw,read-only=on,file={file}"));
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        let mut backing = String::new();
        if let Some(base) = disk.base {
            let file = line.inherited(base.fd);
            line.option("-blockdev", format!("driver=file,node-name=below{index},read-only=on,filename={file}"));
            let format = base.format;
            line.option("-blockdev", format!("driver={format},node-name=base{index},read-only=on,file=below{index}"));
            backing = format!(",backing=base{index}");
        }
        let file = line.inherited(disk.fd);
        // Named, for snapshots.
        line.option(
            "-blockdev",
            format!(
                "driver=qcow2,node-name={DISK_NODE}{index},discard=unmap,file.driver=file,file.filename={file}{backing}"
            ),
        );
        // werror=stop: a full host pauses the guest instead of breaking its file system.
        line.option("-device", format!("virtio-blk-pci,drive={DISK_NODE}{index},id=hd{index},werror=stop"));
    }
}

fn screen(line: &mut Line, machine: &Machine<'_>) -> Result<(), ArgError> {
    let card = match machine.video {
        Video::Std => "std",
        Video::Virtio => "virtio",
    };
    line.option("-vga", card).option("-display", "none");
    // force-shared: a client that asks to be alone does not throw the others out. lossy: one that asks for a quality gets pictures that
    // need less; others get every pixel as it is.
    let how = format!("share=force-shared,lossy=on,connections={}", machine.viewers + OWNERS_ROOM);
    match machine.vnc {
        Vnc::Unix => {}
        Vnc::Tcp { host, port } => {
            let display = port.checked_sub(FIRST_VNC_PORT).ok_or(ArgError::PortTooLow(port))?;
            let host = match host {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            };
            line.option("-vnc", format!("{host}:{display},{how}"));
        }
    }
    // The relay's way in, also beside a TCP port.
    let socket = socket_name(&machine.vnc_socket())?;
    line.option("-vnc", format!("unix:{socket},{how}"));
    Ok(())
}

fn consoles(line: &mut Line, machine: &Machine<'_>) -> Result<(), ArgError> {
    let server = |id: &str, socket: &Path| {
        socket_name(socket).map(|name| format!("socket,id={id},path={name},server=on,wait=off"))
    };
    line.option("-chardev", server("qmp", &machine.qmp_socket())?);
    line.option("-mon", "chardev=qmp,mode=control");
    // No logfile=: it would have no bound, and a guest could fill the host's disk through it.
    line.option("-chardev", server("serial", &machine.serial_socket())?);
    line.option("-serial", "chardev:serial");
    Ok(())
}

fn devices(line: &mut Line, machine: &Machine<'_>) {
    // An absolute pointer, which the browser's mouse needs. xHCI sleeps while it rests; UHCI is asked 1000 times a second
    // and costs an idle guest 3 % of a processor. Guests older than 2011 know only the latter and get the PS/2 mouse.
    line.option("-device", "qemu-xhci,id=usb").option("-device", "usb-tablet,bus=usb.0");
    line.option("-device", "virtio-rng-pci").option("-device", "pvpanic-pci");
    // Where the guest has spice-vdagent, VNC's clipboard is its clipboard.
    line.option("-chardev", format!("qemu-vdagent,id={AGENT},name=vdagent,clipboard=on,mouse=off"));
    line.option("-device", "virtio-serial-pci,id=ports");
    line.option(
        "-device",
        format!("virtserialport,bus={PORTS},nr=1,chardev={AGENT},name={AGENT_NAME},id={AGENT_PORT}"),
    );
    let network = match machine.network {
        Network::None => return,
        Network::Restricted => "user,id=n1,restrict=on",
        Network::Internet => INTERNET,
    };
    line.option("-netdev", network).option("-device", "virtio-net-pci,netdev=n1");
}

/// The command line as it grows.
pub(super) struct Line(pub(super) Vec<OsString>);

impl Line {
    pub(super) fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    pub(super) fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.flag(name).0.push(value.into());
        self
    }

    /// Lets QEMU keep an inherited descriptor, and names the file it is.
    fn inherited(&mut self, fd: RawFd) -> String {
        self.option("-add-fd", format!("fd={fd},set={fd}"));
        format!("/dev/fdset/{fd}")
    }
}

/// The name of a socket in the working folder; the server uses the whole path, which must fit too.
fn socket_name(path: &Path) -> Result<String, ArgError> {
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        return Err(ArgError::SocketPathTooLong(path.to_owned()));
    }
    let name = path.file_name().and_then(OsStr::to_str);
    name.map(str::to_owned).ok_or_else(|| ArgError::NotAbsolute(path.to_owned()))
}

/// A path as a value among others: commas doubled.
pub(super) fn escaped(path: &Path) -> Result<OsString, ArgError> {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.starts_with(b"/") {
        return Err(ArgError::NotAbsolute(path.to_owned()));
    }
    if bytes.iter().any(u8::is_ascii_control) {
        return Err(ArgError::ControlCharacter(path.to_owned()));
    }
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        out.push(byte);
        if byte == b',' {
            out.push(b',');
        }
    }
    Ok(OsString::from_vec(out))
}

#[cfg(test)]
#[path = "args_tests.rs"]
pub(super) mod tests;
