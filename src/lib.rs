//! VM-share: a Linux desktop in the browser for hundreds of people, from one binary on one host.
//!
//! ```text
//!   browsers ══ TCP/TLS ══▶ ┌─────────────── the loop (one thread) ───────────────┐ ◀── stdout, stderr, pidfd, QMP, VNC ══ QEMUs
//!                           │ server ▸ net ▸ proto         web, vm: stories       │
//!                           └──┬──────────────────┬───────────────────┬───────────┘
//!                          bounded queue      bounded queue       bounded queue      (answers ring the loop's bell)
//!                              ▼                  ▼                   ▼
//!                          db: PostgreSQL     disk: files, fork   hash: Argon2id      sampler: /proc ──▶ telegram
//! ```
//! Five rules, kept by `tests/layering.rs` and lints: parsers are pure; `unsafe` is in [`sys`] only; time is read by the loop and by
//! blocking threads; `async fn` is for stories; files and functions stay short. `docs/architecture.md` tells the whole.

pub mod cli;
pub mod config;
pub mod db;
pub mod house;
pub mod log;
pub mod metrics;
pub mod net;
pub mod proto;
pub mod random;
pub mod reactor;
pub mod sampler;
pub mod server;
pub mod store;
pub mod sys;
pub mod vm;
pub mod web;
pub mod work;
