//! Reads ahead what everybody starts from, so that a class that starts at nine does not wait for the disk two hundred times.
//!
//! Once, at the start, and only images that are shared (a path without `{uid}`) and fit into half of the memory that is free: a hint to
//! the kernel, which may drop the pages again.

use super::room;
use crate::house::Cx;
use crate::sys::file;
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;

/// Starts the story.
pub fn begin(cx: &Cx) {
    let (cx, spawner) = (Rc::clone(cx), cx.spawner.clone());
    spawner.spawn("warm images", async move {
        let shared: Vec<PathBuf> = cx
            .config
            .profiles
            .values()
            .flat_map(|profile| {
                let image = Some(&profile.base_image).filter(|path| !path.contains('{')).map(PathBuf::from);
                profile.base_disk.clone().into_iter().chain(image)
            })
            .collect();
        let told = cx.disk(move || {
            let mut left = room::free_memory().unwrap_or(0) / 2;
            let mut warmed = Vec::new();
            for path in shared {
                let Ok(about) = path.metadata() else { continue };
                if !about.is_file() || about.len() > left {
                    continue;
                }
                if let Ok(image) = File::open(&path) {
                    file::read_ahead(&image);
                    left -= about.len();
                    warmed.push(path);
                }
            }
            warmed
        });
        for path in told.await.unwrap_or_default() {
            log::info!("read ahead: {}", path.display());
        }
    });
}
