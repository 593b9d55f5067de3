//! HTTP/1.1 (RFC 9110 semantics, RFC 9112 syntax), for a server.
//!
//! [`reader`] takes requests out of bytes, [`response`] writes heads; the others are formats of single header fields.

pub mod chunked;
pub mod conditional;
pub mod cookie;
pub mod date;
pub mod head;
pub mod range;
pub mod reader;
pub mod response;

pub use head::{BodyLength, Head, Headers, Method, Version};
