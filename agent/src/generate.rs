//! Man pages and completions, generated from the flags: `wire-agent generate`, for makers of packages.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{cli::Cli, exit::Exit};

/// Writes `man/*.8` and `completions/{bash,zsh,fish}` into a folder.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn run(folder: &Path) -> Result<(), Exit> {
    let written = pages(&folder.join("man")).and_then(|()| completions(&folder.join("completions")));
    written.map_err(|source| Exit::Generate { folder: folder.to_owned(), source })
}

fn pages(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut agent = Cli::command();
    agent.build();
    page(&agent, agent.get_name(), folder)
}

/// A page for a command, and for each of its own.
fn page(command: &Command, name: &str, folder: &Path) -> io::Result<()> {
    // clap needs a static name. The leak is small: one name for each command.
    let titled = command.clone().name(&*String::leak(name.to_owned()));
    let mut page = Vec::new();
    Man::new(titled).section("8").manual("wire-agent").render(&mut page)?;
    fs::write(folder.join(format!("{name}.8")), page)?;
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set());
    visible.into_iter().try_for_each(|command| self::page(command, &format!("{name}-{}", command.get_name()), folder))
}

fn completions(folder: &Path) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let folder: PathBuf = folder.join(shell.to_string());
        fs::create_dir_all(&folder)?;
        clap_complete::generate_to(shell, &mut Cli::command(), "wire-agent", folder)?;
    }
    Ok(())
}
