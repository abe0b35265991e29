// Draws every [data-chart] with uPlot: colours from the stylesheet, times in the reader's zone, again when the theme, the width or the data changes.
(() => {
  const { all, make, money } = window.nimblesite;
  const drawn = new WeakMap();
  const count = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const whole = new Intl.NumberFormat("en");
  /** What is counted comes in whole ones. */
  const STEPS = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat();
  const WORDS = {
    money: { axis: (value) => money(value), exact: (value) => money(value) },
    count: { axis: (value) => count.format(value), exact: (value) => whole.format(value), steps: STEPS },
    ms: { axis: (value) => (value >= 1000 ? `${value / 1000} s` : `${value} ms`), exact: (value) => `${whole.format(Math.round(value))} ms` },
  };
  const day = new Intl.DateTimeFormat("en", { month: "short", day: "numeric" });
  const hour = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const full = new Intl.DateTimeFormat("en", { weekday: "short", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

  /** A token of the stylesheet as the colour it comes to in the theme that is shown. */
  const colour = (name) => {
    const probe = make("span", { hidden: true });
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const faint = (found) => found.replace(/^rgb\((.*)\)$/, "rgba($1, 0.14)");

  const draw = (figure) => {
    const { t, series } = JSON.parse(figure.dataset.series);
    const words = WORDS[figure.dataset.unit] || WORDS.count;
    const kind = figure.dataset.chart;
    drawn.get(figure)?.destroy();
    all(".chart-tip", figure).forEach((tip) => tip.remove());
    const tip = make("div", { class: "chart-tip", hidden: true });
    figure.append(tip);
    const line = colour("line"), ink = colour("ink-3");
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const long = t.length > 1 && t[t.length - 1] - t[0] > 3 * 86400;
    const step = t.length > 1 ? t[1] - t[0] : 3600;
    const bars = kind === "bars" ? uPlot.paths.bars({ size: [0.7, 26], radius: 0.2 }) : undefined;
    const options = {
      width: figure.clientWidth,
      height: Number(figure.dataset.height) || 208,
      padding: [10, 8, 0, 0],
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: {
        x: { time: true, range: kind === "bars" ? (_, low, high) => [low - step * 0.6, high + step * 0.6] : undefined },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.12 : 1] },
      },
      axes: [
        { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 26, space: 64, values: (_, ticks) => ticks.map((tick) => (long ? day : hour).format(tick * 1000)) },
        { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 58, space: 44, incrs: words.steps, values: (_, ticks) => ticks.map(words.axis) },
      ],
      series: [{}, ...series.map((one, n) => {
        const stroke = colour(`chart-${(n % 4) + 1}`);
        return { label: one.label, stroke, width: kind === "bars" ? 0 : 1.75, fill: kind === "bars" ? stroke : kind === "area" && n === 0 ? faint(stroke) : undefined, paths: bars, points: { show: t.length === 1, size: 6 } };
      })],
      hooks: {
        setCursor: [(plot) => {
          const at = plot.cursor.idx;
          tip.hidden = at === null || at === undefined || plot.cursor.left < 0;
          if (tip.hidden) return;
          tip.replaceChildren(make("div", { class: "muted" }, full.format(t[at] * 1000)),
            ...series.map((one) => make("div", {}, `${one.label} `, make("b", {}, one.values[at] === null ? "–" : words.exact(one.values[at])))));
          const left = plot.valToPos(t[at], "x") + 66;
          const flip = left + tip.offsetWidth + 12 > figure.clientWidth;
          tip.style.left = `${Math.max(0, flip ? left - tip.offsetWidth - 16 : left + 12)}px`;
        }],
      },
    };
    drawn.set(figure, new uPlot(options, [t, ...series.map((one) => one.values)], figure));
  };

  const draw_all = (within) => all("[data-chart]", within).forEach((figure) => { draw(figure); widths.observe(figure); });
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = drawn.get(target);
      if (plot && Math.abs(plot.width - target.clientWidth) > 1) plot.setSize({ width: target.clientWidth, height: plot.height });
    }
  });
  document.addEventListener("themechange", () => draw_all(document));
  document.addEventListener("arrived", (event) => draw_all(event.detail.closest?.("[data-chart]")?.parentElement || event.detail));
})();
