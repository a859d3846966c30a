//! Results of the replication protocol's commands: a few short rows of text.

use std::str::FromStr;

use super::error::{Error, Result};
use super::messages;

/// One row, taken out of the stream's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    server: String,
    columns: Vec<Option<Vec<u8>>>,
}

impl Row {
    /// Reads the body of a DataRow that `server` sent.
    pub fn read(body: &[u8], server: &str) -> Result<Self> {
        let columns = messages::columns(body).map_err(|_| Error::Protocol {
            server: server.to_owned(),
            found: "a malformed row".to_owned(),
        })?;
        let columns = columns.into_iter().map(|column| column.map(<[u8]>::to_vec)).collect();
        Ok(Self { server: server.to_owned(), columns })
    }

    /// The bytes of a column; `None` is SQL's null.
    pub fn bytes(&self, column: usize) -> Result<Option<&[u8]>> {
        match self.columns.get(column) {
            Some(bytes) => Ok(bytes.as_deref()),
            None => Err(self.protocol(format!("a row of {} columns", self.columns.len()))),
        }
    }

    /// A column's value; `None` is SQL's null.
    pub fn optional<T: FromStr>(&self, column: usize, what: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(column)? else { return Ok(None) };
        let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
        let found = || format!("\"{}\" as {what}", String::from_utf8_lossy(bytes));
        parsed.map(Some).ok_or_else(|| self.protocol(found()))
    }

    pub fn value<T: FromStr>(&self, column: usize, what: &str) -> Result<T> {
        self.optional(column, what)?.ok_or_else(|| self.protocol(format!("null as {what}")))
    }

    pub fn protocol(&self, found: String) -> Error {
        Error::Protocol { server: self.server.clone(), found }
    }
}
