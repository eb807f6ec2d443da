//! Patterns of file names as EnvironmentFile= accepts them, glob(7). Only the last part of a path may be a pattern
//! here.

use std::path::{Path, PathBuf};

use regex::Regex;

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    folder: PathBuf,
    name: Regex,
}

impl Pattern {
    /// Parses a path with wildcards. `None` for the path of a single file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str().filter(|name| name.contains(['*', '?', '[']))?;
        let mut text = String::new();
        let mut in_brackets = false;
        for letter in name.chars() {
            match letter {
                // A leading dot must be written out.
                '*' if text.is_empty() => text += "(?:[^.].*)?",
                '?' if text.is_empty() => text += "[^.]",
                '*' if !in_brackets => text += ".*",
                '?' if !in_brackets => text.push('.'),
                '!' if text.ends_with('[') => text.push('^'),
                '[' | ']' => {
                    in_brackets = letter == '[';
                    text.push(letter);
                }
                '-' if in_brackets => text.push('-'),
                _ => text += &regex::escape(letter.encode_utf8(&mut [0; 4])),
            }
        }
        let name = Regex::new(&format!("^{text}$")).ok()?;
        Some(Self { folder: path.parent()?.to_owned(), name })
    }

    pub(super) fn matches(&self, file: &Path) -> bool {
        let name = file.file_name().and_then(|name| name.to_str());
        file.parent() == Some(&self.folder) && name.is_some_and(|name| self.name.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_that_glob_finds() {
        let matches = |pattern: &str, file: &str| Pattern::of(Path::new(pattern)).unwrap().matches(Path::new(file));
        for pattern in ["/run/f/*.env", "/run/f/*", "/run/f/a.[a-f]nv", "/run/f/?.e*v", "/run/f/[!b].env"] {
            assert!(matches(pattern, "/run/f/a.env"), "{pattern}");
        }
        for (pattern, file) in [
            ("/run/f/*.env", "/run/f/a_env"),
            ("/run/f/*.env", "/run/g/a.env"),
            ("/run/f/*", "/run/f/.env"),
            ("/run/f/?env", "/run/f/.env"),
            ("/run/f/[!a].env", "/run/f/a.env"),
            ("/run/*.env", "/run/f/a.env"),
        ] {
            assert!(!matches(pattern, file), "{pattern} {file}");
        }
        assert!(Pattern::of(Path::new("/run/f/a.env")).is_none());
    }
}
