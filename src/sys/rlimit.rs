//! How many files may be open: the soft limit is 1024 for the sake of select(2), which nothing here uses.
//!
//! Every browser costs a descriptor or two, every machine about six. The hard limit is the administrator's word and is
//! left alone; the number reached is returned so that `check` and the log can tell when it is too small.
//!
//! Source: getrlimit(2).
#![allow(unsafe_code)]

use super::check;
use std::io;

fn open_files() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is ours and outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

fn set_open_files(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the structure is only read during the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, std::ptr::from_ref(limit)) }).map(drop)
}

/// Raises the soft limit on open files to the hard one and returns what it is now.
///
/// # Errors
/// What the kernel says.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = open_files()?;
    if limit.rlim_cur < limit.rlim_max {
        set_open_files(&libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max })?;
    }
    Ok(open_files()?.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = open_files().unwrap().rlim_max;
        assert_eq!(raise_open_files().unwrap(), hard);
    }
}
