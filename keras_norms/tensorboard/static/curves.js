// The curves below the view: of the chosen layer, or of the mean over the selected layers.

import { axis, base, heading } from "./theme.js";
import { escape, kindsOf, TITLES } from "./panels.js";
import { groupRuns } from "./groups.js";

const MOST = 20; // curves under the pointer
const POINTS = 600; // of a curve; more than the screen can show
const DASHES = ["solid", [7, 4], [2, 3], [9, 3, 2, 3]];

const thin = (points) => {
  const every = Math.ceil(points.length / POINTS);
  return every < 2 ? points : points.filter((_, i) => i % every === 0 || i === points.length - 1);
};

// The layers whose mean is drawn.
function layersOf(context, run) {
  if (context.layer === undefined) return context.selectedOf(run);
  const layer = context.layerIn(run, context.layer);
  return layer === undefined ? [] : [layer];
}

// Panels, each with its curves: {title, curves: [{run, s, points, style}]}
function panelsOf(context) {
  const { look, state } = context;
  const progress = state.view === "runs" && state.align === "progress";
  if (state.view !== "runs") {
    const shown = context.other ? [context.run, context.other] : [context.run];
    return kindsOf(context.run, state.kind).map((kind) => ({
      title: TITLES[kind],
      curves: shown.flatMap((run, i) =>
        context.statistics.filter((s) => run.index[kind]?.[s]).map((s) => ({
          run,
          s,
          points: thin(run.curve(layersOf(context, run), kind, s)),
          style: { color: look.statistics[s], width: i ? 1.3 : 2, type: DASHES[i] },
        })),
      ),
    }));
  }
  // One panel for each statistic, with all runs: groups differ in their dashes.
  const groups = [...groupRuns(context.runs).values()];
  return context.statistics.map((s) => ({
    title: context.labels[s],
    curves: groups.flatMap((runs, g) =>
      runs.map((run) => {
        const last = run.steps.at(-1) || 1;
        const points = thin(run.curve(layersOf(context, run), context.kindOf(run), s));
        return {
          run,
          s,
          points: progress ? points.map(([step, share]) => [(100 * step) / last, share]) : points,
          style: {
            color: look.statistics[s],
            type: DASHES[g % DASHES.length],
            width: run === context.run ? 3 : 1.3,
            opacity: run === context.run ? 1 : 0.7,
          },
        };
      }),
    ),
  }));
}

// Where the step that is shown is on the axes.
function position({ run, row, state }) {
  const progress = state.view === "runs" && state.align === "progress";
  return progress ? (100 * run.steps[row]) / (run.steps.at(-1) || 1) : run.steps[row];
}

// A line there, for the charts in files; on the page the cursors of `move` are much faster.
const line = (context) => ({
  silent: true,
  symbol: "none",
  animation: false,
  label: { show: false },
  lineStyle: { color: context.look.accent, type: "solid", width: 1.5 },
  data: [{ xAxis: position(context) }],
});

let count = 0; // of panels

// What all curves of a panel say under the pointer.
function pointText(all, progress) {
  const points = all.filter(({ value }) => value[1] !== undefined).sort((a, b) => b.value[1] - a.value[1]);
  if (!points.length) return "";
  const at = points[0].axisValue;
  const lines = points.slice(0, MOST).map(
    ({ color, seriesName, value }) =>
      `<tr><td style="color:${color}">\u25a0</td><td style="padding-right:8px">${escape(seriesName)}</td>` +
      `<td>${value[1].toFixed(3)}</td></tr>`,
  );
  if (points.length > MOST) lines.push(`<tr><td colspan="3">and ${points.length - MOST} more</td></tr>`);
  const title = progress ? `${at.toFixed(0)} %` : `step ${Math.round(at).toLocaleString("en")}`;
  return `<b>${title}</b><table>${lines.join("")}</table>`;
}

// Beside the pointer, and up over the view: the text is higher than the curves if there are many.
function beside([x], _, __, ___, { contentSize: [width, height], viewSize }) {
  return [x + 15 + width < viewSize[0] ? x + 15 : x - 15 - width, viewSize[1] - height - 4];
}

