#![no_main]
//! JSON bodies: every refusal is a problem that is itself JSON and names its field.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::json::Fields;

fuzz_target!(|body: &[u8]| {
    let problems = match Fields::parse_or_empty(body) {
        Err(problem) => vec![problem],
        Ok(fields) => [
            fields.str("email").err(),
            fields.opt_bool("force").err(),
            fields.opt_u32_in("cpus", 1..=4).err(),
            fields.deny_unknown(&["email", "force", "cpus"]).err(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    for problem in problems {
        let read: serde_json::Value = serde_json::from_slice(&problem.to_json()).expect("a problem is JSON");
        assert_eq!(read["status"], problem.status);
        assert!(read["detail"].is_string());
    }
});
