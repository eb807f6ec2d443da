//! Standard output and standard error. If the reader ends early, like `head -1`, the command still completes. The
//! macros of the standard library panic then, and clippy refuses them in this crate.

use std::{
    fmt,
    io::{self, Write},
};

use crate::exit::Exit;

/// Prints a line about a step that was done. The line is lost if nobody reads the output.
pub(crate) fn report(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The same on standard error.
pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints the answer of a command. A reader that ends early is no error.
///
/// # Errors
/// [`Exit::Stdout`] if the write fails for another reason, such as a full disk.
pub(crate) fn answer(text: &str) -> Result<(), Exit> {
    answered(io::stdout().lock(), text)
}

fn answered(mut reader: impl Write, text: &str) -> Result<(), Exit> {
    match reader.write_all(text.as_bytes()).and_then(|()| reader.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Exit::Stdout(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing, for this reason.
    struct Refuses(io::ErrorKind);

    impl Write for Refuses {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
        assert!(answered(Refuses(io::ErrorKind::BrokenPipe), "ready\n").is_ok());
        let full = answered(Refuses(io::ErrorKind::StorageFull), "ready\n").unwrap_err();
        assert_eq!(full.status(), 73);
        assert!(full.report().starts_with("cannot write to standard output: "), "{full}");
    }
}
