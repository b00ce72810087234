//! Plots as SVG: bars with their spread beside a goal, histograms on a logarithmic scale, lines. They are readable on a
//! light page and on a dark one. It must not know what it draws.

use std::fmt::Write as _;

use crate::report::quantile;

const WIDTH: f64 = 760.0;
const TOP: f64 = 46.0;
/// Where labels end and drawing begins.
const LEFT: f64 = 210.0;
const RIGHT: f64 = 130.0;
const BOTTOM: f64 = 42.0;
/// Without a word of the reader's, colours that can be seen on white and on black.
const STYLE: &str = "text{fill:#6e7781;font:12px system-ui,sans-serif}.title{font-size:15px;font-weight:600}\
    .axis{stroke:#8c959f;stroke-width:1}.grid{stroke:#8c959f;stroke-opacity:.25}.bar{fill:#388bfd;fill-opacity:.75}\
    .spread{stroke:#6e7781;stroke-width:1.5}.goal{stroke:#d4720b;stroke-width:2.5}.line{fill:none;stroke-width:2}\
    .s0{stroke:#388bfd}.s1{stroke:#d4720b}.s2{stroke:#2da44e}.d0{fill:#388bfd}.d1{fill:#d4720b}.d2{fill:#2da44e}\
    @media(prefers-color-scheme:dark){text{fill:#c9d1d9}}@media(prefers-color-scheme:light){text{fill:#24292f}}";

/// A figure of several rounds beside its goal.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) goal: f64,
    /// What stands behind the bar.
    pub(crate) note: String,
}

/// Horizontal bars to the median, a whisker from min to max, a mark at the goal.
pub(crate) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 30.0;
    let height = TOP + ROW * count(bars.len()) + BOTTOM;
    let most = bars.iter().fold(0.0_f64, |most, bar| most.max(bar.max).max(bar.goal)).max(1e-9) * 1.05;
    let mut svg = Svg::new(title, height);
    let x = Scale { from: 0.0, to: most, begins: LEFT, ends: WIDTH - RIGHT };
    svg.x_axis(&x, &steps(most), TOP, height - BOTTOM, unit);
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * count(index);
        let middle = y + ROW / 2.0;
        svg.text(LEFT - 8.0, middle + 4.0, "end", &bar.label);
        svg.draw(format_args!(
            r#"<rect class="bar" x="{LEFT}" y="{:.1}" width="{:.1}" height="14"/>"#,
            middle - 7.0,
            x.at(bar.median) - LEFT
        ));
        svg.line("spread", (x.at(bar.min), middle), (x.at(bar.max), middle));
        for end in [bar.min, bar.max] {
            svg.line("spread", (x.at(end), middle - 4.0), (x.at(end), middle + 4.0));
        }
        svg.line("goal", (x.at(bar.goal), y + 3.0), (x.at(bar.goal), y + ROW - 3.0));
        svg.text(WIDTH - RIGHT + 8.0, middle + 4.0, "start", &bar.note);
    }
    svg.text(WIDTH - 12.0, height - 8.0, "end", "bar: median, whisker: min to max, orange: goal");
    svg.finish()
}

/// How values are spread, one row for each kind of value, all on one logarithmic scale of milliseconds.
pub(crate) fn histograms(title: &str, rows: &[(&str, Vec<f64>)]) -> String {
    const ROW: f64 = 58.0;
    /// Ranges of a factor of ten.
    const FINENESS: f64 = 12.0;
    /// What is shorter is shown as this.
    const SHORTEST: f64 = 0.01;
    let rows: Vec<_> = rows.iter().filter(|(_, values)| !values.is_empty()).collect();
    let longest = rows.iter().flat_map(|(_, values)| values).fold(1.0_f64, |most, value| most.max(*value));
    let height = TOP + ROW * count(rows.len()) + BOTTOM;
    let mut svg = Svg::new(title, height);
    let x = Scale { from: SHORTEST.log10(), to: longest.log10().ceil(), begins: LEFT, ends: WIDTH - RIGHT };
    let decades: Vec<f64> = (-2..=6).map(f64::from).filter(|decade| *decade <= x.to).collect();
    for decade in &decades {
        svg.line("grid", (x.at(*decade), TOP), (x.at(*decade), height - BOTTOM));
        svg.text(x.at(*decade), height - BOTTOM + 16.0, "middle", &short(10_f64.powf(*decade)));
    }
    svg.text((LEFT + WIDTH - RIGHT) / 2.0, height - 8.0, "middle", "milliseconds, logarithmic");
    let ranges = ((x.to - x.from) * FINENESS).round();
    for (index, (label, values)) in rows.iter().enumerate() {
        let base = TOP + ROW * count(index + 1) - 4.0;
        let counts = counted(values, &x, FINENESS, ranges);
        let most = counts.iter().copied().max().unwrap_or(1).max(1);
        for (range, found) in counts.iter().enumerate().filter(|(_, found)| **found > 0) {
            let (from, to) = (x.from + count(range) / FINENESS, x.from + count(range + 1) / FINENESS);
            let tall = (ROW - 14.0) * count(*found) / count(most);
            svg.draw(format_args!(
                r#"<rect class="bar" x="{:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}"/>"#,
                x.at(from),
                base - tall,
                x.at(to) - x.at(from) - 0.5
            ));
        }
        svg.line("axis", (LEFT, base), (WIDTH - RIGHT, base));
        svg.text(LEFT - 8.0, base - 8.0, "end", label);
        let note = |at| format!("{:.2}", quantile(values, at));
        svg.text(WIDTH - RIGHT + 8.0, base - 22.0, "start", &format!("p50 {} ms", note(0.5)));
        svg.text(WIDTH - RIGHT + 8.0, base - 7.0, "start", &format!("p99 {} ms", note(0.99)));
    }
    svg.finish()
}

