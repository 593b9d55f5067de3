//! tmp
/// tmp
pub fn bytes<const N: usize>() -> [u8; N] { let mut b=[0;N]; use ring::rand::SecureRandom; ring::rand::SystemRandom::new().fill(&mut b).unwrap(); b }
/// tmp
pub fn hex_id() -> String { data_encoding::HEXLOWER.encode(&bytes::<6>()) }
