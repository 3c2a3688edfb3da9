// What the views by depth share: places of layers on the axis, names of stages above them.

import { shapes } from "./shapes.js";
import { axis, heading } from "./theme.js";

export const TITLES = {
  mean: "weights for the mean",
  variance: "weights for the variance",
  both: "importance: the average of both",
  gate: "gates",
};
export const LEFT = 46; // pixels for the names of statistics
const WIDTH = 6.6; // of a character, in pixels

// The places of layers by depth, with a gap between stages, and the span of each stage.
export function byDepth(run, layers) {
  const places = [];
  const spans = [];
  for (const layer of layers) {
    const { stage } = run.layers[layer];
    if (spans.at(-1)?.name !== stage) {
      if (places.length) places.push(null);
      spans.push({ name: stage, first: places.length });
    }
    spans.at(-1).last = places.length;
    places.push(layer);
  }
  return { places, spans };
}

// The kinds that a run has and the state asks for.
export function kindsOf(run, wanted) {
  const kinds = run.kinds.filter((kind) => !wanted || kind === wanted);
  return kinds.length ? kinds : run.kinds;
}

// The kind that stands for all: both or, if no layer has switches, the gates.
export function decidingKind(run, kinds, layers) {
  const uses = (kind, layer) => Object.values(run.index[kind]).some(({ first }) => first[layer] >= 0);
  const used = kinds.filter((kind) => layers.some((layer) => uses(kind, layer)));
  return used.includes("both") ? "both" : used.at(-1) ?? kinds.at(-1);
}

// A layer's own name without its stage, which stands above.
export const ownName = (path) => path.split("/").at(-1).replace(/^[^_]*_(?=.)/, "");

// Panels below each other: [{kind, run, row, grid, title}], each as high as the others.
export function stack(context, { top = 34, right = 24, below = null, gap = 24, title = true } = {}) {
  const shown = [{ run: context.run, row: context.row }];
  if (context.other) shown.push({ run: context.other, row: context.otherRow });
  const panels = shown.flatMap(({ run, row }) =>
    kindsOf(run, context.state.kind).map((kind) => ({ run, row, kind })),
  );
  const names = context.selected.map((layer) => ownName(context.run.layers[layer].path));
  const { places } = byDepth(context.run, context.selected);
  const pitch = (context.width - LEFT - right) / places.length;
  const named = pitch >= 13;
  const room = below ?? (named ? 14 + WIDTH * 0.92 * Math.min(18, Math.max(...names.map((n) => n.length))) : 22);
  const each = (context.height - top - room - gap * panels.length) / panels.length;
  panels.forEach((panel, index) => {
    const start = top + gap + index * (each + gap);
    panel.grid = { left: LEFT, right, top: start, height: each };
    const of = shown.length > 1 ? ` \u2013 ${panel.run.label}` : "";
    if (title) panel.title = heading(context.look, TITLES[panel.kind] + of, LEFT, start - 17);
  });
  return { panels, pitch, named };
}

// The axis of layers of a panel; the last one carries their names.
export function depthAxis(context, places, named, isLast, gridIndex) {
  return axis(context.look, {
    type: "category",
    gridIndex,
    data: places.map((_, place) => place),
    name: isLast && !named ? `${places.filter((p) => p !== null).length} layers, by depth` : "",
    nameLocation: "middle",
    nameGap: 8,
    nameTextStyle: { color: context.look.faint, fontSize: 11 },
    axisLabel: {
      show: isLast && named,
      interval: 0,
      rotate: 90,
      fontSize: 10,
      hideOverlap: false,
      overflow: "truncate",
      width: 112,
      formatter: (place) => {
        const layer = places[place];
        return layer === null ? "" : ownName(context.run.layers[layer]?.path ?? "");
      },
    },
  });
}

// Lines with the names of the stages, above the first panel.
export function stageSeries(context, spans, grid, id = "stages") {
  const { look } = context;
  return {
    id,
    type: "custom",
    xAxisIndex: 0,
    yAxisIndex: 0,
    silent: true,
    tooltip: { show: false },
    data: spans.map(({ first, last }) => [first, last]),
    renderItem(params, api) {
      const { name } = spans[params.dataIndex];
      const half = api.size([1, 0])[0] / 2;
      const from = api.coord([api.value(0), 0])[0] - half + 0.5;
      const to = api.coord([api.value(1), 0])[0] + half - 0.5;
      const y = grid.top - 26;
      const fits = name.length * WIDTH <= Math.max(to - from + half, 10);
      return {
        type: "group",
        children: [
          { type: "line", shape: { x1: from, y1: y, x2: to, y2: y }, style: { stroke: look.faint } },
          {
            type: "text",
            style: {
              text: fits ? name : name.replace(/^\D+/, ""),
              x: (from + to) / 2,
              y: y - 4,
              align: "center",
              verticalAlign: "bottom",
              fill: look.ink,
              font: "11px Roboto, sans-serif",
            },
          },
        ],
      };
    },
    encode: { x: [0, 1] },
  };
}

