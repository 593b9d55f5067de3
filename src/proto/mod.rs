//! Parsers and writers, pure: bytes and values in, values and bytes out.
//!
//! No sockets, files, clocks, threads or log in here; a time is an argument. So a test is a table and a fuzzer needs no set-up. Nothing in
//! here indexes or unwraps outside of tests: what comes from outside must not be able to panic.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod http;
pub mod iso9660;
pub mod json;
pub mod multipart;
pub mod ppm;
pub mod problem;
pub mod procfs;
pub mod qcow2;
pub mod qmp;
pub mod rfb;
pub mod scrollback;
pub mod telegram;
pub mod terminal;
pub mod tus;
pub mod url;
pub mod websocket;
