//! Guards the house's rules by reading its sources (see CONTRIBUTING.md).

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file and longest function, in lines.
const FILE_LINES: usize = 620;
const FN_LINES: usize = 80;

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Every source file by its path below `src`, without its tests and comments.
fn house() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 50, "{} files", paths.len());
    paths
        .iter()
        .filter(|path| !path.to_string_lossy().contains("tests"))
        .map(|path| {
            let text = fs::read_to_string(path).expect("source");
            let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
            let code = code.map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect();
            (path.strip_prefix(&root).expect("below").to_string_lossy().into_owned(), code)
        })
        .collect()
}

/// Lines that have one of `words` in files that `where_` picks.
fn found(where_: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    let mut hits = Vec::new();
    for (name, code) in house().iter().filter(|(name, _)| where_(name)) {
        for (number, line) in code.iter().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                hits.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    hits
}

fn room<'a>(rooms: &'a [&str]) -> impl Fn(&str) -> bool + 'a {
    |name| rooms.iter().any(|room| name.starts_with(room))
}

#[test]
fn parsers_are_pure() {
    let words = [
        "std::net",
        "std::fs",
        "std::thread",
        "Instant",
        "log::",
        "std::time",
        "crate::config",
        "crate::net",
        "crate::vm",
    ];
    assert_eq!(
        found(room(&["proto/", "vm/args.rs"]), &words[..])
            .into_iter()
            .filter(|l| !l.contains("IpAddr"))
            .collect::<Vec<_>>(),
        [""; 0]
    );
}

#[test]
fn unsafe_code_is_in_one_room() {
    assert_eq!(found(|name| !name.starts_with("sys/"), &["unsafe ", "allow(unsafe_code)"]), [""; 0]);
}

#[test]
fn time_is_read_by_the_loop_and_by_blocking_threads_only() {
    let may = ["reactor/", "db/", "sys/", "cli/"];
    assert_eq!(found(|name| !room(&may)(name), &["Instant::now()"]), [""; 0]);
}

#[test]
fn stories_are_told_in_their_rooms() {
    let may = ["web/", "vm/", "db/", "work/", "house.rs", "reactor/task.rs"];
    assert_eq!(
        found(|name| !room(&may)(name), &["async fn", "async move"])
            .into_iter()
            .filter(|l| !l.starts_with("server.rs"))
            .collect::<Vec<_>>(),
        [""; 0]
    );
}

#[test]
fn dependencies_point_one_way() {
    let rules: [(&[&str], &[&str]); 5] = [
        (&["reactor/"], &["crate::"]),
        (&["sys/"], &["crate::web", "crate::vm", "crate::net", "crate::db", "crate::house", "crate::proto"]),
        (&["net/"], &["crate::web", "crate::vm", "crate::db", "crate::house", "crate::config", "crate::server"]),
        (&["db/", "work/"], &["crate::web", "crate::vm", "crate::net", "crate::house", "crate::server"]),
        (&["vm/"], &["crate::web", "crate::server", "crate::cli"]),
    ];
    for (rooms, words) in rules {
        let hits: Vec<String> =
            found(room(rooms), words).into_iter().filter(|l| !l.contains("crate::reactor")).collect();
        assert_eq!(hits, [""; 0], "{rooms:?} must not know {words:?}");
    }
}

#[test]
fn files_and_functions_stay_readable() {
    let mut long = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    for path in &paths {
        let text = fs::read_to_string(path).expect("source");
        let lines = text.lines().count();
        if lines > FILE_LINES {
            long.push(format!("{}: {lines} lines", path.display()));
        }
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_fn = ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(super) fn ", "pub(super) async fn "];
            if begun.is_none()
                && is_fn.iter().any(|word| line.trim_start().starts_with(word))
                && !line.trim_end().ends_with(';')
            {
                begun = Some((number, indent, line.trim().to_owned()));
            }
            if let Some((from, at, name)) = &begun
                && indent == *at
                && line.trim() == "}"
            {
                if number - from > FN_LINES {
                    long.push(format!("{}:{}: {} lines: {name}", path.display(), from + 1, number - from));
                }
                begun = None;
            }
        }
    }
    assert_eq!(long, [""; 0]);
}
