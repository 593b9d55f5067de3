use super::*;
use proptest::prelude::*;

/// Parts with their bytes; `None` is the form's end.
type Parts = Vec<(Option<Part>, Vec<u8>)>;

/// What a form tells, with the pieces of a part's bytes joined.
fn told(content_type: &str, pieces: &[&[u8]]) -> Result<Parts, FormError> {
    let mut form = Form::new(content_type)?;
    let mut parts = Parts::new();
    let mut open = false;
    for piece in pieces {
        form.receive(piece, |event| {
            match event {
                Event::Part(part) => {
                    assert!(!open, "a part within a part");
                    open = true;
                    parts.push((Some(part), Vec::new()));
                }
                Event::Data(data) => {
                    assert!(open && !data.is_empty());
                    parts.last_mut().unwrap().1.extend_from_slice(data);
                }
                Event::PartEnd => open = false,
                Event::End => parts.push((None, Vec::new())),
            }
            Ok::<(), FormError>(())
        })?;
    }
    form.finish()?;
    Ok(parts)
}

const TYPE: &str = "multipart/form-data; boundary=AaB03x";

fn file(name: &str, filename: &str, bytes: &[u8]) -> (Option<Part>, Vec<u8>) {
    (Some(Part { name: name.into(), filename: Some(filename.into()) }), bytes.to_vec())
}

#[test]
fn a_browsers_form_gives_its_fields_and_files() {
    let body = b"ignored\r\n--AaB03x\r\nContent-Disposition: form-data; name=\"format\"\r\n\r\niso\r\n\
        --AaB03x  \r\ncontent-disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".iso\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n\r\n--AaB03\r\n\r\n--\r\n--AaB03x--trailing\r\n--AaB03x\r\n";
    let field = (Some(Part { name: "format".into(), filename: None }), b"iso".to_vec());
    let expected = vec![field, file("file", "a \"b\".iso", b"\r\n--AaB03\r\n\r\n--"), (None, Vec::new())];
    assert_eq!(told(TYPE, &[body]), Ok(expected));
}

#[test]
fn an_empty_file_is_empty_with_and_without_a_line_of_its_own() {
    for body in [
        &b"--AaB03x\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n\r\n--AaB03x--"[..],
        b"--AaB03x\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n--AaB03x--\r\n",
    ] {
        assert_eq!(told(TYPE, &[body]), Ok(vec![file("f", "x", b""), (None, Vec::new())]));
    }
}

#[test]
fn file_names_are_read_in_each_way_clients_write_them() {
    for (params, name) in [
        ("filename=plain.iso", "plain.iso"),
        ("filename=\"two words.iso\"", "two words.iso"),
        ("filename=\"C:\\isos\\x.iso\"", "C:\\isos\\x.iso"),
        ("filename=\"fallback.iso\"; filename*=UTF-8''na%C3%AFve.iso", "na\u{ef}ve.iso"),
        ("filename*=iso-8859-1'en'na%EFve.iso; filename=x", "na\u{ef}ve.iso"),
        ("filename*=klingon''x; filename=\"y.iso\"", "y.iso"),
        ("filename=\"semi;colon=\".iso", "semi;colon="),
    ] {
        let body = format!("--AaB03x\r\nContent-Disposition: form-data; name=f; {params}\r\n\r\nx\r\n--AaB03x--");
        assert_eq!(told(TYPE, &[body.as_bytes()]).unwrap()[0], file("f", name, b"x"), "{params}");
    }
}

#[test]
fn what_is_no_form_is_refused_with_the_reason() {
    let header = "--AaB03x\r\nContent-Disposition: form-data; name=f\r\n";
    let cases: [(&str, String, FormError); 8] = [
        ("application/json", String::new(), FormError::NoBoundary),
        ("multipart/form-data", String::new(), FormError::NoBoundary),
        ("multipart/form-data; boundary=\"a\rb\"", String::new(), FormError::NoBoundary),
        (TYPE, "--AaB03xy\r\n".into(), FormError::BadDelimiter),
        (TYPE, "--AaB03x\r\nContent-Type: text/plain\r\n\r\nx\r\n--AaB03x--".into(), FormError::NoName),
        (TYPE, format!("{header}Content-Transfer-Encoding: base64\r\n\r\n"), FormError::Encoded),
        (TYPE, format!("{header}X: {}", "x".repeat(FIELDS_MAX)), FormError::FieldsTooLong),
        (TYPE, format!("{header}\r\nbytes\r\n--AaB03x"), FormError::Truncated),
    ];
    for (kind, body, error) in cases {
        assert_eq!(told(kind, &[body.as_bytes()]), Err(error), "{body}");
    }
    let many = format!("{header}\r\n\r\n").repeat(PARTS_MAX + 1) + "--AaB03x--";
    assert_eq!(told(TYPE, &[many.as_bytes()]), Err(FormError::TooManyParts));
}

proptest! {
    #[test]
    fn any_bytes_come_through_however_they_are_cut(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'a'), any::<u8>()], 0..300),
        cuts in proptest::collection::vec(0..600usize, 0..8),
    ) {
        // Two dashes and one letter: the bytes often come near to it.
        let kind = "multipart/form-data; boundary=-a";
        prop_assume!(!bytes.windows(6).any(|w| w == b"\r\n---a") && !bytes.starts_with(b"---a"));
        let head = b"---a\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n";
        let body = [&head[..], &bytes, b"\r\n---a--\r\n"].concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &body[w[0]..w[1]]).collect();
        prop_assert_eq!(told(kind, &pieces), Ok(vec![file("f", "x", &bytes), (None, Vec::new())]));
    }

    #[test]
    fn no_input_makes_it_panic_and_no_cut_changes_what_it_says(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'A'), Just(b':'), any::<u8>()], 0..200),
        cut in 0..200usize,
    ) {
        let kind = "multipart/form-data; boundary=A";
        let cut = cut.min(bytes.len());
        prop_assert_eq!(told(kind, &[&bytes]), told(kind, &[&bytes[..cut], &bytes[cut..]]));
    }
}
