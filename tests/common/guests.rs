//! The images that tests start VMs from.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::missing_panics_doc)]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The bootable image of a real system that tests/run makes.
pub fn image() -> PathBuf {
    let path = std::env::var_os("VMSHARE_TEST_ISO")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-images/tiny.iso"), PathBuf::from);
    assert!(path.exists(), "{}: the image is missing; tests/run makes it", path.display());
    path
}

/// A bootable image whose system stands still at once: for tests that need a QEMU and no guest. A real one takes seconds of processor time.
pub fn still() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    const SECTOR: u64 = 2048;
    let make = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let mut file = tempfile::NamedTempFile::new_in(folder).expect("image");
        let blocks = 5120_u32;
        file.as_file().set_len(u64::from(blocks) * SECTOR).expect("size");
        let mut put = |at: u64, bytes: &[u8]| file.as_file_mut().write_all_at(bytes, at).expect("image");
        // ECMA-119 8.4, then El Torito's boot record, catalog and code: cli, hlt, and hlt again.
        put(16 * SECTOR, b"\x01CD001\x01");
        put(16 * SECTOR + 80, &[blocks.to_le_bytes(), blocks.to_be_bytes()].concat());
        put(16 * SECTOR + 128, &[0, 8, 8, 0]);
        put(17 * SECTOR, b"\x00CD001\x01EL TORITO SPECIFICATION");
        put(17 * SECTOR + 71, &19_u32.to_le_bytes());
        put(18 * SECTOR, b"\xffCD001\x01");
        put(19 * SECTOR, &[1]);
        put(19 * SECTOR + 28, &[0xaa, 0x55, 0x55, 0xaa]);
        put(19 * SECTOR + 32, &[0x88, 0, 0, 0, 0, 0, 4, 0, 20]);
        put(20 * SECTOR, &[0xfa, 0xf4, 0xeb, 0xfd]);
        let path = folder.join("still.iso");
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).expect("mode");
        file.persist(&path).expect("in its place");
        path
    };
    MADE.get_or_init(make).clone()
}

/// The profile of guests that live, where the ordinary one's stand still.
pub fn living() -> String {
    format!("base_image = {:?}", image())
}
