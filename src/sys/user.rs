//! Who a name is, and who we are.
//!
//! Names are looked up through the C library, so that users who come from LDAP or systemd are found as well. That may wait
//! for a network: call it at start-up or on a worker thread, never on the loop.
//!
//! Sources: getpwnam_r(3), getpwuid_r(3), geteuid(2).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// The longest entry taken; real ones have some hundred bytes.
const LONGEST_ENTRY: usize = 64 * 1024;

/// The uid and primary gid of a user, `None` when there is no such user.
///
/// # Errors
/// When the user database cannot be read, or the name has a NUL in it.
pub fn lookup_user(name: &str) -> io::Result<Option<(u32, u32)>> {
    let name = CString::new(name)?;
    look_up(|entry, text, room, found| {
        // SAFETY: name ends with NUL; the others are what look_up promises.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, text, room, found) }
    })
}

/// Whether a user with this number is in the user database; programs that ask for their own name end without one.
#[must_use]
pub fn has_name(uid: u32) -> bool {
    // SAFETY: a number, and what look_up promises.
    look_up(|entry, text, room, found| unsafe { libc::getpwuid_r(uid, entry, text, room, found) })
        .is_ok_and(|found| found.is_some())
}

/// Calls one of getpwnam_r's kind with room for an entry, room for its text with that one's length, and a place for what was found.
fn look_up(
    call: impl FnOnce(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<(u32, u32)>> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut text: Vec<libc::c_char> = vec![0; LONGEST_ENTRY];
    let mut found = std::ptr::null_mut();
    match call(entry.as_mut_ptr(), text.as_mut_ptr(), text.len(), &raw mut found) {
        // "Not found" has several spellings, see the manual's ERRORS.
        0 | libc::ENOENT | libc::ESRCH if found.is_null() => Ok(None),
        0 => {
            // SAFETY: a result that is not null says that the entry was filled in.
            let entry = unsafe { entry.assume_init() };
            Ok(Some((entry.pw_uid, entry.pw_gid)))
        }
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The uid whose rights we have; 0 is root.
#[must_use]
pub fn euid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_zero_and_a_strange_name_is_nobody() {
        assert_eq!(lookup_user("root").unwrap(), Some((0, 0)));
        assert_eq!(lookup_user("no-such-user-here").unwrap(), None);
        assert_eq!(lookup_user("").unwrap(), None);
        assert!(has_name(0) && !has_name(4_294_000_000));
    }

    #[test]
    fn a_name_with_a_nul_is_an_error_not_a_shorter_name() {
        assert!(lookup_user("root\0x").is_err());
    }
}
