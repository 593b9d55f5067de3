// Builds the pages the binary embeds: static/*.html, style.css and the scripts → static/dist/.
//
// Assets get their content's hash in their name and may be cached for ever; pages keep their path
// and are checked each time. Every file lies there as it is, with brotli and with gzip, and
// manifest.json (one object a line, plain values, read by build.rs) names them all. The same
// sources give the same bytes. Nothing is done, and nothing said, when no source has changed.
// Fails, and leaves the last good dist/ alone, when a page's weight is above its budget.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const dist = join(here, "dist");
const fresh = join(root, "node_modules", ".cache", "pages");

/** Pages: source, path, what it loads beside the shared files, most brotli bytes all together. */
const pages = [
  { source: "home.html", path: "/", budget: 60 * 1024 },
  { source: "desktop.html", path: "/novnc/", budget: 120 * 1024 },
  { source: "terminal.html", path: "/terminal/", budget: 160 * 1024 },
  { source: "admin.html", path: "/admin/", budget: 80 * 1024 },
  { source: "docs.html", path: "/docs", budget: 40 * 1024 },
  { source: "404.html", path: "/404.html", budget: 20 * 1024 },
];
const scripts = { "theme.js": "theme.js", "home.js": "home/main.js", "desktop.js": "desktop/main.js", "terminal.js": "terminal/main.js", "docs.js": "docs/main.js", "admin.js": "admin/main.js", "graphs.js": "admin/graphs.js" };
const types = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
// Licences ask that whoever gets a library is told what it is and where its source is.
const credits = {
  "desktop.js": "/*! Contains noVNC 1.7.0, MPL-2.0: https://github.com/novnc/noVNC, and pako, MIT: https://github.com/nodeca/pako */",
  "graphs.js": "/*! Contains uPlot 1.6.32, MIT: https://github.com/leeoniya/uPlot */",
  "home.js": "/*! Contains tus-js-client 4.3.1, MIT: https://github.com/tus/tus-js-client */",
  "terminal.js": "/*! Contains xterm.js 6.0.0, MIT: https://github.com/xtermjs/xterm.js */",
};

function sources(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.name !== "dist")
    .flatMap((entry) => (entry.isDirectory() ? sources(join(folder, entry.name)) : [join(folder, entry.name)]))
    .sort();
}

const hash = (bytes) => createHash("sha256").update(bytes).digest("hex");

function inputs() {
  const all = createHash("sha256").update(process.version);
  for (const file of [...sources(here), join(root, "package-lock.json")]) all.update(`\0${relative(root, file)}\0`).update(readFileSync(file));
  return all.digest("hex");
}

/**
 * xterm.js makes <style> elements and style attributes, which the pages' policy forbids. What stands
 * in their places is in terminal/csp.js; a version of it that does so elsewhere fails the build.
 */
