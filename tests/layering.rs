//! Guards the house's rules by reading its sources (see CONTRIBUTING.md).

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file and longest function, in lines.
const FILE_LINES: usize = 600;
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

/// Every source file by its path below `src`, without its tests and comments; line numbers stay.
fn house() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let mut house = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
        // By the path below `src` only: the project may itself lie in a folder called tests.
        if !name.contains("tests") {
            house.push((name, code(&fs::read_to_string(&path).expect("source"))));
        }
    }
    assert!(house.len() > 50, "{} files", house.len());
    house
}

/// Empties comments and the items behind `#[cfg(test)]`, but nothing that follows those.
fn code(text: &str) -> Vec<String> {
    let mut in_test = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        in_test |= line.starts_with("#[cfg(test)]");
        let kept = if in_test { "" } else { without_comment(line) };
        in_test &= !(line == "}" || line.ends_with(';') && !line.starts_with(' '));
        lines.push(kept.to_owned());
    }
    lines
}

/// The two slashes of an address in a string begin no comment.
fn without_comment(line: &str) -> &str {
    let at = line.match_indices("//").map(|(at, _)| at).find(|&at| !line[..at].ends_with(':'));
    &line[..at.unwrap_or(line.len())]
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
        "std::time",
        "std::process",
        "std::env",
        "std::{",
        "log::",
        "Instant",
        "::now()",
    ];
    let hits = found(room(&["proto/", "vm/args.rs", "vm/disk_args.rs", "sampler/thresholds.rs"]), &words);
    // An address is a value.
    let hits: Vec<_> = hits.into_iter().filter(|l| !l.ends_with("use std::net::IpAddr;")).collect();
    assert_eq!(hits, [""; 0]);
}

#[test]
fn unsafe_code_is_in_one_room() {
    assert_eq!(found(|name| !name.starts_with("sys/"), &["unsafe ", "unsafe{", "allow(unsafe_code)"]), [""; 0]);
}

#[test]
fn time_is_read_by_the_loop_and_by_blocking_threads_only() {
    let may = ["reactor/", "db/", "sys/", "sampler/", "cli/"];
    assert_eq!(found(|name| !room(&may)(name), &["Instant::now()"]), [""; 0]);
}

#[test]
fn stories_are_told_in_their_rooms() {
    // A body's next piece and a claim are waits that stories use.
    let may = ["web/", "vm/", "db/", "work/", "house.rs", "reactor/task.rs", "net/body.rs", "store/mod.rs"];
    assert_eq!(found(|name| !room(&may)(name), &["async fn"]), [""; 0]);
    // The server begins them.
    assert_eq!(found(|name| !room(&may)(name) && name != "server.rs", &["async move"]), [""; 0]);
}

#[test]
fn a_line_of_the_log_about_a_vm_names_its_owner() {
    // Where only a folder, a group or a row's id is at hand, nobody knows whose it was.
    let nameless = ["run folder without a vm", "a qemu without a row", "entry.path()", "shown.display()"];
    let nameless =
        |line: &String| nameless.iter().chain(&["the row is removed", "the end cannot"]).any(|it| line.contains(it));
    let lines = found(|name| name != "vm/cgroup.rs", &["!(vmid"]);
    assert!(lines.len() > 20, "{lines:?}");
    let hits: Vec<_> = lines.into_iter().filter(|line| !line.contains("user = ") && !nameless(line)).collect();
    assert_eq!(hits, [""; 0]);
}

/// The rooms that a line names; a group cannot be told apart, so it is one that nobody may name.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end == 0 { "{a group}" } else { &rest[..end] }
    })
}

#[test]
fn dependencies_point_one_way() {
    // What each room may name beside itself.
    let rules: [(&str, &[&str]); 9] = [
        ("proto/", &[]),
        ("reactor/", &[]),
        ("sys/", &["log"]),
        ("net/", &["reactor", "proto", "log"]),
        ("db/", &["reactor", "sys", "random", "config", "log"]),
        ("work/", &["reactor", "sys", "random", "log"]),
        ("store/", &["config", "db", "proto", "random", "reactor", "sys", "log"]),
        ("sampler/", &["config", "net", "proto", "reactor", "sys", "log"]),
        ("vm/", &["config", "db", "house", "net", "proto", "random", "reactor", "sampler", "store", "sys", "log"]),
    ];
    let mut hits = Vec::new();
    for (name, code) in house() {
        let Some((home, may)) = rules.iter().find(|(home, _)| name.starts_with(home)) else { continue };
        for (number, line) in code.iter().enumerate() {
            for other in named(line).filter(|other| *other != home.trim_end_matches('/') && !may.contains(other)) {
                hits.push(format!("{name}:{}: must not name {other}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_eq!(hits, [""; 0]);
}

/// A function begins, whatever stands before the word.
fn begins_fn(line: &str) -> bool {
    let mut words = line.trim_start().split(' ');
    let before = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    !line.trim_end().ends_with([';', '}']) && words.find(|word| !before.contains(word)) == Some("fn")
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
            if begun.is_none() && begins_fn(line) {
                begun = Some((number, indent, line.trim().to_owned()));
            }
            if let Some((from, at, name)) = &begun
                && indent == *at
                && line.trim() == "}"
            {
                let lines = number - from + 1;
                if lines > FN_LINES {
                    long.push(format!("{}:{}: {lines} lines: {name}", path.display(), from + 1));
                }
                begun = None;
            }
        }
    }
    assert_eq!(long, [""; 0]);
}
