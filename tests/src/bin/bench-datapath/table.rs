//! The figures as tables.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    contestant::Contestant, frames::Frames, marks::RATIOS, measure::Figure, samples::Samples, verdicts::Verdict,
};

/// The medians of all figures that were measured on such frames, and the ratios of them.
pub(crate) fn of(samples: &Samples, frames: Frames, contestants: &[Contestant]) -> Table {
    let ratios: Vec<_> = RATIOS.iter().filter(|ratio| ratio.iter().all(|one| contestants.contains(one))).collect();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let heads = ratios.iter().map(|[of, to]| format!("{of}\n/ {to}"));
    let names = contestants.iter().map(ToString::to_string);
    table.set_header([frames.to_string(), "unit".to_owned()].into_iter().chain(names).chain(heads));
    for figure in Figure::ALL {
        let medians: Vec<_> = contestants.iter().map(|one| samples.median(frames, figure, *one)).collect();
        if medians.iter().all(Option::is_none) {
            continue;
        }
        let (name, unit) = figure.describe();
        let medians = medians.into_iter().map(|median| median.map(three_digits).unwrap_or_default());
        let ratios = ratios.iter().map(|ratio| samples.ratio(frames, figure, **ratio));
        let ratios = ratios.map(|ratio| ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default());
        table.add_row([name.to_owned(), unit.to_owned()].into_iter().chain(medians).chain(ratios));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What became of the packets that were sent for verdicts.
pub(crate) fn of_verdicts(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["sent", "over", "verdict", "as expected"]);
    for Verdict { family, packet, seen, expected, .. } in verdicts {
        let expected = if seen == expected { "yes".to_owned() } else { format!("no: {expected}") };
        table.add_row([packet, family, seen, &expected]);
    }
    table
}

/// As many digits behind the point as make about three in all.
fn three_digits(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.digits$}")
}
