//! A QEMU with the server's own arguments and no server: the floor of a launch.
#![allow(dead_code, missing_docs, unreachable_pub)]

use crate::server::PATIENT;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use vmshare::sys::child::{Child, Spawn};
use vmshare::sys::signal::Signal;
use vmshare::vm::args::{self, Accel, BootOrder, Machine, Network, Video, Vnc};
use vmshare::vm::programs;

pub struct Bare {
    child: Child,
    folder: tempfile::TempDir,
    /// From its exec to the first bytes of its screen.
    pub took: Duration,
}

impl Bare {
    pub fn start(iso: &Path, memory_mb: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("vmsb").tempdir_in("/tmp").expect("folder");
        let files = [fs::File::open(iso).expect("image")];
        let qemu = programs::find_qemu(None).expect("qemu");
        let machine = Machine {
            qemu: &qemu,
            version: programs::version(&qemu).expect("version"),
            accel: Accel::Tcg,
            name: "bare",
            memory_mb,
            cpus: 1,
            cd: Some(files[0].as_raw_fd()),
            disks: &[],
            order: BootOrder::Cd,
            viewers: 250,
            run_dir: folder.path(),
            vnc: Vnc::Unix,
            network: Network::Restricted,
            video: Video::Std,
        };
        let line = args::qemu(&machine).expect("arguments");
        let began = Instant::now();
        let (program, args) = line.split_first().expect("a program");
        let child = Spawn { files: &files, ..Spawn::new(program, args, folder.path()) }.start().expect("qemu starts");
        let socket = machine.vnc_socket();
        // From here on it is ended, also where it shows nothing.
        let mut bare = Self { child, folder, took: Duration::ZERO };
        let mut banner = [0; 12];
        loop {
            if let Ok(mut socket) = UnixStream::connect(&socket) {
                socket.read_exact(&mut banner).expect("banner");
                break;
            }
            assert!(began.elapsed() < PATIENT, "no screen");
            std::thread::park_timeout(Duration::from_micros(500));
        }
        bare.took = began.elapsed();
        bare
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.child.pidfd.send(Signal::Kill).expect("kill");
        assert!(self.child.pidfd.wait(PATIENT).expect("waited for"), "QEMU does not end");
        self.child.pidfd.reap().expect("reaped");
    }
}
