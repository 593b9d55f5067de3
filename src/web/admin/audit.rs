//! `GET /admin/audit`: who did what, from where.

use crate::db::events;
use crate::house::Cx;
use crate::net::response::Response;
use crate::proto::problem::Problem;
use crate::web::Req;
use crate::web::paging;
use serde_json::{Value, json};
use std::rc::Rc;

/// `GET /admin/audit?q&limit&before`: newest first.
pub async fn list(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let query = req.query()?;
    let (limit, words) = (paging::limit(&query)?, paging::words(&query)?);
    let before = paging::before(&query)?;
    let rows = cx.db(events::audited(&cx.db, words, limit, before)).await?;
    let next = rows.last().map(|row| row.id).filter(|_| i64::try_from(rows.len()) == Ok(limit));
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id,
                "at": crate::web::time(row.at),
                "user": row.user_login,
                "ip": row.ip,
                "action": row.action,
                "target": row.target,
                "detail": row.detail,
            })
        })
        .collect();
    Ok(Response::json(200, &json!({ "audit": shown, "next": next })))
}
