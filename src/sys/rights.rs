//! What this process may do, and which users there are for it. Safe code: it only reads `/proc`.
//!
//! Root in a container may lack most of root's rights, and a service's own user may have been given some: so capabilities are looked
//! at, not the uid.
//!
//! Sources: capabilities(7), user_namespaces(7) on `uid_map`, linux/capability.h.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

/// A right, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Give files away.
    Chown = 0,
    /// Go past the modes of files.
    DacOverride = 1,
    /// Change the modes of others' files.
    Fowner = 3,
    /// Signal others' processes.
    Kill = 5,
    /// Take on groups.
    SetGid = 6,
    /// Take on users.
    SetUid = 7,
    /// Change the packet filter.
    NetAdmin = 12,
}

/// Those of `wanted` that this process does not have.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn missing(wanted: &[Right]) -> io::Result<Vec<Right>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = effective(&status).ok_or_else(|| io::Error::other("/proc/self/status is not as proc(5) says"))?;
    Ok(wanted.iter().copied().filter(|right| effective & (1 << *right as u32) == 0).collect())
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether all these uids exist here: in a container only some may.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn has_uids(range: &RangeInclusive<u32>) -> io::Result<bool> {
    let (uids, gids) = (fs::read_to_string("/proc/self/uid_map")?, fs::read_to_string("/proc/self/gid_map")?);
    Ok(covers(&uids, range) && covers(&gids, range))
}

fn covers(map: &str, range: &RangeInclusive<u32>) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), _, Some(Ok(count))) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        first <= u64::from(*range.start()) && u64::from(*range.end()) < first + count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_bits_of_a_hexadecimal_number() {
        assert_eq!(effective("Name:\tx\nCapEff:\t00000000000000c0\nCapBnd:\t0\n"), Some(0b1100_0000));
        assert_eq!(effective("Name:\tx\n"), None);
        assert_eq!(Right::SetUid as u32, 7);
    }

    #[test]
    fn a_container_has_only_the_uids_that_are_mapped() {
        let whole = "         0          0 4294967295\n";
        let container = "0 1000 1\n1 100000 65536\n";
        assert!(covers(whole, &(1_900_000_000..=1_900_065_535)));
        assert!(covers(container, &(1..=65_536)));
        assert!(!covers(container, &(1..=65_537)));
        assert!(!covers(container, &(0..=1)), "two mappings are not looked at as one");
        assert!(!covers("", &(1..=2)));
    }
}
