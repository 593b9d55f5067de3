//! Distributions whose images are known by their SHA-256: the list `conf/iso/known.toml`, which is inside the binary.
//!
//! It only tells people what they have, and that they have all of it: an image that is not in the list is as good as one that is.

use serde::Deserialize;

const LIST: &str = include_str!("../../conf/iso/known.toml");

/// An image that is known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its short name.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Its project's page.
    pub home: String,
    /// The file's name, as the project gives it.
    pub file: String,
    /// The file's size in bytes, where that is known too.
    pub size: Option<u64>,
    /// Of the whole file, in hex.
    pub sha256: String,
    /// It starts with a desktop, without installing anything.
    pub desktop: bool,
    /// How much memory a VM should have for it.
    pub memory: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    image: Vec<Known>,
}

/// All of them.
///
/// # Errors
/// The list is damaged, which a test keeps from happening.
pub fn all() -> Result<Vec<Known>, String> {
    toml::from_str::<List>(LIST).map(|list| list.image).map_err(|e| format!("the list of known images is damaged: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::names::{Format, image_name};
    use std::collections::HashSet;

    #[test]
    fn each_known_image_has_all_that_is_told_of_it_once() {
        let known = all().unwrap();
        assert!(!known.is_empty());
        let (mut names, mut files, mut sums) = (HashSet::new(), HashSet::new(), HashSet::new());
        for image in known {
            let plain =
                |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
            assert!(!image.name.is_empty() && plain(&image.name), "{image:?}");
            assert!(
                image.sha256.len() == 64 && image.sha256.bytes().all(|b| b"0123456789abcdef".contains(&b)),
                "{image:?}"
            );
            assert!(image.size.is_none_or(|size| size >= crate::proto::iso9660::SIZE_MIN), "{image:?}");
            // It keeps its name in the library.
            assert_eq!(image_name(&image.file, Format::Iso), image.file);
            assert!(image.home.starts_with("https://") && image.home.ends_with('/'), "{image:?}");
            assert!(!image.title.is_empty() && !image.memory.is_empty(), "{image:?}");
            let new = names.insert(image.name.clone())
                && files.insert(image.file.clone())
                && sums.insert(image.sha256.clone());
            assert!(new, "twice: {image:?}");
        }
    }
}
