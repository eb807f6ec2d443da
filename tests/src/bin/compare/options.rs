//! The command line.

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: compare --base COMMIT [--today COMMIT] [--only NAME]...
       compare --list

Runs two agents, one after the other, through each scene and says in what their records differ. The binaries are those of
tests/agent-of-commit; without --today the second one is the one built beside this program.

  --only NAME   this scene alone; may be repeated
  --list        print the scenes

Exit status: 0 nothing differs, 1 something does, 2 a scene could not be played or its record lacks what it is about.";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Show the usage.
    Help,
    /// Print the scenes.
    List,
    /// Compare.
    Run(Options),
}

/// What to compare.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The commit of the first agent, as its folder is called.
    pub(crate) base: String,
    /// The commit of the second agent; `None`: what was built beside this program.
    pub(crate) today: Option<String>,
    /// The scenes; none named are all.
    pub(crate) only: Vec<String>,
}

impl Task {
    /// Reads the words after the program's name; the error is for the person who wrote them.
    pub(crate) fn from_arguments(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options::default();
        let mut words = words.flat_map(|word| word.split('=').map(str::to_owned).collect::<Vec<_>>());
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("compare: {word} wants a value\n{USAGE}"));
            match word.as_str() {
                "-h" | "--help" => return Ok(Self::Help),
                "--list" => return Ok(Self::List),
                "--base" => options.base = value()?,
                "--today" => options.today = Some(value()?),
                "--only" => options.only.push(value()?),
                other => return Err(format!("compare: no option is called {other:?}\n{USAGE}")),
            }
        }
        if options.base.is_empty() {
            return Err(format!("compare: which commit? --base is missing\n{USAGE}"));
        }
        Ok(Self::Run(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_to_compare_and_nothing_else() {
        let task = |line: &str| Task::from_arguments(line.split_whitespace().map(str::to_owned));
        let options = |today: Option<&str>, only: &[&str]| {
            let only = only.iter().map(|name| (*name).to_owned()).collect();
            Ok(Task::Run(Options { base: "abc".to_owned(), today: today.map(str::to_owned), only }))
        };
        assert_eq!(task("--base abc"), options(None, &[]));
        assert_eq!(task("--base=abc --today abc --only drain --only=leave"), options(Some("abc"), &["drain", "leave"]));
        assert_eq!(task("--list"), Ok(Task::List));
        for wrong in ["", "--only drain", "--base", "--base abc --only", "--bass abc"] {
            assert!(task(wrong).is_err(), "{wrong}");
        }
    }
}
