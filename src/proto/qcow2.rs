//! Is it a qcow2 image that may be attached? Told from its first bytes (QEMU docs/interop/qcow2.rst).
//!
//! A backing file or an external data file is a path on this host that the image's maker chose, and QEMU would open it: both
//! are refused, unless the caller says which backing file the image has by right.

use std::fmt;

/// Bytes of the image to look at: the header's cluster, which holds the backing file's name, is at least this long.
pub const HEAD_BYTES: usize = 64 * 1024;

const MAGIC: &[u8] = b"QFI\xfb";
/// Incompatible feature: the guest's bytes are in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible features that QEMU 7.2 knows: dirty, corrupt, external data, compression type, extended L2.
const KNOWN_FEATURES: u64 = 0b1_1111;
const CORRUPT: u64 = 1 << 1;
/// The least a snapshot takes in its table.
const SNAPSHOT_BYTES: u64 = 40;
/// The largest disk taken: 64 TiB.
const SIZE_MAX: u64 = 64 << 40;

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Info {
    /// The disk's size as the guest sees it, in bytes.
    pub size: u64,
    /// The file it is an overlay of.
    pub backing: Option<Vec<u8>>,
    /// Its snapshots.
    pub snapshots: u32,
    /// Bytes the file has at least: where the tables end that the header names.
    pub least: u64,
}

/// Why it is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qcow2Error {
    /// No `QFI` at its beginning.
    NotQcow2,
    /// Its header contradicts itself.
    Damaged,
    /// The tables that its header names are beyond its end.
    Truncated,
    /// It is marked corrupt.
    Corrupt,
    /// A version or feature that is not known here.
    Unknown,
    /// It is encrypted.
    Encrypted,
    /// It is an overlay of another file.
    Backing,
    /// Its bytes are in another file.
    ExternalData,
}

impl fmt::Display for Qcow2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotQcow2 => "not a qcow2 image (no QFI at its beginning); say what it is in format, or convert it with qemu-img convert -O qcow2",
            Self::Damaged => "its qcow2 header is damaged; upload it again",
            Self::Truncated => "it is cut off: tables that its header names are not there; upload it again",
            Self::Corrupt => "it is marked corrupt; repair it with qemu-img check -r all and upload it again",
            Self::Unknown => "it has a qcow2 feature that is not known here; convert it with qemu-img convert -O qcow2",
            Self::Encrypted => "it is encrypted; convert it to a plain one with qemu-img convert -O qcow2",
            Self::Backing => "it is an overlay of another file, which may not be named here; make it whole with qemu-img convert -O qcow2",
            Self::ExternalData => "its data is in another file; make it whole with qemu-img convert -O qcow2",
        })
    }
}

impl std::error::Error for Qcow2Error {}

/// Reads a header.
///
/// # Errors
/// See [`Qcow2Error`]; a backing file alone is no error here.
pub fn parse(head: &[u8]) -> Result<Qcow2Info, Qcow2Error> {
    if !head.starts_with(MAGIC) {
        return Err(Qcow2Error::NotQcow2);
    }
    let u32_at = |at| number::<4>(head, at).ok_or(Qcow2Error::Damaged);
    let u64_at = |at| number::<8>(head, at).ok_or(Qcow2Error::Damaged);
    let version = u32_at(4)?;
    let (backing_at, backing_len) = (u64_at(8)?, u32_at(16)?);
    let (cluster_bits, size, crypt) = (u32_at(20)?, u64_at(24)?, u32_at(32)?);
    let snapshots = u32_at(60)?;
    let features = match version {
        2 => 0,
        3 => u64_at(72)?,
        _ => return Err(Qcow2Error::Unknown),
    };
    if !(9..=21).contains(&cluster_bits) || size > SIZE_MAX || snapshots > 65_536 || backing_len > 1023 {
        return Err(Qcow2Error::Damaged);
    }
    if crypt != 0 {
        return Err(Qcow2Error::Encrypted);
    }
    if features & !KNOWN_FEATURES != 0 {
        return Err(Qcow2Error::Unknown);
    }
    if features & EXTERNAL_DATA != 0 {
        return Err(Qcow2Error::ExternalData);
    }
    if features & CORRUPT != 0 {
        return Err(Qcow2Error::Corrupt);
    }
    let backing = match (backing_at, backing_len) {
        (0, 0) => None,
        (at, len) => {
            let end = at.checked_add(len).ok_or(Qcow2Error::Damaged)?;
            let range = usize::try_from(at).ok().zip(usize::try_from(end).ok()).ok_or(Qcow2Error::Damaged)?;
            Some(head.get(range.0..range.1).ok_or(Qcow2Error::Damaged)?.to_vec())
        }
    };
    let tables = [
        (u64_at(40)?, u32_at(36)? * 8),
        (u64_at(48)?, u32_at(56)? << cluster_bits),
        (u64_at(64)?, snapshots * SNAPSHOT_BYTES),
    ];
    let ends = tables.into_iter().filter(|(_, length)| *length > 0).map(|(at, length)| at.saturating_add(length));
    let least = ends.max().unwrap_or(0);
    Ok(Qcow2Info { size, backing, snapshots: u32::try_from(snapshots).unwrap_or(u32::MAX), least })
}

