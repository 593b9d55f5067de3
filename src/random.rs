//! Random bytes from the kernel, for everything that must not be guessed: tokens, salts, ids, secrets.
//!
//! There is one source and no seed, so nothing here can be made predictable by a setting or a test. It fails only where the
//! kernel has no random numbers at all; a server that cannot make a secret must not go on, so that is a panic.

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

/// `N` unguessable bytes.
///
/// # Panics
/// When the kernel refuses to give random bytes.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// Twelve hexadecimal digits: unique enough for the name of a machine or a folder, too short for a secret.
#[must_use]
pub fn hex_id() -> String {
    HEXLOWER.encode(&bytes::<6>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_twelve_lower_case_hex_digits() {
        let id = hex_id();
        assert_eq!(id.len(), 12);
        assert!(id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids: HashSet<_> = (0..1000).map(|_| hex_id()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
