//! Embeds the pages that `static/build.mjs` has made.
//!
//! Reads `static/dist/manifest.json` and writes `$OUT_DIR/assets.rs`, the table `src/web/assets.rs`
//! includes. Never runs node: whoever has only a Rust compiler still gets a server, with one plain
//! page that says what is missing. A manifest that is not as `build.mjs` writes it (one object a
//! line, no escapes) fails the build instead of leaving a page out.

use std::{env, fmt::Write as _, fs, path::Path};

/// Shown under every page's path where the pages were not built.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>VM-share</title></head><body>\
    <h1>The pages were not built</h1><p>This server was compiled without its pages. The API works. \
    Run <code>conf/setup</code> where the sources are, then build it again.</p></body></html>\n";

/// The paths of the pages themselves, as `build.mjs` has them.
const PAGES: [&str; 6] = ["/", "/404.html", "/admin/", "/docs", "/novnc/", "/terminal/"];

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let dist = Path::new(&root).join("static/dist");
    println!("cargo:rerun-if-changed=build.rs");
    let table = match fs::read_to_string(dist.join("manifest.json")) {
        Ok(manifest) => {
            // The manifest carries every file's hash, so it changes when any of them does.
            println!("cargo:rerun-if-changed=static/dist/manifest.json");
            table_of(&manifest, &dist)
        }
        Err(_) => {
            // Cargo would run this each time for a file that is not there; the folder is.
            println!("cargo:rerun-if-changed=static");
            println!(
                "cargo:warning=the pages are not built: run conf/setup, or `node static/build.mjs` after `npm ci`"
            );
            table_without_pages()
        }
    };
    fs::write(Path::new(&out).join("assets.rs"), table).expect("OUT_DIR can be written");
}

/// The value of `"key":"value"` in one line of the manifest.
fn text<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("\"{key}\":\"")).unwrap_or_else(|| panic!("no {key} in {line}"));
    let (value, _) = rest.split_once('"').unwrap_or_else(|| panic!("{key} has no end in {line}"));
    assert!(!value.contains('\\'), "{key} has an escape in {line}");
    value
}

fn table_of(manifest: &str, dist: &Path) -> String {
    let mut assets: Vec<(&str, String)> = Vec::new();
    for line in manifest.lines().filter(|line| line.starts_with('{')) {
        let bytes = |key| format!("include_bytes!({:?})", dist.join(text(line, key)));
        let entry = format!(
            "Asset {{ path: {:?}, content_type: {:?}, etag: {:?}, immutable: {}, identity: {}, gzip: Some({}), brotli: Some({}) }}",
            text(line, "path"),
            text(line, "type"),
            text(line, "etag"),
            line.contains("\"immutable\":true"),
            bytes("file"),
            bytes("gz"),
            bytes("br"),
        );
        assets.push((text(line, "path"), entry));
    }
    for page in PAGES {
        assert!(assets.iter().any(|(path, _)| *path == page), "static/dist/manifest.json has no page {page}");
    }
    write_table(assets)
}

fn table_without_pages() -> String {
    let page = |path| {
        format!(
            "Asset {{ path: {path:?}, content_type: \"text/html; charset=utf-8\", etag: \"not-built\", immutable: false, \
             identity: {NOT_BUILT:?}.as_bytes(), gzip: None, brotli: None }}"
        )
    };
    write_table(PAGES.into_iter().map(|path| (path, page(path))).collect())
}

fn write_table(mut assets: Vec<(&str, String)>) -> String {
    assets.sort();
    let mut table = String::from("/// Every embedded file, sorted by path.\npub static ASSETS: &[Asset] = &[\n");
    for (_, entry) in assets {
        writeln!(table, "    {entry},").expect("a String can be written to");
    }
    table + "];\n"
}
