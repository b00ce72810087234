//! Figures: what was measured in each round, told as a table, as `figures.json` and as plots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plot::{self, Bar};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One figure, with a value for each round.
#[derive(Debug)]
pub(crate) struct Figure {
    name: &'static str,
    unit: &'static str,
    goal: f64,
    better: Better,
    what: &'static str,
    values: Vec<f64>,
}

impl Figure {
    pub(crate) fn says(&mut self, what: &'static str) {
        self.what = what;
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    directory: PathBuf,
    figures: Vec<Figure>,
    server: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    median: f64,
    min: f64,
    max: f64,
    unit: String,
    goal: f64,
    better: Better,
    what: String,
    /// Version of PostgreSQL.
    server: String,
}

impl Report {
    pub(crate) fn new(directory: &Path, server: &str) -> Report {
        std::fs::create_dir_all(directory).unwrap();
        Report { directory: directory.to_path_buf(), figures: Vec::new(), server: server.to_owned() }
    }

    #[expect(clippy::unused_self, reason = "figures are begun here and taken back when they are measured")]
    pub(crate) fn figure(&self, name: &'static str, unit: &'static str, goal: f64, better: Better) -> Figure {
        Figure { name, unit, goal, better, what: "", values: Vec::new() }
    }

    pub(crate) fn take(&mut self, figures: impl IntoIterator<Item = Figure>) {
        self.figures.extend(figures.into_iter().filter(|figure| !figure.values.is_empty()));
        // What a later part may break is not lost.
        self.write_figures();
    }

    /// Writes a plot beside the figures.
    pub(crate) fn plot(&self, name: &str, svg: &str) {
        std::fs::write(self.directory.join(format!("{name}.svg")), svg).unwrap();
    }

    /// Prints the table and draws the figures beside their goals.
    pub(crate) fn finish(&self) {
        println!(
            "\n{:<26} {:>10} {:>10} {:>10}  {:<6} {:>10}",
            "figure", "min", "median", "max", "unit", "goal"
        );
        for figure in &self.figures {
            let [min, median, max] = [0.0, 0.5, 1.0].map(|at| quantile(&figure.values, at));
            let sign = if figure.better == Better::Higher { ">=" } else { "<=" };
            println!(
                "{:<26} {min:>10.2} {median:>10.2} {max:>10.2}  {:<6} {sign} {:>7}",
                figure.name, figure.unit, figure.goal
            );
        }
        let all = self.write_figures();
        self.draw(&all);
        println!("\nfigures.json and plots are in {}", self.directory.display());
    }

    fn write_figures(&self) -> BTreeMap<String, serde_json::Value> {
        let file = self.directory.join("figures.json");
        // Other parts and other programs have their figures there.
        let mut all: BTreeMap<String, serde_json::Value> =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        for figure in &self.figures {
            let [min, median, max] = [0.0, 0.5, 1.0].map(|at| quantile(&figure.values, at));
            let shown = Shown {
                median,
                min,
                max,
                unit: figure.unit.to_owned(),
                goal: figure.goal,
                better: figure.better,
                what: figure.what.to_owned(),
                server: self.server.clone(),
            };
            all.insert(figure.name.to_owned(), serde_json::to_value(&shown).unwrap());
        }
        std::fs::write(&file, serde_json::to_string_pretty(&all).unwrap()).unwrap();
        all
    }

    /// Two plots: ratios as they are, and everything else in shares of its goal.
    fn draw(&self, all: &BTreeMap<String, serde_json::Value>) {
        let (mut ratios, mut shares) = (Vec::new(), Vec::new());
        for (name, value) in all {
            // Figures of other programs may lack something.
            let Ok(shown) = serde_json::from_value::<Shown>(value.clone()) else { continue };
            let sign = if shown.better == Better::Higher { "≥" } else { "≤" };
            let ratio = shown.unit == "ratio";
            let of = if ratio { 1.0 } else { shown.goal };
            let unit = if ratio { String::new() } else { format!(" {}", shown.unit) };
            let bar = Bar {
                label: name.clone(),
                min: shown.min / of,
                median: shown.median / of,
                max: shown.max / of,
                goal: shown.goal / of,
                note: format!("{}{unit} ({sign} {})", rounded(shown.median), shown.goal),
            };
            if ratio { ratios.push(bar) } else { shares.push((shown.better, bar)) }
        }
        if !ratios.is_empty() {
            self.plot("ratios", &plot::bars("Ratios measured turn by turn", "ratio", &ratios));
        }
        for (better, name, title) in [
            (Better::Lower, "at-most", "Figures that should be small, as shares of the most they may be"),
            (
                Better::Higher,
                "at-least",
                "Figures that should be large, as shares of the least they should be",
            ),
        ] {
            let bars: Vec<Bar> =
                shares.extract_if(.., |(found, _)| *found == better).map(|(_, bar)| bar).collect();
            if !bars.is_empty() {
                self.plot(name, &plot::bars(title, "share of the goal", &bars));
            }
        }
    }
}

fn rounded(number: f64) -> String {
    if number.abs() >= 100.0 { format!("{number:.0}") } else { format!("{number:.2}") }
}

/// The nearest rank; 0.5 is the median.
pub(crate) fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among a few thousand"
    )]
    let rank = ((sorted.len() as f64 * at).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}
