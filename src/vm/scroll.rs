//! What serial consoles wrote last, on the disk, so that a server that takes a VM over has it too.
//!
//! A file a VM, as large as the ring in memory, in a folder of the server's own: what is in a VM's folder may be QEMU's work and is not believed.
//! It is written some seconds after something new came, and once more when the server is told to end; a server that is killed loses what
//! came in those seconds, and what a guest writes while no server runs is heard by nobody. It goes with the VM.

use super::process::Process;
use crate::house::{Cx, House};
use crate::reactor::task::{Either, first};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How long news may wait: a console that is written to without end costs one writing of its ring in this time.
const EVERY: Duration = Duration::from_secs(10);

/// The folder of all of them.
#[must_use]
pub fn folder(base: &Path) -> PathBuf {
    base.join("consoles")
}

/// Something may have been written: sees to it that it comes to the disk.
pub fn note(cx: &Cx, process: &Rc<Process>) {
    if process.spooled.get() == process.line.borrow().end() || process.spools.replace(true) {
        return;
    }
    let (cx, process) = (Rc::clone(cx), Rc::clone(process));
    cx.spawner.clone().spawn("keep scrollback", async move {
        while process.spooled.get() != process.line.borrow().end() {
            if let Either::Second(_) = first(cx.clock.sleep(EVERY), process.exit.wait()).await {
                break;
            }
            write(&cx, &process).await;
        }
        process.spools.set(false);
    });
}

/// The server ends: what is new is written at once.
pub fn at_the_end(cx: &Cx) {
    for vm in cx.vms.all() {
        let process = Rc::clone(&vm.process.borrow());
        if process.spooled.get() == process.line.borrow().end() {
            continue;
        }
        cx.spooling.set(cx.spooling.get() + 1);
        let cx = Rc::clone(cx);
        cx.spawner.clone().spawn("keep scrollback", async move {
            write(&cx, &process).await;
            cx.spooling.set(cx.spooling.get() - 1);
        });
    }
}

async fn write(cx: &Cx, process: &Process) {
    let (end, bytes) = {
        let line = process.line.borrow();
        (line.end(), line.kept())
    };
    let (folder, vmid) = (folder(&cx.config.base_dir), process.vmid.to_string());
    // Queues in turn: at the end of a server all of them come at once.
    let written = cx.store(move || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let half = folder.join(format!("{vmid}.new-{}", crate::random::hex_id()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        let written =
            std::io::Write::write_all(&mut file, &bytes).and_then(|()| std::fs::rename(&half, folder.join(vmid)));
        written.inspect_err(|_| drop(std::fs::remove_file(&half)))
    });
    match written.await {
        Ok(Ok(())) => process.spooled.set(end),
        Ok(Err(e)) => {
            // A full disk: tried again when something new comes.
            process.spooled.set(end);
            log::warn!(vmid:% = process.vmid, user = process.owner(); "its scrollback is not kept for another server: {e}");
        }
        // The threads are busy: the next round tries again.
        Err(_) => {}
    }
}

/// Gives a VM that is taken over what it wrote before.
pub(super) async fn take_back(cx: &House, process: &Process) {
    let (file, most) =
        (folder(&cx.config.base_dir).join(process.vmid.to_string()), cx.config.limits.serial_scrollback_kb * 1024);
    let read = cx.disk(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.take(most as u64).read_to_end(&mut bytes).map(|_| bytes)
    });
    match read.await {
        Ok(Ok(bytes)) => {
            process.line.borrow().restore(&bytes);
            process.spooled.set(process.line.borrow().end());
        }
        Ok(Err(e)) if e.kind() != ErrorKind::NotFound => {
            log::warn!(vmid:% = process.vmid, user = process.owner(); "what its serial console wrote before is lost: {e}");
        }
        _ => {}
    }
}

/// Removes a VM's file. Blocks.
pub fn remove(base: &Path, vmid: &str) {
    let _ = std::fs::remove_file(folder(base).join(vmid));
}

/// Removes the files of VMs that `kept` does not name, at a start. Blocks.
pub(super) fn sweep(base: &Path, kept: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder(base)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Nobody is writing yet: what is half is of a server that was killed.
        let is_half = name.contains(".new-");
        if is_half || super::Vmid::parse(&name).is_some() && !kept(&name) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
