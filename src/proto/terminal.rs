//! What a terminal sends by itself: answers to the programs that run in it, which are nobody's input.

/// True when `bytes` are such answers and nothing else: control sequences (ECMA-48 5.4) that end in `R` (where the cursor is, 8.3.14), `n` (how it
/// is, 8.3.35), `c` (what it is, 8.3.24) or `y` (DECRPM of DEC's terminals), control strings (5.6), and several of them.
///
/// Shift and F3 are the cursor's answer to the byte, and so are taken for one.
#[must_use]
pub fn is_report(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(after) = after_report(rest) {
        if after.is_empty() {
            return true;
        }
        rest = after;
    }
    false
}

/// What follows the answer that `bytes` begin with.
fn after_report(bytes: &[u8]) -> Option<&[u8]> {
    let ([0x1b, kind], rest) = bytes.split_first_chunk::<2>()? else { return None };
    match kind {
        b'[' => {
            // Parameters and intermediate bytes, then the final one.
            let length = rest.iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
            let (last, after) = rest.get(length..)?.split_first()?;
            matches!(last, b'R' | b'n' | b'c' | b'y').then_some(after)
        }
        // A device control string or an operating system command, to its string terminator or, as terminals do it, BEL.
        b'P' | b']' => {
            let length = rest.iter().position(|byte| matches!(byte, 0x07 | 0x1b))?;
            match rest.get(length..)? {
                [0x07, after @ ..] | [0x1b, b'\\', after @ ..] => Some(after),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_terminal_are_told_from_what_a_person_types() {
        for answer in [
            "\x1b[12;40R",
            "\x1b[0n",
            "\x1b[?1;2c",
            "\x1b[>0;276;0c",
            "\x1b[?2004;1$y",
            "\x1b]11;rgb:0000/0000/0000\x1b\\",
            "\x1b]10;rgb:ff/ff/ff\x07",
            "\x1bP1$r0m\x1b\\",
            "\x1b[1;1R\x1b[0n",
        ] {
            assert!(is_report(answer.as_bytes()), "{answer:?}");
        }
        for typed in [
            "",
            "a",
            "R",
            "\r",
            "\x1b",
            "\x1b[A",
            "\x1b[15~",
            "\x1bOP",
            "\x1b[",
            "\x1b]",
            "\x1bP",
            "\x1b[200~c\x1b[201~",
        ] {
            assert!(!is_report(typed.as_bytes()), "{typed:?}");
        }
        assert!(!is_report(b"\x1b[12;40Rls\r"), "both");
        assert!(!is_report(b"\x1b[<0;5;5M"), "a click");
    }
}
