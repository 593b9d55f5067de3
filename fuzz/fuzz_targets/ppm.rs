#![no_main]
//! Pictures as QEMU writes them: what is read has all its pixels and no more than the bound, and made smaller it keeps within its size.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::ppm;

const PIXELS: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((&width, file)) = data.split_first() else { return };
    let Some(picture) = ppm::parse(file.to_vec(), PIXELS) else { return };
    let pixels = picture.width as usize * picture.height as usize;
    assert!((1..=PIXELS).contains(&pixels) && picture.rgb.len() == pixels * 3);
    assert!(file.len() <= ppm::most_bytes(PIXELS));
    let (wide, high) = (picture.width, picture.height);
    let darkest = picture.rgb.iter().min().copied();
    let small = picture.scaled(u32::from(width));
    assert!(small.width <= wide && small.height <= high && small.height > 0);
    assert_eq!(small.rgb.len(), small.width as usize * small.height as usize * 3);
    // A mean is never below the least of what it is of.
    assert!(small.rgb.iter().min().copied() >= darkest);
});
