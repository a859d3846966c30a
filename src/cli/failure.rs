//! What ends a command early, whoever found it, in one line and a hint.

use std::error::Error;
use std::io;

use crate::config::ConfigError;
use crate::ops;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Usage { message: String, hint: String },

    #[error(transparent)]
    Config(#[from] ConfigError),

    #[error(transparent)]
    Operation(#[from] ops::Error),

    #[error("could not write to the standard output: {0}")]
    Output(io::Error),
}

impl Failure {
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => Some(hint.clone()),
            Self::Config(error) => error.hint(),
            Self::Operation(error) => error.hint(),
            Self::Output(_) => None,
        }
    }
}

/// The message of `error` and of what caused it, as one line. A cause that the message already tells is left out.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layer(text: &'static str, source: Option<Layer>) -> Layer {
        Layer { text, source: source.map(Box::new) }
    }

    #[test]
    fn causes_are_told_once_and_on_one_line() {
        let root = layer("permission denied", None);
        let told = layer("could not open x: permission denied", Some(root));
        let top = layer("no backup\n  was taken", Some(told));
        assert_eq!(one_line(&top), "no backup was taken: could not open x: permission denied");
    }
}
