//! A connection with its prepared statements: each statement of `sql/` is prepared once a connection.

use super::Error;
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use std::collections::HashMap;

/// Parameters of a statement.
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// See the file's page.
pub struct Conn {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

impl Conn {
    /// Wraps a fresh connection.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, statements: HashMap::new() }
    }

    /// The bare client, for what is no statement of `sql/`.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// True when the connection is gone: asked of the client, because an error does not tell.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn statement(&mut self, sql: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// All rows.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn query(&mut self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let statement = self.statement(sql)?;
        Ok(self.client.query(&statement, params)?)
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn query_opt(&mut self, sql: &'static str, params: Params<'_>) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// How many rows changed.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn execute(&mut self, sql: &'static str, params: Params<'_>) -> Result<u64, Error> {
        let statement = self.statement(sql)?;
        Ok(self.client.execute(&statement, params)?)
    }

    /// Runs `steps` in one transaction: all of it, or nothing when it fails or breaks off.
    ///
    /// # Errors
    /// The steps', or PostgreSQL's.
    pub fn atomically<T, E: From<Error>>(&mut self, steps: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        self.client.batch_execute("begin").map_err(Error::from)?;
        match steps(self) {
            Ok(value) => {
                self.client.batch_execute("commit").map_err(Error::from)?;
                Ok(value)
            }
            Err(error) => {
                // A connection that is lost has rolled back by itself.
                let _ = self.client.batch_execute("rollback");
                Err(error)
            }
        }
    }
}
