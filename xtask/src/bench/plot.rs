//! The medians as horizontal bars, as SVG by hand: a dozen rectangles need no library.

use super::outcome::Outcome;

const BAR_HEIGHT: usize = 18;
const CASE_HEIGHT: usize = 58;
const LABEL_WIDTH: f64 = 270.0;
const PLOT_WIDTH: f64 = 420.0;

/// A drawing with two bars for each case, each case scaled to its longer bar.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let height = outcomes.len() * CASE_HEIGHT + 20;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"800\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (row, outcome) in outcomes.iter().enumerate() {
        let top = row * CASE_HEIGHT + 14;
        let ours = outcome.ours.median_ms();
        let theirs = outcome
            .peer
            .as_ref()
            .map(|(name, times, _)| (*name, times.median_ms()));
        let longest = theirs.map_or(ours, |(_, ms)| ms.max(ours));
        text.push_str(&format!(
            "<text x=\"8\" y=\"{}\">{}</text>\n",
            top + BAR_HEIGHT - 5,
            escape(outcome.name)
        ));
        text.push_str(&bar(top, ours, longest, "#2b6cb0", "coffer"));
        if let Some((name, ms)) = theirs {
            text.push_str(&bar(top + BAR_HEIGHT + 3, ms, longest, "#a0aec0", name));
        }
    }
    text + "</svg>\n"
}

fn bar(top: usize, ms: f64, longest: f64, colour: &str, label: &str) -> String {
    let width = (ms / longest * PLOT_WIDTH).max(1.0);
    format!(
        "<rect x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" \
         fill=\"{colour}\"/>\n<text x=\"{:.1}\" y=\"{}\">{} {ms:.0} ms</text>\n",
        LABEL_WIDTH + width + 6.0,
        top + BAR_HEIGHT - 5,
        escape(label)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_drawing() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
