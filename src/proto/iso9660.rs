//! Is it a bootable ISO 9660 image (ECMA-119 8, El Torito 1.0)? Told from its first [`HEAD_BYTES`] and its length.
//!
//! Errors say what was found and what to do, because they are read by who uploads the wrong file.

use std::fmt;

/// Bytes of the image to look at: the volume descriptors begin at 32 KiB and are few.
pub const HEAD_BYTES: usize = 64 * 1024;
/// The least size taken: below 10 MB nothing boots to a desktop, and half uploads are told.
pub const SIZE_MIN: u64 = 10 << 20;

const SECTOR: usize = 2048;
const FIRST_DESCRIPTOR: usize = 16;
const EL_TORITO: &[u8] = b"EL TORITO SPECIFICATION";

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsoInfo {
    /// The volume's name.
    pub volume: String,
    /// Its size in bytes, as the descriptor has it.
    pub size: u64,
}

/// Why it is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IsoError {
    /// Nothing in it.
    Empty,
    /// Below [`SIZE_MIN`].
    TooSmall(u64),
    /// No `CD001`.
    NotIso,
    /// The descriptors are cut off or contradict themselves.
    Damaged,
    /// Shorter than its own descriptor says.
    Truncated {
        /// Bytes there should be.
        wanted: u64,
        /// Bytes there are.
        there: u64,
    },
    /// No El Torito boot record, or a catalog that is none.
    NotBootable,
}

impl fmt::Display for IsoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty; upload the .iso file again"),
            Self::TooSmall(size) => write!(
                f,
                "the file has only {size} bytes, a bootable image has at least 10 MB; was the download complete?"
            ),
            Self::NotIso => f.write_str(
                "not an ISO 9660 image (no CD001 at byte 32769); use the distribution's .iso file itself, not an archive of it",
            ),
            Self::Damaged => f.write_str("its volume descriptors are damaged; compare its checksum and upload it again"),
            Self::Truncated { wanted, there } => {
                write!(f, "it is cut off: {there} of {wanted} bytes are there; upload it again")
            }
            Self::NotBootable => f.write_str(
                "it has no El Torito boot record, so a PC cannot boot from it; use the installer or live image of the distribution",
            ),
        }
    }
}

impl std::error::Error for IsoError {}

/// Looks at an image's beginning.
///
/// # Errors
/// See [`IsoError`].
pub fn check(head: &[u8], file_size: u64) -> Result<IsoInfo, IsoError> {
    if file_size == 0 {
        return Err(IsoError::Empty);
    }
    if file_size < SIZE_MIN {
        return Err(IsoError::TooSmall(file_size));
    }
    let (mut volume, mut catalog) = (None, None);
    for index in FIRST_DESCRIPTOR.. {
        let Some(descriptor) = head.get(index * SECTOR..(index + 1) * SECTOR) else { break };
        let [kind, rest @ ..] = descriptor else { break };
        if !rest.starts_with(b"CD001") {
            return Err(if index == FIRST_DESCRIPTOR { IsoError::NotIso } else { IsoError::Damaged });
        }
        match kind {
            0 if descriptor.get(7..).is_some_and(|id| id.starts_with(EL_TORITO)) => {
                catalog = descriptor.get(71..75).map(little_endian);
            }
            1 => volume = Some(primary(descriptor)?),
            255 => break,
            _ => {}
        }
    }
    let info = volume.ok_or(if head.len() < HEAD_BYTES { IsoError::NotIso } else { IsoError::Damaged })?;
    // Some tools leave out up to 150 sectors of padding that the descriptor counts.
    if info.size > file_size + 150 * SECTOR as u64 {
        return Err(IsoError::Truncated { wanted: info.size, there: file_size });
    }
    let catalog = catalog.ok_or(IsoError::NotBootable)?;
    check_catalog(head, u64::from(catalog), file_size)?;
    Ok(info)
}

fn primary(descriptor: &[u8]) -> Result<IsoInfo, IsoError> {
    let field = |range: std::ops::Range<usize>| descriptor.get(range).unwrap_or_default();
    let blocks = little_endian(field(80..84));
    let block_size = field(128..130);
    // Both are written in both byte orders.
    let twice = field(84..88).iter().rev().eq(field(80..84)) && field(130..132).iter().rev().eq(block_size);
    if !twice || blocks == 0 || little_endian(block_size) != 2048 {
        return Err(IsoError::Damaged);
    }
    let volume = String::from_utf8_lossy(field(40..72)).trim_end().chars().filter(|c| !c.is_control()).collect();
    Ok(IsoInfo { volume, size: u64::from(blocks) * SECTOR as u64 })
}

