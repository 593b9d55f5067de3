//! What is asked of `qemu-img`, as command lines. Pure, under the rules of [`super::args`]: formats are always given, paths are
//! absolute, and no name can be read as an option.
//!
//! Source: qemu-img(1).

use super::args::{ArgError, Line, escaped};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A disk to be made: empty, or an overlay of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Size in GiB; that of the image where there is none.
    pub gb: Option<u32>,
    /// The image below, and its format.
    pub base: Option<(PathBuf, &'static str)>,
}

/// The command line that makes a qcow2 disk.
///
/// # Errors
/// A path that cannot be given.
pub fn qemu_img_create(qemu_img: &Path, disk: &Path, new: &NewDisk) -> Result<Vec<OsString>, ArgError> {
    let mut line = Line(vec![qemu_img.into()]);
    line.flag("create").flag("-q").option("-f", "qcow2");
    if let Some((base, format)) = &new.base {
        line.option("-b", plain_path(base)?).option("-F", *format);
    }
    line.0.push(plain_path(disk)?);
    if let Some(gb) = new.gb {
        line.flag(&format!("{gb}G"));
    }
    Ok(line.0)
}

/// The command line that makes a disk larger.
///
/// # Errors
/// As [`qemu_img_create`].
pub fn qemu_img_grow(qemu_img: &Path, disk: &Path, gb: u32) -> Result<Vec<OsString>, ArgError> {
    let mut line = Line(vec![qemu_img.into()]);
    line.flag("resize").flag("-q").option("-f", "qcow2").0.push(plain_path(disk)?);
    line.flag(&format!("{gb}G"));
    Ok(line.0)
}

/// The command line that tells of a disk and its snapshots, as JSON.
///
/// # Errors
/// As [`qemu_img_create`].
pub fn qemu_img_info(qemu_img: &Path, disk: &Path) -> Result<Vec<OsString>, ArgError> {
    let mut line = Line(vec![qemu_img.into()]);
    line.flag("info").option("-f", "qcow2").flag("--output=json").0.push(plain_path(disk)?);
    Ok(line.0)
}

/// The command line that looks whether an image is whole; it changes nothing.
///
/// # Errors
/// As [`qemu_img_create`].
pub fn qemu_img_check(qemu_img: &Path, image: &Path) -> Result<Vec<OsString>, ArgError> {
    let mut line = Line(vec![qemu_img.into()]);
    line.flag("check").flag("-q").option("-f", "qcow2").0.push(plain_path(image)?);
    Ok(line.0)
}

/// The command line for a snapshot of a disk nobody uses: `-c` makes one, `-a` goes back to it, `-d` removes it.
///
/// # Errors
/// As [`qemu_img_create`], and for a name that could be an option.
pub fn qemu_img_snapshot(
    qemu_img: &Path,
    disk: &Path,
    what: &'static str,
    name: &str,
) -> Result<Vec<OsString>, ArgError> {
    if name.is_empty() || name.starts_with('-') {
        return Err(ArgError::BadName(name.to_owned()));
    }
    let mut line = Line(vec![qemu_img.into()]);
    line.flag("snapshot").flag("-q").option(what, name).0.push(plain_path(disk)?);
    Ok(line.0)
}

/// A bare file name argument: no options are split off, but a protocol prefix would be read.
fn plain_path(path: &Path) -> Result<OsString, ArgError> {
    match escaped(path) {
        Ok(_) => Ok(path.into()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::{any_path, any_text, shape};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn qemu_img_gets_formats_sizes_and_no_name_that_could_be_an_option() {
        let line = |made: Result<Vec<OsString>, ArgError>| {
            let words: Vec<String> = made.unwrap().into_iter().map(|arg| arg.into_string().unwrap()).collect();
            words.join(" ")
        };
        let (tool, disk) = (Path::new("qemu-img"), Path::new("/d/a.qcow2"));
        let over = NewDisk { gb: None, base: Some(("/i/b.raw".into(), "raw")) };
        assert_eq!(
            line(qemu_img_create(tool, disk, &over)),
            "qemu-img create -q -f qcow2 -b /i/b.raw -F raw /d/a.qcow2"
        );
        let empty = NewDisk { gb: Some(8), base: None };
        assert_eq!(line(qemu_img_create(tool, disk, &empty)), "qemu-img create -q -f qcow2 /d/a.qcow2 8G");
        assert_eq!(line(qemu_img_grow(tool, disk, 9)), "qemu-img resize -q -f qcow2 /d/a.qcow2 9G");
        assert_eq!(line(qemu_img_snapshot(tool, disk, "-c", "x")), "qemu-img snapshot -q -c x /d/a.qcow2");
        assert_eq!(line(qemu_img_check(tool, disk)), "qemu-img check -q -f qcow2 /d/a.qcow2");
        assert!(qemu_img_snapshot(tool, disk, "-c", "-d").is_err());
        assert!(qemu_img_create(tool, Path::new("nbd:host:1"), &empty).is_err());
    }
    proptest! {
        #[test]
        fn no_path_or_name_becomes_another_argument(disk in any_path(), base in any_path(), name in any_text()) {
            let tool = Path::new("qemu-img");
            let lines = |disk: &Path, base: &Path, name: &str| {
                let over = NewDisk { gb: Some(8), base: Some((base.to_owned(), "raw")) };
                [
                    qemu_img_create(tool, disk, &over),
                    qemu_img_grow(tool, disk, 9),
                    qemu_img_info(tool, disk),
                    qemu_img_check(tool, disk),
                    qemu_img_snapshot(tool, disk, "-c", name),
                ]
            };
            let plain = lines(Path::new("/DISK"), Path::new("/BASE"), "NAME");
            for (line, template) in lines(&disk, &base, &name).into_iter().zip(plain) {
                let Ok(line) = line else { continue };
                // What was given stands whole in its place; nothing of it is a flag, or the protocol of something that is no file.
                let given = |word: OsString| match word.to_str() {
                    Some("/DISK") => disk.clone().into_os_string(),
                    Some("/BASE") => base.clone().into_os_string(),
                    Some("NAME") => OsString::from(&name),
                    _ => word,
                };
                let template = template.unwrap();
                let flags = |line: &[OsString]| shape(line).iter().map(|word| word.0).collect::<Vec<_>>();
                prop_assert_eq!(flags(&line), flags(&template));
                prop_assert_eq!(&line, &template.into_iter().map(given).collect::<Vec<_>>());
                prop_assert!(disk.is_absolute() && (line[1] != "create" || base.is_absolute()));
            }
        }
    }
}
