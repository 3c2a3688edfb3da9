// The simplex: each layer is a point between the statistics, with a trail since it began.

import { kindsOf, layerRows, layerText, TITLES } from "./panels.js";
import { shapes } from "./shapes.js";
import { base, heading, scale } from "./theme.js";

const LONG = 48; // points of a trail, of few layers
const SHORT = 16; // of many
const MANY = 120; // layers
// What is seen of the plane: a triangle, or a square or line with the names of its corners.
const seenOf = (statistics) => (statistics.length === 3 ? { x: 1.05, y: [-0.72, 1.18] } : { x: 1.25, y: [-1.25, 1.25] });

// The corners of a regular polygon, the first above.
function corners(statistics) {
  return statistics.map((_, i) => {
    const angle = Math.PI / 2 + (2 * Math.PI * i) / statistics.length;
    return [Math.cos(angle), Math.sin(angle)];
  });
}

// Where a layer is; undefined if it uses none of the statistics.
function point(context, run, row, layer, kind, at) {
  let [x, y, any] = [0, 0, false];
  context.statistics.forEach((s, i) => {
    const share = run.share(row, layer, kind, s);
    if (share === undefined) return;
    any = true;
    x += share * at[i][0];
    y += share * at[i][1];
  });
  return any ? [x, y] : undefined;
}

// The whole trail of each layer, as [row, x, y] of some rows; kept until there are new rows.
function trails(context, run, kind, at) {
  const layers = context.selectedOf(run);
  const key = `trails ${kind} ${layers.join()} ${context.statistics.join()}`;
  if (!run.cache.has(key)) {
    const count = Math.min(run.steps.length, layers.length > MANY ? SHORT : LONG);
    const rows = [...new Set(Array.from({ length: count }, (_, i) => Math.round((i * (run.steps.length - 1)) / Math.max(count - 1, 1))))];
    const all = layers.map((layer) => rows.map((row) => point(context, run, row, layer, kind, at)));
    run.cache.set(key, { rows, all });
  }
  return run.cache.get(key);
}

// One series for each kind draws all trails and points; it listens to nothing.
function series(context) {
  const at = corners(context.statistics);
  return kindsOf(context.run, context.state.kind).flatMap((kind, index) => {
    const { run, row, other, look } = context;
    const { rows, all } = trails(context, run, kind, at);
    const until = Math.max(1, rows.filter((r) => r < row).length);
    const layers = context.selected;
    const now = layers.map((layer) => point(context, run, row, layer, kind, at));
    const others = other ? context.selectedOf(other).map((layer) => point(context, other, context.otherRow, layer, kind, at)) : [];
    const radius = layers.length > MANY ? 3 : 5;
    const place = layers.indexOf(context.layer);
    const common = { xAxisIndex: index, yAxisIndex: index, data: [[0, 0]] };
    return [
      {
        ...common,
        id: `points${index}`,
        type: "custom",
        silent: true,
        tooltip: { show: false },
        renderItem(_, api) {
          // Both axes are linear; asking ECharts for every point would take most of the time.
          const [x0, y0] = api.coord([0, 0]);
          const [x1, y1] = api.coord([1, 1]);
          const screen = ([x, y]) => [x0 + x * (x1 - x0), y0 + y * (y1 - y0)];
          const trail = (i) => [...all[i].slice(0, until), now[i]].filter(Boolean).map(screen);
          const byColour = (parts) => {
            const groups = new Map();
            parts.forEach((part, i) => {
              if (!part) return;
              const colour = context.depthColours[layers[i]];
              if (!groups.has(colour)) groups.set(colour, []);
              groups.get(colour).push(part);
            });
            return groups;
          };
          const disc = (p) => p && [...screen(p), radius];
          const children = [
            shapes("lines", byColour(now.map((p, i) => p && trail(i))), { lineWidth: 1.5, opacity: 0.6 }),
            shapes("discs", byColour(now.map(disc)), { stroke: look.ground, lineWidth: 1 }),
          ];
          if (others.length) {
            const style = { fill: "none", stroke: look.ink, lineWidth: 1.2 };
            children.push(shapes("discs", new Map([[look.ink, others.filter(Boolean).map(disc)]]), style));
          }
          if (now[place]) {
            const [colour, [x, y]] = [context.depthColours[context.layer], screen(now[place])];
            children.push(shapes("lines", new Map([[colour, [trail(place)]]]), { lineWidth: 3 }));
            children.push(shapes("discs", new Map([[colour, [[x, y, radius + 2]]]]), { stroke: look.accent, lineWidth: 2 }));
          }
          return { type: "group", children };
        },
      },
      // The same points, unseen, for the pointer.
      {
        ...common,
        id: `pointer${index}`,
        type: "scatter",
        large: true,
        largeThreshold: 1,
        symbolSize: 2 * radius + 2,
        itemStyle: { opacity: 0 },
        data: layers.flatMap((layer, i) => (now[i] ? [[...now[i], layer]] : [])),
        tooltip: { formatter: ({ value }) => layerText(context, run, context.rowOf(run), value[2]) },
      },
    ];
  });
}