/// The catalog must lie in the file; where it is within the bytes at hand, its first entry must be a valid one (El Torito 2.1).
fn check_catalog(head: &[u8], sector: u64, file_size: u64) -> Result<(), IsoError> {
    let start = sector * SECTOR as u64;
    if sector == 0 || start + SECTOR as u64 > file_size {
        return Err(IsoError::NotBootable);
    }
    let Some(entry) = usize::try_from(start).ok().and_then(|start| head.get(start..start + 32)) else { return Ok(()) };
    let (words, _) = entry.as_chunks::<2>();
    let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(u16::from_le_bytes(*word)));
    let valid = entry.first() == Some(&1) && entry.ends_with(&[0x55, 0xaa]) && sum == 0;
    if valid { Ok(()) } else { Err(IsoError::NotBootable) }
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |sum, &byte| (sum << 8) | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 12 * 1000 * 1000;

    /// The descriptors of a small image whose catalog is in sector 20.
    fn image() -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        let blocks = 5000u32;
        put(16 * SECTOR, b"\x01CD001\x01");
        put(16 * SECTOR + 40, b"TINY                            ");
        put(16 * SECTOR + 80, &blocks.to_le_bytes());
        put(16 * SECTOR + 84, &blocks.to_be_bytes());
        put(16 * SECTOR + 128, &[0, 8, 8, 0]);
        put(17 * SECTOR, b"\x00CD001\x01EL TORITO SPECIFICATION");
        put(17 * SECTOR + 71, &20u32.to_le_bytes());
        put(18 * SECTOR, b"\xffCD001\x01");
        put(20 * SECTOR, &[1]);
        put(20 * SECTOR + 28, &0x55aau16.to_be_bytes().map(|b| b));
        put(20 * SECTOR + 30, &[0x55, 0xaa]);
        // The words add up to nothing: 0x0001 + 0xaa55 + 0xaa55 + x.
        let sum = 1u16.wrapping_add(0xaa55).wrapping_add(0xaa55);
        put(20 * SECTOR + 26, &0u16.wrapping_sub(sum).to_le_bytes());
        head
    }

    #[test]
    fn a_bootable_image_is_taken() {
        let info = check(&image(), SIZE).unwrap();
        assert_eq!(info, IsoInfo { volume: "TINY".into(), size: 5000 * 2048 });
    }

    #[test]
    fn each_wrong_file_is_told_what_it_is() {
        let with = |change: fn(&mut Vec<u8>)| {
            let mut head = image();
            change(&mut head);
            check(&head, SIZE)
        };
        assert_eq!(check(&[], 0), Err(IsoError::Empty));
        assert_eq!(check(&image(), SIZE_MIN - 1), Err(IsoError::TooSmall(10_485_759)));
        assert_eq!(check(&vec![0; HEAD_BYTES], SIZE), Err(IsoError::NotIso));
        assert_eq!(check(b"QFI\xfb", SIZE), Err(IsoError::NotIso));
        assert_eq!(with(|h| h[17 * SECTOR + 1] = b'X'), Err(IsoError::Damaged));
        assert_eq!(with(|h| h[16 * SECTOR + 80] ^= 1), Err(IsoError::Damaged));
        assert_eq!(with(|h| h[17 * SECTOR + 8] = b'X'), Err(IsoError::NotBootable));
        assert_eq!(with(|h| h[20 * SECTOR] = 2), Err(IsoError::NotBootable));
        assert_eq!(with(|h| h[17 * SECTOR + 74] = 0x7f), Err(IsoError::NotBootable));
        let cut = IsoError::Truncated { wanted: 5000 * 2048 * 16, there: SIZE };
        let longer = with(|h| {
            h[16 * SECTOR + 80..16 * SECTOR + 84].copy_from_slice(&80_000u32.to_le_bytes());
            h[16 * SECTOR + 84..16 * SECTOR + 88].copy_from_slice(&80_000u32.to_be_bytes());
        });
        assert_eq!(longer, Err(cut));
    }

    proptest::proptest! {
        #[test]
        fn no_change_makes_it_panic(at in 32_768..45_000usize, byte in proptest::num::u8::ANY, len in 0..HEAD_BYTES) {
            let mut head = image();
            head[at] = byte;
            let _ = check(&head[..len], SIZE);
            let _ = check(&head, SIZE);
        }
    }
}
