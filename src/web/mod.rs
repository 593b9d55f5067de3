//! To be written.
pub mod assets;