/// Reads the header of an image that stands alone, of `file_size` bytes; 0 where the system does not say, as of a device.
///
/// # Errors
/// See [`Qcow2Error`].
pub fn check(head: &[u8], file_size: u64) -> Result<Qcow2Info, Qcow2Error> {
    let info = parse(head)?;
    if info.backing.is_some() {
        return Err(Qcow2Error::Backing);
    }
    if file_size > 0 && info.least > file_size { Err(Qcow2Error::Truncated) } else { Ok(info) }
}

/// A big-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk::<N>()?;
    Some(field.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 3: 1 GiB, clusters of 64 KiB.
    fn header() -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(MAGIC);
        head[7] = 3;
        head[23] = 16;
        head[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        head[103] = 104;
        head
    }

    #[test]
    fn an_image_that_stands_alone_is_taken() {
        assert_eq!(check(&header(), 512), Ok(Qcow2Info { size: 1 << 30, backing: None, snapshots: 0, least: 0 }));
    }

    #[test]
    fn one_whose_tables_are_not_all_there_is_cut_off() {
        // Where a table is and how long, in the header's fields, and its end.
        let tables: [(usize, usize, u8, u64); 3] =
            [(40, 39, 2, (3 << 16) + 16), (48, 59, 1, 4 << 16), (64, 63, 3, (3 << 16) + 120)];
        for (at, length_at, length, end) in tables {
            let mut head = header();
            head[at..at + 8].copy_from_slice(&(3u64 << 16).to_be_bytes());
            head[length_at] = length;
            assert_eq!(check(&head, end).map(|info| info.least), Ok(end));
            assert_eq!(check(&head, end - 1), Err(Qcow2Error::Truncated));
            assert!(check(&head, 0).is_ok(), "a device's length is not known");
            head[at..at + 8].copy_from_slice(&[0xff; 8]);
            assert_eq!(check(&head, 1 << 40), Err(Qcow2Error::Truncated));
        }
    }

    #[test]
    fn each_image_that_may_not_be_attached_says_why() {
        let with = |change: fn(&mut Vec<u8>)| {
            let mut head = header();
            change(&mut head);
            check(&head, 512)
        };
        assert_eq!(check(b"CD001", 512), Err(Qcow2Error::NotQcow2));
        assert_eq!(check(&header()[..40], 512), Err(Qcow2Error::Damaged));
        assert_eq!(with(|h| h[7] = 4), Err(Qcow2Error::Unknown));
        assert_eq!(with(|h| h[23] = 40), Err(Qcow2Error::Damaged));
        assert_eq!(with(|h| h[24] = 0xff), Err(Qcow2Error::Damaged));
        assert_eq!(with(|h| h[35] = 2), Err(Qcow2Error::Encrypted));
        assert_eq!(with(|h| h[79] = 4), Err(Qcow2Error::ExternalData));
        assert_eq!(with(|h| h[79] = 2), Err(Qcow2Error::Corrupt));
        assert_eq!(with(|h| h[72] = 1), Err(Qcow2Error::Unknown));
        assert_eq!(with(|h| h[14] = 0xff), Err(Qcow2Error::Damaged));
        let backed = |h: &mut Vec<u8>| {
            h[14..16].copy_from_slice(&200u16.to_be_bytes());
            h[19] = 11;
            h[200..211].copy_from_slice(b"/etc/shadow");
        };
        assert_eq!(with(backed), Err(Qcow2Error::Backing));
        let mut head = header();
        backed(&mut head);
        assert_eq!(parse(&head).unwrap().backing.as_deref(), Some(&b"/etc/shadow"[..]));
    }

    proptest::proptest! {
        #[test]
        fn no_change_makes_it_panic(at in 0..200usize, bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..9), len in 0..512usize) {
            let mut head = header();
            head[at..at + bytes.len()].copy_from_slice(&bytes);
            let _ = parse(&head);
            let _ = parse(&head[..len]);
        }
    }
}
