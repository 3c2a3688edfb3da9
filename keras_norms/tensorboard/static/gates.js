// The gates of batch-instance norm as histograms over channels: a column for each layer.

import { axis, base, heading, level, levels, scale } from "./theme.js";
import { byDepth, cellSeries, depthAxis, escape, layerSeries, LEFT, stack, stageSeries } from "./panels.js";

const RIGHT = 66;
const MOST = 0.5; // the share of channels that has the last colour

// The layers that have gates, by depth.
function gated(context) {
  const paths = new Set(context.run.gates?.paths ?? []);
  return context.selected.filter((layer) => paths.has(context.run.layers[layer].path));
}

// The shares of a layer's channels in each bin, at the step that is shown or the last one before.
function histogram(context, layer) {
  const { steps, paths, bins, values } = context.run.gates;
  const step = context.run.steps[context.row];
  const row = Math.max(0, steps.findLastIndex((other) => other <= step));
  const start = (row * paths.length + paths.indexOf(context.run.layers[layer].path)) * bins;
  const counts = [...values.subarray(start, start + bins)];
  const sum = counts.reduce((a, b) => a + b, 0) || 1;
  return counts.map((count) => count / sum);
}

function series(context) {
  const layers = gated(context);
  const { places } = byDepth(context.run, layers);
  const columns = places.map((layer) => (layer === null ? null : histogram(context, layer)));
  const colours = levels(context.look.shares);
  const cells = (place) =>
    (columns[place] ?? []).map((share, bin) => ({
      bottom: bin - 0.5,
      top: bin + 0.5,
      colour: level(colours, share / MOST),
    }));
  const chosen = layers.includes(context.layer) ? [context.layer] : layers;
  const all = chosen.map((layer) => histogram(context, layer));
  const means = (all[0] ?? []).map((_, bin) => all.reduce((sum, one) => sum + one[bin], 0) / all.length);
  return [
    cellSeries("cells", 0, places.length, cells, { gap: 0.01, line: 0 }),
    { id: "histogram", data: means },
  ];
}

const edges = (bins) => Array.from({ length: bins }, (_, bin) => (bin / bins).toFixed(2));

export const gates = {
  problem: (context) =>
    gated(context).length
      ? ""
      : "This run has no histograms of gates, or none of the selected layers has. Choose a run of a model " +
        "with BatchInstanceNormalization layers, which SwitchLogger logs as histograms, and all stages.",
  option(context) {
    const { look, run } = context;
    const layers = gated(context);
    const { places, spans } = byDepth(run, layers);
    const { named } = stack({ ...context, selected: layers, other: undefined }, { right: RIGHT });
    const { bins } = run.gates;
    const chosen = layers.includes(context.layer) ? run.layers[context.layer].path : "all of these layers";
    const split = Math.round(context.height * (named ? 0.68 : 0.6));
    const top = 56;
    const grid = { top, height: split - top - (named ? 100 : 34) };
    const [cells, bars] = series(context);
    const text = (layer) => {
      const mean = run.share(context.rowOf(run), layer, "gate", "batch");
      return `<b>${escape(run.layers[layer].path)}</b><br>mean gate ${mean?.toFixed(3)}`;
    };
    return {
      ...base(look),
      title: [
        heading(look, "share of each layer's channels by gate: 0 is instance, 1 is batch statistics", LEFT, 10),
        heading(look, `gates in ${chosen}`, LEFT, split + 8),
      ],
      grid: [
        { left: LEFT, right: RIGHT, ...grid },
        { left: LEFT, right: RIGHT, top: split + 32, bottom: 24 },
      ],
      xAxis: [
        depthAxis(context, places, named, true, 0),
        axis(look, { type: "category", gridIndex: 1, data: edges(bins) }),
      ],
      yAxis: [
        axis(look, { type: "category", gridIndex: 0, data: edges(bins), axisLabel: { interval: 4 } }),
        axis(look, { type: "value", gridIndex: 1, splitNumber: 2, splitLine: { show: true, lineStyle: { color: look.line } } }),
      ],
      visualMap: scale(look, {
        inRange: { color: look.shares },
        right: 12,
        top: top - 6,
        itemHeight: Math.min(120, split - 120),
        text: [`\u2265 ${MOST}`, "0"],
      }),
      series: [
        cells,
        stageSeries(context, spans, { top: grid.top + 19 }),
        layerSeries(context, places, [{ grid }], text),
        { ...bars, type: "bar", xAxisIndex: 1, yAxisIndex: 1, barCategoryGap: "6%", itemStyle: { color: look.statistics.batch } },
      ],
    };
  },
  frame: (context) => ({ series: series(context) }),
  layerAt: (context, { seriesId, value }) =>
    seriesId === "layers" ? byDepth(context.run, gated(context)).places[value[0]] : undefined,
  rows(context) {
    const { bins } = context.run.gates;
    const header = ["run", "step", "layer_path", ...edges(bins).map((edge) => `share_from_${edge}`)];
    const rows = gated(context).map((layer) => [
      context.run.name,
      context.run.steps[context.row],
      context.run.layers[layer].path,
      ...histogram(context, layer),
    ]);
    return [header, ...rows];
  },
};
