//! The cheap questions about KVM, those that can only say no.
//!
//! A device that opens and makes a machine proves nothing: nested and para-virtual KVMs exist that do all this and then die in a
//! boot loader. So a yes here means "worth a real trial" and no more; the trial is `vm::accel`. What is made is closed at once.
//!
//! Sources: the kernel's Documentation/virt/kvm/api.rst; proc(5) on `/proc/cpuinfo`.
#![allow(unsafe_code)]

use super::check;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

const DEVICE: &str = "/dev/kvm";
/// `_IO(0xAE, 0x00)` and `_IO(0xAE, 0x01)`.
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
const KVM_CREATE_VM: libc::c_ulong = 0xAE01;
/// The one version since 2007; the manual says to refuse every other.
const STABLE_API: i32 = 12;

/// Why KVM is out of the question here.
#[derive(Debug)]
pub enum KvmRefusal {
    /// There is no `/dev/kvm`.
    NoDevice,
    /// It is there, and we may not open it.
    NoPermission,
    /// Another hypervisor has the processor.
    Busy,
    /// The processor shows neither `vmx` nor `svm`.
    NoCpuSupport,
    /// It speaks another version of the interface.
    WrongApi(i32),
    /// It opens and then makes no machine.
    NoMachine(io::Error),
    /// Anything else.
    Other(io::Error),
}

impl fmt::Display for KvmRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str(
                "there is no /dev/kvm: switch virtualization on in the firmware and load kvm_intel or kvm_amd \
                 (in a virtual machine: allow nested virtualization; in a container: pass the device in)",
            ),
            Self::NoPermission => f.write_str(
                "/dev/kvm may not be opened: add the user the server runs as to the group kvm (usermod -aG kvm USER)",
            ),
            Self::Busy => {
                f.write_str("/dev/kvm is busy: another hypervisor uses the processor, stop it or unload its module")
            }
            Self::NoCpuSupport => f.write_str(
                "the processor shows neither vmx nor svm, so this /dev/kvm is no hardware virtualization \
                 (in a virtual machine: allow nested virtualization)",
            ),
            Self::WrongApi(version) => write!(f, "/dev/kvm speaks interface version {version}, not {STABLE_API}"),
            Self::NoMachine(error) => write!(f, "/dev/kvm opens but makes no machine: {error}"),
            Self::Other(error) => write!(f, "/dev/kvm cannot be used: {error}"),
        }
    }
}

impl std::error::Error for KvmRefusal {}

/// Opens the device, makes an empty machine and looks at the processor. `Ok` means only: try it in earnest.
///
/// # Errors
/// The first thing that speaks against it.
pub fn quick_check() -> Result<(), KvmRefusal> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(refusal)?;
    match api_version(&device).map_err(refusal)? {
        STABLE_API => {}
        other => return Err(KvmRefusal::WrongApi(other)),
    }
    drop(create_vm(&device).map_err(|e| if is_busy(&e) { KvmRefusal::Busy } else { KvmRefusal::NoMachine(e) })?);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").map_err(KvmRefusal::Other)?;
    if has_virtualization(&cpuinfo) { Ok(()) } else { Err(KvmRefusal::NoCpuSupport) }
}

/// The group that may open the device, for a child that gets a uid of its own; `None` where no group is needed or helps.
#[must_use]
pub fn device_group() -> Option<u32> {
    let device = fs::metadata(DEVICE).ok()?;
    let (group, others) = ((device.mode() >> 3) & 0o6, device.mode() & 0o6);
    (group == 0o6 && others != 0o6).then(|| device.gid())
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

fn refusal(error: io::Error) -> KvmRefusal {
    match error.raw_os_error() {
        // ENXIO, ENODEV: the file is there, the module is not.
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => KvmRefusal::NoDevice,
        Some(libc::EACCES | libc::EPERM) => KvmRefusal::NoPermission,
        Some(libc::EBUSY) => KvmRefusal::Busy,
        _ => KvmRefusal::Other(error),
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .any(|flags| flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

fn api_version(device: &File) -> io::Result<i32> {
    // SAFETY: the descriptor is borrowed for the call; this request takes no memory.
    check(unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) })
}

fn create_vm(device: &File) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is borrowed for the call; the argument is a machine type, no memory.
    let fd = check(unsafe { libc::ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0) })?;
    // SAFETY: the kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn only_whole_flags_count() {
        assert!(has_virtualization("processor\t: 0\nflags\t\t: fpu svm sse\n"));
        assert!(has_virtualization("flags : vmx"));
        assert!(!has_virtualization("flags\t\t: fpu avx vmxnet\nvmx flags\t: ept\nmodel name : svm\n"));
        assert!(!has_virtualization(""));
    }

    #[test]
    fn the_answer_fits_the_host() {
        let refused = quick_check().err().map(|e| e.to_string());
        if Path::new(DEVICE).exists() {
            assert!(!refused.is_some_and(|why| why.contains("there is no /dev/kvm: ") && File::open(DEVICE).is_ok()));
        } else {
            assert!(refused.unwrap().contains("there is no /dev/kvm"));
        }
    }

    #[test]
    fn a_missing_right_names_the_group() {
        let text = refusal(io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(text.contains("group kvm"), "{text}");
        assert!(matches!(refusal(io::Error::from_raw_os_error(libc::ENXIO)), KvmRefusal::NoDevice));
        assert!(matches!(refusal(io::Error::from_raw_os_error(libc::EBUSY)), KvmRefusal::Busy));
    }
}
