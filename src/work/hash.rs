//! Passwords: Argon2id on a thread of its own, so that a class signing in never delays a desktop.
//!
//! Parameters are those of OWASP's password storage sheet (m = 19 MiB, t = 2, p = 1), kept beside each hash as a PHC string;
//! a hash made with others is made anew at the next log-in ([`Verdict::RightButOld`]). The working memory is kept by the thread.
//! The queue is short: its length bounds how many log-ins wait.

use super::{Pool, Refused};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::BASE64_NOPAD;
use std::cell::RefCell;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

thread_local! {
    static MEMORY: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// What comparing a password gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is not the password, or there is no such account.
    Wrong,
    /// It is.
    Right,
    /// It is, but the stored hash has other parameters than today's: store a new one.
    RightButOld,
}

/// The hashing thread.
#[derive(Clone)]
pub struct Hash(Pool);

impl Hash {
    /// Starts the thread with room for `queue` passwords.
    ///
    /// # Errors
    /// The system's, when no thread can be made.
    pub fn start(queue: usize) -> std::io::Result<Self> {
        // A processor full of hashing would let the loop wait for its turn.
        Pool::start_behind("hash", 1, queue).map(Self)
    }

    /// Passwords that were refused because too many waited.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused()
    }

    /// Passwords that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.depth()
    }

    /// The PHC string to store for `password`.
    ///
    /// # Errors
    /// [`Refused`] when the queue is full.
    pub async fn create(&self, password: String) -> Result<String, Refused> {
        self.0.call(move || phc(&password)).await?.ok_or(Refused::Broke)
    }

    /// Compares `password` with a stored PHC string; without one (no such account) it does the same work and says
    /// [`Verdict::Wrong`], so that the time tells nothing.
    ///
    /// # Errors
    /// [`Refused`] when the queue is full.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<Verdict, Refused> {
        self.0.call(move || compare(&password, stored.as_deref())).await
    }
}

/// The PHC string of `password` with a fresh salt; blocks for about 20 ms. For the command line; the server uses [`Hash`].
/// `None` when there is no memory for it.
#[must_use]
pub fn phc(password: &str) -> Option<String> {
    let salt = crate::random::bytes::<SALT_BYTES>();
    let hash = digest(password, &salt, (MEMORY_KIB, PASSES, LANES))?;
    Some(format!(
        "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${}${}",
        BASE64_NOPAD.encode(&salt),
        BASE64_NOPAD.encode(&hash)
    ))
}

fn compare(password: &str, stored: Option<&str>) -> Verdict {
    let Some((cost, salt, hash)) = stored.and_then(parse) else {
        let _ = digest(password, &[0; SALT_BYTES], (MEMORY_KIB, PASSES, LANES));
        return Verdict::Wrong;
    };
    match digest(password, &salt, cost) {
        Some(got) if is_equal(&got, &hash) => {
            if cost == (MEMORY_KIB, PASSES, LANES) {
                Verdict::Right
            } else {
                Verdict::RightButOld
            }
        }
        _ => Verdict::Wrong,
    }
}

/// Takes the same time wherever the first difference is.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    a.len() == b.len() && differences == 0
}

type Cost = (u32, u32, u32);

/// Takes `$argon2id$v=19$m=…,t=…,p=…$salt$hash` apart; bounds keep a tampered row from asking for the host's memory.
fn parse(phc: &str) -> Option<(Cost, Vec<u8>, Vec<u8>)> {
    let mut parts = phc.strip_prefix("$argon2id$v=19$")?.split('$');
    let (mut memory, mut passes, mut lanes) = (0, 0, 0);
    for pair in parts.next()?.split(',') {
        let (name, value) = pair.split_once('=')?;
        let value: u32 = value.parse().ok()?;
        match name {
            "m" => memory = value,
            "t" => passes = value,
            "p" => lanes = value,
            _ => return None,
        }
    }
    let salt = BASE64_NOPAD.decode(parts.next()?.as_bytes()).ok()?;
    let hash = BASE64_NOPAD.decode(parts.next()?.as_bytes()).ok()?;
    let sane = (8..=1 << 20).contains(&memory) && (1..=16).contains(&passes) && (1..=4).contains(&lanes);
    (sane && hash.len() == HASH_BYTES && parts.next().is_none()).then_some(((memory, passes, lanes), salt, hash))
}

fn digest(password: &str, salt: &[u8], (memory, passes, lanes): Cost) -> Option<[u8; HASH_BYTES]> {
    let params = Params::new(memory, passes, lanes, Some(HASH_BYTES)).ok()?;
    let blocks = params.block_count();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    MEMORY.with_borrow_mut(|kept| {
        if kept.len() < blocks {
            kept.resize(blocks, Block::default());
        }
        let mut out = [0; HASH_BYTES];
        argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut out, &mut kept[..]).ok()?;
        Some(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_password_is_told_from_a_wrong_one_and_from_no_account() {
        let stored = phc("correct horse").expect("hash");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_eq!(compare("correct horse", Some(&stored)), Verdict::Right);
        assert_eq!(compare("correct house", Some(&stored)), Verdict::Wrong);
        assert_eq!(compare("correct horse", None), Verdict::Wrong);
    }

    #[test]
    fn weaker_parameters_are_accepted_and_reported() {
        let salt = [7; SALT_BYTES];
        let hash = digest("pw", &salt, (64, 1, 1)).expect("digest");
        let old = format!("$argon2id$v=19$m=64,t=1,p=1${}${}", BASE64_NOPAD.encode(&salt), BASE64_NOPAD.encode(&hash));
        assert_eq!(compare("pw", Some(&old)), Verdict::RightButOld);
    }

    #[test]
    fn a_tampered_row_is_wrong_and_asks_for_no_memory() {
        for bad in ["", "$argon2id$v=19$m=99999999,t=2,p=1$AAAA$AAAA", "$argon2id$v=19$m=64,t=1,p=1$!$!", "$2b$12$x"] {
            assert_eq!(compare("pw", Some(bad)), Verdict::Wrong, "{bad}");
        }
    }
}
