//! What can end a command, in words for the person at the terminal.

/// Messages are lower case, without a final period, and name the thing that failed. What to do about it is in
/// [`Error::hint`]; how the process ends is in [`Error::exit_code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Interrupted(#[from] crate::interrupt::Interrupted),

    #[error(transparent)]
    Storage(#[from] crate::storage::Error),
}

impl Error {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Interrupted(_) => None,
            Self::Storage(error) => error.hint(),
        }
    }

    /// Listed in each command's help; scripts rely on these numbers.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted(interrupted) => 128 + interrupted.signal as u8,
            Self::Storage(_) => 1,
        }
    }
}