const allowedStyles = {
  name: "allowed styles",
  setup(build) {
    build.onLoad({ filter: /@xterm\/xterm\/lib\/xterm\.mjs$/ }, ({ path }) => {
      let text = readFileSync(path, "utf8");
      const put = (pattern, times, replacement) => {
        const found = text.match(pattern)?.length ?? 0;
        if (found !== times) throw new Error(`${path}: ${pattern} is there ${found} times, not ${times}: look at static/terminal/csp.js`);
        text = text.replace(pattern, replacement);
      };
      put(/[\w.]+\.createElement\("style"\)/g, 3, "vmshareStyleElement()");
      put(/(\w+)\.setAttribute\("style",/g, 1, "vmshareSetStyle($1,");
      const from = JSON.stringify(join(here, "terminal/csp.js"));
      return { contents: `import { styleElement as vmshareStyleElement, setStyle as vmshareSetStyle } from ${from};\n${text}`, loader: "js" };
    });
  },
};

async function bundle(name, entry) {
  const { build } = await import("esbuild");
  const blocking = name === "theme.js";
  const result = await build({
    entryPoints: [join(here, entry)], bundle: true, minify: true, write: false, charset: "utf8", target: "es2022", absWorkingDir: root,
    format: blocking ? "iife" : "esm", legalComments: "none", logLevel: "warning", banner: credits[name] ? { js: credits[name] } : {}, plugins: [allowedStyles],
  });
  return Buffer.from(result.outputFiles[0].contents);
}

function styles() {
  const require = createRequire(import.meta.url);
  const cli = require.resolve("@tailwindcss/cli/package.json");
  const program = join(dirname(cli), JSON.parse(readFileSync(cli)).bin.tailwindcss);
  const options = { cwd: root, stdio: ["ignore", "pipe", "pipe"], maxBuffer: 1 << 24 };
  return execFileSync(process.execPath, [program, "--input", join(here, "style.css"), "--minify"], options);
}

async function librarySheet(name) {
  const { transform } = await import("esbuild");
  const { code } = await transform(readFileSync(join(root, "node_modules", name), "utf8"), { loader: "css", minify: true });
  return Buffer.from(code);
}

function minifyHtml(text) {
  return text.replace(/<!--[\s\S]*?-->/g, "").replace(/\n\s+/g, "\n");
}

/** Writes one file in its three forms and returns its line of the manifest. */
function put(path, name, bytes, immutable) {
  const br = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } });
  const gz = gzipSync(bytes, { level: 9 });
  writeFileSync(join(fresh, name), bytes);
  writeFileSync(join(fresh, `${name}.br`), br);
  writeFileSync(join(fresh, `${name}.gz`), gz);
  return { path, file: name, type: types[extname(name)], immutable, etag: hash(bytes).slice(0, 20), br: `${name}.br`, gz: `${name}.gz`, size: br.length };
}

async function main() {
  const stamp = inputs();
  const stampFile = join(dist, "inputs.sha256");
  if (existsSync(join(dist, "manifest.json")) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true });

  const manifest = [];
  const named = new Map();
  const asset = (name, bytes) => {
    const hashed = name.replace(/(\.\w+)$/, `-${hash(bytes).slice(0, 8).toUpperCase()}$1`);
    const entry = put(`/assets/${hashed}`, hashed, bytes, true);
    named.set(`/assets/${name}`, entry);
    manifest.push(entry);
  };
  asset("icon.svg", readFileSync(join(here, "icon.svg")));
  asset("style.css", styles());
  asset("xterm.css", await librarySheet("@xterm/xterm/css/xterm.css"));
  asset("uplot.css", await librarySheet("uplot/dist/uPlot.min.css"));
  for (const [name, entry] of Object.entries(scripts)) asset(name, await bundle(name, entry));

  const totals = [];
  for (const page of pages) {
    const used = new Set();
    const html = minifyHtml(readFileSync(join(here, page.source), "utf8")).replace(/\/assets\/[\w.-]+/g, (reference) => {
      const entry = named.get(reference);
      if (!entry) throw new Error(`${page.source} refers to ${reference}, which is not built`);
      used.add(entry);
      return entry.path;
    });
    const entry = put(page.path, page.source, Buffer.from(html), false);
    manifest.push(entry);
    const size = [entry, ...used].reduce((sum, one) => sum + one.size, 0);
    totals.push(`${page.path.padEnd(10)} ${String((size / 1024).toFixed(1)).padStart(6)} KB of ${page.budget / 1024}`);
    if (size > page.budget) throw new Error(`${page.source} weighs ${size} bytes compressed with all it loads; the budget is ${page.budget}`);
  }

  manifest.sort((a, b) => (a.path < b.path ? -1 : 1));
  const lines = manifest.map(({ size, ...entry }) => JSON.stringify(entry));
  writeFileSync(join(fresh, "manifest.json"), `[\n${lines.join(",\n")}\n]\n`);
  writeFileSync(join(fresh, "inputs.sha256"), stamp);
  rmSync(dist, { recursive: true, force: true });
  renameSync(fresh, dist);
  console.log(`pages built (brotli, all a page loads):\n  ${totals.join("\n  ")}`);
}

await main();