function outline(context, index) {
  const { look, statistics, labels } = context;
  const at = corners(statistics);
  return {
    id: `outline${index}`,
    type: "custom",
    xAxisIndex: index,
    yAxisIndex: index,
    silent: true,
    z: 0,
    tooltip: { show: false },
    data: [[0, 0]],
    renderItem(_, api) {
      const screen = (p) => api.coord(p);
      const points = at.map(screen);
      const children = [
        { type: "polygon", shape: { points }, style: { fill: look.dark ? "#383838" : "#fafafa", stroke: look.faint } },
      ];
      if (statistics.length === 3) {
        for (const share of [0.25, 0.5, 0.75]) {
          for (let i = 0; i < 3; i++) {
            const [a, b, c] = [at[i], at[(i + 1) % 3], at[(i + 2) % 3]];
            const mix = (p, q) => screen([share * p[0] + (1 - share) * q[0], share * p[1] + (1 - share) * q[1]]);
            const [[x1, y1], [x2, y2]] = [mix(a, b), mix(a, c)];
            children.push({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: look.line, lineWidth: share === 0.5 ? 1 : 0.5 } });
          }
        }
      }
      const [cx, cy] = screen([0, 0]);
      children.push({ type: "line", shape: { x1: cx - 4, y1: cy, x2: cx + 4, y2: cy }, style: { stroke: look.faint } });
      children.push({ type: "line", shape: { x1: cx, y1: cy - 4, x2: cx, y2: cy + 4 }, style: { stroke: look.faint } });
      statistics.forEach((s, i) => {
        const [x, y] = screen([at[i][0] * 1.09, at[i][1] * 1.09]);
        children.push({
          type: "text",
          style: { text: labels[s], x, y, align: "center", verticalAlign: "middle", fill: look.ink, font: "600 13px Roboto, sans-serif" },
        });
      });
      return { type: "group", children };
    },
  };
}

export const simplex = {
  option(context) {
    const { look, run } = context;
    const kinds = kindsOf(run, context.state.kind);
    const room = context.width / kinds.length;
    const top = 40;
    const below = 56;
    const { x, y } = seenOf(context.statistics);
    const aspect = (y[1] - y[0]) / (2 * x);
    const size = Math.min(room - 16, (context.height - top - below) / aspect);
    const shown = (index) => ({
      left: index * room + (room - size) / 2,
      top: top + Math.max(0, (context.height - top - below - size * aspect) / 2),
      width: size,
      height: size * aspect,
    });
    const hidden = (more) => kinds.map((_, gridIndex) => ({ type: "value", show: false, gridIndex, ...more }));
    const legend = context.other ? `\u25cf ${run.label}   \u25cb ${context.other.label}` : "";
    return {
      ...base(look),
      title: [
        ...kinds.map((kind, index) => ({ ...heading(look, TITLES[kind], index * room + room / 2, 12), textAlign: "center" })),
        { ...heading(look, legend, 12, context.height - 22, 11) },
      ],
      grid: kinds.map((_, index) => shown(index)),
      xAxis: hidden({ min: -x, max: x }),
      yAxis: hidden({ min: y[0], max: y[1] }),
      visualMap: scale(look, {
        inRange: { color: look.depth },
        orient: "horizontal",
        right: 12,
        bottom: 8,
        itemHeight: 160,
        text: ["last layer", "first layer"],
      }),
      series: [...kinds.map((_, index) => outline(context, index)), ...series(context)],
    };
  },
  frame: (context) => ({ series: series(context).filter(({ id }) => !id.startsWith("pointer")) }),
  settled: (context) => ({ series: series(context) }),
  layerAt: (_, { seriesId, value }) => (seriesId?.startsWith("pointer") ? value[2] : undefined),
  rows: layerRows,
};
