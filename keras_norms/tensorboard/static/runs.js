// All runs at once: a matrix of means over the selected layers, with their spread over seeds.

import { axis, base, heading } from "./theme.js";
import { groupRuns, pooled, seedOf } from "./groups.js";
import { escape } from "./panels.js";

const POOLED = "mean \u00b1 sd";

// {group: [{column, run, row, shares: {statistic: {mean, spread}}}, ...]}
function matrix(context) {
  const rows = new Map();
  for (const [label, runs] of groupRuns(context.runs)) {
    const seen = {};
    const cells = runs.map((run) => {
      const seed = seedOf(run);
      seen[seed] = 1 + (seen[seed] ?? 0);
      const column = seen[seed] > 1 ? `${seed} (${seen[seed]})` : seed;
      const [row, kind, layers] = [context.rowOf(run), context.kindOf(run), context.selectedOf(run)];
      const shares = context.statistics.map((s) => [s, { mean: run.mean(row, layers, kind, s) }]);
      return { column, run, row, shares: Object.fromEntries(shares.filter(([, { mean }]) => mean !== undefined)) };
    });
    if (cells.length > 1) {
      // A statistic that only some of the runs use counts as 0 in the others, so that shares sum to 1.
      const known = cells.map((cell) => cell.shares).filter((shares) => Object.keys(shares).length);
      const shares = context.statistics
        .filter((s) => known.some((one) => one[s]))
        .map((s) => [s, pooled(known.map((one) => one[s]?.mean ?? 0))]);
      cells.push({ column: POOLED, shares: Object.fromEntries(shares) });
    }
    rows.set(label, cells);
  }
  return rows;
}

function columnsOf(rows) {
  const names = [...new Set([...rows.values()].flat().map((cell) => cell.column))];
  const number = (name) => (name === POOLED ? Infinity : Number(name.match(/^seed ([\d.]+)/)?.[1] ?? 0));
  return names.sort((a, b) => number(a) - number(b));
}

// A cell of the matrix: a bar of shares, and their numbers where there is room.
function cellSeries(context) {
  const rows = matrix(context);
  const columns = columnsOf(rows);
  const labels = [...rows.keys()];
  const cells = labels.flatMap((label, y) => rows.get(label).map((cell) => ({ ...cell, y, label })));
  const { look, statistics } = context;
  return {
    cells,
    columns,
    labels,
    series: {
      id: "matrix",
      type: "custom",
      data: cells.map((cell) => [columns.indexOf(cell.column), cell.y]),
      encode: { x: 0, y: 1 },
      tooltip: { formatter: ({ dataIndex }) => cellText(context, cells[dataIndex]) },
      renderItem(params, api) {
        const cell = cells[params.dataIndex];
        const [width, height] = api.size([1, 1]);
        const [cx, cy] = api.coord([api.value(0), api.value(1)]);
        const full = width - 14;
        const bar = Math.min(40, Math.max(height - 44, Math.min(8, 0.8 * height)));
        const top = cy - bar / 2 - (height > 40 ? 10 : 0);
        let x = cx - full / 2;
        const children = [];
        for (const s of statistics) {
          const { mean, spread } = cell.shares[s] ?? {};
          if (!(mean > 0)) continue;
          const end = x + mean * full;
          children.push({ type: "rect", shape: { x, y: top, width: end - x, height: bar }, style: { fill: look.statistics[s] } });
          if (spread !== undefined && s !== statistics.at(-1)) {
            // At the end of each share but the last, which is what the others leave.
            const [x1, x2] = [Math.max(end - spread * full, cx - full / 2), Math.min(end + spread * full, cx + full / 2)];
            children.push({ type: "line", z2: 5, shape: { x1, x2, y1: top + bar / 2, y2: top + bar / 2 }, style: { stroke: look.dark ? "#000" : "#fff", lineWidth: 2 } });
          }
          x = end;
        }
        if (height > 40) {
          const used = statistics.filter((s) => cell.shares[s]);
          const gap = width > 120 ? "    " : " ";
          const lines = [used.map((s) => digits(cell.shares[s].mean)).join(gap)];
          if (!cell.run) lines.push(used.map((s) => deviation(cell.shares[s])).join(gap.slice(1) || " "));
          children.push({
            type: "text",
            style: { text: lines.join("\n"), x: cx, y: top + bar + 7, align: "center", lineHeight: 14, fill: look.ink, font: "11px Roboto, sans-serif" },
          });
        }
        if (cell.run === context.run) {
          children.push({
            type: "rect",
            shape: { x: cx - full / 2 - 3, y: top - 3, width: full + 6, height: bar + 6 },
            style: { fill: "none", stroke: look.accent, lineWidth: 2 },
          });
        }
        return { type: "group", children };
      },
    },
  };
}

const digits = (share) => share.toFixed(2).replace(/^0/, "");
const deviation = ({ spread }) => (spread === undefined ? "\u2013" : `\u00b1${digits(spread)}`);
const number = ({ mean, spread }) => digits(mean) + (spread === undefined ? "" : ` \u00b1 ${digits(spread)}`);

function cellText(context, cell) {
  const lines = context.statistics
    .filter((s) => cell.shares[s])
    .map((s) => `<tr><td style="padding-right:8px">${context.labels[s]}</td><td>${number(cell.shares[s])}</td></tr>`);
  const name = cell.run ? cell.run.label : cell.label;
  const step = cell.run ? `, step ${cell.run.steps[cell.row].toLocaleString("en")}` : "";
  return `<b>${escape(name)}</b>${step}<table>${lines.join("")}</table>`;
}

export const runs = {
  option(context) {
    const { look } = context;
    const { columns, labels, series } = cellSeries(context);
    const kind = context.kindOf(context.run);
    const left = 16 + 6.4 * Math.min(30, Math.max(...labels.map((label) => label.length)));
    const title = `${kind === "both" ? "importance" : kind}, mean over ${context.selected.length} layers of each run`;
    return {
      ...base(look),
      title: [heading(look, title, left, 10)],
      grid: [{ left, right: 20, top: 52, bottom: 10 }],
      xAxis: axis(look, { type: "category", data: columns, position: "top", axisLabel: { color: look.ink } }),
      yAxis: axis(look, {
        type: "category",
        data: labels,
        inverse: true,
        axisLabel: {
          color: look.ink,
          width: left - 12,
          lineHeight: 14,
          overflow: context.height / labels.length > 60 ? "break" : "truncate",
        },
      }),
      series: [series],
    };
  },
  frame: (context) => ({ series: [cellSeries(context).series] }),
  runAt: (context, { dataIndex }) => cellSeries(context).cells[dataIndex]?.run,
  rows(context) {
    const { cells } = cellSeries(context);
    const header = ["group", "run", "step", "layers", "kind"];
    for (const s of context.statistics) header.push(s, `${s}_spread`);
    return [
      header,
      ...cells.map((cell) => [
        cell.label,
        cell.run?.name ?? POOLED,
        cell.run ? cell.run.steps[cell.row] : "",
        context.selectedOf(cell.run ?? context.run).length,
        context.kindOf(cell.run ?? context.run),
        ...context.statistics.flatMap((s) => [cell.shares[s]?.mean ?? "", cell.shares[s]?.spread ?? ""]),
      ]),
    ];
  },
};
