// Stacked bars by depth, as in the paper, and the paper's own bars beside them on request.

import { axis, base, heading } from "./theme.js";
import { byDepth, chosenSeries, depthAxis, layerRows, layerText, stack, stageSeries } from "./panels.js";

const published = await (await fetch(new URL("published.json", import.meta.url))).json();
export const PUBLISHED = Object.keys(published.shares).sort((a, b) => b - a); // samples per GPU

function publishedShare(shares, kind, block, statistic) {
  const at = published.statistics.indexOf(statistic);
  const of = (name) => shares[name]?.[block][at];
  const share = kind === "both" ? (of("mean") + of("variance")) / 2 : of(kind);
  return Number.isNaN(share) ? undefined : share;
}

// Groups of bars beside each other: our layers, and on request our stages and the paper's blocks.
function groups(context) {
  const { places, spans } = byDepth(context.run, context.selected);
  const layers = {
    share: ({ run, row, kind }, place, s) => {
      const layer = places[place] === null ? undefined : context.layerIn(run, places[place]);
      return layer === undefined ? undefined : run.share(row, layer, kind, s);
    },
    bars: places.map((_, place) => place),
  };
  const shares = published.shares[context.state.published];
  if (!shares) return { places, spans, list: [layers] };
  const stages = [...new Set(spans.map(({ name }) => name))];
  const stageMeans = {
    title: "our stages",
    bars: stages,
    share: ({ run, row, kind }, stage, s) => {
      const members = context.selectedOf(run).filter((layer) => run.layers[layer].stage === stage);
      return run.mean(row, members, kind, s);
    },
  };
  const blocks = {
    title: `the paper, ${context.state.published} samples per GPU`,
    bars: published.blocks,
    share: ({ kind }, block, s) => publishedShare(shares, kind, published.blocks.indexOf(block), s),
  };
  return { places, spans, list: [layers, stageMeans, blocks] };
}

function series(context) {
  const { list } = groups(context);
  const { panels } = stack(context);
  return panels.flatMap((panel, p) =>
    list.flatMap((group, g) =>
      context.statistics.map((s) => ({
        id: `bars${p}-${g}-${s}`,
        data: group.bars.map((bar) => group.share(panel, bar, s) ?? null),
      })),
    ),
  );
}

export const bars = {
  option(context) {
    const { look } = context;
    const { places, spans, list } = groups(context);
    const several = list.length > 1;
    const inner = several ? context.width * 0.52 : context.width;
    const { panels, named } = stack({ ...context, width: inner });
    const cells = panels.flatMap((panel, p) => list.map((group, g) => ({ panel, group, p, g })));
    const side = (context.width - inner) / 2;
    const grid = ({ panel, g }) =>
      g === 0
        ? { ...panel.grid, right: several ? context.width - inner + 24 : 24 }
        : { ...panel.grid, left: inner + (g - 1) * side + 8, right: undefined, width: side - 28 };
    const titles = panels.map((panel) => panel.title);
    if (several) {
      list.slice(1).forEach((group, g) => titles.push(heading(look, group.title, inner + g * side + 8, 12, 11)));
    }
    return {
      ...base(look),
      title: titles,
      grid: cells.map(grid),
      xAxis: cells.map(({ group, p, g }, index) => {
        const isLast = p === panels.length - 1;
        if (g === 0) return depthAxis(context, places, named, isLast, index);
        return axis(look, {
          type: "category",
          gridIndex: index,
          data: group.bars,
          axisLabel: { show: isLast, rotate: 90, fontSize: 10, hideOverlap: false, interval: 0 },
        });
      }),
      yAxis: cells.map(({ g }, gridIndex) =>
        axis(look, {
          type: "value",
          gridIndex,
          min: 0,
          max: 1,
          interval: 0.5,
          splitLine: { show: g === 0, lineStyle: { color: look.line } },
          axisLabel: { show: g === 0 },
        }),
      ),
      series: [
        ...series(context).map((one, index) => {
          const cell = Math.floor(index / context.statistics.length);
          const s = context.statistics[index % context.statistics.length];
          const { panel, group, g } = cells[cell];
          return {
            ...one,
            type: "bar",
            stack: `stack${cell}`,
            xAxisIndex: cell,
            yAxisIndex: cell,
            barCategoryGap: places.length > 150 ? "0%" : "14%",
            itemStyle: { color: look.statistics[s] },
            emphasis: { itemStyle: { color: look.statistics[s], borderColor: look.accent, borderWidth: 1 } },
            tooltip: {
              formatter: ({ dataIndex }) => {
                const row = context.liveRow(panel.run) ?? panel.row;
                if (g === 0) return layerText(context, panel.run, row, context.layerIn(panel.run, places[dataIndex]));
                const bar = group.bars[dataIndex];
                const shares = context.statistics.map(
                  (name) => `${context.labels[name]} ${(group.share({ ...panel, row }, bar, name) ?? 0).toFixed(2)}`,
                );
                return `<b>${bar}</b> ${shares.join(", ")}${g === 2 ? `<br>${published.source}` : ""}`;
              },
            },
          };
        }),
        stageSeries(context, spans, panels[0].grid),
        chosenSeries(context, places, panels),
      ],
    };
  },
  frame: (context) => ({ series: series(context) }),
  layerAt: (context, { seriesId, dataIndex }) =>
    /^bars\d+-0-/.test(seriesId) ? byDepth(context.run, context.selected).places[dataIndex] : undefined,
  rows: layerRows,
};
