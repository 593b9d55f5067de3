//! To be written.
pub mod accel;
pub mod args;
pub mod programs;
