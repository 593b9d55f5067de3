//! Prometheus' text format, version 0.0.4: families of values with labels, in the order in which they are written.

use super::Histogram;
use std::fmt::Write;

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It is what it is.
    Gauge,
    /// Counts by upper bound.
    Histogram,
}

/// Label names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page under construction.
#[derive(Default)]
pub struct Page(String);

/// The family that is being written.
pub struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Page {
    /// Begins a family; values of another one may not follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: &mut self.0, name }
    }

    /// A family of one value.
    pub fn one(&mut self, name: &'static str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help).value(&[], value);
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Writes a value.
    pub fn value(&mut self, labels: Labels<'_>, value: f64) {
        self.line("", labels, None, value);
    }

    /// Writes a histogram.
    #[allow(clippy::cast_precision_loss)]
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let mut sum = 0;
        for (bound, count) in histogram.counts() {
            sum += count;
            self.line("_bucket", labels, Some(&bound.to_string()), sum as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), histogram.count() as f64);
        self.line("_sum", labels, None, histogram.sum());
        self.line("_count", labels, None, histogram.count() as f64);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: f64) {
        let _ = write!(self.page, "{}{suffix}", self.name);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (n, (name, value)) in all.enumerate() {
            let _ = write!(self.page, "{}{name}=\"", if n == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.page.push_str("\\\\"),
                    '"' => self.page.push_str("\\\""),
                    '\n' => self.page.push_str("\\n"),
                    c => self.page.push(c),
                }
            }
            self.page.push('"');
        }
        let close = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        let _ = writeln!(self.page, "{close} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn values_have_their_labels_and_nothing_in_a_label_breaks_a_line() {
        let mut page = Page::default();
        page.one("a_total", Kind::Counter, "All of it.", 7.0);
        page.family("b", Kind::Gauge, "Some.").value(&[("path", "/a\"b\\c\nd"), ("kind", "x")], 0.25);
        let wanted = "# HELP a_total All of it.\n# TYPE a_total counter\na_total 7\n\
            # HELP b Some.\n# TYPE b gauge\nb{path=\"/a\\\"b\\\\c\\nd\",kind=\"x\"} 0.25\n";
        assert_eq!(page.into_text(), wanted);
    }

    #[test]
    fn a_histograms_buckets_add_up() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for millis in [50, 100, 500, 5000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.family("h", Kind::Histogram, "H.").histogram(&[("route", "/x")], &histogram);
        let text = page.into_text();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let wanted = [
            "h_bucket{route=\"/x\",le=\"0.1\"} 2",
            "h_bucket{route=\"/x\",le=\"1\"} 3",
            "h_bucket{route=\"/x\",le=\"+Inf\"} 4",
            "h_sum{route=\"/x\"} 5.65",
            "h_count{route=\"/x\"} 4",
        ];
        assert_eq!(lines, wanted);
    }
}
