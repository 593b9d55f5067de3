//! The loop.
pub mod task;
