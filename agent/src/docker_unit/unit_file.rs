//! The syntax of systemd's unit files and of files of EnvironmentFile=, systemd.syntax(7) and systemd.exec(5). Pure,
//! and lenient where systemd only warns.

/// One assignment of a unit file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) key: String,
    pub(super) value: String,
    /// Its first line, from 1.
    pub(super) line: usize,
}

/// All assignments in order. Sections are left out: no key that matters here has a meaning in two of them.
pub(super) fn directives(text: &str) -> Vec<Directive> {
    logical_lines(text)
        .into_iter()
        .filter_map(|(line, text)| {
            let (key, value) = text.split_once('=')?;
            Some(Directive { key: key.trim().to_owned(), value: value.trim().to_owned(), line })
        })
        .collect()
}

/// Variables of an EnvironmentFile, each with its line.
pub(super) fn variables(text: &str) -> Vec<(String, String, usize)> {
    logical_lines(text)
        .into_iter()
        .filter_map(|(line, text)| {
            // If the file is a shell script too, `export X=1` is an invalid name to systemd, and dockerd does not get
            // it.
            let (name, value) = text.split_once('=')?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let name = name.trim();
            let value = value.trim().trim_matches(['"', '\'']);
            name.bytes().all(is_name).then(|| (name.to_owned(), value.to_owned(), line))
        })
        .collect()
}

/// Lines without comments. A line that ends in a backslash is joined with the next one; a comment between them is
/// skipped.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.trim_start().starts_with(['#', ';']) || (!goes_on && line.trim().is_empty()) {
            continue;
        }
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, joined)) => *joined = format!("{joined} {}", part.trim()),
            None => lines.push((number + 1, part.trim().to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// The words of a value, without quotes.
pub(super) fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (_, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (' ' | '\t', None) => words.extend(word.take()),
            ('\\', _) => word.get_or_insert_default().extend(letters.next()),
            (_, Some(_) | None) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_systemd_joins_them() {
        let text = "# Requires=a\n[Unit]\n\n Requires = flanneld.service \\\n; in between\n  b.service\r\n;PartOf=c\nExecStart=";
        let read: Vec<_> = directives(text).into_iter().map(|one| (one.key, one.value, one.line)).collect();
        let expected = [("Requires", "flanneld.service  b.service", 4), ("ExecStart", "", 8)]
            .map(|(key, value, line)| (key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "), line));
        let read: Vec<_> = read
            .into_iter()
            .map(|(key, value, line)| (key, value.split_whitespace().collect::<Vec<_>>().join(" "), line))
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn words_lose_their_quotes_and_keep_their_blanks() {
        let read = words(r#"-/usr/bin/dockerd  "-H fd://" --label='a b' --bip=\"x ''"#);
        assert_eq!(read, ["-/usr/bin/dockerd", "-H fd://", "--label=a b", "--bip=\"x", ""]);
    }

    #[test]
    fn variables_are_those_that_systemd_takes() {
        let text = "\u{feff}# DOCKER_OPTS=no\nDOCKER_OPTS=\" --bip=10.5.9.1/24 \\\n --mtu=1450\"\n A = 'b'\nexport C=d\nno line\n";
        let read = variables(text);
        assert_eq!(read[0].0, "DOCKER_OPTS");
        assert_eq!(read[0].1.split_whitespace().collect::<Vec<_>>(), ["--bip=10.5.9.1/24", "--mtu=1450"]);
        assert_eq!(read[1], ("A".to_owned(), "b".to_owned(), 4));
        assert_eq!(read.len(), 2);
    }
}