fn counted(values: &[f64], x: &Scale, fineness: f64, ranges: f64) -> Vec<usize> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a hundred ranges")]
    let index = |place: f64| place.clamp(0.0, ranges - 1.0) as usize;
    let mut counts = vec![0; index(ranges) + 1];
    for value in values {
        let place = ((value.max(1e-9).log10() - x.from) * fineness).floor();
        counts[index(place)] += 1;
    }
    counts
}

/// Lines through points, from zero upwards.
pub(crate) fn lines(title: &str, along: &str, unit: &str, series: &[(&str, Vec<(f64, f64)>)]) -> String {
    const HEIGHT: f64 = 340.0;
    /// Room for the numbers of the axis.
    const BEGINS: f64 = 70.0;
    let points = || series.iter().flat_map(|(_, points)| points);
    let far = points().fold(0.0_f64, |most, point| most.max(point.0)).max(1e-9);
    let high = points().fold(0.0_f64, |most, point| most.max(point.1)).max(1e-9) * 1.1;
    let mut svg = Svg::new(title, HEIGHT);
    let x = Scale { from: 0.0, to: far, begins: BEGINS, ends: WIDTH - RIGHT };
    let y = Scale { from: 0.0, to: high, begins: HEIGHT - BOTTOM, ends: TOP };
    svg.x_axis(&x, &steps(far), TOP, HEIGHT - BOTTOM, along);
    for step in steps(high) {
        svg.line("grid", (BEGINS, y.at(step)), (WIDTH - RIGHT, y.at(step)));
        svg.text(BEGINS - 6.0, y.at(step) + 4.0, "end", &short(step));
    }
    svg.text(12.0, TOP - 6.0, "start", unit);
    for (index, (label, points)) in series.iter().enumerate() {
        let way: Vec<String> =
            points.iter().map(|(a, b)| format!("{:.1},{:.1}", x.at(*a), y.at(*b))).collect();
        svg.draw(format_args!(r#"<polyline class="line s{index}" points="{}"/>"#, way.join(" ")));
        for (a, b) in points {
            svg.draw(format_args!(
                r#"<circle class="d{index}" cx="{:.1}" cy="{:.1}" r="3"/>"#,
                x.at(*a),
                y.at(*b)
            ));
        }
        let level = TOP + 10.0 + 18.0 * count(index);
        svg.line(&format!("line s{index}"), (WIDTH - RIGHT + 8.0, level), (WIDTH - RIGHT + 28.0, level));
        svg.text(WIDTH - RIGHT + 33.0, level + 4.0, "start", label);
    }
    svg.finish()
}

#[derive(Debug)]
struct Scale {
    from: f64,
    to: f64,
    begins: f64,
    ends: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let share = ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.begins + share * (self.ends - self.begins)
    }
}

struct Svg(String);

impl Svg {
    fn new(title: &str, height: f64) -> Svg {
        let mut svg = Svg(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n<title>{}</title>\n",
            escaped(title)
        ));
        svg.draw(format_args!(r#"<text class="title" x="12" y="22">{}</text>"#, escaped(title)));
        svg
    }

    fn draw(&mut self, what: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{what}").expect("a string takes all");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        self.draw(format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.draw(format_args!(
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    fn x_axis(&mut self, x: &Scale, steps: &[f64], top: f64, bottom: f64, unit: &str) {
        for step in steps {
            self.line("grid", (x.at(*step), top), (x.at(*step), bottom));
            self.text(x.at(*step), bottom + 16.0, "middle", &short(*step));
        }
        self.line("axis", (x.begins, bottom), (x.ends, bottom));
        self.text(x.begins, bottom + 34.0, "start", unit);
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// Round numbers from zero to what is shown, five or so.
fn steps(most: f64) -> Vec<f64> {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    std::iter::successors(Some(0.0), |at| Some(at + step)).take_while(|at| *at <= most).collect()
}

fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{} M", trimmed(n / 1e6)),
        n if n >= 1e4 => format!("{} k", trimmed(n / 1e3)),
        n => trimmed(n),
    }
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[expect(clippy::cast_precision_loss, reason = "rows of a drawing")]
fn count(n: usize) -> f64 {
    n as f64
}
