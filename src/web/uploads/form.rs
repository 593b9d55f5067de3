//! `POST /upload`: one file as `multipart/form-data`, with its fields before or behind it.

use super::{Wish, complete, discard, not_written, over_quota, pour, reserve};
use crate::db::uploads::UploadRow;
use crate::house::Cx;
use crate::net::body::{Buffer, Incoming};
use crate::net::response::Response;
use crate::proto::multipart::{Event, Form, FormError, Part};
use crate::proto::problem::Problem;
use crate::reactor::task::Cancel;
use crate::store::stage::Stage;
use crate::web::Req;
use serde_json::json;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Longest value of a field that is no file.
const FIELD_MAX: usize = 1024;
/// Fields that are read; others are passed over.
const FIELDS: [&str; 4] = ["format", "profile", "shared", "name"];

/// The form as it is taken apart; moves to the storing threads and back with each piece.
struct Taking {
    form: Form,
    stage: Stage,
    file: Option<String>,
    fields: BTreeMap<String, Vec<u8>>,
    now: Now,
}

/// What the part is that comes now.
enum Now {
    Nothing,
    File,
    Field(String),
    Other,
}

impl Taking {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let Self { form, stage, file, fields, now } = self;
        form.receive(bytes, |event| {
            match event {
                Event::Part(Part { filename: Some(name), .. }) => {
                    // A browser sends an input without a file as a file without a name.
                    *now = if name.is_empty() { Now::Other } else { Now::File };
                    if !name.is_empty() && file.replace(name).is_some() {
                        return Err(Problem::new(422, "two_files", "Send one file at a time."));
                    }
                }
                Event::Part(Part { name, .. }) if FIELDS.contains(&name.as_str()) => {
                    fields.insert(name.clone(), Vec::new());
                    *now = Now::Field(name);
                }
                Event::Part(_) => *now = Now::Other,
                Event::Data(data) => match now {
                    Now::File => stage.write(data).map_err(|e| not_written(&e))?,
                    Now::Field(name) => {
                        let value = fields.entry(name.clone()).or_default();
                        if value.len() + data.len() > FIELD_MAX {
                            return Err(Problem::unprocessable(name, "is too long"));
                        }
                        value.extend_from_slice(data);
                    }
                    Now::Nothing | Now::Other => {}
                },
                Event::PartEnd | Event::End => *now = Now::Nothing,
            }
            Ok(())
        })
    }

    fn field(&self, name: &str) -> Option<String> {
        self.fields.get(name).map(|value| String::from_utf8_lossy(value).trim().to_owned())
    }
}

impl From<FormError> for Problem {
    fn from(error: FormError) -> Self {
        match error {
            FormError::NoBoundary => Self::new(415, "form_expected", error.to_string()),
            _ => Self::bad_request("bad_form", error.to_string()),
        }
    }
}

/// The story of a form.
pub async fn form(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let kind = req.head.headers.get("content-type").unwrap_or_default();
    let form = Form::new(kind)?;
    let incoming = req.incoming.as_ref().ok_or_else(no_file)?;
    let (size, open_end) = incoming.length().map_or((i64::MAX as u64, true), |length| (length, false));
    // The fields may come behind the file: who asks for what is known at the end.
    let unknown = Wish::new(&cx, &req, "upload", |_| None)?;
    let (row, stage) = reserve(&cx, &req, unknown, (size, open_end), None).await?;
    let taking = Taking { form, stage, file: None, fields: BTreeMap::new(), now: Now::Nothing };
    let outcome = take(&cx, &req, incoming, taking, &row).await;
    discard(&cx, &row).await;
    match outcome {
        // Its length was not told, so what was left of the quota was the most it could have.
        Err(problem) if open_end && problem.code == "too_long" => Err(over_quota(0)),
        outcome => outcome,
    }
}

fn no_file() -> Problem {
    Problem::new(422, "no_file", "The form has no file in it. Choose one, or name it as in curl -F file=@image.iso.")
}

async fn take(
    cx: &Cx,
    req: &Rc<Req>,
    incoming: &Incoming,
    taking: Taking,
    row: &UploadRow,
) -> Result<Response, Problem> {
    let feed = |taking: &mut Taking, buffer: &Buffer| taking.receive(buffer.filled());
    let (taking, came) = pour(cx, incoming, (&row.id, &Cancel::default()), taking, feed).await?;
    came?;
    taking.form.finish()?;
    let given = taking.file.clone().ok_or_else(no_file)?;
    let name = taking.field("name").filter(|name| !name.is_empty()).unwrap_or(given);
    let wish = Wish::new(cx, req, &name, |field| taking.field(field))?;
    let size = taking.stage.length();
    let row = UploadRow {
        name: wish.name,
        format: wish.format.to_string(),
        profile: wish.profile,
        shared: wish.shared,
        size,
        ..row.clone()
    };
    let sha256 = complete(cx, req, &row, taking.stage).await?;
    Ok(Response::json(201, &json!({ "iso": { "name": row.name, "size": size, "sha256": sha256 } })))
}
