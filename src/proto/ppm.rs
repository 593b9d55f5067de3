//! Pictures as QEMU's `screendump` writes them (PPM, "P6"), and made smaller.
//!
//! Source: netpbm's ppm(5), of which QEMU writes one form: `P6`, width, height and 255, then red, green and blue of each pixel, row by row.

/// A picture: red, green and blue of each pixel, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Three bytes a pixel.
    pub rgb: Vec<u8>,
}

/// The longest head that is looked at.
const HEAD: usize = 64;

/// Bytes a file of at most `pixels` pixels has.
#[must_use]
pub fn most_bytes(pixels: usize) -> usize {
    HEAD + pixels * 3
}

/// Reads a whole picture of at most `pixels` pixels.
#[must_use]
pub fn parse(mut bytes: Vec<u8>, pixels: usize) -> Option<Picture> {
    let mut words = [0_usize; 3];
    let mut at = 2;
    if !bytes.starts_with(b"P6") {
        return None;
    }
    for word in &mut words {
        let rest = bytes.get(at..bytes.len().min(HEAD))?;
        let space = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let digits = rest.get(space..)?;
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *word = std::str::from_utf8(digits.get(..count)?).ok()?.parse().ok()?;
        at += space + count;
    }
    let [width, height, most] = words;
    let length = width.checked_mul(height).filter(|all| (1..=pixels).contains(all))?.checked_mul(3)?;
    // One white space ends the head.
    let begin = at.checked_add(1)?;
    if most != 255 || bytes.len() != begin.checked_add(length)? {
        return None;
    }
    bytes.drain(..begin);
    Some(Picture { width: u32::try_from(width).ok()?, height: u32::try_from(height).ok()?, rgb: bytes })
}

impl Picture {
    /// The picture `width` pixels wide, its shape kept, each pixel the mean of those it stands for. Never larger than it was.
    #[must_use]
    pub fn scaled(self, width: u32) -> Self {
        if width == 0 || width >= self.width {
            return self;
        }
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let (wide, high, across) = (size(self.width), size(self.height), size(width));
        let down = (high * across / wide).max(1);
        let mut rows = self.rgb.chunks_exact(wide * 3);
        let mut sums = vec![[0_u32; 4]; across];
        let mut rgb = Vec::with_capacity(across * down * 3);
        for y in 0..down {
            sums.fill([0; 4]);
            for row in rows.by_ref().take((y + 1) * high / down - y * high / down) {
                add(row, wide, &mut sums);
            }
            for [red, green, blue, count] in &sums {
                rgb.extend([red, green, blue].map(|sum| u8::try_from(sum / (*count).max(1)).unwrap_or(u8::MAX)));
            }
        }
        Self { width, height: u32::try_from(down).unwrap_or(1), rgb }
    }
}

/// Adds a row's `wide` pixels to the fewer sums that stand for them.
fn add(row: &[u8], wide: usize, sums: &mut [[u32; 4]]) {
    let across = sums.len();
    let mut sums = sums.iter_mut();
    let (mut sum, mut error) = (sums.next(), 0);
    for pixel in row.chunks_exact(3) {
        if let (Some([red, green, blue, count]), [r, g, b]) = (sum.as_deref_mut(), pixel) {
            *red += u32::from(*r);
            *green += u32::from(*g);
            *blue += u32::from(*b);
            *count += 1;
        }
        error += across;
        if error >= wide {
            error -= wide;
            sum = sums.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(head: &str, rgb: &[u8]) -> Vec<u8> {
        [head.as_bytes(), rgb].concat()
    }

    #[test]
    fn only_a_whole_picture_within_its_bound_is_read() {
        let picture = parse(file("P6\n2 1\n255\n", &[1, 2, 3, 4, 5, 6]), 2).expect("a picture");
        assert_eq!((picture.width, picture.height, &*picture.rgb), (2, 1, &[1, 2, 3, 4, 5, 6][..]));
        for (head, length, pixels) in [
            ("P6\n2 1\n255\n", 6, 1),
            ("P6\n2 1\n255\n", 5, 9),
            ("P6\n2 1\n255\n", 7, 9),
            ("P6\n2 1\n65535\n", 6, 9),
            ("P5\n2 1\n255\n", 6, 9),
            ("P6\n0 1\n255\n", 0, 9),
            ("P6\n-2 1\n255\n", 6, 9),
            ("P6\n99999999999999999999 1\n255\n", 6, 9),
            ("P6\n18446744073709551615 18446744073709551615\n255\n", 6, 9),
            ("P6\n2", 0, 9),
            ("P6", 0, 9),
            ("", 0, 9),
        ] {
            assert_eq!(parse(file(head, &vec![0; length]), pixels), None, "{head:?} with {length} bytes");
        }
    }

    #[test]
    fn a_smaller_picture_has_the_means_of_what_it_stands_for() {
        // Two columns black, two white; the lower half half as bright.
        let row = |bright: u8| [[0; 6], [bright; 6]].concat();
        let rgb = [row(200), row(200), row(100), row(100)].concat();
        let picture = Picture { width: 4, height: 4, rgb };
        let half = picture.clone().scaled(2);
        assert_eq!((half.width, half.height), (2, 2));
        assert_eq!(half.rgb, [0, 0, 0, 200, 200, 200, 0, 0, 0, 100, 100, 100]);
        assert_eq!(picture.clone().scaled(1).rgb, [75, 75, 75]);
        assert_eq!(picture.clone().scaled(9), picture, "never larger");
        // Sizes that do not divide: every pixel has something, and the shape stays.
        for (wide, high, width) in [(7_u32, 5_u32, 3_u32), (1024, 1, 320), (3, 1000, 2), (1921, 1081, 16)] {
            let all = (wide * high * 3) as usize;
            let small = Picture { width: wide, height: high, rgb: vec![9; all] }.scaled(width);
            assert_eq!((small.width, small.height), (width, (high * width / wide).max(1)));
            assert_eq!(small.rgb, vec![9; (small.width * small.height * 3) as usize], "{wide}x{high}");
        }
    }
}