export const curves = {
  option(context, withLine = false) {
    const { look, state } = context;
    const panels = panelsOf(context);
    count = panels.length;
    const room = (context.curvesWidth - 20) / panels.length;
    const progress = state.view === "runs" && state.align === "progress";
    const all = panels.flatMap(({ curves: list }, index) => list.map((curve) => ({ ...curve, index })));
    // One scale for all panels, so that they can be compared.
    let [low, high] = [1, 0];
    for (const { points } of all) {
      for (const [, share] of points) {
        if (share < low) low = share;
        if (share > high) high = share;
      }
    }
    if (low > high) [low, high] = [0, 1]; // no numbers
    const interval = high - low > 0.45 ? 0.2 : 0.1;
    const first = Math.min(...context.shownRuns.map((run) => run.steps[0] ?? 0));
    const last = Math.max(...context.shownRuns.map((run) => run.steps.at(-1) ?? 0), 1);
    return {
      ...base(look),
      title: panels.map(({ title }, index) => heading(look, title, 46 + index * room, 6, 11)),
      grid: panels.map((_, index) => ({ left: 46 + index * room, width: room - 52, top: 26, bottom: 24 })),
      xAxis: panels.map((_, gridIndex) =>
        axis(look, {
          type: "value",
          gridIndex,
          min: progress ? 0 : first,
          max: progress ? 100 : last,
          splitNumber: 4,
          axisLabel: { formatter: (x) => (progress ? `${x} %` : x.toLocaleString("en")) },
        }),
      ),
      yAxis: panels.map((_, gridIndex) =>
        axis(look, {
          type: "value",
          gridIndex,
          min: Math.max(0, interval * Math.floor(low / interval - 1e-6)),
          max: Math.min(1, interval * Math.ceil(high / interval + 1e-6)),
          interval,
          axisLabel: { formatter: (share) => share.toFixed(1) },
          splitLine: { show: true, lineStyle: { color: look.line, opacity: 0.6 } },
        }),
      ),
      tooltip: {
        ...base(look).tooltip,
        trigger: "axis",
        confine: false,
        position: beside,
        axisPointer: { lineStyle: { color: look.faint } },
        formatter: (points) => pointText(points, progress),
      },
      series: all.map(({ run, s, points, style, index }, i) => ({
        id: `curve${i}`,
        name: `${context.labels[s]}, ${run.label}`,
        type: "line",
        xAxisIndex: index,
        yAxisIndex: index,
        showSymbol: false,
        data: points,
        lineStyle: style,
        itemStyle: { color: style.color },
        emphasis: { disabled: true },
        markLine: withLine && all.findIndex((other) => other.index === index) === i ? line(context) : undefined,
      })),
    };
  },
  // The row at a place on the page; undefined outside of the panels.
  rowAt(context, chart, place) {
    const panel = Array.from({ length: count }, (_, xAxisIndex) => xAxisIndex).find((gridIndex) =>
      chart.containPixel({ gridIndex }, place),
    );
    if (panel === undefined) return undefined;
    const { run, state } = context;
    const at = chart.convertFromPixel({ xAxisIndex: panel }, place[0]);
    const progress = state.view === "runs" && state.align === "progress";
    const step = progress ? (at / 100) * run.steps.at(-1) : at;
    return run.steps.reduce((best, s, row) => (Math.abs(s - step) < Math.abs(run.steps[best] - step) ? row : best), 0);
  },
  // Moves a cursor in each panel to the step that is shown.
  move(context, chart, container) {
    const at = position(context);
    const cursors = [...container.querySelectorAll(".cursor")];
    cursors.slice(count).forEach((cursor) => cursor.remove());
    for (let xAxisIndex = 0; xAxisIndex < count; xAxisIndex++) {
      const cursor = cursors[xAxisIndex] ?? container.appendChild(document.createElement("div"));
      cursor.className = "cursor";
      cursor.style.transform = `translateX(${chart.convertToPixel({ xAxisIndex }, at)}px)`;
    }
  },
  title(context) {
    const of = context.layer === undefined ? `mean over ${context.selected.length} layers` : context.run.layers[context.layer].path;
    if (context.state.view === "runs") return `${of}, all runs; equal dashes are one group`;
    return context.other ? `${of}: solid ${context.run.label}, dashed ${context.other.label}` : of;
  },
};
