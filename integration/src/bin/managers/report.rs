//! Collects figures and prints them, one line a measurement, with the ratio of the minima.

use knarr_integration::{Value, json};

use crate::daemons::{Daemon, Kind};

/// All figures, in the order in which they came up.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

#[derive(Debug)]
struct Row {
    what: String,
    values: [Vec<f64>; 2],
}

impl Report {
    /// Adds one figure.
    pub fn add(&mut self, what: &str, daemon: &Daemon<'_>, value: f64) {
        let found = self.0.iter().position(|row| row.what == what);
        let at = found.unwrap_or_else(|| {
            self.0.push(Row {
                what: what.to_owned(),
                values: Default::default(),
            });
            self.0.len() - 1
        });
        let side = Kind::ALL.iter().position(|kind| *kind == daemon.kind);
        self.0[at].values[side.unwrap()].push(value);
    }

    /// Prints the table.
    pub fn print(&self) {
        println!(
            "{:44} {:>21} {:>21} {:>7}",
            "minimum (median)",
            Kind::Containerd.name(),
            Kind::Knarrd.name(),
            "ratio"
        );
        for row in &self.0 {
            let [theirs, ours] = row.values.each_ref().map(|values| spread(values));
            println!(
                "{:44} {:>10.3} {:>10} {:>10.3} {:>10} {:>7.3}",
                row.what,
                theirs.0,
                format!("({:.3})", theirs.1),
                ours.0,
                format!("({:.3})", ours.1),
                ours.0 / theirs.0
            );
        }
    }

    /// The same for programs.
    pub fn json(&self) -> String {
        let rows = self.0.iter().map(|row| {
            let [theirs, ours] = &row.values;
            json!({"what": row.what, "containerd": theirs, "knarrd": ours})
        });
        Value::Array(rows.collect()).to_string()
    }
}

/// The smallest and the middle one.
fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(sorted.len() / 2))
}