// Cells of many colours: `cellOf(place)` gives [{bottom, top, colour}, ...] in units of the axis.
// A shape for each colour is much faster than one for each cell.
export function cellSeries(id, index, count, cellOf, { gap = 0.06, line = 1 } = {}) {
  return {
    id,
    type: "custom",
    xAxisIndex: index,
    yAxisIndex: index,
    silent: true,
    tooltip: { show: false },
    data: [[0, 0]],
    renderItem(_, api) {
      const [x0, y0] = api.coord([0, 0]);
      const [width, height] = api.size([1, 1]);
      const inset = width > 5 ? Math.max(width * gap, line / 2) : 0;
      const byColour = new Map();
      for (let place = 0; place < count; place++) {
        for (const { bottom, top, colour } of cellOf(place)) {
          if (!byColour.has(colour)) byColour.set(colour, []);
          const y = y0 - top * height;
          const x = x0 + (place - 0.5) * width + inset;
          // Neighbours without a gap overlap, or the ground would shine through.
          byColour.get(colour).push(x, y, width - 2 * inset + (inset ? 0 : 0.5), (top - bottom) * height - line / 2);
        }
      }
      return shapes("boxes", byColour);
    },
  };
}

// What listens to the pointer over a layer, in all panels, and the frame around the chosen one.
export function layerSeries(context, places, panels, text) {
  const { grid } = panels.at(-1);
  const start = panels[0].grid.top;
  const height = grid.top + grid.height - start;
  const layers = places.flatMap((layer, place) => (layer === null ? [] : [place]));
  return {
    id: "layers",
    type: "custom",
    xAxisIndex: 0,
    yAxisIndex: 0,
    z: 10,
    data: layers.map((place) => [place]),
    encode: { x: 0 },
    tooltip: { formatter: ({ value: [place] }) => text(places[place]) },
    renderItem(params, api) {
      const place = api.value(0);
      const width = api.size([1, 0])[0];
      const x = api.coord([place, 0])[0] - width / 2;
      const chosen = places[place] === context.layer;
      const more = chosen ? Math.max(0, 2 - width / 2) : 0;
      return {
        type: "rect",
        shape: { x: x - more, y: start - 1, width: width + 2 * more, height: height + 2 },
        // At opacity 0 it listens and is not painted, which would take long for many layers.
        style: { fill: "transparent", stroke: context.look.accent, lineWidth: 2, opacity: chosen ? 1 : 0 },
        emphasis: { style: { lineWidth: 1, opacity: 1 } },
      };
    },
  };
}

// The text that appears over a layer.
export function layerText(context, run, row, layer) {
  if (layer === undefined) return "";
  const dot = (s) =>
    `<span style="display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:4px;background:${context.look.statistics[s]}"></span>`;
  const lines = run.kinds.map((kind) => {
    const shares = context.statistics
      .map((s) => [s, run.share(row, layer, kind, s)])
      .filter(([, share]) => share !== undefined)
      .map(([s, share]) => `${dot(s)}${context.labels[s]} ${share.toFixed(3)}`);
    return `<tr><td style="padding-right:8px">${kind}</td><td>${shares.join("&ensp;")}</td></tr>`;
  });
  const of = context.other ? ` ${escape(run.label)}` : "";
  return `<b>${escape(run.layers[layer].path)}</b>${of}<table>${lines.join("")}</table>`;
}

// The same for all runs that are shown.
export function shownText(context, layer) {
  return [context.run, context.other]
    .filter(Boolean)
    .map((run) => layerText(context, run, context.rowOf(run), context.layerIn(run, layer)))
    .join("");
}

export function escape(text) {
  return String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

// Rows for a CSV file: one for each run, layer and kind.
export function layerRows(context) {
  const header = ["run", "step", "layer_path", "stage", "kind", ...context.statistics];
  const shown = [[context.run, context.row]];
  if (context.other) shown.push([context.other, context.otherRow]);
  const rows = shown.flatMap(([run, row]) =>
    context.selectedOf(run).flatMap((layer) =>
      kindsOf(run, context.state.kind).map((kind) => [
        run.name,
        run.steps[row],
        run.layers[layer].path,
        run.layers[layer].stage,
        kind,
        ...context.statistics.map((s) => run.share(row, layer, kind, s) ?? ""),
      ]),
    ),
  );
  return [header, ...rows];
}
