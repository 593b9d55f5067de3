//! VM-share: a Linux desktop in the browser for hundreds of people, from one binary on one host.
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
pub mod server;
pub mod sys;
pub mod vm;
pub mod web;
pub mod work;
