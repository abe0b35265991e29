//! The curves of `scale.rs` as one SVG: four charts over the number of tenants.

use super::scale::Point;
use plotters::{coord::Shift, prelude::*};
use std::{error::Error, path::Path};

type Chart<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A curve: its name, its colour, and its value at a point.
type Curve = (&'static str, RGBColor, fn(&Point) -> f64);

const BLUE: RGBColor = RGBColor(37, 99, 235);
const ORANGE: RGBColor = RGBColor(217, 119, 6);

/// Draws the points of one run.
pub fn draw(path: &Path, points: &[Point]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (960, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.margin(8, 8, 8, 8).split_evenly((2, 2));
    chart(&panels[0], "Start to first answer (ms)", points, &[("median of five", BLUE, |point| point.start_ms)])?;
    let memory: [Curve; 2] = [("idle", BLUE, |point| point.idle_mib), ("500 active", ORANGE, |point| point.active_mib)];
    chart(&panels[1], "Resident memory (MiB)", points, &memory)?;
    let turns: [Curve; 2] =
        [("warm tenant", BLUE, |point| point.warm_turn_p50_ms), ("tenant not open before", ORANGE, |point| point.cold_turn_p50_ms)];
    chart(&panels[2], "A turn, 0 ms vendor, p50 (ms)", points, &turns)?;
    let commands: [Curve; 2] = [("migrate", BLUE, |point| point.migrate_s), ("backup", ORANGE, |point| point.backup_s)];
    chart(&panels[3], "Commands (s)", points, &commands)?;
    root.present()?;
    Ok(())
}

fn chart(area: &Chart<'_>, title: &str, points: &[Point], curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let tenants = |point: &Point| point.tenants as f64;
    let (least, most) = (points.first().map_or(1.0, tenants), points.last().map_or(10.0, tenants));
    let top = points.iter().flat_map(|point| curves.iter().map(move |(_, _, value)| value(point))).fold(0.0, f64::max) * 1.25;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 17))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(48)
        .build_cartesian_2d((least..most * 1.05).log_scale(), 0.0..top.max(0.001))?;
    chart
        .configure_mesh()
        .x_desc("tenants in the directory")
        .x_label_formatter(&|count| format!("{count:.0}"))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.5))
        .label_style(("sans-serif", 12))
        .draw()?;
    for (name, colour, value) in curves {
        // What was not measured is no point of the curve.
        let line: Vec<(f64, f64)> = points.iter().map(|point| (tenants(point), value(point))).filter(|(_, value)| *value > 0.0).collect();
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(*name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(line.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 12))
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
