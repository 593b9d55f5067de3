//! The oracles, written once: a parser must tell the same of the same bytes however they are cut.

/// Takes cut points off the front of the fuzzer's input: a count, then so many bytes; the rest is what is parsed.
pub fn cuts(data: &[u8]) -> (Vec<usize>, &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return (Vec::new(), data) };
    let count = usize::from(count % 8).min(rest.len());
    let (points, input) = rest.split_at(count);
    let mut points: Vec<usize> = points.iter().map(|&p| usize::from(p) * (input.len() + 1) / 256).collect();
    points.push(input.len());
    points.sort_unstable();
    (points, input)
}

/// Feeds `input` whole and cut; `play` gets the pieces and returns all that was told.
pub fn split_invariant<T: PartialEq + std::fmt::Debug>(data: &[u8], play: impl Fn(&[&[u8]]) -> T) {
    let (points, input) = cuts(data);
    let whole = play(&[input]);
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in points {
        pieces.push(&input[from..to]);
        from = to;
    }
    assert_eq!(play(&pieces), whole, "cut into {} pieces", pieces.len());
}
