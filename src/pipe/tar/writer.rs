//! Writing files whose size is known before their contents are.

use std::io::{self, Write};

use super::{BLOCK_SIZE, padding};

const ZEROS: [u8; 2 * BLOCK_SIZE] = [0; 2 * BLOCK_SIZE];

/// Writes a tar of plain files. What is written to it are the contents of the file that was begun last.
#[derive(Debug)]
#[must_use = "a tar that is not finished lacks its end"]
pub struct TarWriter<W: Write> {
    inner: W,
    /// How much the present file still needs.
    left: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// Begins a file of `size_bytes`, which PostgreSQL's user owns where there is one. The file before it must be
    /// complete. `mtime` counts seconds since 1970.
    pub fn begin_file(&mut self, path: &str, size_bytes: u64, mode: u32, mtime: u64) -> io::Result<()> {
        self.end_file()?;
        let mut header = tar::Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(size_bytes);
        header.set_mode(mode);
        header.set_mtime(mtime);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("postgres")?;
        header.set_groupname("postgres")?;
        header.set_cksum();
        self.inner.write_all(header.as_bytes())?;
        (self.left, self.padding) = (size_bytes, padding(size_bytes));
        Ok(())
    }

    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// How many bytes of the present file's contents are still to come.
    pub fn left_bytes(&self) -> u64 {
        self.left
    }

    /// Fills the rest of the present file with zeros, as PostgreSQL does with a segment that it has begun.
    pub fn fill_with_zeros(&mut self) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), self.left), self).map(drop)
    }

    /// Completes the archive, and hands back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_file()?;
        self.inner.write_all(&ZEROS)?;
        Ok(self.inner)
    }

    fn end_file(&mut self) -> io::Result<()> {
        if self.left > 0 {
            let left = self.left;
            return Err(io::Error::other(format!("{left} bytes of a file in the tar were not written")));
        }
        let padding = std::mem::take(&mut self.padding);
        self.inner.write_all(&ZEROS[..padding])
    }
}

impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 && !bytes.is_empty() {
            return Err(io::Error::other("more was written to a file in the tar than its size"));
        }
        let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let count = self.inner.write(&bytes[..count])?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn gnu_tar_lists_what_was_written() {
        let mut writer = TarWriter::new(Vec::new());
        writer.begin_file("000000010000000000000001", 1000, 0o600, 86_400).unwrap();
        writer.write_all(b"begun").unwrap();
        assert_eq!(writer.left_bytes(), 995);
        writer.fill_with_zeros().unwrap();
        writer.begin_file("archive_status/000000010000000000000001.done", 0, 0o600, 0).unwrap();
        let archive = writer.finish().unwrap();
        assert_eq!(archive.len(), 512 + 1024 + 512 + 1024);

        let mut tar = Command::new("tar")
            .args(["-tv", "--utc", "--full-time"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        let listing = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<_> = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        let name = "000000010000000000000001";
        assert_eq!(lines[0], ["-rw-------", "postgres/postgres", "1000", "1970-01-02", "00:00:00", name]);
        assert_eq!(lines[1].last(), Some(&"archive_status/000000010000000000000001.done"));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn contents_must_have_the_size_that_was_named() {
        let mut writer = TarWriter::new(Vec::new());
        writer.begin_file("a", 3, 0o600, 0).unwrap();
        writer.write_all(b"ab").unwrap();
        assert!(writer.begin_file("b", 1, 0o600, 0).is_err());
        assert!(writer.write_all(b"cd").is_err());
        writer.finish().unwrap();
    }
}
