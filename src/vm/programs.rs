//! Where QEMU's programs are on this host, and which version. Looks at files and runs `--version`: for start-up and `check`,
//! never on the loop.
//!
//! A path given by a setting is taken or refused, never replaced by another. Otherwise PATH is walked first, then the places
//! where distributions put them.

use super::args::QemuVersion;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders looked into after PATH; a service's PATH may be short.
const USUAL_FOLDERS: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/libexec", "/opt/qemu/bin"];

/// Why a program cannot be used.
#[derive(Debug)]
pub enum ProgramError {
    /// The path of a setting is no program.
    NotAProgram {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// It is nowhere.
    NotFound {
        /// The setting that would say where it is.
        setting: &'static str,
        /// What was looked for.
        name: &'static str,
        /// Debian's package of it.
        package: &'static str,
    },
    /// It does not run.
    DoesNotRun(PathBuf, io::Error),
    /// It runs, and what it says is no version.
    NoVersion(PathBuf),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAProgram { setting, path } => {
                write!(f, "{setting}={} is no program that can be run: correct it or leave it out", path.display())
            }
            Self::NotFound { setting, name, package } => {
                write!(f, "{name} is not installed: apt-get install {package}, or set {setting} to where it is")
            }
            Self::DoesNotRun(path, error) => write!(f, "{} does not run: {error}", path.display()),
            Self::NoVersion(path) => write!(f, "{} does not say its version: is it QEMU?", path.display()),
        }
    }
}

impl std::error::Error for ProgramError {}

/// The emulator; `explicit` is the setting `QEMU_BIN`.
///
/// # Errors
/// When it is not there.
pub fn find_qemu(explicit: Option<&Path>) -> Result<PathBuf, ProgramError> {
    // qemu-kvm is what Red Hat's family calls the same program.
    find(explicit, "QEMU_BIN", &["qemu-system-x86_64", "qemu-kvm"], "qemu-system-x86")
}

/// The tool for disk images; `explicit` is the setting `QEMU_IMG_BIN`.
///
/// # Errors
/// When it is not there.
pub fn find_qemu_img(explicit: Option<&Path>) -> Result<PathBuf, ProgramError> {
    find(explicit, "QEMU_IMG_BIN", &["qemu-img"], "qemu-utils")
}

/// Asks a program of QEMU's for its version.
///
/// # Errors
/// When it does not run or is not QEMU.
pub fn version(program: &Path) -> Result<QemuVersion, ProgramError> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|e| ProgramError::DoesNotRun(program.to_owned(), e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    QemuVersion::parse(&text).ok_or_else(|| ProgramError::NoVersion(program.to_owned()))
}

fn find(
    explicit: Option<&Path>,
    setting: &'static str,
    names: &[&'static str],
    package: &'static str,
) -> Result<PathBuf, ProgramError> {
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(program) = explicit {
        // A name without a folder is one of PATH, as everywhere.
        let found = match program.to_str() {
            Some(name) if !name.contains('/') => look(&path, &[name]),
            _ => is_program(program).then(|| program.to_owned()),
        };
        return found.ok_or_else(|| ProgramError::NotAProgram { setting, path: program.to_owned() });
    }
    let name = names.first().copied().unwrap_or_default();
    look(&path, names).ok_or(ProgramError::NotFound { setting, name, package })
}

fn look(path: &OsStr, names: &[&str]) -> Option<PathBuf> {
    let folders = || env::split_paths(path).chain(USUAL_FOLDERS.iter().map(PathBuf::from));
    // A relative folder on PATH depends on where we stand; children stand elsewhere.
    let files = |name| folders().filter(|folder| folder.is_absolute()).map(move |folder| folder.join(name));
    names.iter().flat_map(files).find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_explicit_path_is_taken_or_refused_never_replaced() {
        assert_eq!(find_qemu(Some(Path::new("/bin/sh"))).unwrap(), Path::new("/bin/sh"));
        assert!(find_qemu(Some(Path::new("sh"))).unwrap().ends_with("bin/sh"), "a name is looked for on PATH");
        for bad in ["/etc/passwd", "/tmp", "/nonexistent", "no-such-program"] {
            let error = find_qemu(Some(Path::new(bad))).unwrap_err().to_string();
            assert!(error.contains("QEMU_BIN") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn the_path_is_walked_in_order_and_only_programs_count() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(first.path().join("qemu-x"), "not executable").unwrap();
        fs::copy("/bin/true", second.path().join("qemu-x")).unwrap();
        let path = env::join_paths([first.path(), second.path(), Path::new("relative")]).unwrap();
        assert_eq!(look(&path, &["qemu-y", "qemu-x"]), Some(second.path().join("qemu-x")));
        assert_eq!(look(&path, &["qemu-y"]), None);
    }

    #[test]
    fn what_is_not_qemu_has_no_version() {
        assert!(matches!(version(Path::new("/bin/true")), Err(ProgramError::NoVersion(_))));
        assert!(matches!(version(Path::new("/nonexistent")), Err(ProgramError::DoesNotRun(..))));
    }

    #[test]
    fn the_installed_qemu_is_found_and_new_enough() {
        let qemu = find_qemu(None).unwrap();
        assert!(version(&qemu).unwrap() >= QemuVersion::OLDEST);
        assert!(version(&find_qemu_img(None).unwrap()).unwrap() >= QemuVersion::OLDEST);
    }
}
