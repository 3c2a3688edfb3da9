// The simplex: each layer is a point between the statistics, with a trail since it began.

import { base, between, heading } from "./theme.js";
import { kindsOf, layerRows, layerText, TITLES } from "./panels.js";

const LONG = 48; // points of a trail, of few layers
const SHORT = 16; // of many
const MANY = 120; // layers

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

function series(context) {
  const at = corners(context.statistics);
  return kindsOf(context.run, context.state.kind).flatMap((kind, index) => {
    const { run, row } = context;
    const { rows, all } = trails(context, run, kind, at);
    const until = rows.filter((r) => r < row).length;
    const layers = context.selected;
    const depth = (layer, of = run) => layer / Math.max(of.layers.length - 1, 1);
    const now = layers.map((layer) => point(context, run, row, layer, kind, at));
    const lines = layers.flatMap((layer, i) => {
      if (!now[i] || (until === 0 && row === 0)) return [];
      const chosen = layer === context.layer;
      const style = { color: context.depthColours[layer], width: chosen ? 3 : 1.2, opacity: chosen ? 1 : 0.55 };
      return [{ coords: [...all[i].slice(0, Math.max(until, 1)), now[i]], lineStyle: style }];
    });
    const dots = layers.flatMap((layer, i) => (now[i] ? [[...now[i], depth(layer), layer]] : []));
    const others = [];
    if (context.other?.index[kind]) {
      for (const layer of context.selectedOf(context.other)) {
        const place = point(context, context.other, context.otherRow, layer, kind, at);
        if (place) others.push([...place, depth(layer, context.other), layer]);
      }
    }
    return [
      { id: `trails${index}`, data: lines },
      { id: `dots${index}`, data: dots },
      { id: `others${index}`, data: others },
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
    const size = Math.min(room - 16, (context.height - top - below) / 0.92);
    const shown = (index) => ({
      left: index * room + (room - size) / 2,
      top: top + Math.max(0, (context.height - top - below - size * 0.92) / 2),
      width: size,
      height: size * 0.88,
    });
    const scale = (more) => kinds.map((_, gridIndex) => ({ type: "value", show: false, gridIndex, ...more }));
    const styles = {
      trails: { type: "lines", coordinateSystem: "cartesian2d", polyline: true, silent: true, z: 2 },
      dots: {
        type: "scatter",
        symbolSize: context.selected.length > MANY ? 6 : 10,
        z: 4,
        itemStyle: { borderColor: look.ground, borderWidth: 1 },
      },
      others: { type: "scatter", symbol: "emptyDiamond", symbolSize: context.selected.length > MANY ? 6 : 10, z: 3 },
    };
    const legend = context.other ? `\u25cf ${run.label}   \u25c7 ${context.other.label}` : "";
    return {
      ...base(look),
      title: [
        ...kinds.map((kind, index) => ({ ...heading(look, TITLES[kind], index * room + room / 2, 12), textAlign: "center" })),
        { ...heading(look, legend, 12, context.height - 22, 11) },
      ],
      grid: kinds.map((_, index) => shown(index)),
      xAxis: scale({ min: -1.15, max: 1.15 }),
      yAxis: scale({ min: -0.77, max: 1.25 }),
      visualMap: {
        min: 0,
        max: 1,
        dimension: 2,
        seriesIndex: kinds.flatMap((_, i) => [4 * i + 1, 4 * i + 2]),
        inRange: { color: look.depth },
        orient: "horizontal",
        right: 12,
        bottom: 8,
        itemWidth: 12,
        itemHeight: 160,
        text: ["last layer", "first layer"],
        textStyle: { color: look.faint, fontSize: 11 },
        hoverLink: false,
      },
      series: kinds.flatMap((_, index) => [
        ...series(context).slice(3 * index, 3 * index + 3).map((one) => {
          const name = one.id.replace(/\d+$/, "");
          return {
            ...one,
            ...styles[name],
            xAxisIndex: index,
            yAxisIndex: index,
            tooltip: {
              formatter: ({ value }) => {
                const of = name === "others" ? context.other : run;
                return layerText(context, of, context.liveRow(of), value[3]);
              },
            },
          };
        }),
        outline(context, index),
      ]),
    };
  },
  frame: (context) => ({ series: series(context) }),
  layerAt: (context, { seriesId, value }) =>
    seriesId?.startsWith("dots") ? value[3] : seriesId?.startsWith("others") ? context.run.places.get(context.other.layers[value[3]].path) : undefined,
  rows: layerRows,
};
