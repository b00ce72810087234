//! Figures: what was measured in each round, told as a table and as `figures.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

#[derive(Debug, Clone, Copy, Serialize)]
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

#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Shown {
    median: f64,
    min: f64,
    max: f64,
    unit: &'static str,
    goal: f64,
    better: Better,
    what: &'static str,
}

impl Report {
    #[expect(clippy::unused_self, reason = "figures are begun here and taken back when they are measured")]
    pub(crate) fn figure(&self, name: &'static str, unit: &'static str, goal: f64, better: Better) -> Figure {
        Figure { name, unit, goal, better, what: "", values: Vec::new() }
    }

    pub(crate) fn take(&mut self, figures: impl IntoIterator<Item = Figure>) {
        self.figures.extend(figures.into_iter().filter(|figure| !figure.values.is_empty()));
    }

    /// Prints the table and writes `figures.json`.
    pub(crate) fn write(&self, directory: &Path) {
        println!(
            "\n{:<24} {:>10} {:>10} {:>10}  {:<6} {:>10}",
            "figure", "min", "median", "max", "unit", "goal"
        );
        let file = directory.join("figures.json");
        // Other parts and other programs have their figures there.
        let mut all: BTreeMap<String, serde_json::Value> =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        for figure in &self.figures {
            let shown = Shown {
                median: quantile(&figure.values, 0.5),
                min: quantile(&figure.values, 0.0),
                max: quantile(&figure.values, 1.0),
                unit: figure.unit,
                goal: figure.goal,
                better: figure.better,
                what: figure.what,
            };
            let sign = if matches!(figure.better, Better::Higher) { ">=" } else { "<=" };
            println!(
                "{:<24} {:>10.2} {:>10.2} {:>10.2}  {:<6} {sign} {:>7}",
                figure.name, shown.min, shown.median, shown.max, shown.unit, shown.goal
            );
            all.insert(figure.name.to_owned(), serde_json::to_value(&shown).unwrap());
        }
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(&file, serde_json::to_string_pretty(&all).unwrap()).unwrap();
        println!("\nwritten to {}", file.display());
    }
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
